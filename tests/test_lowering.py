"""A lowered step is the eager step, to the bit, and what cannot be lowered says why."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints
from torch.utils._python_dispatch import TorchDispatchMode

from pyrogen.errors import SettingsError
from pyrogen.inference import ELBO, IWAE, Objective, Warmup, fit
from pyrogen.inference.compiling import Lowered
from pyrogen.inference.lowering import NotLoweredError, Step, lower, trace
from pyrogen.inference.programs import Programs
from pyrogen.models import VAE, BernoulliPixels, Pair, StandardNormal
from pyrogen.nn import MLP
from tests.zoo import all_of, small

OBJECTIVES = {
    "elbo": ELBO(),
    "elbo-schedule": ELBO(particles=2, beta=Warmup(10, start=0.2), free_bits=0.1),
    "iwae": IWAE(3, beta=Warmup(20)),
    "stl": ELBO(gradient="stl"),
    "dreg": IWAE(3, gradient="dreg"),
}


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(False):
        yield


def rows(n: int, width: int = 4, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.rand(n, width, generator=torch.Generator().manual_seed(n)) > 0.5).to(dtype)


def step_of(model, x, objective, guide=None, size=30) -> Step:
    programs = Programs.of(model, guide)
    parameters = list(programs.parameters(x, size).values())
    return Step(programs, objective, parameters, size, programs.nesting(x, size))


def eagerly(step: Step, x, at: int):
    """Bound, gradients and the random state after an eager step."""
    torch.manual_seed(at)
    for p in step.parameters:
        p.grad = None
    programs = step.programs
    value = step.objective(programs.model, programs.guide, *programs.args(x, step.size), step=at, nesting=step.nesting)
    value.loss.backward()
    gradients = [p.grad for p in step.parameters]
    for p in step.parameters:
        p.grad = None
    return [value.bound, *gradients], torch.get_rng_state()


def assert_equal_to_eager(step: Step, x, graph=None, steps=(0, 7, 40)):
    graph = graph or lower(step, x)
    for at in steps:
        expected, state = eagerly(step, x, at)
        torch.manual_seed(at)
        with torch.no_grad():
            got = graph(*step.inputs(x, at))
        for a, b in zip(expected, got, strict=True):
            assert (a is None) == (b is None)
            assert a is None or (torch.equal(a, b) and a.dtype == b.dtype and a.stride() == b.stride())
        assert torch.equal(torch.get_rng_state(), state)
    return graph


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", all_of(Pair))
def test_the_graph_is_the_eager_step_to_the_bit(name, objective):
    for dtype, batches in ((torch.float32, (7, 2)), (torch.float64, (7,))):
        pair = small(name).to(dtype)
        for n in batches:
            x = rows(n, pair.width, dtype)
            step = step_of(pair, x, OBJECTIVES[objective])
            with step.rehearsing():
                graph = trace(step, x)
            assert_equal_to_eager(step, x, graph, steps=(0, 7))


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


@pytest.mark.parametrize("objective", ["elbo-schedule", "dreg"])
def test_fit_by_graph_is_fit_by_eager(objective):
    runs = {}
    for mode in ("eager", "graph", "auto"):
        vae = small("vae")
        result = fit(
            vae,
            rows(30),
            objective=OBJECTIVES[objective],
            epochs=3,
            batch_size=7,
            clip=0.5,
            average=0.9,
            schedule=Warmup(9),
            validation=rows(8),
            compile=mode,
            progress=False,
        )
        history = {key: value for key, value in result.history.items() if key != "seconds"}
        runs[mode] = history, [p.detach().clone() for p in vae.parameters()]
        assert result.settings["compile"] in (("eager", "graph") if mode == "auto" else (mode,))
        reason = result.settings["compile_reason"]
        assert "the fastest of eager" in reason if mode == "auto" else reason == "asked for"
    for mode in ("graph", "auto"):
        assert runs[mode][0] == runs["eager"][0]
        assert all(torch.equal(a, b) for a, b in zip(runs[mode][1], runs["eager"][1], strict=True))


def test_each_shape_of_the_rows_has_a_graph():
    x = rows(7)
    step = step_of(small("vae"), x, ELBO())
    lowered = Lowered(step)
    for n in (7, 2, 7, 2):
        (expected, *_), _ = eagerly(step, x[:n], 1)
        torch.manual_seed(1)
        assert torch.equal(lowered(x[:n], 1), expected)
    assert len(lowered._runs) == 2 and not lowered.reasons


@dataclass(frozen=True)
class ByStep(Objective):
    """An objective that asks Python for the step."""

    particles: int = 1

    def value(self, terms, step):
        return ELBO(beta=0.0 if step < 5 else 1.0).value(terms, 0)


class Cooled(Objective):
    particles = 1

    def value(self, terms, step):
        return ELBO(beta=0.9**step).value(terms, 0)


class Passing(Objective):
    """One that is no dataclass, and only passes the step on."""

    particles = 1

    def value(self, terms, step):
        return ELBO().value(terms, step)


@pytest.mark.parametrize("objective", [ByStep(), Cooled()])
def test_a_schedule_in_python_is_refused_not_baked(objective):
    x = rows(7)
    with pytest.raises(NotLoweredError, match="computes with the step"):
        lower(step_of(small("vae"), x, objective), x)
    assert_equal_to_eager(step_of(small("vae"), x, Passing()), x)


def noisy(draw):
    class Noisy(VAE):
        def guide(self, x, size=None):
            with self.rows(x, size):
                q = self.encode(x).base_dist
                return pyro.sample("z", dist.Normal(q.loc + draw(self), q.scale).to_event(1))

    return Noisy(MLP(4, 5, 4), MLP(2, 5, 4), BernoulliPixels(4), StandardNormal(2))


def count(vae):
    vae.calls = getattr(vae, "calls", 0) + 1
    return 0.01 * vae.calls


def seeded(vae):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return torch.randn(2)


def rewound(vae):
    state = torch.get_rng_state()
    a = torch.randn(2)
    torch.set_rng_state(state)
    return a + torch.rand(2)


def left_behind(vae):
    state = torch.get_rng_state()
    a = torch.randn(2)
    torch.set_rng_state(state)
    return a


CANNOT = {
    "number": (lambda vae: 0.1 if vae.encoder[0].bias.sum().item() > 9 else 0.2, "Python number or a condition"),
    "random": (lambda vae: random.random(), "something else at each call"),
    "count": (count, "something else at each call"),
    "seeded": (seeded, "sets the random state"),
    "rewound": (rewound, "goes back in it"),
    "numpy": (lambda vae: float(vae.encoder[0].bias.detach().numpy()[0]), "something else at each call"),
}


@pytest.mark.parametrize("draw", CANNOT)
def test_what_cannot_be_lowered_says_why(draw):
    why, x = CANNOT[draw], rows(7)
    with pytest.raises(NotLoweredError, match=why[1]) as caught:
        lower(step_of(noisy(why[0]), x, ELBO()), x)
    assert "\n" not in str(caught.value)


def test_a_random_state_left_behind_is_refused():
    def model(x):
        with pyro.plate("rows", len(x)):
            pyro.sample(
                "x", dist.Normal(pyro.param("m", torch.zeros(4)) + left_behind(None)[0], 1.0).to_event(1), obs=x
            )

    x = rows(7)
    with pytest.raises(NotLoweredError, match="puts back the random state"):
        lower(step_of(model, x, ELBO(), guide=lambda x: None, size=7), x)


def test_a_fallback_trains_as_eager_and_warns_once():
    runs = []
    for mode in ("eager", "graph", "inductor", "auto"):
        pair = noisy(CANNOT["number"][0])
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for p in pair.parameters():
                nn.init.normal_(p, 0, 0.1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = fit(pair, rows(30), epochs=2, batch_size=7, compile=mode, progress=False)
        assert result.settings["compile"] == "eager"
        reason = result.settings["compile_reason"]
        assert reason == "asked for" if mode == "eager" else "becomes a Python number or a condition" in reason
        assert len(caught) == (mode in ("graph", "inductor"))
        assert all("Python number" in str(w.message) and "test_lowering.py" in str(w.message) for w in caught)
        runs.append(result.history["train"])
    assert all(run == runs[0] for run in runs)


def test_a_cuda_graph_without_cuda_falls_back_to_the_graph():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.warns(UserWarning, match="falls back to 'graph': no CUDA device"):
        result = fit(small("vae"), rows(30), epochs=1, compile="cudagraph", progress=False)
    assert result.settings["compile"] == "graph"
    assert result.settings["compile_reason"].startswith("no CUDA device")


def test_an_unknown_mode_is_refused():
    with pytest.raises(SettingsError, match="compile"):
        fit(small("vae"), rows(30), compile="fast", progress=False)


class Count(TorchDispatchMode):
    """Counts the ATen operations that are dispatched."""

    def __init__(self):
        super().__init__()
        self.ops = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops[str(func)] += 1
        return func(*args, **(kwargs or {}))


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


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_inductor_draws_the_same_noise_and_rounds_otherwise(objective):
    runs = []
    for mode in ("eager", "inductor"):
        vae = small("vae")
        result = fit(
            vae,
            rows(30),
            objective=OBJECTIVES[objective],
            epochs=3,
            batch_size=7,
            optimizer=lambda p: torch.optim.SGD(p, 0.1),
            compile=mode,
            progress=False,
        )
        assert result.settings["compile"] == mode
        runs.append((torch.tensor(result.history["train"]), [p.detach() for p in vae.parameters()]))
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "read", [lambda x: float(x.numpy().max()), lambda x: max(x.tolist()), lambda x: x.numpy().min()]
)
def test_a_number_read_from_the_rows_in_any_order_falls_back(read):
    def model(x):
        shift = float(read(x.detach()))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(shift, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("a", torch.tensor(0.3)) * x, 1.0))

    x = torch.randn(20, generator=torch.Generator().manual_seed(0))
    bounds = []
    for compile in ("eager", "graph"):
        pyro.clear_param_store()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*falls back")
            fitted = fit(model, x, guide=guide, epochs=2, batch_size=10, compile=compile, progress=False)
        bounds.append(fitted.history["train"])
    assert bounds[0] == bounds[1] and fitted.settings["compile"] == "eager"
