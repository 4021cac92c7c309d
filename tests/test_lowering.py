"""A lowered step is the eager step, to the bit, and shorter."""

from __future__ import annotations

import random

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

from pyrogen.inference import ELBO, IWAE, fit
from pyrogen.inference.lowering import NotLoweredError, lower, trace
from pyrogen.models import DBN, VAE, BernoulliPixels, Energy, Pair, StandardNormal
from pyrogen.nn import MLP
from tests.lowered import OBJECTIVES, Count, assert_equal_to_eager, eagerly, rows, step_of
from tests.zoo import all_of, small


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(False):
        yield


@pytest.mark.parametrize("objective", OBJECTIVES)
# the particles of an undirected model move outside of any graph
@pytest.mark.parametrize("name", [name for name in all_of(Pair) if not isinstance(small(name), Energy | DBN)])
def test_the_graph_is_the_eager_step_to_the_bit(name, objective):
    for dtype, batches in ((torch.float32, (7, 2)), (torch.float64, (7,))):
        pair = small(name).to(dtype)
        for n in batches:
            x = rows(n, pair.width, dtype)
            step = step_of(pair, x, OBJECTIVES[objective])
            with step.rehearsing():
                graph = trace(step, x)
            assert_equal_to_eager(step, x, graph, steps=(0, 7))


@pytest.mark.parametrize("name", ["rbm", "dbm"])
def test_a_step_with_particles_is_refused_as_a_graph(name):
    pair = small(name)
    x = rows(7, pair.width)
    with pytest.raises(NotLoweredError, match="particles of an undirected model move"):
        trace(step_of(pair, x, ELBO()), x)


def test_tracing_leaves_no_mark():
    vae, x = small("vae"), rows(7)
    step = step_of(vae, x, ELBO(gradient="stl"))
    store = pyro.get_param_store()
    before = {name: id(p) for name, p in store.named_parameters()}
    weights = [p.detach().clone() for p in vae.parameters()]
    state, python = torch.get_rng_state(), random.getstate()
    lower(step, x)
    assert torch.equal(torch.get_rng_state(), state) and random.getstate() == python
    assert {name: id(p) for name, p in store.named_parameters()} == before
    assert all(torch.equal(a, b) for a, b in zip(weights, vae.parameters(), strict=True))
    assert all(p.grad is None and p.requires_grad and p.is_leaf for p in vae.parameters())


def test_noise_is_drawn_anew_at_each_call():
    x = rows(7)
    step = step_of(small("vae"), x, ELBO())
    graph = lower(step, x)
    first, second = (graph(*step.inputs(x, 0))[0] for _ in range(2))
    assert first != second


def test_a_path_derivative_draws_once_in_the_graph():
    x = rows(7)
    graph = lower(step_of(small("vae"), x, ELBO(gradient="stl")), x)
    draws = [n for n in graph.graph.nodes if torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ())]
    assert len(draws) == 1


def test_one_tensor_under_two_names_is_one_input():
    vae, x = small("vae"), rows(7)
    vae.decoder[2].bias = vae.likelihood.bias = nn.Parameter(torch.zeros(4))
    vae.register_buffer("one", vae.prior.zero)
    step = step_of(vae, x, ELBO())
    assert len({id(t) for t in step.state}) == len(step.state)
    assert_equal_to_eager(step, x)


def test_equal_gradients_have_memory_of_their_own():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

        def model(self, x):
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Normal(self.a + self.b, 1.0).to_event(1), obs=x)

    twice, x = Twice(), torch.randn(5, 3)
    step = step_of(twice.model, x, ELBO(), guide=lambda x: None, size=5)
    _, a, b = assert_equal_to_eager(step, x)(*step.inputs(x, 0))
    assert a.data_ptr() != b.data_ptr()


def test_networks_with_noise_and_state_of_their_own():
    for objective in (ELBO(), ELBO(gradient="stl")):
        encoder = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.ReLU(), nn.Linear(6, 4))
        vae, x = VAE(encoder, MLP(2, 5, 4), BernoulliPixels(4), StandardNormal(2)).train(), rows(7)
        step = step_of(vae, x, objective)
        graph = lower(step, x)
        start = [b.clone() for b in vae.buffers()]
        expected, _ = eagerly(step, x, 3)
        moved = [b.clone() for b in vae.buffers()]
        for buffer, value in zip(vae.buffers(), start, strict=True):
            buffer.copy_(value)
        torch.manual_seed(3)
        with torch.no_grad():
            got = graph(*step.inputs(x, 3))
        assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(moved, vae.buffers(), strict=True))
        assert not torch.equal(encoder[1].running_mean, start[0])


def test_two_models_are_two_graphs():
    x = rows(7)
    steps = [step_of(small("vae"), x, ELBO()) for _ in range(2)]
    graphs = [lower(step, x) for step in steps]
    with torch.no_grad():
        next(iter(steps[1].parameters)).add_(1)
    for step, graph in zip(steps, graphs, strict=True):
        assert_equal_to_eager(step, x, graph)


def regression(x):
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("rows", 30, subsample=torch.arange(len(x))):
        pyro.sample("y", dist.Normal((x[:, :3] * w).sum(-1), 0.5), obs=x[:, 3])


def by_params(x):
    loc = pyro.param("loc", torch.zeros(3))
    scale = pyro.param("scale", torch.full((3,), 0.5), constraint=constraints.positive)
    pyro.sample("w", dist.Normal(loc, scale).to_event(1))


class OwnGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(3))
        self.scale = PyroParam(torch.full((3,), 0.5), constraint=constraints.positive)

    def forward(self, x):
        pyro.sample("w", dist.Normal(self.loc, self.scale).to_event(1))


GUIDES = {
    "pyro.param": lambda: by_params,
    "PyroModule": OwnGuide,
    "AutoNormal": lambda: AutoNormal(regression),
    "AutoDiagonalNormal": lambda: AutoDiagonalNormal(regression),
}


@pytest.mark.parametrize("guide", GUIDES)
def test_a_users_own_programs(guide):
    x = rows(10)
    assert_equal_to_eager(step_of(regression, x, ELBO(particles=2), guide=GUIDES[guide]()), x)
    runs = []
    for mode in ("eager", "graph"):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        own, objective = GUIDES[guide](), ELBO(gradient="stl")
        result = fit(
            regression, rows(30), guide=own, objective=objective, batch_size=10, epochs=2, compile=mode, progress=False
        )
        assert result.settings["compile"] == mode
        runs.append(result.history["train"])
    assert runs[0] == runs[1]


def test_score_functions_are_lowered_too():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.3 * torch.ones(len(x))))
            pyro.sample("x", dist.Normal(pyro.param("w", torch.tensor(0.5)) * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=pyro.param("a", torch.tensor(0.1)) * x))

    x = torch.randn(6)
    for objective in (ELBO(particles=3), IWAE(4)):
        assert_equal_to_eager(step_of(model, x, objective, guide=guide, size=6), x)


# ATen operations of the graph of a step; the eager one has 179 to 350
OPERATIONS = {"elbo": 101, "elbo-schedule": 150, "iwae": 150, "stl": 190, "dreg": 210}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_never_waits_for_a_number_and_the_graph_is_the_shorter(objective):
    x = rows(7)
    step = step_of(small("vae"), x, OBJECTIVES[objective])
    graph = lower(step, x)
    with Count() as eager:
        eagerly(step, x, 3)
    with Count() as lowered, torch.no_grad():
        graph(*step.inputs(x, 3))
    assert lowered.ops["aten._local_scalar_dense.default"] == 0 and eager.ops["aten._local_scalar_dense.default"] == 0
    assert lowered.ops.total() <= OPERATIONS[objective] < eager.ops.total()
