"""Layers on circles and tori: log-determinants, inverses, masses, the cut, the papers' formulas, bad input."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch

from pyrogen.distributions import circular, torus
from pyrogen.distributions.transforms import (
    CircularMobius,
    CircularSpline,
    Flow,
    Layer,
    Permutation,
    TorusAutoregressive,
    TorusCoupling,
)
from pyrogen.errors import DtypeError, SettingsError, ShapeError
from pyrogen.ops.angles import wrap

LAYERS: dict[str, tuple[int, Callable[[], Layer]]] = {
    "circle spline": (1, lambda: TorusAutoregressive(1, CircularSpline(6))),
    "circle mobius": (1, lambda: TorusAutoregressive(1, CircularMobius(3))),
    "coupling": (2, lambda: TorusCoupling(2, CircularSpline(5), (8,))),
    "coupling mobius": (3, lambda: TorusCoupling(3, CircularMobius(2), (8,), swap=True)),
    "autoregressive": (2, lambda: TorusAutoregressive(2, CircularSpline(5), (8,))),
    "autoregressive mobius": (3, lambda: TorusAutoregressive(3, CircularMobius(2), (8,))),
    "deep": (
        3,
        lambda: Flow(
            [TorusCoupling(3, hidden=(8,)), Permutation.reversal(3), TorusAutoregressive(3, CircularMobius(1), (8,))]
        ),
    ),
}


def made(name: str, dtype: torch.dtype = torch.float64, spread: float = 0.3) -> Layer:
    """A layer with all its parameters off their start."""
    torch.manual_seed(0)
    layer = LAYERS[name][1]().to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += spread * torch.randn_like(parameter)
    return layer


def angles(name: str, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    torch.manual_seed(1)
    return wrap(2 * math.pi * torch.rand(*shape, LAYERS[name][0], dtype=dtype))


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest angle between two directions."""
    return wrap(a - b).abs().max().item()


@pytest.mark.parametrize("name", LAYERS)
def test_log_determinants_are_those_of_the_jacobian(name):
    layer, x = made(name), angles(name, 20)
    y, log_det = layer.forward_and_log_det(x)
    jacobian = torch.stack([torch.func.jacrev(layer)(row) for row in x])
    assert circular.check(y).all() and log_det.shape == (20,)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian)[1])


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("dtype", "small"), [(torch.float64, 1e-10), (torch.float32, 3e-4)])
def test_inverses_undo_and_their_log_determinants_cancel(name, dtype, small):
    layer, x = made(name, dtype), angles(name, 100, 3, dtype=dtype)
    y, log_det = layer.forward_and_log_det(x)
    back, inverse_log_det = layer.inverse_and_log_det(y)
    assert circular.check(y).all() and circular.check(back).all() and log_det.shape == (100, 3)
    assert apart(back, x) < small
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=0, atol=20 * small)
    assert apart(layer(layer.inverse(x)), x) < small


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_the_inverse_are_those_of_the_implicit_function(name):
    layer, y = made(name), angles(name, 3)
    other = torch.randn_like(y)
    parameters = [*layer.parameters()]

    def value():
        x, log_det = layer.inverse_and_log_det(y)
        return ((x * 1.0).sin() * other).sum() + log_det.sum()

    gradients = torch.autograd.grad(value(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        entry, step = int(gradient.abs().argmax()), 1e-6
        flat = parameter.data.view(-1)
        flat[entry] += step
        up = value().item()
        flat[entry] -= 2 * step
        down = value().item()
        flat[entry] += step
        assert (up - down) / (2 * step) == pytest.approx(gradient.flatten()[entry].item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", [name for name, (width, _) in LAYERS.items() if width < 3])
def test_densities_integrate_to_one(name):
    layer, (width, _) = made(name), LAYERS[name]
    steps = 20_000 if width == 1 else 400
    line = torch.arange(steps, dtype=torch.float64) * (2 * math.pi / steps) - math.pi
    x = torch.cartesian_prod(*[line] * width).reshape(-1, width)
    with torch.no_grad():
        mean = layer.inverse_and_log_det(x)[1].exp().mean().item()
    # equal steps are exact to rounding for smooth maps, and a spline has kinks in its slope
    off = 1e-9 if "mobius" in name else 1e-4 if width == 1 else 2e-3
    assert mean == pytest.approx(1, abs=off)


@pytest.mark.parametrize("name", LAYERS)
def test_maps_slopes_and_densities_are_continuous_at_the_cut(name):
    layer, (width, _) = made(name), LAYERS[name]
    x = angles(name, 20)
    for small in (1e-6, 1e-9):
        for entry in range(width):
            east, west = x.clone(), x.clone()
            east[:, entry], west[:, entry] = math.pi - small, -math.pi + small
            for f in (layer.forward_and_log_det, layer.inverse_and_log_det):
                (y, log_det), (other_y, other_log_det) = f(east), f(west)
                assert apart(y, other_y) < 1e4 * small
                assert (log_det - other_log_det).abs().max() < 1e4 * small


@pytest.mark.parametrize("family", [CircularSpline(4), CircularMobius(2)])
def test_the_slope_at_the_cut_is_one_number_from_both_sides(family):
    torch.manual_seed(0)
    raw = torch.randn(family.size, dtype=torch.float64)
    ends = torch.tensor([[-math.pi], [math.nextafter(math.pi, 0)]], dtype=torch.float64)
    slope = torch.func.vmap(torch.func.grad(lambda x: family.forward(x, raw)[0].sum()))(ends)
    torch.testing.assert_close(slope[0], slope[1])
    assert (slope.log().abs() > 0.05).all()  # and it is not the 1 that a spline of the line has there


# formulas


def test_one_centre_is_the_angle_of_the_complex_map():
    torch.manual_seed(0)
    family, v = CircularMobius(1), torch.tensor([1.2, -0.7], dtype=torch.float64)
    raw = torch.cat([v, torch.tensor([0.4], dtype=torch.float64)])
    w = torch.complex(*(0.99 * v / (1 + v.norm())))
    x = torch.linspace(-3.1, 3.1, 40, dtype=torch.float64)[:, None]
    y, log_slope = family.forward(x, raw)
    z = torch.polar(torch.ones_like(x), x)
    h = (1 - w.abs() ** 2) / (z - w).abs() ** 2 * (z - w) - w  # Rezende et al. 2020, equation 9
    assert apart(y, h.angle() + 0.4) < 1e-12
    torch.testing.assert_close(log_slope, (1 - w.abs() ** 2).log() - 2 * (z - w).abs().log())


def test_two_centres_average_how_far_each_turns():
    torch.manual_seed(0)
    raw, turn = torch.randn(4, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    x = torch.linspace(-3.1, 3.1, 40, dtype=torch.float64)[:, None]
    both, _ = CircularMobius(2).forward(x, torch.cat([raw, turn]))
    first, second = (CircularMobius(1).forward(x, torch.cat([part, turn]))[0] for part in raw.split(2))
    assert apart(both, x + (wrap(first - x) + wrap(second - x)) / 2) < 1e-12


@pytest.mark.parametrize("family", [CircularSpline(4), CircularMobius(2)])
def test_a_turn_is_all_that_the_last_parameter_does_and_zeros_do_nothing(family):
    x = torch.linspace(-3, 3, 9, dtype=torch.float64)[:, None]
    raw = torch.zeros(family.size, dtype=torch.float64)
    y, log_slope = family.forward(x, raw)
    assert apart(y, x) < 1e-12 and log_slope.abs().max() < 1e-12
    raw[-1] = 1.0
    assert apart(family.forward(x, raw)[0], y + 1.0) < 1e-12
    raw[-1] = 1.0 + 2 * math.pi
    assert apart(family.forward(x, raw)[0], y + 1.0) < 1e-12


def test_a_context_decides():
    for layer in (TorusCoupling(2, hidden=(4,), context=2), TorusAutoregressive(2, hidden=(4,), context=2)):
        layer = layer.double()
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter += 0.5 * torch.randn_like(parameter)
        x = angles("coupling", 6)
        for shape in ((2,), (6, 2), (4, 1, 2)):
            c = torch.randn(shape, dtype=torch.float64)
            y, log_det = layer.forward_and_log_det(x, c)
            back, inverse_log_det = layer.inverse_and_log_det(y, c)
            assert apart(back, x.expand_as(back)) < 1e-9
            torch.testing.assert_close(inverse_log_det, -log_det)
        assert (log_det[0] - log_det[1]).abs().max() > 0.01


# the protocol


@pytest.mark.parametrize("name", LAYERS)
def test_copies_saved_states_and_pyros_distribution_agree(name):
    layer, x = made(name), angles(name, 5)
    log_det = layer.inverse_and_log_det(x)[1]
    other = LAYERS[name][1]().double()
    other.load_state_dict(layer.state_dict())
    for same in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other):
        assert torch.equal(same.inverse_and_log_det(x)[1], log_det)
    width = x.shape[-1]
    base = dist.Uniform(-math.pi * torch.ones(width).double(), math.pi * torch.ones(width).double()).to_event(1)
    law = dist.TransformedDistribution(base, [layer])
    torch.testing.assert_close(law.log_prob(x), log_det - width * math.log(2 * math.pi))
    assert law.rsample((4,)).shape == (4, width)


# what can go wrong


@pytest.mark.parametrize("name", LAYERS)
def test_an_angle_outside_the_range_is_the_direction_that_it_is(name):
    layer, x = made(name), angles(name, 5)
    for f in (layer.forward_and_log_det, layer.inverse_and_log_det):
        (y, log_det), (other_y, other_log_det) = f(x), f(x + 4 * math.pi)
        assert apart(y, other_y) < 1e-9
        torch.testing.assert_close(log_det, other_log_det, rtol=1e-9, atol=1e-9)


def test_angles_outside_the_range_are_refused_where_values_are_checked():
    pi = math.pi * torch.ones(2)
    base = dist.Uniform(-pi, pi).to_event(1)
    law = dist.TransformedDistribution(base, [TorusCoupling(2)], validate_args=True)
    assert str(law.support) == str(torus)
    for bad in (torch.tensor([0.0, 3.3]), torch.tensor([math.nan, 0.0])):
        with pytest.raises(ValueError, match="support"):
            law.log_prob(bad)


@pytest.mark.parametrize("name", LAYERS)
def test_wrong_widths_and_dtypes_are_refused(name):
    layer, x = made(name), angles(name, 5)
    for f in (layer.forward_and_log_det, layer.inverse_and_log_det):
        with pytest.raises(ShapeError, match=r"need \(\.\.\., \d\)"):
            f(torch.cat([x, x], -1))
        with pytest.raises(DtypeError, match="float16"):
            f(x.half())


def test_layers_that_cannot_be_are_refused():
    for bins in (1, 1000):
        with pytest.raises(SettingsError, match=f"bins={bins}"):
            CircularSpline(bins)
    with pytest.raises(SettingsError, match="centres=0"):
        CircularMobius(0)
    with pytest.raises(SettingsError, match="width 0"):
        TorusAutoregressive(0)
    with pytest.raises(SettingsError, match="width 1"):
        TorusCoupling(1)


@pytest.mark.parametrize("name", ["coupling", "coupling mobius", "autoregressive"])
def test_both_maps_run_without_numbers(name):
    layer, x = made(name).to("meta"), angles(name, 4).to("meta")
    for f in (layer.forward_and_log_det, layer.inverse_and_log_det):
        assert f(x)[1].shape == (4,)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coupling", "autoregressive"])
def test_both_maps_are_one_graph(name):
    layer, x = made(name), angles(name, 4)
    for f in (layer.forward_and_log_det, layer.inverse_and_log_det):
        for a, b in zip(torch.compile(f, backend="eager", fullgraph=True)(x), f(x), strict=True):
            torch.testing.assert_close(a, b)
