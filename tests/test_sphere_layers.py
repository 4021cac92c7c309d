"""Layers on the sphere: log-determinants in tangent spaces, inverses, areas, poles, the papers' formulas, bad input."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch
from torch.nn.functional import normalize

from pyrogen.distributions import SphereUniform, sphere
from pyrogen.distributions.transforms import (
    CylinderSpline,
    ExponentialMap,
    Flow,
    Layer,
    Mobius,
    Rotation,
    Stereographic,
)
from pyrogen.errors import DtypeError, NonFiniteError, SettingsError, ShapeError, SupportError
from tests.oracles import globe


class Stretch(Layer):
    """u -> e^s u of the plane, whose image on the sphere is smooth at the pole too."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.s = torch.nn.Parameter(torch.tensor(0.3))

    def forward_and_log_det(self, x, context=None):
        return x * self.s.exp(), (self.s * x.shape[-1]).expand(x.shape[:-1])

    def inverse_and_log_det(self, y, context=None):
        return y * (-self.s).exp(), (-self.s * y.shape[-1]).expand(y.shape[:-1])


LAYERS: dict[str, tuple[int, Callable[[], Layer]]] = {
    "mobius S1": (2, lambda: Mobius(torch.tensor([0.3, -0.5]))),
    "mobius S2": (3, lambda: Mobius(torch.tensor([0.3, -0.5, 0.2]))),
    "mobius S5": (6, lambda: Mobius(0.3 * torch.ones(6))),
    "rotation S1": (2, lambda: Rotation(2, 1.0)),
    "rotation S2": (3, lambda: Rotation(3, 1.0)),
    "rotation S4": (5, lambda: Rotation(5, 1.0)),
    "cylinder": (3, lambda: CylinderSpline(5, (8,))),
    "cylinder degree 4": (3, lambda: CylinderSpline(5, (8,), degree=4)),
    "exponential S1": (2, lambda: ExponentialMap(2, 3)),
    "exponential S2": (3, lambda: ExponentialMap(3, 4)),
    "exponential S4": (5, lambda: ExponentialMap(5, 4)),
    "stereographic": (3, lambda: Stereographic(Stretch(2))),
    "deep": (
        3,
        lambda: Flow([CylinderSpline(4, (8,)), Rotation(3, 1.0), ExponentialMap(3, 2), Mobius(torch.zeros(3))]),
    ),
}
ON_THE_GLOBE = [name for name, (width, _) in LAYERS.items() if width == 3]


def made(name: str, dtype: torch.dtype = torch.float64, spread: float = 0.5) -> Layer:
    """A layer with all its parameters off their start."""
    torch.manual_seed(0)
    layer = LAYERS[name][1]().to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += spread * torch.randn_like(parameter)
    return layer


def directions(name: str, n: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    torch.manual_seed(1)
    return normalize(torch.randn(n, LAYERS[name][0], dtype=dtype), dim=-1)


def by_autograd(f: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """1/2 log det (J E)^T (J E) with E an orthonormal basis of the tangent space at x: the definition."""

    def one(x):
        basis = torch.linalg.svd(x[None])[2][1:].T
        moved = torch.func.jacrev(f)(x) @ basis
        return 0.5 * torch.linalg.slogdet(moved.T @ moved)[1]

    return torch.stack([one(row) for row in x])


@pytest.mark.parametrize("name", LAYERS)
def test_log_determinants_are_those_of_the_tangent_spaces(name):
    layer, x = made(name), directions(name, 12)
    y, log_det = layer.forward_and_log_det(x)
    assert y.shape == x.shape and log_det.shape == (12,)
    torch.testing.assert_close(log_det, by_autograd(layer, x), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("dtype", "small"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
def test_inverses_undo_and_their_log_determinants_cancel(name, dtype, small):
    layer, x = made(name, dtype), directions(name, 300, dtype).reshape(100, 3, -1)
    y, log_det = layer.forward_and_log_det(x)
    assert sphere.check(y).all() and log_det.shape == (100, 3)
    back, inverse_log_det = layer.inverse_and_log_det(y)
    torch.testing.assert_close(back, x, rtol=0, atol=small)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=0, atol=20 * small)
    forth, log_det = layer.forward_and_log_det(layer.inverse(x))
    torch.testing.assert_close(forth, x, rtol=0, atol=small)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_the_inverse_are_those_of_the_implicit_function(name):
    layer, y = made(name), directions(name, 3).requires_grad_()
    other = torch.randn(3, y.shape[-1], dtype=torch.float64)
    parameters = [*layer.parameters()]

    def value():
        x, log_det = layer.inverse_and_log_det(y)
        return (x * other).sum() + log_det.sum()

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


@pytest.mark.parametrize("name", ON_THE_GLOBE)
def test_areas_add_up_to_the_sphere_both_ways(name):
    layer = made(name)
    x, weight = globe(150 if name[:3] == "cyl" else 60)
    with torch.no_grad():
        for log_det in (layer.forward_and_log_det(x)[1], layer.inverse_and_log_det(x)[1]):
            # splines have kinks in their slopes, which limits the quadrature and not the layer
            off = 1e-9 if name[:3] in ("mob", "rot", "ste", "exp") else 1e-2
            assert (weight @ log_det.exp()).item() / (4 * math.pi) == pytest.approx(1, abs=off)


@pytest.mark.parametrize("name", ON_THE_GLOBE)
@pytest.mark.parametrize("pole", [1.0, -1.0])
def test_maps_and_densities_are_continuous_at_the_poles_with_finite_gradients(name, pole):
    layer = made(name)
    angle = torch.linspace(0, 6.2, 9, dtype=torch.float64)
    for small in (1e-3, 1e-5, 1e-8, 1e-12, 0.0):
        ring = torch.stack([small * angle.cos(), small * angle.sin(), torch.full_like(angle, pole)], -1)
        ring.requires_grad_()
        for f in (layer.forward_and_log_det, layer.inverse_and_log_det):
            if name == "stereographic" and small < 1e-8:
                continue  # the plane's infinity, which is left out
            y, log_det = f(ring)
            assert (y - y[:1]).norm(dim=-1).max() < 20 * small + 1e-9
            assert (log_det - log_det[0]).abs().max() < 100 * small + 1e-7
            (gradient,) = torch.autograd.grad(y.sum() + log_det.sum(), ring)
            assert gradient.isfinite().all()


def test_the_cylinder_is_continuous_where_longitudes_are_cut():
    layer = made("cylinder")
    z = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)
    flat = -(1 - z * z).sqrt()
    for small in (1e-4, 1e-9):
        east, west = (normalize(torch.stack([flat, s * small * flat, z], -1), dim=-1) for s in (-1, 1))
        for f in (layer.forward_and_log_det, layer.inverse_and_log_det):
            (y, log_det), (other_y, other_log_det) = f(east), f(west)
            assert (y - other_y).abs().max() < 50 * small
            assert (log_det - other_log_det).abs().max() < 200 * small


def test_24_layers_in_float32_stay_on_the_sphere_with_finite_gradients():
    torch.manual_seed(0)
    for make in (lambda: ExponentialMap(3, 1), lambda: CylinderSpline(8, (8,)), lambda: Mobius(0.3 * torch.ones(3))):
        layer = Flow([part for _ in range(24) for part in (make(), Rotation(3, 1.0))])
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
        x = SphereUniform(2).sample((2000,))
        x[0], x[1] = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, -1.0])
        y, log_det = layer.forward_and_log_det(x)
        assert sphere.check(y).all() and log_det.isfinite().all()
        (y.sum() + log_det.sum()).backward()
        assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


# formulas


def test_mobius_on_the_circle_is_the_papers_map():
    w = torch.tensor([0.4, 0.2], dtype=torch.float64)
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    z = torch.stack([x.cos(), x.sin()], -1)
    y, log_det = Mobius(w).double().forward_and_log_det(z)
    # as a map of the complex plane: (z - w) / (1 - conj(w) z)
    c, v = torch.view_as_complex(z), torch.complex(*w)
    expected = (c - v) / (1 - v.conj() * c)
    torch.testing.assert_close(torch.view_as_complex(y), expected)
    torch.testing.assert_close(log_det, (1 - w.square().sum()).log() - 2 * (c - v).abs().log())
    away = y[x.sub(0.4636).abs().argmin()]  # what points along w stays, its neighbours leave it
    assert away @ w > 0 and log_det.max() == log_det[x.sub(0.4636).abs().argmin()]


def test_mobius_maps_move_uniform_mass_by_their_poisson_kernel():
    x, weight = globe(60)
    w = torch.tensor([0.1, 0.5, -0.2], dtype=torch.float64)
    law = dist.TransformedDistribution(SphereUniform(2, like=x), [Mobius(w).double()])
    density = law.log_prob(x).exp()
    # the harmonic measure's power: ((1 - |w|^2) / |x + w|^2)^2 / 4 pi
    torch.testing.assert_close(density, ((1 - w @ w) / (x + w).square().sum(-1)).square() / (4 * math.pi))
    assert (weight @ density).item() == pytest.approx(1)
    assert (weight * density) @ x @ w < 0  # the mass is towards -w


def test_one_bump_on_the_circle_is_its_formula():
    layer = ExponentialMap(2, 1).double()
    with torch.no_grad():
        layer.centres.copy_(torch.tensor([[2.0, 0.0]]))
    x = torch.linspace(-3, 3, 25, dtype=torch.float64)
    y = layer(torch.stack([x.cos(), x.sin()], -1))
    a, b = 0.5, math.log1p(math.e)
    # on the circle exp_x(t) turns by t, and the derivative of a/b exp(b (cos x - 1)) is -a sin x exp(...)
    turned = x - a * x.sin() * (b * (x.cos() - 1)).exp()
    torch.testing.assert_close(torch.atan2(y[:, 1], y[:, 0]), turned)


def test_exponential_maps_turn_with_the_sphere():
    layer, rotation = made("exponential S4"), made("rotation S4").matrix().detach()
    turned = copy.deepcopy(layer)
    with torch.no_grad():
        turned.centres.copy_(layer.centres @ rotation.T)
    x = directions("exponential S4", 20)
    y, log_det = layer.forward_and_log_det(x)
    other, other_log_det = turned.forward_and_log_det(x @ rotation.T)
    torch.testing.assert_close(other, y @ rotation.T)
    torch.testing.assert_close(other_log_det, log_det)


@pytest.mark.parametrize("width", [2, 3, 6])
def test_rotations_are_orthogonal_with_determinant_one(width):
    layer = Rotation(width, 2.0).double()
    matrix = layer.matrix()
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(width, dtype=torch.float64))
    assert torch.linalg.det(matrix).item() == pytest.approx(1)
    torch.testing.assert_close(matrix, torch.linalg.matrix_exp(skew(layer)))
    torch.testing.assert_close(Rotation(width).matrix(), torch.eye(width))


def skew(rotation: Rotation) -> torch.Tensor:
    n = rotation.width
    a = torch.zeros(n, n, dtype=torch.float64)
    a[tuple(torch.triu_indices(n, n, 1))] = rotation.angles.detach()
    return a - a.T


def test_layers_start_at_the_identity():
    x = directions("cylinder", 50, torch.float32)
    for layer in (CylinderSpline(), Mobius(torch.zeros(3)), Rotation(3)):
        y, log_det = layer.forward_and_log_det(x)
        torch.testing.assert_close(y, x, rtol=0, atol=2e-6)
        torch.testing.assert_close(log_det, torch.zeros(50), rtol=0, atol=1e-5)


def test_a_degree_lets_the_network_see_chebyshevs_polynomials():
    layer, z = made("cylinder degree 4"), torch.linspace(-1, 1, 9, dtype=torch.float64)
    seen = []
    layer.network.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    layer._around(z, None)
    k = torch.arange(1, 5)
    torch.testing.assert_close(seen[0], torch.cos(k * torch.arccos(z)[:, None]))


def test_a_context_decides_the_cylinder():
    torch.manual_seed(0)
    layer = CylinderSpline(4, (8,), context=2).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    x = directions("cylinder", 6)
    for shape in ((2,), (6, 2), (4, 1, 2)):
        c = torch.randn(shape, dtype=torch.float64)
        y, log_det = layer.forward_and_log_det(x, c)
        back, inverse_log_det = layer.inverse_and_log_det(y, c)
        torch.testing.assert_close(back, x.expand_as(y), rtol=0, atol=1e-9)
        torch.testing.assert_close(inverse_log_det, -log_det)
    torch.testing.assert_close(layer.condition(c[0, 0]).forward_and_log_det(x)[1], log_det[0])
    assert (log_det[0] - log_det[1]).abs().max() > 0.1


# the protocol


@pytest.mark.parametrize("name", LAYERS)
def test_copies_saved_states_and_pyros_distribution_agree(name):
    layer, x = made(name), directions(name, 5)
    log_det = layer.inverse_and_log_det(x)[1]
    other = LAYERS[name][1]().double()
    other.load_state_dict(layer.state_dict())
    for same in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other):
        assert torch.equal(same.inverse_and_log_det(x)[1], log_det)
    law = dist.TransformedDistribution(SphereUniform(x.shape[-1] - 1, like=x), [layer])
    assert law.support is sphere and law.event_shape == x.shape[-1:]
    uniform = SphereUniform(x.shape[-1] - 1).log_prob(x)
    torch.testing.assert_close(law.log_prob(x), uniform + log_det)
    draws = law.rsample((4,))
    torch.testing.assert_close(law.log_prob(draws), uniform[0] - layer.forward_and_log_det(layer.inverse(draws))[1])


# what can go wrong


@pytest.mark.parametrize("name", LAYERS)
def test_a_long_vector_is_the_direction_in_which_it_points(name):
    layer, x = made(name), directions(name, 5)
    for f in (layer.forward_and_log_det, layer.inverse_and_log_det):
        for a, b in zip(f(x), f(3 * x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_what_is_off_the_sphere_is_refused_where_values_are_checked():
    law = dist.TransformedDistribution(SphereUniform(2), [CylinderSpline()], validate_args=True)
    for bad in (torch.tensor([0.9, 0.0, 0.0]), torch.tensor([math.nan, 0.0, 1.0]), torch.zeros(3)):
        with pytest.raises(ValueError, match="support"):
            law.log_prob(bad)


@pytest.mark.parametrize("name", LAYERS)
def test_wrong_widths_and_dtypes_are_refused(name):
    layer, x = made(name), directions(name, 5)
    for f in (layer.forward_and_log_det, layer.inverse_and_log_det):
        with pytest.raises(ShapeError, match=r"got x of shape.*need \(\.\.\., \d\)"):
            f(x[:, 1:])
        with pytest.raises(DtypeError, match="float16"):
            f(x.half())
        with pytest.raises(ShapeError, match="context"):
            f(x, torch.ones(5, 2, dtype=torch.float64))


@pytest.mark.parametrize("w", [torch.tensor([1.0, 0.0]), torch.tensor([0.9, -0.9]), torch.tensor([math.nan, 0.0])])
def test_w_outside_the_ball_is_refused_with_a_remedy(w):
    with pytest.raises(SupportError, match=r"got \|w\| of .*need \|w\| < 1.*try squashing"):
        Mobius(w)


def test_the_start_of_mobius_is_the_w_that_was_given():
    for w in (torch.tensor([0.6, 0.0, -0.79]), torch.zeros(3), torch.tensor([0.0, 1e-4, 0.0])):
        torch.testing.assert_close(Mobius(w).w.detach(), w, rtol=1e-5, atol=1e-10)


def test_layers_that_cannot_be_are_refused():
    with pytest.raises(ShapeError, match="w of shape"):
        Mobius(torch.zeros(2, 3))
    with pytest.raises(SettingsError, match="1 entries"):
        Rotation(1)
    with pytest.raises(SettingsError, match="0 bumps"):
        ExponentialMap(3, 0)
    for bins in (1, 1000):
        with pytest.raises(SettingsError, match=f"bins={bins}"):
            CylinderSpline(bins)
    with pytest.raises(SettingsError, match="degree=0"):
        CylinderSpline(8, degree=0)
    with pytest.raises(ShapeError, match="without a width"):
        Stereographic(NoWidth(None))


class NoWidth(Stretch):
    def __init__(self, width: None) -> None:
        Layer.__init__(self, width)


def test_an_inverse_that_cannot_be_found_is_an_error_and_not_a_number():
    layer = made("exponential S2")
    with torch.no_grad():
        layer.centres.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="Newton's method"):
        layer.inverse(directions("exponential S2", 4))


@pytest.mark.parametrize("name", ["mobius S2", "rotation S2", "cylinder", "stereographic", "exponential S2"])
def test_forward_maps_run_without_numbers_and_under_vmap(name):
    layer, x = made(name), directions(name, 4)
    if name != "exponential S2":  # slogdet needs numbers
        assert layer.to("meta").forward_and_log_det(x.to("meta"))[1].shape == (4,)
        layer = made(name)
    rows = torch.func.vmap(layer.forward_and_log_det)(x)
    torch.testing.assert_close(rows[1], layer.forward_and_log_det(x)[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobius S2", "rotation S2", "cylinder", "stereographic", "exponential S2"])
def test_forward_maps_are_one_graph(name):
    layer, x = made(name), directions(name, 4)
    forward = torch.compile(layer.forward_and_log_det, backend="eager", fullgraph=True)
    for a, b in zip(forward(x), layer.forward_and_log_det(x), strict=True):
        torch.testing.assert_close(a, b)
