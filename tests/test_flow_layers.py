"""Single layers against the formulas of their papers, and what each of them alone must do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyrogen.distributions.transforms import (
    IAF,
    LOFT,
    MAF,
    ActNorm,
    AdditiveCoupling,
    Affine,
    AffineCoupling,
    Flow,
    Householder,
    LULinear,
    Permutation,
    Planar,
    Radial,
    ShiftScale,
    SplineAutoregressive,
    SplineCoupling,
    Sylvester,
)
from pyrogen.distributions.transforms.householder import reflect
from pyrogen.errors import SettingsError, ShapeError, SupportError
from pyrogen.nn import Conditioner, MaskedMLP
from pyrogen.ops.tanh_root import tanh_root
from tests.layers import stirred
from tests.operations import operations


@pytest.fixture(autouse=True)
def same_noise():
    torch.manual_seed(0)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_planar_is_the_formula_of_the_paper():
    """Equations 10 to 12 with z = (1, 2), w = (0.5, -1), u = (2, 0.25), b = 0.5: w.z + b = -1 and w.u = 0.75."""
    layer = Planar.of(vector(2.0, 0.25), vector(0.5, -1.0), 0.5)
    y, log_det = layer.forward_and_log_det(vector(1.0, 2.0))
    t = math.tanh(-1.0)
    torch.testing.assert_close(y, vector(1 + 2 * t, 2 + 0.25 * t))
    torch.testing.assert_close(log_det, torch.tensor(math.log(1 + 0.75 * (1 - t * t)), dtype=torch.float64))


def test_radial_is_the_formula_of_the_paper():
    """Equation 14 with z = (3, 4), z0 = 0, alpha = 1, beta = 2: r = 5, h = 1 / 6, h' = -1 / 36."""
    layer = Radial.of(vector(0.0, 0.0), 1.0, 2.0)
    y, log_det = layer.forward_and_log_det(vector(3.0, 4.0))
    torch.testing.assert_close(y, vector(4.0, 16 / 3))
    expected = math.log(1 + 2 / 6) + math.log(1 + 2 / 6 - 2 / 36 * 5)
    torch.testing.assert_close(log_det, torch.tensor(expected, dtype=torch.float64))


def test_planar_refuses_to_fold_and_radial_too():
    for w_u in (-1.0, -2.0, -1 + 1e-4):
        with pytest.raises(SupportError, match=r"w\.u"):
            Planar.of(vector(w_u, 0.0), vector(1.0, 0.0))
    for a, b in ((0.0, 1.0), (1.0, -1.0), (1.0, -2.0)):
        with pytest.raises(SupportError, match="b > -a"):
            Radial.of(vector(0.0, 0.0), a, b)


def test_planar_is_one_to_one_whatever_its_parameters_are():
    layer, x = Planar(2), 3 * torch.randn(200, 2)
    for u, w in ((5.0, -5.0), (1e3, -1e3), (0.0, 0.0), (1.0, 0.0), (0.0, 3.0), (1e-20, -1e-20)):
        with torch.no_grad():
            layer.raw.copy_(torch.tensor([u, 0.3, w, 0.0, 0.1]))
        *_, c = layer.parameters_at(None)
        y, log_det = layer.forward_and_log_det(x)
        assert float(c.detach()) > -1 and y.isfinite().all() and log_det.isfinite().all()
        gradient = torch.autograd.grad(log_det.sum() + y.sum(), layer.raw)[0]
        assert gradient.isfinite().all()


def test_planar_without_a_direction_is_the_identity():
    layer, x = Planar(3), torch.randn(4, 3)
    with torch.no_grad():
        layer.raw.zero_()
    assert torch.equal(layer(x), x) and torch.equal(layer.inverse(x), x)


def test_the_centre_of_a_radial_layer_has_finite_gradients():
    layer = Radial.of(vector(1.0, 2.0), 0.5, -0.4)
    x = vector(1.0, 2.0).requires_grad_()
    for call in (layer.forward_and_log_det, layer.inverse_and_log_det):
        y, log_det = call(x)
        assert torch.equal(y, x)
        assert all(g.isfinite().all() for g in torch.autograd.grad(log_det + y.sum(), [x, layer.raw]))


def test_the_tanh_root_is_found_everywhere():
    c = torch.cat([torch.linspace(-0.999, 0, 100), torch.logspace(-3, 4, 100)]).double()[:, None]
    r = torch.cat([torch.zeros(1), torch.logspace(-8, 5, 200), -torch.logspace(-8, 5, 200)]).double()
    v = tanh_root(c, r)
    assert ((v + c * torch.tanh(v) - r).abs() / (1e-12 + r.abs() + c.abs() * v.abs())).max() < 1e-12
    at = (vector(-0.9, 0.5, 3.0).requires_grad_(), vector(0.3, -2.0, 1.0).requires_grad_())
    assert torch.autograd.gradcheck(tanh_root, at) and torch.autograd.gradgradcheck(tanh_root, at)


def test_sylvester_is_the_formula_of_the_paper():
    layer = stirred(Sylvester(4, planes=2))
    r, s, b, q_t = layer.parameters_at(None)
    torch.testing.assert_close(q_t @ q_t.mT, torch.eye(2, dtype=torch.float64))
    assert torch.equal(r, r.triu()) and torch.equal(s, s.triu())
    x = torch.randn(4, dtype=torch.float64)
    y, log_det = layer.forward_and_log_det(x)
    h = torch.tanh(s @ q_t @ x + b)
    torch.testing.assert_close(y, x + q_t.mT @ r @ h)
    expected = torch.linalg.slogdet(torch.eye(2) + torch.diag(1 - h * h) @ s @ r).logabsdet  # equation 8
    torch.testing.assert_close(log_det, expected)


def test_a_sylvester_layer_of_one_plane_is_planar():
    layer = stirred(Sylvester(3, planes=1))
    r, s, b, q_t = layer.parameters_at(None)
    planar = Planar.of((r[0, 0] * q_t[0]).detach(), (s[0, 0] * q_t[0]).detach(), float(b.detach()))
    x = torch.randn(5, 3, dtype=torch.float64)
    for ours, theirs in zip(layer.forward_and_log_det(x), planar.forward_and_log_det(x), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_reflections_at_once_are_reflections_in_turn():
    v, x = torch.randn(5, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    expected = x
    for unit in (v / v.norm(dim=-1, keepdim=True)).flip(0):
        expected = expected - 2 * (expected @ unit)[:, None] * unit
    torch.testing.assert_close(reflect(x, v), expected)
    torch.testing.assert_close(reflect(reflect(x, v), v, inverse=True), x)
    torch.testing.assert_close(reflect(x, v).norm(dim=-1), x.norm(dim=-1))


def test_operations_of_reflections_and_sylvester_do_not_grow_with_their_number():
    few, many = Householder(20, 2), Householder(20, 16)
    x = torch.randn(3, 20)
    assert operations(lambda: few(x)).total == operations(lambda: many(x)).total
    few, many = Sylvester(20, 2, reflections=2), Sylvester(20, 16, reflections=16)
    assert operations(lambda: few(x)).total == operations(lambda: many(x)).total


@pytest.mark.parametrize("make", [IAF, SplineAutoregressive])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1)])
def test_entries_depend_on_those_before_them_and_no_others(make, order):
    layer = stirred(make(4, (16, 16), order=order, activation=torch.nn.Tanh), by=0.6)
    x = torch.rand(40, 4, dtype=torch.float64) - 0.5
    jacobian = torch.stack([torch.autograd.functional.jacobian(layer, row) for row in x])  # pyright: ignore
    seen = (jacobian.abs() > 1e-12).any(0)[list(order)][:, list(order)]
    assert torch.equal(seen, torch.ones(4, 4, dtype=torch.bool).tril())


def test_iaf_and_maf_are_inverses_of_each_other_with_the_same_weights():
    iaf, maf = stirred(IAF(3, (8,))), MAF(3, (8,)).double()
    maf.load_state_dict(iaf.state_dict())
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(maf(iaf(x)), x)
    raw = iaf.network(x)
    m, log_scale = raw[:, :3], 3.0 * torch.tanh(raw[:, 3:])
    torch.testing.assert_close(iaf(x), x * log_scale.exp() + m)  # equation 10 of the paper on IAF
    torch.testing.assert_close(iaf.forward_and_log_det(x)[1], log_scale.sum(-1))


@pytest.mark.parametrize("context", [0, 3])
def test_some_outputs_of_a_masked_network_are_those_of_all(context):
    network = MaskedMLP(4, (8, 8), torch.arange(4).repeat(3), order=[2, 0, 3, 1], context=context).double()
    for p in network.parameters():
        torch.nn.init.normal_(p)
    x, c = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, context, dtype=torch.float64) if context else None
    some = torch.tensor([1, 5, 9])
    torch.testing.assert_close(network.some(some, x, c), network(x, c)[:, some])


@pytest.mark.parametrize("kind", [IAF, MAF, SplineAutoregressive])
def test_an_autoregressive_layer_takes_the_order_of_the_state_that_it_loads(kind):
    source, loaded = stirred(kind(3, (8,))), stirred(kind(3, (8,), order=[2, 0, 1]))
    loaded.load_state_dict(source.state_dict())
    x = torch.randn(4, 3, dtype=torch.float64)
    y, log_det = source.forward_and_log_det(x)
    torch.testing.assert_close(loaded.forward_and_log_det(x), (y, log_det))
    torch.testing.assert_close(loaded.inverse_and_log_det(y), (x, -log_det), atol=1e-6, rtol=1e-6)


def test_the_autoregressive_inverse_maps_each_entry_once():
    layer, seen = stirred(SplineAutoregressive(4, hidden=(8,), order=[2, 0, 3, 1])), []
    inverse = layer.family.inverse
    layer.family.inverse = lambda y, raw: (seen.append((y.shape, raw.shape)), inverse(y, raw))[1]
    layer.inverse_and_log_det(torch.randn(5, 4, dtype=torch.float64))
    assert seen == 4 * [((5, 1), (5, layer.family.size))]


def test_the_autoregressive_inverse_is_not_poisoned_by_what_is_not_known_yet():
    layer = stirred(IAF(4, (16,), order=(2, 0, 3, 1)))
    x = torch.randn(3, 4, dtype=torch.float64)
    y = layer(x)
    y[:, 1] = math.inf  # the last of the order
    torch.testing.assert_close(layer.inverse(y)[:, [2, 0, 3]], x[:, [2, 0, 3]])


@pytest.mark.parametrize(
    ("family", "scale"), [(AdditiveCoupling, False), (AffineCoupling, True), (SplineCoupling, True)]
)
@pytest.mark.parametrize("swap", [False, True])
def test_couplings_keep_one_part_and_map_the_other(family, scale, swap):
    layer = stirred(family(5, (8,), swap=swap))
    x = torch.randn(6, 5, dtype=torch.float64)
    y, log_det = layer.forward_and_log_det(x)
    kept = slice(2, 5) if swap else slice(0, 2)
    changed = (y != x).any(0)
    assert not changed[kept].any() and int(changed.sum()) == (2 if swap else 3)
    assert bool((log_det != 0).any()) == scale


def test_the_soft_clip_has_gradients_on_both_sides_of_its_bounds():
    raw = torch.linspace(-4, 4, 9, dtype=torch.float64).requires_grad_()
    _, log_slope = ShiftScale(clip=2.0).forward(raw.new_ones(9, 1), torch.stack([0 * raw, raw], -1))
    assert log_slope.abs().max() < 2
    assert bool((torch.autograd.grad(log_slope.sum(), raw)[0] > 0).all())


def test_lu_is_the_product_of_its_factors():
    layer = stirred(LULinear(4))
    lower, upper, _ = layer.factors()
    W = lower @ upper
    x = torch.randn(5, 4, dtype=torch.float64)
    y, log_det = layer.forward_and_log_det(x)
    torch.testing.assert_close(y, x @ W.T + layer.bias)
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(W).logabsdet)


def test_the_affine_layer_makes_the_gaussian_that_it_was_given():
    a = torch.randn(3, 3, dtype=torch.float64)
    factor = torch.linalg.cholesky(a @ a.T + torch.eye(3, dtype=torch.float64))
    layer = Affine(vector(1000.0, 0.0, -5.0), factor)
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ factor.T + layer.loc)
    with pytest.raises(ShapeError, match="scale"):
        Affine(vector(0.0, 0.0), torch.ones(3))


def test_actnorm_starts_where_it_is_told_and_nowhere_else():
    layer = ActNorm(3)
    x = torch.randn(500, 3) * torch.tensor([5.0, 0.1, 0.0]) + torch.tensor([3.0, -7.0, 2.0])
    layer(x[:1])  # a batch of one is a batch as any other
    assert torch.equal(layer(x), x)
    layer.start_at(x)
    y = layer(x)
    assert y.mean(0).abs().max() < 1e-4
    torch.testing.assert_close(y.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-4, rtol=0)


def test_loft_is_linear_inside_and_logarithmic_outside():
    layer = LOFT(threshold=2.0)
    x = vector(-2 - (math.e - 1), -2.0, 0.5, 2.0, 2 + (math.e**3 - 1))
    y, log_det = layer.forward_and_log_det(x[:, None])
    torch.testing.assert_close(y[:, 0], vector(-3, -2, 0.5, 2, 5))
    torch.testing.assert_close(log_det, vector(-1, 0, 0, 0, -3))
    assert LOFT()(torch.tensor([[1e30]])).item() < 200


def test_a_random_permutation_comes_back_with_the_weights():
    flow = Flow([Permutation.random(20), IAF(20, (8,))])
    other = Flow([Permutation.random(20), IAF(20, (8,))])
    x = torch.randn(3, 20)
    assert not torch.equal(flow(x), other(x))
    other.load_state_dict(flow.state_dict())
    assert torch.equal(flow(x), other(x))
    for order in ([0, 0, 1], [1, 2, 3], [[0, 1]]):
        with pytest.raises(SettingsError, match="once"):
            Permutation(torch.tensor(order))


def test_deep_stacks_stay_finite_in_float32():
    for make in (lambda i: SplineCoupling(6, (16,), swap=i % 2 == 1), lambda i: IAF(6, (16,)), lambda i: Planar(6)):
        flow = Flow(make(i) for i in range(24))
        x = (10 * torch.randn(50, 6)).requires_grad_()
        y, log_det = flow.forward_and_log_det(x)
        (y.square().sum() - log_det.sum()).backward()
        assert x.grad is not None and x.grad.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in flow.parameters())
        assert all(p.grad is not None for p in flow.parameters())  # no parameter is there for nothing


def test_settings_that_make_no_layer_are_refused():
    for make in (
        lambda: AffineCoupling(1),
        lambda: AffineCoupling(4, clip=0.0),
        lambda: Householder(3, 0),
        lambda: Sylvester(3, planes=4),
        lambda: Sylvester(3, reflections=0),
        lambda: LOFT(threshold=0.0),
        lambda: IAF(3, ()),
        lambda: IAF(3, order=(0, 1)),
        lambda: Conditioner(0, (4,), 2),
        lambda: MaskedMLP(2, (0,), torch.arange(2)),
    ):
        with pytest.raises(SettingsError, match=r"got .*need .*try"):
            make()
