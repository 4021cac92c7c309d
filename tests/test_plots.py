"""Plots: no global state, the right pixels, words for what does not fit."""

from __future__ import annotations

import io
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pyrogen.diagnostics import curves, image_grid, latent_map, reconstructions
from pyrogen.diagnostics.plots import MARKERS, PALETTE
from pyrogen.errors import ShapeError

HISTORY = {"epoch": [1, 2, 3, 4], "train": [-30.0, -25.0, -22.0, -21.0], "valid": [-31.0, None, -23.0, float("nan")]}


def canvas(figure: Figure) -> np.ndarray:
    return np.asarray(figure.axes[0].images[0].get_array())


def rendered(figure: Figure) -> np.ndarray:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    file.seek(0)
    return matplotlib.image.imread(file)[..., :3]


def ink_touches_the_edge(picture: np.ndarray) -> bool:
    edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    return bool((edge < 0.99).any())


@pytest.mark.parametrize(
    "figure",
    [
        lambda: image_grid(torch.rand(20, 64), (1, 8, 8), title="samples"),
        lambda: reconstructions(torch.zeros(15, 64), torch.ones(15, 64), (8, 8)),
        lambda: latent_map(torch.randn(200, 2), torch.arange(200) % 10, title="codes"),
        lambda: latent_map(torch.randn(200, 7), [f"class {i % 12}" for i in range(200)]),
        lambda: latent_map(torch.randn(50, 2)),
        lambda: curves(HISTORY, title="training"),
    ],
)
def test_nothing_is_clipped_at_the_default_size(figure):
    torch.manual_seed(0)
    picture = rendered(figure())
    assert not ink_touches_the_edge(picture)
    assert min(picture.shape[:2]) > 100


def test_a_grid_holds_the_rows_in_reading_order():
    x = torch.arange(5).float()[:, None].expand(5, 4) / 10
    shown = canvas(image_grid(x, (2, 2), columns=2))
    assert shown.shape == (8, 5)
    assert shown[0, 0] == 0.0 and shown[0, 3] == pytest.approx(0.1) and shown[3, 0] == pytest.approx(0.2)
    assert (shown[2] == 1).all() and (shown[6:, 3:] == 1).all()


def test_colour_pictures_keep_their_channels_last():
    x = torch.zeros(1, 12)
    x[0, :4] = 1.0
    shown = canvas(image_grid(x, (3, 2, 2)))
    assert shown.shape == (2, 2, 3) and (shown[..., 0] == 1).all() and (shown[..., 1:] == 0).all()


def test_reconstructions_stand_below_their_data():
    figure = reconstructions(torch.zeros(3, 4), torch.full((3, 4), 0.5), (2, 2), columns=2)
    shown = canvas(figure)
    assert (shown[:2, :2] == 0).all() and (shown[3:5, :2] == 0.5).all() and (shown[6:8, :2] == 0).all()
    assert (shown[6:8, 3:] == 1).all()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["data", "model"] * 2


def test_the_latent_map_shows_the_plane_of_largest_variance():
    torch.manual_seed(0)
    z = torch.randn(100, 5) * torch.tensor([0.1, 3.0, 0.1, 0.1, 1.0])
    points = np.asarray(latent_map(z).axes[0].collections[0].get_offsets())
    assert abs(np.corrcoef(points[:, 0], z[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef(points[:, 1], z[:, 4])[0, 1]) > 0.99
    plain = np.asarray(latent_map(z[:, :2]).axes[0].collections[0].get_offsets())
    np.testing.assert_allclose(plain, z[:, :2])


def test_every_class_has_its_own_look_and_a_legend_entry():
    ax = latent_map(torch.randn(50, 2), torch.arange(50)).axes[0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [str(i) for i in range(50)]
    looks = {(i % len(PALETTE), (i + i // len(PALETTE)) % len(MARKERS)) for i in range(50)}
    assert len(looks) == 50


def test_curves_mark_the_best_validation_and_name_their_units():
    ax = curves(HISTORY).axes[0]
    assert ax.get_xlabel() == "epoch" and ax.get_ylabel() == "bound (nats per row)"
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["training rows", "validation rows", "best, -23.00 at epoch 3"]
    assert ax.lines[1].get_xdata().tolist() == [1, 3]
    unmarked = curves(HISTORY, mark_best=False).axes[0].get_legend().get_texts()
    assert [text.get_text() for text in unmarked] == names[:2]


def test_curves_do_without_validation_and_without_epochs():
    ax = curves({"step": [10, 20], "train": [-3.0, -2.0], "valid": []}).axes[0]
    assert ax.get_xlabel() == "step" and len(ax.lines) == 1


def test_plots_draw_into_axes_that_they_are_given():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert curves(HISTORY, ax=left) is figure
    assert latent_map(torch.randn(9, 2), ax=right) is figure
    assert len(figure.axes) == 2


@pytest.mark.parametrize(
    "plot",
    [
        lambda: image_grid(torch.rand(3, 10), (3, 3)),
        lambda: image_grid(torch.rand(0, 9), (3, 3)),
        lambda: reconstructions(torch.rand(3, 9), torch.rand(2, 9), (3, 3)),
        lambda: latent_map(torch.rand(3, 1)),
        lambda: latent_map(torch.rand(3, 2), [1, 2]),
        lambda: curves({"epoch": [1], "train": [float("nan")]}),
    ],
)
def test_what_does_not_fit_is_said_in_words(plot):
    with pytest.raises(ShapeError, match="need"):
        plot()


def test_importing_diagnostics_loads_neither_arviz_nor_matplotlib():
    code = (
        "import sys, pyrogen.diagnostics; print([m for m in ('arviz', 'arviz_base', 'matplotlib') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
