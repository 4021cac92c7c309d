"""What every layer of a flow must do: its log-determinant, its inverse, its state."""

from __future__ import annotations

import copy
import math
import pickle

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyrogen.distributions.transforms import Layer
from tests.layers import CONDITIONAL, IDENTITIES, PLAIN, cases, conditional, plain


def rows(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def log_det_by_autograd(layer: Layer, x: Tensor, context: Tensor | None = None) -> Tensor:
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x, context), x)
    return torch.linalg.slogdet(jacobian).logabsdet  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("name", "width"), cases(PLAIN, (1, 2, 5)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_log_determinant_is_that_of_the_jacobian(name, width, dtype):
    layer = plain(name, width).to(dtype)
    x = rows(2, 3, width).to(dtype)
    y, log_det = layer.forward_and_log_det(x)
    assert y.dtype == log_det.dtype == dtype and log_det.shape == (2, 3)
    flat = torch.stack([log_det_by_autograd(layer, row) for row in x.flatten(0, 1)])
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(log_det.flatten(), flat, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("name", "width"), cases(CONDITIONAL, (1, 2, 5)))
@pytest.mark.parametrize("context_shape", [(), (3,), (2, 3), (1, 3), (2, 1)])
def test_the_log_determinant_is_right_for_every_shape_of_context(name, width, context_shape):
    layer, x, c = conditional(name, width, 4), rows(2, 3, width), rows(*context_shape, 4, seed=1)
    y, log_det = layer.forward_and_log_det(x, c)
    assert y.shape == x.shape and log_det.shape == (2, 3)
    everywhere = c.expand(2, 3, 4)
    flat = [log_det_by_autograd(layer, a, b) for a, b in zip(x.flatten(0, 1), everywhere.reshape(6, 4), strict=True)]
    torch.testing.assert_close(log_det.flatten(), torch.stack(flat), atol=1e-10, rtol=1e-10)
    back, log_det_back = layer.inverse_and_log_det(y, c)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(log_det_back, -log_det, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_a_context_of_more_dimensions_than_x_gives_rows_for_each(name):
    layer, x, c = conditional(name, 3, 4), rows(3), rows(2, 4, seed=1)
    for call in (layer.forward_and_log_det, layer.inverse_and_log_det):
        y, log_det = call(x, c)
        assert y.shape == (2, 3) and log_det.shape == (2,)
        torch.testing.assert_close(y[1], call(x, c[1])[0])


@pytest.mark.parametrize("name", CONDITIONAL)
def test_every_entry_that_is_mapped_depends_on_the_context(name):
    layer, x, c = conditional(name, 3, 4), rows(20, 3).clamp(-1.5, 1.5), rows(20, 4, seed=1)
    moves = (layer(x, c) - layer(x, c + 0.1)).abs().amax(0) > 1e-6
    kept = {"nice": 1, "realnvp": 1, "spline-coupling": 2}.get(name, 0)  # a coupling keeps one part
    assert int((~moves).sum()) == kept


@pytest.mark.parametrize(("name", "width"), cases(PLAIN, (1, 2, 5)))
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_the_inverse_undoes_the_map(name, width, scale):
    layer, x = plain(name, width), rows(50, width, scale=scale)
    y, log_det = layer.forward_and_log_det(x)
    back, log_det_back = layer.inverse_and_log_det(y)
    torch.testing.assert_close(back, x, atol=1e-8 * scale, rtol=1e-8)
    torch.testing.assert_close(log_det_back, -log_det, atol=1e-7, rtol=1e-7)
    forth = layer(layer.inverse(x if name != "loft" else x.clamp(-20, 20)))
    torch.testing.assert_close(forth, x if name != "loft" else x.clamp(-20, 20), atol=1e-8 * scale, rtol=1e-8)


@pytest.mark.parametrize("name", PLAIN)
def test_the_inverse_has_the_gradients_of_the_implicit_function(name):
    layer, y = plain(name, 3), rows(4, 3, seed=2).requires_grad_()
    parameters = list(layer.parameters())
    x, log_det = layer.inverse_and_log_det(y)
    weight = rows(4, 3, seed=5)
    # T(x; p) = y: the gradient of a function of x for y is v with J^T v = weight, for p it is -v dT/dp
    got = torch.autograd.grad((x * weight).sum(), [y, *parameters], allow_unused=True)
    at = x.detach()
    jacobian = torch.stack([torch.autograd.functional.jacobian(layer, row) for row in at])  # pyright: ignore
    v = torch.linalg.solve(jacobian.mT, weight)
    torch.testing.assert_close(got[0], v, atol=1e-8, rtol=1e-8)
    expected = torch.autograd.grad((layer(at) * v).sum(), parameters, allow_unused=True) if parameters else ()
    for a, b in zip(got[1:], expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, -b, atol=1e-7, rtol=1e-7)
    assert log_det.shape == (4,)


@pytest.mark.parametrize("name", ["planar", "sylvester", "radial", "maf"])
def test_second_derivatives_of_the_inverse_are_right(name):
    layer = plain(name, 2)
    assert torch.autograd.gradgradcheck(layer.inverse, (rows(2, 2, seed=2).requires_grad_(),), atol=1e-5)


@pytest.mark.parametrize(("name", "width"), cases(PLAIN, (1, 2)))
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_a_gaussian_through_a_layer_keeps_its_mass(name, width, direction):
    """The integral of N(T(x)) |det dT/dx| over R^D is 1, and so is that of the inverse, by the trapezoidal rule."""
    if (name, direction) == ("loft", "inverse"):
        pytest.skip("its inverse grows as exp: between two points of a grid the Gaussian is over")
    layer, far = plain(name, width, by=0.1), 12.0
    side = torch.linspace(-far, far, 4001 if width == 1 else 321, dtype=torch.float64)
    x = torch.cartesian_prod(*[side] * width).reshape(-1, width)
    with torch.no_grad():
        z, log_det = layer.forward_and_log_det(x) if direction == "forward" else layer.inverse_and_log_det(x)
    log_p = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + log_det
    mass = float((log_p.logsumexp(0) + width * torch.log(side[1] - side[0])).exp())
    # loft leads from this box to one that a Gaussian leaves noticeably
    end = 1.0 + math.log(far)
    expected = math.erf(end / math.sqrt(2)) ** width if name == "loft" else 1.0
    # a radial layer has a cone at its centre, splines kinks in their slopes: the grid sees them
    assert abs(mass - expected) < 5e-4


@pytest.mark.parametrize("name", IDENTITIES)
def test_these_layers_start_at_the_identity(name):
    layer, x = PLAIN[name](4), rows(10, 4, scale=3.0).float()
    y, log_det = layer.forward_and_log_det(x)
    assert (y - x).abs().max() < 2e-6 and log_det.abs().max() < 2e-6


@pytest.mark.parametrize("name", PLAIN)
def test_state_survives_everything(name):
    layer, x = plain(name, 4), rows(6, 4)
    layer(x.clone().requires_grad_()).sum().backward()
    expected = layer.forward_and_log_det(x)
    other = PLAIN[name](4).double()
    other.load_state_dict(layer.state_dict())
    for same in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert all(torch.equal(a, b) for a, b in zip(same.forward_and_log_det(x), expected, strict=True))
        torch.testing.assert_close(same.inverse(expected[0]), x, atol=1e-8, rtol=1e-8)
    single = copy.deepcopy(layer).float()
    assert single(x.float()).dtype == single.inverse(x.float()).dtype == torch.float32


@pytest.mark.parametrize("name", PLAIN)
def test_a_layer_moves_to_another_device_whole(name):
    layer = plain(name, 4).to("meta")
    x = torch.empty(3, 4, dtype=torch.float64, device="meta")
    for call in (layer.forward_and_log_det, layer.inverse_and_log_det):
        assert all(t.device.type == "meta" for t in call(x))


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in ("permutation", "loft")])
def test_a_layer_follows_its_parameters_for_the_same_tensor(name):
    layer, x = plain(name, 3), rows(5, 3)
    before = layer(x)
    layer.log_abs_det_jacobian(x, before)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.1)
    y, log_det = copy.deepcopy(layer).forward_and_log_det(x)
    assert torch.equal(layer(x), y) and torch.equal(layer.log_abs_det_jacobian(x, before), log_det)


@pytest.mark.parametrize("name", PLAIN)
def test_rows_do_not_see_each_other(name):
    layer, x = plain(name, 3), rows(4, 3)
    for call in (layer.forward_and_log_det, layer.inverse_and_log_det):
        mapped = torch.func.vmap(call)(x)
        torch.testing.assert_close(mapped, call(x))
        torch.testing.assert_close(call(x[2])[0], mapped[0][2])


@pytest.mark.parametrize("name", PLAIN)
def test_the_inverse_layer_is_a_transform_of_pyro(name):
    layer = plain(name, 3)
    x = layer(rows(5, 3))
    base = dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1)
    there = dist.TransformedDistribution(base, [layer]).log_prob(x)
    z, log_det = layer.inverse_and_log_det(x)
    torch.testing.assert_close(there, base.log_prob(z) + log_det, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_bad_rows_and_contexts_are_refused(name):
    layer = conditional(name, 3, 4).float()
    x, c = torch.zeros(2, 3), torch.zeros(4)
    for call in (layer.forward_and_log_det, layer.inverse_and_log_det):
        for bad_x, bad_c in ((x.half(), c.half()), (x[:, :2], c), (x, c[:3]), (x, None), (x, c.double())):
            with pytest.raises((TypeError, ValueError), match=r"(?s)got .*need .*try "):
                call(bad_x, bad_c)
