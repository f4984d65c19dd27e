"""The network of RobustDet and, with CFR, of RobustDet* (ECCV 2022, section 4, Fig. 6).

images → AID → routing π → AA-convolutions (all of the SSD's, heads included) → CFR at its tap, if any → heads
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustdet.defences.aa_conv import Execution, Routing, convert_convolutions
from robustdet.defences.cfr import CFR, PIXEL_MAX, Decoder, GaussianConv, draw_noise, sample
from robustdet.defences.non_finite import require_finite, zero_nan
from robustdet.defences.warm_start import start_from_clean
from robustdet.detection.layers import shapes
from robustdet.detection.ssd import SSD
from robustdet.detection.weights import require_fit
from robustdet.errors import InputError
from robustdet.types import Images, RawPredictions

Aware: TypeAlias = Literal["all", "late", "heads"] | int


@dataclass(frozen=True)
class RobustPredictions(RawPredictions):
    """Also how the images were routed and, with CFR, the features' Gaussian at the tap.

    ``log_variance`` and ``reconstruction`` (an image on the scale of [0, 1], not clamped) are there only where features
    were sampled. ``plain`` is what the layers before the first adversarially-aware one say, whatever the routing; None
    where there are none, or where they predict already.
    """

    routing: Float[Tensor, "B K"]
    mean: Float[Tensor, "B c h w"] | None = None
    log_variance: Float[Tensor, "B c h w"] | None = None
    reconstruction: Images | None = None
    plain: Float[Tensor, "B c2 h2 w2"] | None = None


class RobustSSD(SSD):
    """An SSD whose convolutions are adversarially aware.

    Args:
        adversarially_aware: which of them: ``all``, as in the paper; ``heads``; or a layer of the backbone, from which
            on all are; ``late`` is CFR's tap, without CFR the last with convolutions up to the first source. The others
            are plain.
        aid: the discriminator, images → π.
        num_kernels: K, of every convolution and of the discriminator.
        cfr: None for RobustDet, a tap for RobustDet*.
        perturbation: what tells the K copies of a plain kernel apart at first; see `AAConv2d`.
        seed: of that perturbation.
        execution: of the AA-convolutions; see `AAConv2d`.
        nan_to_zero: after how many of the backbone's first layers NaN becomes 0, as in the published code. It hides
            divergence and gradients; with 0, the default, NaN is an error.
        ssd: all arguments of `SSD`.
    """

    def __init__(
        self,
        *,
        aid: nn.Module,
        num_kernels: int = 4,
        cfr: CFR | None = None,
        perturbation: float | int = 1e-2,
        seed: int = 0,
        execution: Execution = "auto",
        adversarially_aware: Aware = "all",
        nan_to_zero: int = 0,
        **ssd: Any,
    ) -> None:
        super().__init__(**ssd)
        self._clean = {name: tensor.to("meta") for name, tensor in self.state_dict().items()}  # names and shapes
        self.cfr = cfr
        self.perturbation, self.seed = float(perturbation), seed
        self.routing = Routing()
        self._features: Sequence[int] = ()  # their shape at the tap
        if cfr is not None:
            pixels = torch.empty(1, 3, self.input_size, self.input_size, device="meta")
            self._features = shapes(self.backbone, pixels, cfr.tap + 1)[0].shape[1:]
        decoder = None if cfr is None else insert_cfr(self.backbone.layers, cfr)
        generator = self._perturbation_generator()
        convert = partial(
            convert_convolutions,
            num_kernels=num_kernels,
            routing=self.routing,
            perturbation=self.perturbation,
            generator=generator,
            execution=execution,
        )
        self.plain_layers = 0  # of the backbone, before all that routing or prediction touches
        self._make_aware(adversarially_aware, convert)
        zero_nan(self.backbone.layers[:nan_to_zero])
        self.aid, self.decoder = aid, decoder  # these two keep plain convolutions

    def forward(
        self,
        images: Images,
        generator: torch.Generator | None = None,
        routing: Float[Tensor, "B K"] | None = None,
        plain: Float[Tensor, "B c h w"] | None = None,
    ) -> RobustPredictions:
        """Predictions for RGB images in [0, 1].

        With a generator, CFR samples its features and reconstructs the images; without one it goes on with their mean,
        and neither log-variance nor decoder is computed. ``routing`` replaces what the AID would say;
        ``plain``, which an earlier pass gave for these images, spares the layers that it comes from. In training
        mode, on a CPU, predictions that are not finite are a FloatingPointError that names the first layer to blame;
        a GPU would have to be waited for, there who trains looks at its losses. In evaluation mode they are the
        image's own, to be counted and flagged.
        """
        self.check(images)
        noise = None
        if self.cfr is not None and generator is not None:
            noise = draw_noise(len(images), self._features, images.device, generator)
        raw = self.predictions(images, noise, routing, plain)
        if self.training and images.device.type == "cpu" and not torch.compiler.is_compiling():
            said = raw.cls_logits, raw.bbox_regression
            require_finite(self, said, images, lambda: self.predictions(images, noise, routing))
        return raw

    def predictions(
        self,
        images: Images,
        noise: Float[Tensor, "B c h w"] | None = None,
        routing: Float[Tensor, "B K"] | None = None,
        plain: Float[Tensor, "B c2 h2 w2"] | None = None,
    ) -> RobustPredictions:
        """The network alone: images are not looked at, and CFR's features are sampled with this ``noise``, if any."""
        routing = self.aid(images) if routing is None else routing
        x = self.normalisation(images) if plain is None else plain
        if plain is None and self.plain_layers:
            x = plain = self.backbone(x, stop=self.plain_layers)[0]
        with self.routing.use(routing):
            return self._routed(x, noise, routing, plain)

    def _routed(self, x: Tensor, noise: Tensor | None, routing: Tensor, plain: Tensor | None) -> RobustPredictions:
        """From ``x``, which comes to the first layer behind the plain ones."""
        if self.cfr is None or self.decoder is None:
            x, sources = self.backbone(x, start=self.plain_layers)
            raw = self.predict([*sources, *self.extras(x)[1]])
            return RobustPredictions(raw.cls_logits, raw.bbox_regression, raw.default_boxes, routing, plain=plain)
        x, before = self.backbone(x, start=self.plain_layers, stop=self.cfr.tap)
        gaussian = cast(GaussianConv, self.backbone.layers[self.cfr.tap])
        if noise is None:
            z = mean = gaussian.conv_mean(x)
            log_variance = reconstruction = None
        else:
            mean, log_variance = gaussian(x)
            z = sample(mean, log_variance, noise)
            reconstruction = self.reconstruct(z)
        x, after = self.backbone(z, start=self.cfr.tap + 1)
        raw = self.predict([*before, *after, *self.extras(x)[1]])
        return RobustPredictions(
            raw.cls_logits, raw.bbox_regression, raw.default_boxes, routing, mean, log_variance, reconstruction, plain
        )

    def reconstruct(self, z: Float[Tensor, "B c h w"]) -> Images:
        """What the decoder makes of features at the tap, on the scale of [0, 1]. Raises ValueError without CFR."""
        if self.decoder is None:
            raise InputError("this RobustSSD was built without CFR and has no decoder")
        pixels = self.decoder.decode(z, (self.input_size, self.input_size))
        return (pixels + self.normalisation.mean) / PIXEL_MAX

    def warm_start(self, clean: Mapping[str, Tensor]) -> None:
        """Start from the state dict of a clean SSD: its kernels are copied K times and perturbed.

        The AID, the decoder and CFR's log-variance convolution keep their values. Raises ValueError that names every
        tensor that is missing, left over or of the wrong shape; then nothing was changed.
        """
        require_fit(clean, self._clean, "the clean state dict")
        start_from_clean(self, clean, self._clean, self.perturbation, self._perturbation_generator())

    def _make_aware(self, which: Aware, convert: Callable[[nn.Module], nn.Module]) -> None:
        if which == "all":
            convert(self)
            return
        if which != "heads":
            count = len(self.backbone.layers)
            which = self._late() if which == "late" else which
            if not 0 <= which < count:
                raise InputError(
                    f"model.adversarially_aware={which}: expected all, late, heads or one of "
                    f"the backbone's layers, 0 to {count - 1}"
                )
            first = min(self.backbone.sources) if self.cfr is None else min(*self.backbone.sources, self.cfr.tap)
            self.plain_layers = which if which <= first else 0
            for index in range(which, count):
                self.backbone.layers[index] = convert(self.backbone.layers[index])
            convert(self.extras)
        convert(self.classification_head)
        convert(self.regression_head)

    def _late(self) -> int:
        if self.cfr is not None:
            return self.cfr.tap
        layers = self.backbone.layers[: min(self.backbone.sources) + 1]
        with_convolutions = [any(isinstance(part, nn.Conv2d) for part in layer.modules()) for layer in layers]
        return max(index for index, has in enumerate(with_convolutions) if has)

    def _perturbation_generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def insert_cfr(layers: nn.Sequential, cfr: CFR) -> Decoder:
    """Replace the convolution at the tap by a `GaussianConv`; returns the decoder that fits it."""
    conv = layers[cfr.tap]
    if not isinstance(conv, nn.Conv2d):
        raise InputError(f"CFR replaces a convolution, but layer {cfr.tap} of the backbone is {conv}")
    layers[cfr.tap] = GaussianConv(conv, log_variance_like(conv), cfr.log_variance_max)
    if getattr(after := layers[cfr.tap + 1], "inplace", False):
        layers[cfr.tap + 1] = type(after)()  # not in place: the mean before it is wanted as well
    return Decoder(conv.out_channels, math.prod(_stride(layer) for layer in [*layers[: cfr.tap], conv]))


def log_variance_like(conv: nn.Conv2d) -> nn.Conv2d:
    """A convolution of the same shape whose output starts near 0, so that σ starts near 1.

    Glorot's uniform weights / 16 (about where the authors' start, by their fan computation) and no bias.
    """
    twin = copy.deepcopy(conv)
    nn.init.xavier_uniform_(twin.weight, gain=1 / 16)
    if twin.bias is not None:
        nn.init.zeros_(twin.bias)
    return twin


def _stride(layer: nn.Module) -> int:
    stride = getattr(layer, "stride", 1)
    return stride[0] if isinstance(stride, tuple) else int(stride)
