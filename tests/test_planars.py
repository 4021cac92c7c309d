"""A stack of planar layers against the same layers one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from pyrogen.distributions.transforms import Flow, Planar, Planars
from pyrogen.errors import SettingsError
from pyrogen.ops.planar import planars
from tests.layers import stirred


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


CONTEXTS = [(0, ()), (4, ()), (4, (3,)), (4, (2, 3)), (4, (1, 3)), (4, (2, 1)), (4, (5, 2, 3))]


@pytest.mark.parametrize(("context", "shape"), CONTEXTS)
def test_it_is_the_layers_one_by_one_with_their_gradients(context, shape):
    layer = stirred(Planars(3, layers=5, context=context))
    assert isinstance(layer, Planars)
    parts = Flow(layer.parts())
    x, c = noise(2, 3, 3, seed=1), noise(*shape, context, seed=2) if context else None
    inputs, found = [t.requires_grad_() for t in (x, c) if t is not None], []
    for each in (layer, parts):
        y, log_det = each.forward_and_log_det(*inputs)
        total = (noise(*y.shape, seed=3) * y).sum() + (noise(*log_det.shape, seed=4) * log_det).sum()
        gradients = torch.autograd.grad(total, [*inputs, *each.parameters()])
        found.append((y, log_det, *gradients[: len(inputs)]))
        found.append(gradients[len(inputs) :])
    torch.testing.assert_close(found[0], found[2], atol=1e-12, rtol=1e-12)
    raw, *weight = found[1]
    torch.testing.assert_close(raw, torch.stack(found[3][:: 2 if context else 1]), atol=1e-12, rtol=1e-12)
    if context:
        torch.testing.assert_close(weight[0], torch.cat(found[3][1::2]), atol=1e-12, rtol=1e-12)


def test_it_starts_as_the_layers_one_by_one_do():
    torch.manual_seed(0)
    layer = Planars(4, layers=3)
    torch.manual_seed(0)
    assert torch.equal(layer.raw, torch.stack([Planar(4).raw for _ in range(3)]))


@pytest.mark.parametrize(
    "shapes", [((2, 3), (3, 5, 3)), ((2, 4, 3), (3, 5, 3)), ((2, 4, 3), (3, 5, 1, 3)), ((2,), (3, 5))]
)
def test_the_gradients_are_those_of_differences(shapes):
    x, raw = (noise(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes))
    assert torch.autograd.gradcheck(planars, (x, raw))


def test_many_gradients_at_once_are_those_of_each():
    x, raw = noise(2, 6, seed=1).requires_grad_(), noise(3, 5, 6, seed=2).requires_grad_()
    y, _ = planars(x, raw)
    weights = noise(4, 2, 6, seed=3)
    found = torch.autograd.grad(y, (x, raw), weights, is_grads_batched=True, retain_graph=True)
    for i, weight in enumerate(weights):
        alone = torch.autograd.grad(y, (x, raw), weight, retain_graph=True)
        torch.testing.assert_close([part[i] for part in found], [*alone])


def test_no_direction_is_no_move_and_has_finite_gradients():
    layer = Planars(3, layers=2)
    with torch.no_grad():
        layer.raw.zero_()
    x = torch.randn(4, 3)
    y, log_det = layer.forward_and_log_det(x)
    assert torch.equal(y, x)
    gradient = torch.autograd.grad(y.sum() + log_det.sum(), layer.raw)[0]
    assert gradient.isfinite().all()


def test_draws_without_gradients_keep_no_points():
    layer, x = Planars(3, layers=4), torch.randn(5, 3)
    with torch.no_grad():
        without = layer.forward_and_log_det(x)
    assert without[0].grad_fn is None
    with_gradient = layer.forward_and_log_det(x)
    assert with_gradient[0].requires_grad and torch.equal(without[0], with_gradient[0])


def test_a_traced_step_has_one_node_for_all_layers():
    from torch.fx.experimental.proxy_tensor import make_fx

    layer, x = Planars(3, layers=20), torch.randn(5, 3)

    def gradient(x: Tensor, raw: Tensor) -> Tensor:
        return torch.autograd.grad(planars(x.mT, raw)[0].sum(), raw)[0]

    graph = make_fx(gradient)(x, layer.raw)
    names = [str(node.target) for node in graph.graph.nodes]
    assert sum("planars" in name for name in names) == 2 and len(names) < 25
    torch.testing.assert_close(graph(x, layer.raw), gradient(x, layer.raw))


def test_no_layers_are_refused():
    with pytest.raises(SettingsError, match=r"(?s)layers=0.*need at least one"):
        Planars(3, layers=0)


def test_derivatives_of_every_kind_are_those_of_the_layers_one_by_one():
    layer = stirred(Planars(2, layers=3)).double()
    assert isinstance(layer, Planars)
    parts, x, v = Flow(layer.parts()), noise(4, 2, seed=1), noise(4, 2, seed=2)

    def values(f, x):
        y, log_det = f.forward_and_log_det(x)
        return y.sum(-1) ** 2 + log_det

    ways = {
        "jvp": lambda f: torch.func.jvp(lambda x: values(f, x), (x,), (v,))[1],
        "double-backward jvp": lambda f: torch.autograd.functional.jvp(lambda x: values(f, x), x, v)[1],
        "jacfwd": lambda f: torch.func.jacfwd(lambda x: values(f, x))(x[0]),
        "jacrev": lambda f: torch.func.jacrev(lambda x: values(f, x))(x[0]),
        "hessian": lambda f: torch.func.hessian(lambda x: values(f, x))(x[0]),
        "functional.hessian": lambda f: torch.autograd.functional.hessian(lambda x: values(f, x), x[0]),
        "vmap of grad": lambda f: torch.func.vmap(torch.func.grad(lambda x: values(f, x)))(x),
    }
    for name, way in ways.items():
        torch.testing.assert_close(way(layer), way(parts), msg=lambda words, name=name: f"{name}: {words}")
    with forward_ad.dual_level():
        found, expected = (
            forward_ad.unpack_dual(values(f, forward_ad.make_dual(x, v))).tangent for f in (layer, parts)
        )
    torch.testing.assert_close(found, expected)


def test_a_penalty_on_the_gradient_has_one():
    layer = stirred(Planars(2, layers=3)).double()
    assert isinstance(layer, Planars)
    parts, found = Flow(layer.parts()), []
    for f in (layer, parts):
        x = noise(4, 2, seed=1).requires_grad_()
        y, log_det = f.forward_and_log_det(x)
        (slope,) = torch.autograd.grad(y.square().sum() + log_det.sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), list(f.parameters())))
    torch.testing.assert_close(found[0][0], torch.stack(found[1]))
