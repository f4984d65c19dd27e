"""`python -m benchmarks.cluster`: what a training step of RobustDet* takes here by batch, K and resolution; and, from
its arithmetic, what a run takes on 1, 8 and 64 GPUs under stated assumptions. See docs/scaling.md."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace

import torch

from benchmarks.arithmetic import counted
from benchmarks.executions import executed
from benchmarks.memory import resident
from benchmarks.setting import Setting, settings
from robustdet.defences.aa_conv import AAConv2d
from robustdet.processor import fast_processor

FULL, TINY = "robust_ssd300_cfr", "tiny_robust_ssd_cfr"


@dataclass(frozen=True)
class Case:
    """A training step of ``model`` (a member of conf/model) on ``images``, half of them adversarial."""

    model: str
    images: int
    kernels: int
    size: int


@dataclass(frozen=True)
class Cost:
    """What one step took, and the model's parameters.

    CPU-seconds (of all threads: a busy machine distorts them little), peak memory of the process in GiB, arithmetic in
    10¹² operations.
    """

    seconds: float
    memory: float
    teraflop: float
    parameters: int


CASES = [
    *(Case(FULL, images, 4, 300) for images in (2, 4, 8)),
    *(Case(FULL, 2, kernels, 300) for kernels in (1, 8)),
    *(Case(TINY, images, 4, 96) for images in (16, 64)),
    *(Case(TINY, 16, kernels, 96) for kernels in (1, 8)),
    *(Case(TINY, 16, 4, size) for size in (192, 288)),
]


# The paper's updates of 32 images, classes, and MB an image (archive size / images)
DATA = (("VOC", 40_000, 20, 0.11), ("COCO", 120_000, 80, 0.16))


def parameters(case: Case, classes: int) -> int:
    setting = Setting(torch.device("cpu"), **settings(torch.device("cpu"), quick=True))
    model = setting.build(case.model, f"num_kernels={case.kernels}", num_classes=classes)
    return sum(parameter.numel() for parameter in model.parameters())


def measure(case: Case) -> Cost:
    """Three steps in this process: counted, warmed up, timed. A fresh process has no earlier peak."""
    from benchmarks.training import method

    fast_processor()
    device = torch.device("cpu")
    setting = Setting(device, **settings(device, quick=True))
    model = setting.build(case.model, f"num_kernels={case.kernels}", f"input_size={case.size}")
    model.train().requires_grad_(True)
    batch = setting.batch_of(case.images // 2, case.size)
    training, optimizer = method(), torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def step() -> None:
        training.step(model, batch, torch.Generator()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    (execution,) = {layer.execution for layer in model.modules() if isinstance(layer, AAConv2d)}
    executed(model, "per_image")  # torch's formula counts the backward pass of groups as if they were one
    teraflop = counted(step)
    executed(model, execution)
    step()
    start = time.process_time()
    step()
    seconds = time.process_time() - start
    peak = resident(peak=True)
    return Cost(seconds, peak, teraflop, sum(parameter.numel() for parameter in model.parameters()))


@dataclass(frozen=True)
class Cluster:
    """The assumptions: 10¹² operations/s that a GPU sustains; GB/s of an all-reduce within a node and between nodes."""

    teraflops: float = 40.0
    gpus_per_node: int = 8
    in_node: float = 200.0
    network: float = 12.5

    def all_reduce(self, parameters: int, gpus: int) -> float:
        """Seconds to average float32 gradients: rings within the nodes, then between them, nothing overlapped."""
        gigabytes = 4 * parameters / 1e9
        inside, nodes = min(gpus, self.gpus_per_node), -(-gpus // self.gpus_per_node)
        ring = [2 * (n - 1) / n * gigabytes / rate for n, rate in ((inside, self.in_node), (nodes, self.network))]
        return sum(ring)

    def compute(self, teraflop_per_image: float, images: int) -> float:
        return teraflop_per_image * images / self.teraflops


def plan(
    cost: Cost, measured_images: int, updates: int, gpus: int, cluster: Cluster, images: int = 32
) -> dict[str, float]:
    """A run of ``updates`` x ``images`` with ``images`` a GPU: as many images in all, fewer updates."""
    compute = cluster.compute(cost.teraflop / measured_images, images)
    communication = cluster.all_reduce(cost.parameters, gpus)
    step = compute + communication
    return {
        "gpus": gpus,
        "updates": updates / gpus,
        "step_seconds": step,
        "communication": communication,
        "hours": updates / gpus * step / 3600,
        "gpu_hours": updates * step / 3600,
        "clean_images_per_second_and_node": images / 2 * min(gpus, cluster.gpus_per_node) / step,
    }


def in_a_fresh_process(case: Case) -> Cost:
    command = [sys.executable, "-m", "benchmarks.cluster", "--case", json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--case", help="measure this one alone and print it as JSON")
    parser.add_argument("--teraflops", type=float, default=Cluster.teraflops, help="sustained, of one GPU")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.case:
        print(json.dumps(asdict(measure(Case(**json.loads(args.case))))))
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| model | images | K | pixels | CPU s | GiB | TFLOP | parameters (M) |\n|---|---|---|---|---|---|---|---|")
    costs = {}
    for case in CASES:
        cost = costs[case] = in_a_fresh_process(case)
        print(
            f"| {case.model} | {case.images} | {case.kernels} | {case.size} | {cost.seconds:.2f} | {cost.memory:.2f} | "
            f"{cost.teraflop:.3f} | {cost.parameters / 1e6:.1f} |",
            flush=True,
        )
    largest = Case(FULL, 8, 4, 300)
    columns = ["data", "GPUs", "updates", "s/update", "of it communication", "hours", "GPU-hours"]
    columns += ["clean images/s and node", "MB/s and node"]
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, updates, classes, megabytes in DATA:
        cost = replace(costs[largest], parameters=parameters(largest, classes))
        for gpus in (1, 8, 64):
            p = plan(cost, largest.images, updates, gpus, Cluster(args.teraflops))
            clean, step, waiting = p["clean_images_per_second_and_node"], p["step_seconds"], p["communication"]
            print(
                f"| {name} | {gpus} | {p['updates']:,.0f} | {step:.3f} | "
                f"{1000 * waiting:.0f} ms, {waiting / step:.0%} | {p['hours']:.1f} | "
                f"{p['gpu_hours']:.1f} | {clean:.0f} | {clean * megabytes:.0f} |"
            )


if __name__ == "__main__":
    main()
