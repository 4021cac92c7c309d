"""Pairs of angles from known laws: densities by quadrature, draws against their densities, bad settings."""

import math

import pytest
import torch

from pyrogen.data import load
from pyrogen.data.torus import LAWS, torus_log_prob
from pyrogen.errors import SettingsError, ShapeError
from pyrogen.ops import check_rows
from tests.statistics import assert_mean

LINE = torch.arange(200, dtype=torch.float64) * math.pi / 100 - math.pi
GRID = torch.cartesian_prod(LINE, LINE)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("k", [1.0, 6.0])
def test_draws_follow_a_density_that_integrates_to_one(law, k):
    p = torus_log_prob(GRID, law, k).exp() * (math.pi / 100) ** 2
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    data = load("torus", law=law, sharpness=k)
    assert [len(x) for x in data.splits.values()] == [20_000, 2_000, 20_000]
    x = data["test"]
    check_rows(x, width=2, support="torus")
    assert_mean(torus_log_prob(x.double(), law, k), (p * p.log()).sum() - 2 * math.log(math.pi / 100))
    for turn in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, -1.0]):
        a, grid = x.double() @ torch.tensor(turn).double(), GRID @ torch.tensor(turn).double()
        assert_mean(torch.stack([a.cos(), a.sin()], 1), torch.stack([(p * grid.cos()).sum(), (p * grid.sin()).sum()]))


def test_the_seed_decides():
    first, again, other = (load("torus", seed=s) for s in (0, 0, 1))
    assert torch.equal(first["train"], again["train"]) and first.sha256 == again.sha256 != other.sha256


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(SettingsError, match="law='bimodal'"):
        load("torus", law="bimodal")
    with pytest.raises(SettingsError, match="sharpness=0"):
        load("torus", sharpness=0)
    with pytest.raises(ShapeError, match="pairs"):
        torus_log_prob(torch.zeros(4, 3))
