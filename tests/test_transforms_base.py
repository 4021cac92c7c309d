"""What every layer inherits: Pyro's protocol, no caches, an inverse with parameters, a bound context, checks."""

from __future__ import annotations

import copy
import pickle

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyrogen.distributions.transforms import Flow, Layer
from pyrogen.errors import DtypeError, ShapeError


class Scale(Layer):
    """y = x e^a, or y = x e^(a + c) with a context of the same width."""

    def __init__(self, width: int, context: int = 0) -> None:
        super().__init__(width, context)
        self.a = nn.Parameter(torch.linspace(-1.0, 1.0, width))

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        a = self.a if context is None else self.a + context
        return x * a.exp(), a.sum(-1) + 0 * x.sum(-1)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(y, context)
        a = self.a if context is None else self.a + context
        return y * (-a).exp(), -a.sum(-1) + 0 * y.sum(-1)


def test_a_layer_is_a_torch_transform_whose_density_is_the_change_of_variables():
    layer = Scale(3)
    base = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    x = torch.randn(5, 3)
    expected = dist.Normal(torch.zeros(3), layer.a.exp()).to_event(1).log_prob(x)
    torch.testing.assert_close(dist.TransformedDistribution(base, [layer]).log_prob(x), expected)
    back = dist.TransformedDistribution(base, [layer.inv.inv])
    torch.testing.assert_close(back.log_prob(x), expected)


def test_a_density_follows_its_parameters_for_the_same_tensor():
    layer, x = Scale(2), torch.ones(4, 2)
    density = dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), [layer])
    before = density.log_prob(x)
    with torch.no_grad():
        layer.a.add_(1.0)
    assert not torch.allclose(density.log_prob(x), before)
    density.log_prob(x).sum().backward()
    density.log_prob(x).sum().backward()  # a cached graph would be gone by now


def test_the_inverse_of_a_layer_has_its_parameters():
    layer = Scale(2)
    assert list(layer.inv.parameters()) == [layer.a]
    assert layer.inv.inv is layer
    x = torch.randn(3, 2)
    assert torch.equal(layer.inv(x), layer.inverse(x))
    torch.testing.assert_close(layer.inv.log_abs_det_jacobian(x, layer.inv(x)), -layer.a.sum().expand(3))


def test_a_bound_context_is_the_context_and_survives_copies():
    layer = Scale(3, context=3)
    weight = torch.randn(3, requires_grad=True)
    bound = layer.condition(2 * weight)
    x = torch.randn(4, 3)
    torch.testing.assert_close(bound(x), layer(x, 2 * weight))
    for other in (copy.deepcopy(bound), pickle.loads(pickle.dumps(bound))):
        torch.testing.assert_close(other(x), bound(x))


def test_a_context_broadcasts_over_the_rows_and_particles():
    layer = Flow([Scale(3, context=3), Scale(3)])
    x, c = torch.randn(5, 4, 3), torch.randn(4, 3)
    y, log_det = layer.forward_and_log_det(x, c)
    assert y.shape == (5, 4, 3) and log_det.shape == (5, 4)
    for particle in range(5):
        torch.testing.assert_close(layer(x[particle], c), y[particle])


def test_layers_survive_copy_pickle_double_and_meta_after_use():
    flow = Flow([Scale(2), Scale(2).inv])
    flow(torch.randn(3, 2, requires_grad=True)).sum().backward()
    for other in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert all(torch.equal(a, b) for a, b in zip(flow.parameters(), other.parameters(), strict=True))
        assert other.double()(torch.randn(3, 2, dtype=torch.float64)).dtype == torch.float64
    assert flow.to("meta")(torch.empty(3, 2, device="meta")).device.type == "meta"


@pytest.mark.parametrize(
    ("error", "x", "context", "words"),
    [
        (DtypeError, torch.zeros(2, 3).half(), torch.zeros(3), "float16"),
        (DtypeError, torch.zeros(2, 3).long(), torch.zeros(3), "int64"),
        (DtypeError, torch.zeros(2, 3), torch.zeros(3).double(), "one dtype"),
        (ShapeError, torch.zeros(2, 4), torch.zeros(3), r"\(2, 4\)"),
        (ShapeError, torch.zeros(()), torch.zeros(3), r"\(\.\.\., 3\)"),
        (ShapeError, torch.zeros(2, 3), torch.zeros(4), "context of shape"),
        (ShapeError, torch.zeros(2, 3), None, "no context"),
    ],
)
def test_what_a_layer_cannot_map_is_refused_in_words(error, x, context, words):
    layer = Flow([Scale(3, context=3)])
    for call in (layer.forward_and_log_det, layer.inverse_and_log_det):
        with pytest.raises(error, match=words):
            call(x, context)


def test_a_context_for_a_layer_without_one_is_refused():
    with pytest.raises(ShapeError, match="need none"):
        Scale(3)(torch.zeros(2, 3), torch.zeros(3))
    with pytest.raises(ShapeError, match="need none"):
        Scale(3).condition(torch.zeros(3))


def test_layers_that_do_not_fit_together_are_refused():
    for layers, words in (([], "at least one"), ([Scale(2), Scale(3)], "widths"), ([Scale(2, 2), Scale(2, 3)], "cont")):
        with pytest.raises(ShapeError, match=words):
            Flow(layers)


def test_a_layer_compiles_whole_and_maps_over_rows():
    flow, x = Flow([Scale(3), Scale(3).inv]), torch.randn(4, 3)
    compiled = torch.compile(flow.forward_and_log_det, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), flow.forward_and_log_det(x))
    torch.testing.assert_close(torch.func.vmap(flow.forward_and_log_det)(x), flow.forward_and_log_det(x))
