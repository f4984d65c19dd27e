from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from robustdet.analysis.figures.routing import KERNEL_COLOURS
from robustdet.analysis.figures.style import COLOURS, distribution, legend, looks, panels, styled, symbol

# what protanopes and deuteranopes see of linear RGB (Machado, Oliveira and Fernandes, IEEE TVCG 2009, severity 1)
BLIND = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def lab(colours, matrix):
    """CIE Lab (D65) of sRGB colours as seen through ``matrix``."""
    rgb = np.array([mpl.colors.to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ np.array(matrix).T
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(linear.clip(0, 1) @ np.array(to_xyz).T / [0.9505, 1, 1.089]).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("sight", [np.eye(3), *BLIND.values()], ids=["full", *BLIND])
@pytest.mark.parametrize("colours", [COLOURS[:4], KERNEL_COLOURS[:4]], ids=["detectors", "kernels"])
def test_the_first_colours_stay_apart_for_colour_blind_readers(colours, sight):
    distances = [np.linalg.norm(a - b) for a, b in combinations(lab(colours, sight), 2)]
    assert min(distances) > 15


def test_many_detectors_all_look_different():
    found = looks([f"d{i}" for i in range(20)])
    assert len({(look.colour, look.marker, str(look.line)) for look in found.values()}) == 20


@pytest.mark.parametrize(
    ("name", "expected"),
    [("A_cls", "$A_{cls}$"), ("A_loc, step 2/255", "$A_{loc}$, step 2/255"), ("noise_sign", "noise_sign"), ("L", "L")],
)
def test_symbols_of_the_paper(name, expected):
    assert symbol(name) == expected


def test_a_style_does_not_leak():
    before = dict(mpl.rcParams)
    inside = styled(lambda: mpl.rcParams["axes.spines.top"])()
    assert inside is False
    assert dict(mpl.rcParams) == before


def test_a_distribution_shows_its_quartiles():
    axes = Figure().subplots()
    distribution(axes, 3, np.arange(101.0), looks(["a"])["a"])
    box, points = axes.patches[0].get_path().vertices, axes.lines[-1].get_ydata()
    assert (box[:, 1].min(), box[:, 1].max()) == (25, 75)
    assert len(points) == 101
    distribution(axes, 4, np.array([]), looks(["a"])["a"])
    assert len(axes.patches) == 1


@pytest.mark.parametrize("length", [3, 12, 28, 60])
@pytest.mark.parametrize("count", [1, 4, 7])
def test_a_legend_has_room_for_its_names(length, count):
    figure, _ = panels(1, 2, (3.4, 2.9))
    styled(legend)(figure, looks([f"{place}" + "n" * (length - 1) for place in range(count)]), marker=True)
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
