"""Where an adversarial image may lie: sets that an attack projects onto. Pixels are in [0, 1]; ε is written 8/255."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from robustdet.attacks.remembering import Latest
from robustdet.errors import InputError
from robustdet.exact import exact
from robustdet.types import Images, Targets


def pixel_fraction(value: float | int | str) -> float:
    """``value`` as a fraction of the pixel range in [0, 1], such as 0.03 or 8/255.

    Raises:
        ValueError: the text is no number or ratio, or the number lies outside [0, 1].
    """
    fraction = ratio(value)
    if not 0 <= fraction <= 1:
        raise InputError(f"expected a fraction of the pixel range in [0, 1], such as 8/255, got {value!r}")
    return float(fraction)


def ratio(value: float | int | str) -> Fraction:
    """The exact value of a number or of a text such as 0.5/255. Raises InputError for a text that is neither."""
    try:
        numerator, slash, denominator = str(value).partition("/")
        return Fraction(numerator) / Fraction(denominator if slash else 1)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"expected a number or a ratio such as 8/255, got {value!r}") from None


PixelFraction: TypeAlias = Annotated[
    float | int | str, pixel_fraction, "a fraction of the pixel range from 0 to 1, such as 8/255"
]
"""A fraction of the pixel range as people write it: 0.03 or "8/255"."""


class PixelRange:
    """All images: nothing but [0, 1] bounds the attack."""

    epsilon = None

    def project(self, adversarial: Images, clean: Images) -> Images:
        return adversarial.clamp(0, 1)


class LInf:
    """The L∞ ball of radius ``epsilon`` around the clean image, within [0, 1].

    ``epsilon`` is a fraction of the pixel range, a number or a text such as "8/255". The projection is exact: no pixel
    of a float32 image is further than ε from the clean one, not even by a rounding error.
    """

    def __init__(self, epsilon: PixelFraction) -> None:
        self.epsilon = pixel_fraction(epsilon)

    def project(self, adversarial: Images, clean: Images) -> Images:
        """The nearest image inside the ball and the pixel range; where these do not meet, the ball's, then cut."""
        lower, upper = _bounds.of(clean, self.epsilon, lambda: self._bounds(clean))
        return adversarial.clamp(lower, upper)

    def uniform(self, clean: Images, generators: Sequence[torch.Generator]) -> Images:
        """An image drawn uniformly from the ball, then cut to the pixel range; one generator per image."""
        noise = _draw(clean, generators) * 2 - 1
        return self.project(clean + self.epsilon * noise, clean)

    def corner(self, clean: Images, generators: Sequence[torch.Generator]) -> Images:
        """A random corner of the ball: every value moved by +ε or -ε, then cut to the pixel range."""
        noise = torch.where(_draw(clean, generators) < 0.5, -1.0, 1.0)
        return self.project(clean + self.epsilon * noise, clean)

    def _bounds(self, clean: Images) -> tuple[Tensor, Tensor]:
        # the float32 next to clean ± ε may lie outside: where it does, take the one before it
        centre = exact(clean)
        near = clean.to(centre.device)
        lower, upper = (centre - self.epsilon).clamp(0, 1), (centre + self.epsilon).clamp(0, 1)
        low, high = lower.to(clean.dtype), upper.to(clean.dtype)
        low = torch.where(low < lower, low.nextafter(near), low)
        high = torch.where(high > upper, high.nextafter(near), high)
        return low.to(clean.device), high.to(clean.device)


_bounds: Latest[tuple[Tensor, Tensor]] = Latest()  # of the ball around the images that are attacked now


class L2:
    """The L2 ball around the clean image, within [0, 1]: changes of a ``root_mean_square`` per value of that at most.

    It is a fraction of the pixel range, a number or a text such as "8/255", so that one size fits every image: the
    radius of an image of n values is √n times it, that of a corner of the L∞ ball of the same ε. The projection is
    exact: no float32 image is further than the radius from the clean one, not even by a rounding error.
    """

    epsilon = None

    def __init__(self, root_mean_square: PixelFraction) -> None:
        self.root_mean_square = pixel_fraction(root_mean_square)

    def project(self, adversarial: Images, clean: Images) -> Images:
        """The nearest image inside the ball and the pixel range."""
        projected = [self._project(image, centre) for image, centre in zip(adversarial, clean, strict=True)]
        return torch.stack(projected)

    def uniform(self, clean: Images, generators: Sequence[torch.Generator]) -> Images:
        """An image drawn uniformly from the ball, then projected onto the pixel range too; one generator per image."""
        noise = torch.stack([self._draw(image, generator) for image, generator in zip(clean, generators, strict=True)])
        centre = exact(clean)
        return self.project((centre + noise.to(centre.device)).to(clean), clean)

    def _radius(self, image: Float[Tensor, "3 H W"]) -> float:
        return self.root_mean_square * math.sqrt(image.numel())

    def _draw(self, image: Float[Tensor, "3 H W"], generator: torch.Generator) -> Float[Tensor, "3 H W"]:
        direction = torch.randn(image.shape, generator=generator, dtype=torch.float64)
        length = torch.rand((), generator=generator, dtype=torch.float64) ** (1 / image.numel())
        return direction * (self._radius(image) * length / direction.norm())

    def _project(self, image: Float[Tensor, "3 H W"], clean: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 H W"]:
        """Lagrange's condition: every value goes the same share t of its way, or as far as the pixel range lets it.

        ‖·‖² of what it goes then is Σ min(t |d|, r)², with r the room to the edge of the range, which grows with t and
        is a parabola between the t at which one value after the other reaches its edge.
        """
        centre, radius = exact(clean), self._radius(clean)
        way = exact(image) - centre
        room = torch.where(way > 0, 1 - centre, centre)
        if float(torch.minimum(way.abs(), room).norm()) <= radius:
            return image.clamp(0, 1)
        edges, order = (room / way.abs()).flatten().nan_to_num(nan=math.inf).sort()  # where nothing moves: 0 / 0
        stopped = room.flatten()[order].square().cumsum(0)  # of the values whose edges come up to here, each included
        squares = way.flatten()[order].square()
        moving = squares.flip(0).cumsum(0).flip(0)  # of those from here on
        norms = stopped - room.flatten()[order].square() + edges.square() * moving  # at each edge
        place = int((norms <= radius**2).sum())  # so many have stopped
        before = float(stopped[place - 1]) if place else 0.0
        share = math.sqrt(max(radius**2 - before, 0) / float(moving[place])) * (1 - 1e-12)  # rounding stays inside
        goal = (centre + share * way).clamp(0, 1)
        nearest = goal.to(clean.dtype)
        inward = nearest.nextafter(clean.to(nearest.device))  # rounding to float32 may have gone beyond
        return torch.where((nearest.double() - centre).abs() > (goal - centre).abs(), inward, nearest).to(clean.device)


def share_of_area(value: float | int) -> float:
    """``value`` as a share of an image's area, above 0 and at most 1. Raises InputError for any other."""
    if not 0 < value <= 1:
        raise InputError(f"expected a size above 0 and at most 1, a share of the image's area, got size={value!r}")
    return float(value)


ShareOfArea: TypeAlias = Annotated[float | int, share_of_area, "a share of the image's area, above 0 and at most 1"]


class Patch:
    """All images that are the clean one outside a square, anywhere in the image, of ``size``, a share of its area.

    Inside it a pixel may have any value in [0, 1].
    """

    epsilon = None

    def __init__(self, size: ShareOfArea) -> None:
        self.size = share_of_area(size)

    def side(self, height: int, width: int) -> int:
        """Of the square in an image of so many pixels; rounded down, so that it is never larger than ``size``.

        Raises InputError where the square is less than a pixel, or longer than a side of the image.
        """
        side = math.isqrt(math.floor(self.size * height * width))
        if not 1 <= side <= min(height, width):
            raise InputError(
                f"size={self.size:g} of an image of {width} x {height} pixels is a square of {side} x {side}: expected "
                "one that has a pixel and fits into the image"
            )
        return side

    def project(self, adversarial: Images, clean: Images) -> Images:
        """The nearest such image: the square stays without which it would be furthest."""
        side = self.side(*clean.shape[-2:])
        return torch.stack([_inside(now, before, side) for now, before in zip(adversarial, clean, strict=True)])


def _inside(image: Float[Tensor, "3 H W"], clean: Float[Tensor, "3 H W"], side: int) -> Float[Tensor, "3 H W"]:
    far, image = exact(image), image.clamp(0, 1)
    change = exact(image) - exact(clean)
    rows, columns = (change.ne(0).any(dim=0).any(dim=of).nonzero() for of in (1, 0))
    if not len(rows):
        return image
    (top, bottom), (left, right) = ((int(found[0]), int(found[-1]) + 1) for found in (rows, columns))
    if max(bottom - top, right - left) > side:
        gain = (far - exact(clean)).square() - (far - exact(image)).square()  # of what stays, cut to the pixel range
        sums = F.pad(gain.sum(dim=0).cumsum(0).cumsum(1), (1, 0, 1, 0))
        inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
        top, left = divmod(int(inside.argmax()), inside.shape[1])
        bottom, right = top + side, left + side
    projected = clean.clone()
    projected[:, top:bottom, left:right] = image[:, top:bottom, left:right]
    return projected


def check_images(images: Images, targets: Targets) -> None:
    """Refuse what is no batch of images in [0, 1]: called once, at an attack's door. The host waits for their values,
    but not again for those of the same images.

    Raises:
        ValueError: an image has values outside [0, 1] or NaN, or there are not as many targets as images.
    """
    if len(images) != len(targets):
        raise InputError(f"got {len(images)} images but {len(targets)} targets")
    ranges = _ranges.of(images, None, lambda: torch.stack(images.flatten(1).aminmax(dim=1), dim=1).tolist())
    for target, (least, most) in zip(targets, ranges, strict=True):
        if not (least >= 0 and most <= 1):
            raise InputError(
                f"image {target.image_id!r} has values from {least:g} to {most:g}: an attack expects RGB in [0, 1]"
            )


_ranges: Latest[list[list[float]]] = Latest()  # least and largest value of each image that went through the door last


def pass_unseen(images: Images) -> None:
    """Let these through the door next: a GPU need not be waited for where somebody looks at what comes of them."""
    _ranges.of(images, None, lambda: [[0.0, 1.0]] * len(images))


def _draw(clean: Images, generators: Sequence[torch.Generator]) -> Images:
    """Uniform numbers from [0, 1), each image's from its own CPU generator."""
    drawn = [torch.rand(image.shape, generator=generator) for image, generator in zip(clean, generators, strict=True)]
    return torch.stack(drawn).to(clean)
