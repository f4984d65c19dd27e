import subprocess
import sys

import torch

from robustdet.attacks.randomness import image_generators


def first(seed: int, image_id: str, *salt: int | str) -> int:
    return int(torch.randint(2**62, (), generator=image_generators(seed, [image_id], *salt)[0]))


def test_seed_image_and_salt_each_make_other_numbers():
    draws = [
        first(0, "a"),
        first(1, "a"),
        first(0, "b"),
        first(0, "a", "pgd"),
        first(0, "a", "pgd", 1),
        first(0, "a", 1),
    ]
    assert len(set(draws)) == len(draws)


def test_order_and_company_change_nothing():
    together = [torch.rand(4, generator=generator) for generator in image_generators(7, ["a", "b", "c"], "pgd")]
    alone = [torch.rand(4, generator=image_generators(7, [name], "pgd")[0]) for name in ("c", "a", "b")]
    assert torch.equal(torch.stack(together), torch.stack([alone[1], alone[2], alone[0]]))


def test_another_process_draws_the_same():
    code = (
        "import torch; from robustdet.attacks.randomness import image_generators;"
        "print(int(torch.randint(2**62, (), generator=image_generators(5, ['000012'], 'dag')[0])))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert int(other.stdout) == first(5, "000012", "dag")
