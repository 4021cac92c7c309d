"""Flows on the sphere and the torus as models: densities against quadrature, draws against densities, settings."""

from __future__ import annotations

import math

import pytest
import torch

from pyrogen.data.torus import torus_log_prob
from pyrogen.distributions import VonMisesFisher
from pyrogen.distributions.transforms import CylinderSpline, Flow, Mobius, Permutation, Rotation, TorusCoupling
from pyrogen.errors import SettingsError, ShapeError, SupportError
from pyrogen.evaluate import log_likelihood
from pyrogen.inference import fit
from pyrogen.models import ManifoldFlow, SphereFlow, TorusFlow
from tests.oracles import globe
from tests.statistics import assert_mean

SPHERES = {"cylinder": {"degree": 3, "bins": 6}, "exponential": {"bumps": 3}, "mobius": {}}
TORI = [("coupling", "spline"), ("coupling", "mobius"), ("autoregressive", "spline"), ("autoregressive", "mobius")]


def trained(model: ManifoldFlow) -> ManifoldFlow:
    """As if something had been learned: all parameters off their start."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model.double()


def sphere_flow(kind: str) -> ManifoldFlow:
    torch.manual_seed(0)
    return trained(SphereFlow.build(3, (1, 1, 3), "sphere", kind=kind, layers=2, **SPHERES[kind]))


def torus_flow(kind: str, family: str) -> ManifoldFlow:
    torch.manual_seed(0)
    settings = {"kind": kind, "family": family, "layers": 2, "bins": 5, "centres": 2, "hidden": [8]}
    return trained(TorusFlow.build(2, (1, 1, 2), "torus", **settings))


@pytest.mark.parametrize("kind", SPHERES)
def test_a_density_on_the_globe_integrates_to_one_and_its_draws_have_its_moments(kind):
    model = sphere_flow(kind)
    x, weight = globe(180)
    with torch.no_grad():
        p = weight * model.log_prob(x).exp()
    kinks = 5e-3 if kind == "cylinder" else 1e-8
    assert p.sum().item() == pytest.approx(1, abs=kinks)
    draws = model.sample(5_000)
    model.check(draws)
    assert_mean(draws, p @ x, exact_to=kinks)
    assert_mean(draws[:, :, None] * draws[:, None], torch.einsum("n,ni,nj->ij", p, x, x), exact_to=kinks)


@pytest.mark.parametrize(("kind", "family"), TORI)
def test_a_density_on_the_torus_integrates_to_one_and_its_draws_have_its_moments(kind, family):
    model = torus_flow(kind, family)
    line = torch.arange(300, dtype=torch.float64) * math.pi / 150 - math.pi
    x = torch.cartesian_prod(line, line)
    with torch.no_grad():
        p = model.log_prob(x).exp() * (math.pi / 150) ** 2
    kinks = 5e-3 if family == "spline" else 1e-6
    assert p.sum().item() == pytest.approx(1, abs=kinks)
    draws = model.sample(20_000)
    model.check(draws)
    for turn in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]):
        a, grid = (rows @ torch.tensor(turn, dtype=torch.float64) for rows in (draws, x))
        assert_mean(torch.stack([a.cos(), a.sin()], 1), torch.stack([p @ grid.cos(), p @ grid.sin()]), exact_to=kinks)


def test_the_uniform_law_has_the_area_of_the_space_in_nats():
    globe_law = SphereFlow(Flow([Rotation(3, 1.0), CylinderSpline(4, (4,))]))
    torch.testing.assert_close(globe_law.log_prob(globe_law.sample(9)), torch.full((9,), -math.log(4 * math.pi)))
    angles = TorusFlow(Flow([TorusCoupling(3, hidden=(4,))]))
    torch.testing.assert_close(angles.log_prob(angles.sample(9)), torch.full((9,), -3 * math.log(2 * math.pi)))


def test_training_finds_a_known_law_on_the_globe():
    torch.manual_seed(0)
    law = VonMisesFisher(torch.tensor([0.0, 0.6, -0.8]), 6.0)
    x, test = law.sample((3000,)), law.sample((2000,))
    model = SphereFlow.build(3, (1, 1, 3), "sphere", layers=2, bins=6, hidden=[8])
    fit(model, x, epochs=8, batch_size=100, learning_rate=0.02, progress=False)
    found = log_likelihood(model, test, method="exact")
    gap = law.log_prob(test).mean().item() - found.mean
    assert -0.01 < gap < 0.06  # a uniform law is 1.2 nats off


def test_training_finds_a_known_law_on_the_torus():
    from pyrogen.data import load

    torch.manual_seed(0)
    data = load("torus", law="correlated", sharpness=3.0)
    model = TorusFlow.build(2, (1, 1, 2), "torus", layers=2, bins=6, hidden=[16])
    fit(model, data["train"][:5000], epochs=8, batch_size=100, learning_rate=0.02, progress=False)
    test = data["test"][:5000]
    gap = (
        torus_log_prob(test.double(), "correlated", 3.0).mean().item()
        - log_likelihood(model, test, method="exact").mean
    )
    assert -0.01 < gap < 0.06  # a uniform law is 0.9 nats off


def test_rows_off_the_space_are_refused():
    with pytest.raises(SupportError, match="unit vector"):
        SphereFlow(Mobius(torch.zeros(3))).check(torch.ones(2, 3))
    with pytest.raises(SupportError, match=r"\[-pi, pi\)"):
        TorusFlow(TorusCoupling(2)).check(torch.full((2, 2), 4.0))


@pytest.mark.parametrize(
    ("width", "settings", "match"),
    [
        (3, {"kind": "cilinder"}, "kind='cilinder'"),
        (4, {"kind": "cylinder"}, "unit vectors of 4 entries"),
        (3, {"layers": 0}, "layers=0"),
        (3, {"bin": 4}, "'bins'"),
        (3, {"degree": 0}, "degree=0"),
    ],
)
def test_settings_of_a_sphere_flow_that_cannot_be_are_refused(width, settings, match):
    with pytest.raises(SettingsError, match=match):
        SphereFlow.build(width, (1, 1, width), "sphere", **settings)


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"family": "affine"}, "family='affine'"), ({"kind": "iaf"}, "kind='iaf'"), ({"bin": 4}, "'bins'")],
)
def test_settings_of_a_torus_flow_that_cannot_be_are_refused(settings, match):
    with pytest.raises(SettingsError, match=match):
        TorusFlow.build(2, (1, 1, 2), "torus", **settings)


class AnyWidth(Permutation):
    """A layer that does not say how wide its rows are."""

    def __init__(self):
        super().__init__([1, 0])
        self.width = None


def test_other_data_and_layers_without_a_width_are_refused():
    for kind in (SphereFlow, TorusFlow):
        with pytest.raises(SettingsError, match="real data"):
            kind.build(3, (1, 1, 3), "real")
    with pytest.raises(ShapeError, match="any width"):
        TorusFlow(AnyWidth())
    assert TorusFlow(Flow([Permutation([1, 0]), TorusCoupling(2)])).width == 2
