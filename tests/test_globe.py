"""Maps of densities: the right places, one scale, rows and functions alike, words for what does not fit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh
from torch import nn

from pyrogen.diagnostics import globe_maps, torus_maps
from pyrogen.distributions import SphereUniform, VonMisesFisher
from pyrogen.errors import SettingsError, ShapeError
from pyrogen.ops.angles import unit_vectors


def meshes(figure) -> list[np.ndarray]:
    """What the panels show, north and the largest x_2 last."""
    found = [c for ax in figure.axes for c in ax.collections if isinstance(c, QuadMesh) and ax.get_title()]
    return [np.asarray(mesh.get_array()).reshape(mesh.get_coordinates().shape[0] - 1, -1) for mesh in found]


def place(latitude: float, longitude: float) -> torch.Tensor:
    return unit_vectors(torch.tensor(latitude, dtype=torch.float64), torch.tensor(longitude, dtype=torch.float64))


def test_a_density_and_its_rows_peak_at_the_place_where_they_are():
    torch.manual_seed(0)
    law = VonMisesFisher(place(50.0, -100.0), 40.0)
    figure = globe_maps({"law": law.log_prob, "rows": law.sample((4000,))}, points=law.sample((50,)), nodes=90, bins=18)
    for value in meshes(figure):
        row, column = np.unravel_index(value.argmax(), value.shape)
        assert abs(2 * row + 1 - 90 - 50) < 8 and abs(2 * column + 1 - 180 + 100) < 12


def test_maps_are_in_units_of_the_uniform_law_and_share_a_scale():
    uniform = SphereUniform(2)
    figure = globe_maps({"a": uniform.log_prob, "b": VonMisesFisher(place(0.0, 0.0), 5.0).log_prob}, nodes=30)
    flat, peaked = meshes(figure)
    np.testing.assert_allclose(flat, 1, rtol=1e-6)
    assert peaked.max() == pytest.approx(4 * math.pi * 5 / (2 * math.pi * (1 - math.exp(-10))), rel=0.02)
    scales = {
        mesh.get_clim()
        for ax in figure.axes
        for mesh in ax.collections
        if isinstance(mesh, QuadMesh) and ax.get_title()
    }
    assert len(scales) == 1


def test_logarithms_of_an_empty_cell_are_finite():
    figure = globe_maps({"rows": place(0.0, 0.0)[None]}, log=True, nodes=20)
    assert np.isfinite(meshes(figure)[0]).all()


def test_a_torus_shows_its_first_angle_to_the_right_and_its_second_upwards():
    def log_density(x):
        return 4 * (torch.cos(x[:, 0] - 2) + torch.cos(x[:, 1] + 1)) - 2 * math.log(2 * math.pi * 11.3)

    x = torch.tensor([[2.0, -1.0]]).expand(50, 2)
    for value in meshes(torus_maps({"law": log_density, "rows": x}, nodes=60, bins=60)):
        row, column = np.unravel_index(value.argmax(), value.shape)
        assert abs((column + 0.5) / 60 * 2 * math.pi - math.pi - 2) < 0.2
        assert abs((row + 0.5) / 60 * 2 * math.pi - math.pi + 1) < 0.2


def test_a_models_log_prob_is_evaluated_with_its_own_dtype():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.b = nn.Parameter(torch.zeros(3))

        def log_prob(self, x):
            assert x.dtype == torch.float32
            return x @ self.b

    assert len(meshes(globe_maps({"model": Model().log_prob}, nodes=10))) == 1


def test_what_does_not_fit_is_refused():
    with pytest.raises(SettingsError, match="no panels"):
        globe_maps({})
    for maps, width in ((globe_maps, 2), (torus_maps, 3)):
        with pytest.raises(ShapeError, match="need"):
            maps({"rows": torch.zeros(5, width)})
        with pytest.raises(ShapeError, match="need"):
            maps({"rows": torch.zeros(width)})
