"""The distribution of a flow: one pass for a draw and its density, never a stale value, any batch of contexts."""

from __future__ import annotations

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrogen.distributions import FlowDistribution, NormalizingFlow
from pyrogen.distributions import flow as parts
from pyrogen.distributions.transforms import (
    IAF,
    MAF,
    AffineCoupling,
    Flow,
    Layer,
    Planar,
    SplineAutoregressive,
    SplineCoupling,
)
from pyrogen.errors import ShapeError
from tests.layers import stirred
from tests.operations import operations
from tests.statistics import assert_mean


@pytest.fixture(autouse=True)
def same_noise():
    torch.manual_seed(0)


class Counted(Layer):
    """A layer that counts its calls."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer.width, layer.context)
        self.layer, self.calls = layer, {"forward": 0, "inverse": 0}

    def forward_and_log_det(self, x, context=None):
        self.calls["forward"] += 1
        return self.layer.forward_and_log_det(x, context)

    def inverse_and_log_det(self, y, context=None):
        self.calls["inverse"] += 1
        return self.layer.inverse_and_log_det(y, context)


def flow(context: int = 0) -> Flow:
    torch.manual_seed(0)
    return stirred(Flow([IAF(3, (8,), context=context), Planar(3, context)]), by=0.2)  # pyright: ignore


def normal(*batch: int) -> dist.TorchDistribution:
    return dist.Normal(torch.zeros(*batch, 3, dtype=torch.float64), 1.0).to_event(1)


def test_it_is_the_transformed_distribution():
    layer = flow()
    ours, theirs = FlowDistribution(normal(), layer), dist.TransformedDistribution(normal(), [layer])
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
    torch.manual_seed(1)
    a = ours.rsample((4,))
    torch.manual_seed(1)
    torch.testing.assert_close(a, theirs.rsample((4,)))


def test_a_draw_is_scored_without_the_inverse():
    layer = Counted(flow())
    d = FlowDistribution(normal(), layer)
    x = d.rsample((6,))
    log_prob = d.log_prob(x)
    assert layer.calls == {"forward": 1, "inverse": 0}
    torch.testing.assert_close(d.log_prob(x.clone()), log_prob)
    assert layer.calls == {"forward": 1, "inverse": 1}
    torch.manual_seed(2)
    x, both = d.rsample_and_log_prob((6,))
    torch.testing.assert_close(d.log_prob(x), both)


def test_the_density_of_a_draw_has_the_same_gradients_either_way():
    layer = flow()
    d = FlowDistribution(normal(), layer)
    x = d.rsample((6,))
    parameters = list(layer.parameters())
    fast = torch.autograd.grad(d.log_prob(x).sum(), parameters, retain_graph=True)
    slow = torch.autograd.grad(d.log_prob(x * 1.0).sum(), parameters)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)


def test_the_density_of_a_draw_is_never_stale():
    layer = Counted(flow())
    d = FlowDistribution(normal(), layer)
    x = d.rsample((6,)).detach()
    x_drawn = d.sample((6,))
    # a draw without gradients must still give the parameters theirs
    assert d.log_prob(x_drawn).requires_grad
    with torch.no_grad():
        y = d.rsample((6,))
        before = d.log_prob(y)
        y.add_(0.1)  # written into
        assert not torch.allclose(d.log_prob(y), before)
    z = d.rsample((6,))
    before = d.log_prob(z).detach()
    with torch.no_grad():
        next(layer.parameters()).add_(0.1)  # an optimiser's step
    assert not torch.allclose(d.log_prob(z), before)
    torch.testing.assert_close(d.log_prob(z), FlowDistribution(normal(), layer).log_prob(z))
    for _ in range(2):
        d.log_prob(x).sum().backward()  # again with the same tensor


def test_parameters_held_for_a_moment_do_not_change_what_is_scored_later():
    layer = flow()
    d = FlowDistribution(normal(), layer)
    x = d.rsample((2,))
    for p in layer.parameters():
        p.requires_grad_(False)
    held = d.log_prob(x)
    assert held.requires_grad  # along x alone
    for p in layer.parameters():
        p.requires_grad_(True)
    gradients = torch.autograd.grad(held.sum(), list(layer.parameters()), allow_unused=True, retain_graph=True)
    total = torch.autograd.grad(d.log_prob(x).sum(), list(layer.parameters()))
    assert any(not torch.allclose(a, b) for a, b in zip(gradients, total, strict=True) if a is not None)


@pytest.mark.parametrize("batch", [(), (4,), (2, 4), (1, 4)])
def test_contexts_make_a_batch(batch):
    layer = flow(context=2)
    c = torch.randn(*batch, 2, dtype=torch.float64)
    d = FlowDistribution(normal(), layer, c)
    assert d.batch_shape == batch and d.event_shape == (3,) and d.has_rsample
    x = d.rsample((5,))
    assert x.shape == (5, *batch, 3) and d.log_prob(x).shape == (5, *batch)
    wide = d.expand((7, *(n if n != 1 else 6 for n in batch)))
    assert wide.rsample().shape[0] == 7 and wide.log_prob(wide.sample()).shape == wide.batch_shape
    if batch == (4,):
        one = FlowDistribution(normal(), layer, c[2])
        torch.testing.assert_close(one.log_prob(x[:, 2]), d.log_prob(x)[:, 2])


def test_a_site_in_plates_and_particles_has_the_right_shapes():
    layer = flow(context=2)
    c = torch.randn(4, 2, dtype=torch.float64)

    def program():
        with pyro.plate("particles", 5, dim=-2), pyro.plate("rows", 4, dim=-1):
            return pyro.sample("z", FlowDistribution(normal(), layer, c))

    trace = pyro.poutine.trace(program).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["z"]["value"].shape == (5, 4, 3) and trace.nodes["z"]["log_prob"].shape == (5, 4)


def test_the_module_moves_whole_and_is_a_distribution_when_called():
    module = NormalizingFlow(Flow([MAF(3, (8,)), Planar(3)]))
    assert set(module.state_dict()) > {"loc", "scale"}
    assert module().log_prob(torch.zeros(2, 3)).shape == (2,)
    double = copy.deepcopy(module).double()
    assert double().sample((2,)).dtype == torch.float64
    other = pickle.loads(pickle.dumps(module))
    assert torch.equal(other().log_prob(torch.ones(3)), module().log_prob(torch.ones(3)))
    assert module.to("meta")().rsample((2,)).device.type == "meta"


def test_draws_follow_the_density():
    layer = flow()
    d = FlowDistribution(normal(), layer)
    x = d.sample((20_000,)).detach()
    wide = dist.Normal(torch.zeros(3, dtype=torch.float64), 1.5).to_event(1)
    # E_q[ p / q ] = 1 for any density p inside the reach of q
    assert_mean((dist.Normal(x.mean(0), 0.5).to_event(1).log_prob(x) - d.log_prob(x)).exp().detach(), 1.0)
    assert wide.log_prob(x).isfinite().all()


def test_a_base_of_another_width_is_refused():
    for base in (dist.Normal(torch.zeros(3), 1.0), dist.Normal(torch.zeros(4), 1.0).to_event(1)):
        with pytest.raises(ShapeError, match="base"):
            FlowDistribution(base, flow())


# The operations of a density's forward and backward pass in the architectures of benchmarks/flows.py, and of a draw.


def spline_couplings() -> NormalizingFlow:
    return NormalizingFlow(Flow(SplineCoupling(8, (64, 64), swap=i % 2 == 1) for i in range(5)).inv)


def affine_couplings() -> NormalizingFlow:
    return NormalizingFlow(Flow(AffineCoupling(8, (64, 64), swap=i % 2 == 1) for i in range(8)).inv)


def splines_in_order() -> NormalizingFlow:
    orders = [range(8), range(7, -1, -1)]
    return NormalizingFlow(Flow(SplineAutoregressive(8, (64, 64), order=orders[i % 2]) for i in range(5)).inv)


@pytest.mark.parametrize(
    ("make", "parameters", "most"),
    [(spline_couplings, 52_300, 1121), (affine_couplings, 40_000, 615), (splines_in_order, 83_480, 1710)],
)
def test_a_training_step_takes_few_operations_and_waits_for_nothing(make, parameters, most):
    module, x = make(), torch.randn(64, 8)
    assert sum(p.numel() for p in module.parameters()) == parameters

    def step():
        with pyro.validation_enabled(False):
            (-module().log_prob(x).mean()).backward()

    counted = operations(step)
    assert counted.waits == 0
    assert counted.total <= most
    with torch.no_grad(), pyro.validation_enabled(False):
        assert operations(lambda: module().sample((64,))).waits == 0


class Largest(Counted):
    """A layer that remembers how many rows it got at once."""

    rows = 0

    def forward_and_log_det(self, x, context=None):
        self.rows = max(self.rows, x.shape[:-1].numel())
        return super().forward_and_log_det(x, context)

    inverse_and_log_det = forward_and_log_det  # pyright: ignore[reportAssignmentType]


@pytest.mark.parametrize(
    ("shape", "context"),
    [
        ((50, 3), None),
        ((50, 3), (2,)),
        ((50, 3), (1, 2)),
        ((50, 3), (50, 2)),
        ((50, 4, 3), (4, 2)),
        ((50, 4, 3), (50, 1, 2)),
        ((50, 1, 3), (1, 4, 2)),
        ((50, 3), (6, 50, 2)),
        ((3,), (2,)),
        ((3,), (50, 2)),
    ],
)
def test_rows_part_by_part_come_out_as_all_at_once(shape, context, monkeypatch):
    monkeypatch.setattr(parts, "PART", 21)
    monkeypatch.setattr(parts, "FEWEST", 2)
    layer = flow(context=0 if context is None else 2)
    given = None if context is None else torch.randn(context, dtype=torch.float64)
    x = torch.randn(shape, dtype=torch.float64)
    fn = FlowDistribution(normal(), layer, given)
    with torch.no_grad():
        found = fn.log_prob(x)
    torch.testing.assert_close(found, fn.log_prob(x).detach())


def test_rows_go_part_by_part_without_gradients_only():
    layer = Largest(flow())
    fn = FlowDistribution(normal(), layer)
    n = 3 * parts.PART
    with torch.no_grad():
        x = fn.sample((n,))
        assert layer.rows == parts.PART // 3
        fn.log_prob(x.clone())
    assert layer.rows == parts.PART // 3 and x.shape == (n, 3)
    fn.log_prob(x.clone())
    assert layer.rows == n
    wide = Largest(Planar(parts.PART))
    with torch.no_grad():
        FlowDistribution(dist.Normal(torch.zeros(parts.PART), 1.0).to_event(1), wide).sample((parts.FEWEST + 1,))
    assert wide.rows == parts.FEWEST


@pytest.mark.parametrize(("base", "bound"), [((50, 3), (50, 2)), ((5, 50, 3), (5, 1, 2)), ((50, 3), (2,))])
def test_a_layer_with_its_context_bound_gets_the_rows_that_belong_to_it(base, bound, monkeypatch):
    monkeypatch.setattr(parts, "PART", 21)
    monkeypatch.setattr(parts, "FEWEST", 2)
    layer = flow(context=2).condition(torch.randn(bound, dtype=torch.float64))
    for one in (layer, layer.inv, Flow([layer])):
        fn = FlowDistribution(normal(*base[:-1]), one)
        x = torch.randn(base, dtype=torch.float64)
        with torch.no_grad():
            found = fn.log_prob(x)
            assert fn.sample().shape == base
        torch.testing.assert_close(found, fn.log_prob(x).detach())
