"""What cannot be lowered says why, and is run eagerly."""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrogen.inference import ELBO, Objective, fit
from pyrogen.inference.lowering import NotLoweredError, lower
from pyrogen.models import VAE, BernoulliPixels, StandardNormal
from pyrogen.nn import MLP
from tests.lowered import assert_equal_to_eager, rows, step_of
from tests.zoo import small


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(False):
        yield


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
        assert all("Python number" in str(w.message) and "test_not_lowered.py" in str(w.message) for w in caught)
        runs.append(result.history["train"])
    assert all(run == runs[0] for run in runs)


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
