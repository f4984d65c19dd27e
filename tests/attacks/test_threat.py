import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustdet.attacks.randomness import image_generators
from robustdet.attacks.threat import L2, LInf, PixelRange, check_images, pixel_fraction
from tests.attacks import fakes


@pytest.mark.parametrize(("value", "expected"), [("8/255", 8 / 255), ("0.5/255", 0.5 / 255), ("0.03", 0.03), (0, 0.0)])
def test_pixel_fraction_reads_numbers_and_ratios(value, expected):
    assert pixel_fraction(value) == expected


@pytest.mark.parametrize("value", ["eight", "8/", "8/0", "8//255", "", "nan"])
def test_pixel_fraction_names_the_text_that_is_no_number(value):
    with pytest.raises(ValueError, match=f"expected a number or a ratio such as 8/255, got '{value}'"):
        pixel_fraction(value)


@pytest.mark.parametrize("value", [8, "8", -0.1, "256/255"])
def test_pixel_fraction_refuses_a_number_on_the_0_to_255_scale(value):
    with pytest.raises(ValueError, match=rf"fraction of the pixel range in \[0, 1\], such as 8/255, got {value!r}"):
        pixel_fraction(value)


def images(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if kind == "file":
        return torch.randint(0, 256, (8, 3, 64, 64), generator=generator) / 255
    if kind == "tiny":
        return torch.rand(8, 3, 64, 64, generator=generator) ** 20
    return torch.rand(8, 3, 64, 64, generator=generator)


@pytest.mark.parametrize("kind", ["uniform", "file", "tiny"])
@pytest.mark.parametrize("epsilon", [0, "1/255", "2/255", "8/255", 0.1, 1 / 3, 1])
def test_projection_is_exact_to_the_last_bit(kind, epsilon):
    clean, threat = images(kind), LInf(epsilon)
    for direction in (-1, 1):
        corner = threat.project(clean + 2 * direction, clean)
        assert ((corner.double() - clean.double()).abs() <= threat.epsilon).all()
        assert ((corner - clean).abs() <= threat.epsilon).all()
        assert corner.min() >= 0
        assert corner.max() <= 1
        # as far as (normal) float32 goes: the next number would be outside, unless the pixel range ends here
        beyond = corner.nextafter(torch.full_like(corner, 2.0 * direction))
        outside = (beyond.double() - clean.double()).abs() > threat.epsilon
        subnormal = beyond.abs() < torch.finfo(torch.float32).tiny
        assert (outside | subnormal | (corner == (direction > 0))).all()


def test_a_clean_image_outside_the_pixel_range_is_brought_back_into_it():
    clean = torch.tensor([-0.4, -0.01, 0.5, 1.01, 1.7]).view(1, 1, 1, 5).expand(1, 3, 1, 5).contiguous()
    for moved in (clean - 1, clean, clean + 1):
        projected = LInf("8/255").project(moved, clean)
        torch.testing.assert_close(projected, moved.clamp(clean - 8 / 255, clean + 8 / 255).clamp(0, 1))
        assert 0 <= projected.min() <= projected.max() <= 1


def test_projection_leaves_what_is_inside_as_it_is():
    clean, threat = images("uniform"), LInf("8/255")
    inside = threat.project(clean + 0.02 * torch.randn(clean.shape), clean)
    assert torch.equal(threat.project(inside, clean), inside)
    assert torch.equal(LInf(0).project(inside, clean), clean)


@pytest.mark.parametrize("name", ["uniform", "corner"])
def test_random_images_lie_in_the_ball_and_belong_to_their_generator(name):
    clean, threat = images("uniform"), LInf("8/255")
    ids = [str(i) for i in range(len(clean))]
    drawn = getattr(threat, name)(clean, image_generators(0, ids))
    assert ((drawn.double() - clean.double()).abs() <= threat.epsilon).all()
    alone = getattr(threat, name)(clean[5:6], image_generators(0, ["5"]))
    assert torch.equal(alone, drawn[5:6])
    shift = ((drawn - clean) * 255).abs().mean().item()
    assert shift == pytest.approx({"uniform": 4, "corner": 8}[name], rel=0.05)


def test_pixel_range_bounds_nothing_else():
    clean = images("uniform")
    assert torch.equal(PixelRange().project(clean + 0.5, clean), (clean + 0.5).clamp(0, 1))


@pytest.mark.parametrize(
    ("value", "text"), [(1.5, "values from .* to 1.5"), (-1.0, "values from -1 to"), (torch.nan, "values from nan to")]
)
def test_the_door_names_the_image_out_of_range(value, text):
    batch, targets = fakes.batch()
    batch[1, 0, 3, 3] = value
    with pytest.raises(ValueError, match=f"image 'one' has {text}"):
        check_images(batch, targets)


def test_the_door_counts_images_and_targets():
    batch, targets = fakes.batch()
    with pytest.raises(ValueError, match="got 3 images but 2 targets"):
        check_images(batch, targets[:2])


def slow_l2_projection(image, clean, radius):
    """By bisection on the share of its way that every value goes, until the pixel range stops it."""
    low, high = 0.0, 1.0
    for _ in range(200):
        share = (low + high) / 2
        goal = (clean + share * (image - clean)).clamp(0, 1)
        low, high = (share, high) if float((goal - clean).norm()) <= radius else (low, share)
    return (clean + low * (image - clean)).clamp(0, 1)


@pytest.mark.parametrize("kind", ["uniform", "file", "tiny"])
@pytest.mark.parametrize("size", ["1/255", "8/255", 0.2, 1])
@pytest.mark.parametrize("reach", [0.01, 0.3, 20])
def test_projection_onto_an_l2_ball_is_the_nearest_image_inside(kind, size, reach):
    clean, threat = images(kind)[:3, :, :16, :16], L2(size)
    far = clean + reach * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    near = threat.project(far, clean)
    radius = threat.root_mean_square * (3 * 16 * 16) ** 0.5
    for image, goal, centre in zip(near.double(), far.double(), clean.double(), strict=True):
        assert float((image - centre).norm()) <= radius
        torch.testing.assert_close(image, slow_l2_projection(goal, centre, radius), atol=1e-6, rtol=0)
    assert near.min() >= 0
    assert near.max() <= 1
    assert torch.equal(threat.project(near, clean), near)


def test_an_l2_ball_of_no_size_holds_the_clean_image_alone():
    clean = images("file")
    assert torch.equal(L2(0).project(clean + 0.1, clean), clean)
    black = torch.zeros(1, 3, 4, 4)
    assert torch.equal(L2("1/255").project(black - 0.5, black), black)


def test_uniform_in_an_l2_ball_of_few_dimensions_reaches_every_distance_alike():
    """In n dimensions the share of the volume within a distance d of radius r is (d / r)ⁿ."""
    clean = torch.full((4000, 3, 1, 1), 0.5)
    drawn = L2("20/255").uniform(clean, image_generators(0, map(str, range(4000))))
    shares = ((drawn - clean).flatten(1).norm(dim=1) / (20 / 255 * 3**0.5)) ** 3
    for level in (0.1, 0.5, 0.9):
        assert float((shares < level).float().mean()) == pytest.approx(level, abs=0.03)


SHARES = st.floats(0, 1, width=32, allow_subnormal=False)
PIXELS = st.one_of(st.sampled_from([0.0, 1.0, 1 / 255, 254 / 255, 1e-40, 0.5]), SHARES)
ANYWHERE = st.one_of(PIXELS, st.floats(-1e6, 1e6, width=32, allow_subnormal=False))
SIZES = st.one_of(st.sampled_from(["0", "0.5/255", "8/255", "1"]), SHARES)


def picture(values):
    return torch.tensor(values, dtype=torch.float32).view(1, 3, 2, 1)


@given(st.lists(PIXELS, min_size=6, max_size=6), st.lists(ANYWHERE, min_size=6, max_size=6), SIZES)
@settings(max_examples=150, deadline=None)
def test_whatever_is_projected_lies_inside_and_stays_there(clean, moved, size):
    clean, moved = picture(clean), picture(moved)
    for threat in (LInf(size), L2(size)):
        inside = threat.project(moved, clean)
        assert 0 <= inside.min() <= inside.max() <= 1
        change = inside.double() - clean.double()
        if isinstance(threat, LInf):
            assert change.abs().max() <= threat.epsilon
        else:
            assert change.norm() <= threat.root_mean_square * change.numel() ** 0.5 * (1 + 1e-12)
        assert torch.equal(threat.project(inside, clean), inside)
        assert torch.equal(threat.project(clean, clean), clean)
