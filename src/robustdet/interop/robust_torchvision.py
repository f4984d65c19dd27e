"""RobustDet, and with CFR RobustDet*, on torchvision's Faster R-CNN, RetinaNet and FCOS.

images → AID → routing π → torchvision's backbone and FPN, CFR at the end of a stage, if any → torchvision's heads,
with AA-convolutions in all of them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from robustdet.defences.aa_conv import Execution, Routing, convert_convolutions
from robustdet.defences.cfr import CFR, PIXEL_MAX, Decoder
from robustdet.defences.gaussian_block import GaussianBlock, Tap
from robustdet.defences.non_finite import require_finite
from robustdet.defences.robustdet import join
from robustdet.defences.warm_start import start_from_clean
from robustdet.detection.weights import require_fit
from robustdet.errors import InputError
from robustdet.interop.torchvision_api import Asked
from robustdet.interop.torchvision_dense import DenseDetector, Places
from robustdet.interop.torchvision_models import DENSE, TorchvisionModel
from robustdet.types import DetectionLosses, Detections, Images


@dataclass(frozen=True)
class RoutedFeatures(Asked):
    """`robustdet.defences.routed.Routed`: how images were routed, and the maps that the heads have yet to look at."""

    routing: Float[Tensor, "B K"]
    features: Mapping[str, Tensor]
    mean: Float[Tensor, "B c h w"] | None = None
    log_variance: Float[Tensor, "B c h w"] | None = None
    reconstruction: Images | None = None

    def of(self, place: int) -> RoutedFeatures:
        """One image's own, but for what is the Gaussian's."""
        own = slice(place, place + 1)
        features = {level: values[own] for level, values in self.features.items()}
        return replace(self, images=self.images[own], routing=self.routing[own], features=features)


class RobustTorchvision(TorchvisionModel):
    """Satisfies `robustdet.defences.routed.RoutedDetector`. Batch norms keep the statistics and numbers that they have.

    One norm would mix two populations of images in its statistics, and an image would not be seen alone. What is linear
    (the box head of Faster R-CNN) and convolutions that see proposals instead of images are plain.

    Args:
        adversarially_aware: which convolutions are: ``all`` of backbone, FPN and heads; ``heads`` alone; or a stage of
            the backbone's body, from which on all are: 0 is the stem, 1 to 4 the stages of a ResNet.
        aid: the discriminator, images → π.
        num_kernels: K, of every convolution and of the discriminator.
        cfr: None for RobustDet; for RobustDet* its ``tap`` is the stage of the ResNet, 1 to 4, whose last block ends in
            a Gaussian.
        perturbation: what tells the K copies of a plain kernel apart at first; see `AAConv2d`.
        seed: of that perturbation.
        execution: of the AA-convolutions; see `AAConv2d`.
        torchvision: all arguments of `TorchvisionModel`.
    """

    clean_stage = TorchvisionModel  # what adversarial training starts from
    network: Any

    @classmethod
    def kind(cls, name: str) -> type[RobustTorchvision]:
        return RobustDense if name.startswith(DENSE) else cls

    def __init__(
        self,
        *,
        aid: nn.Module,
        num_kernels: int = 4,
        cfr: CFR | None = None,
        perturbation: float | int = 1e-2,
        seed: int = 0,
        execution: Execution = "auto",
        adversarially_aware: Literal["all", "heads"] | int = "all",
        **torchvision: Any,
    ) -> None:
        super().__init__(**torchvision)
        if self.norms != "frozen":
            raise InputError(
                f"model.norms={self.norms}: where clean and attacked images share a batch, its statistics are of both, "
                "and an image is not seen alone; a robust network has frozen norms"
            )
        self.cfr, self.adversarially_aware = cfr, adversarially_aware
        self.perturbation, self.seed = float(perturbation), seed
        self.routing, self.tap = Routing(), Tap()
        self._plain = torchvision
        self._aware = partial(
            convert_convolutions,
            num_kernels=num_kernels,
            routing=self.routing,
            perturbation=self.perturbation,
            execution=execution,
        )
        self.aid, self.decoder = aid, self._made_robust()  # these two keep plain convolutions

    def learn(self, classes: Sequence[str]) -> None:
        if self.classes is None:
            super().learn(classes)
            return
        plain = TorchvisionModel(**self._plain)
        plain.learn(classes)
        self.network, self.classes, self.num_classes = plain.network, plain.classes, plain.num_classes
        self._number(None)
        self.decoder = self._made_robust()
        self.train(self.training)

    def forward(
        self,
        images: Images,
        generator: torch.Generator | None = None,
        routing: Float[Tensor, "B K"] | None = None,
    ) -> RoutedFeatures:
        """The backbone's features of RGB images in [0, 1]; losses and detections are the heads' look at them.

        With a generator, CFR samples its features and reconstructs the images, and proposals are drawn; without one it
        goes on with their mean. ``routing`` replaces what the AID would say. In training mode, on a CPU, features that
        are not finite are a NumericalError that names the first layer to blame; a GPU would have to be waited for.
        """
        asked = super().forward(images, generator)
        raw = self._features(asked, routing)
        if self.training and images.device.type == "cpu":
            require_finite(self, raw.features.values(), images, lambda: self._features(asked, routing))
        return raw

    def _features(self, asked: Asked, routing: Tensor | None) -> RoutedFeatures:
        images, network = asked.images, self.network
        routing = self.aid(images) if routing is None else routing
        prepared, _ = network.transform(list(images))
        with self.routing.use(routing), self.tap.use(asked.generator) as found:
            features = network.backbone(prepared.tensors)
        features = {"0": features} if isinstance(features, Tensor) else features
        reconstruction = None
        if self.decoder is not None and asked.generator is not None and found.z is not None:
            reconstruction = self._reconstructed(found.z, prepared.tensors.shape[2:], prepared.image_sizes[0])
        return RoutedFeatures(
            images, asked.generator, routing, features, found.mean, found.log_variance, reconstruction
        )

    def _reconstructed(self, z: Tensor, padded: Sequence[int], inside: tuple[int, int]) -> Images:
        """The images that the backbone saw, at the size of those that the detector was called with."""
        assert self.decoder is not None
        mean = PIXEL_MAX * torch.tensor(self.network.transform.image_mean, device=z.device).view(3, 1, 1)
        pixels = (self.decoder.decode(z, (padded[0], padded[1])) + mean)[..., : inside[0], : inside[1]]
        size = (self.input_size, self.input_size)
        return (pixels if inside == size else F.interpolate(pixels, size, mode="bilinear")) / PIXEL_MAX

    def losses(  # type: ignore[override]
        self, raw: RoutedFeatures, assignment: list[dict[str, Tensor]]
    ) -> DetectionLosses:
        each = []  # whose heads look at the proposals of one image after the other
        for place in range(len(raw.images)):
            with self._seeing(own := raw.of(place)):
                each.append(super().losses(own, assignment[place : place + 1]))
        return reduce(join, each)

    def detect(self, raw: RoutedFeatures) -> list[Detections]:  # type: ignore[override]
        with self._seeing(raw):
            return super().detect(raw)

    def train(self, mode: bool = True) -> RobustTorchvision:
        super().train(mode)
        for name in ("aid", "decoder"):  # whose norms are theirs; there are none yet while the network is built
            if (own := getattr(self, name, None)) is not None:
                own.train(mode)
        return self

    def warm_start(self, clean: Mapping[str, Tensor]) -> None:
        """Start from the state dict of a clean `TorchvisionModel`: its kernels are copied K times and perturbed.

        The AID, the decoder and CFR's log-variance convolution keep their values. Raises InputError that names every
        tensor that is missing, left over or of the wrong shape; then nothing was changed.
        """
        require_fit(clean, self._clean, "the clean state dict")
        start_from_clean(self, clean, self._clean, self.perturbation, self._perturbation_generator())

    @contextmanager
    def _seeing(self, raw: RoutedFeatures) -> Iterator[None]:
        """The heads look at these features, which were computed before, under the routing that they came by."""
        own = self.network.backbone
        self.network.backbone = Known(raw.features)
        try:
            with self.routing.use(raw.routing):
                yield
        finally:
            self.network.backbone = own

    def _made_robust(self) -> Decoder | None:
        """Makes the plain network's convolutions adversarially aware; the decoder that fits it, with CFR."""
        network = self.network
        state = {f"network.{name}": tensor.to("meta") for name, tensor in network.state_dict().items()}
        self._clean = state  # names and shapes
        decoder = None if self.cfr is None else self._with_gaussian(self.cfr)
        convert = partial(self._aware, generator=self._perturbation_generator())
        self._convert_backbone(network.backbone, convert)
        convert(network.rpn.head if isinstance(network, GeneralizedRCNN) else network.head)
        return decoder

    def _convert_backbone(self, backbone: Any, convert: Callable[[nn.Module], nn.Module]) -> None:
        which = self.adversarially_aware
        if which == "all":
            convert(backbone)
        elif which != "heads":
            stages = [name for name, stage in _body(backbone).named_children() if _convolves(stage)]
            if not 0 <= which < len(stages):
                raise InputError(
                    f"model.adversarially_aware={which}: expected all, heads or one of the stages of {self.name}'s "
                    f"backbone, 0 to {len(stages) - 1}"
                )
            for name in stages[which:]:
                setattr(backbone.body, name, convert(getattr(backbone.body, name)))
            convert(backbone.fpn)

    def _with_gaussian(self, cfr: CFR) -> Decoder:
        stage = getattr(_body(self.network.backbone), f"layer{cfr.tap}", None)
        if stage is None:
            raise InputError(
                f"model.cfr.tap={cfr.tap}: expected the stage of a ResNet, 1 to 4, and {self.name} has no such one"
            )
        stage[-1] = GaussianBlock(stage[-1], self.tap, cfr.log_variance_max)
        return Decoder(stage[-1].conv_log_variance.out_channels, stride=2 ** (cfr.tap + 1))

    def _perturbation_generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class RoutedPlaces(RoutedFeatures, Places):
    """What the heads said of the maps, by the same route."""


class RobustDense(DenseDetector, RobustTorchvision):  # type: ignore[misc]
    """On RetinaNet and FCOS, with scores of every place."""

    def forward(
        self,
        images: Images,
        generator: torch.Generator | None = None,
        routing: Float[Tensor, "B K"] | None = None,
    ) -> RoutedPlaces:
        """The same, and what the heads say of the features."""
        raw = RobustTorchvision.forward(self, images, generator, routing)
        with self.routing.use(raw.routing):
            return RoutedPlaces(**vars(raw), **self.said(list(raw.features.values())))

    def maps(self, images: Images) -> list[Float[Tensor, "B _ _ _"]]:
        return list(RobustTorchvision.forward(self, images).features.values())


class Known(nn.Module):
    """In place of a backbone: features that it has computed before."""

    def __init__(self, features: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.features = features

    def forward(self, pixels: Tensor) -> Mapping[str, Tensor]:
        return self.features


def _body(backbone: Any) -> nn.Module:
    """The part before the FPN, in stages. Raises InputError where there is none."""
    if not hasattr(backbone, "body"):
        raise InputError(f"expected a backbone with a body and an FPN, as of a ResNet, got {type(backbone).__name__}")
    return backbone.body


def _convolves(stage: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d) for module in stage.modules())
