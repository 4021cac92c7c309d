"""The training loop."""

from __future__ import annotations

import copy
import math
import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from torch import nn

from pyrogen.data import load
from pyrogen.errors import DeviceError, DtypeError, ModelError, NonFiniteError, SettingsError, ShapeError, SupportError
from pyrogen.inference import ELBO, IWAE, Cosine, Warmup, fit
from pyrogen.inference.schedules import at
from pyrogen.models import VAE, BernoulliPixels, GaussianPixels, StandardNormal
from pyrogen.nn import MLP
from tests.zoo import small

X = (torch.rand(30, 4, generator=torch.Generator().manual_seed(3)) > 0.5).float()


@pytest.fixture(autouse=True)
def fresh_store():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)  # autoguides draw their start from the prior


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_the_same_seed_gives_the_same_weights_whatever_the_global_state():
    runs = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        vae = small("vae")
        result = fit(vae, X, epochs=3, batch_size=7, seed=5, validation=X[:8], progress=False)
        runs.append((weights(vae), result.history["train"], result.history["valid"]))
    assert same(runs[0][0], runs[1][0]) and runs[0][1:] == runs[1][1:]
    other = small("vae")
    fit(other, X, epochs=3, batch_size=7, seed=6, validation=X[:8], progress=False)
    assert not same(weights(other), runs[0][0])


def test_no_global_random_state_moves():
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    fit(small("vae"), X, epochs=1, progress=False)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1] and (np.random.get_state()[1] == states[2]).all()
    assert torch.get_default_dtype() == torch.float32


def test_validation_does_not_change_the_training():
    with_it, without = small("vae"), small("vae")
    a = fit(with_it, X, epochs=3, batch_size=8, validation=X[:5], progress=False).history["train"]
    b = fit(without, X, epochs=3, batch_size=8, progress=False).history["train"]
    assert a == b


def test_rows_in_a_mapped_file_train_as_rows_in_memory_do(tmp_path):
    X.numpy().tofile(tmp_path / "rows.f32")
    mapped = torch.from_file(str(tmp_path / "rows.f32"), shared=False, size=X.numel()).view(X.shape)
    trained = []
    for rows in (X, mapped):
        vae = small("vae")
        fit(vae, rows, epochs=2, batch_size=7, progress=False)
        trained.append(weights(vae))
    assert same(*trained)


def test_every_row_is_seen_once_per_epoch_and_the_last_batch_may_be_smaller():
    seen = []

    class Spy(VAE):
        def model(self, x, size=None):
            seen.append(x.clone())
            return super().model(x, size)

    rows = torch.arange(10.0)[:, None].expand(10, 2) / 10
    spy = Spy(nn.Linear(2, 2), nn.Linear(1, 2), GaussianPixels(2), StandardNormal(1))
    seen.clear()
    result = fit(spy, rows, epochs=2, batch_size=4, progress=False)
    batches = seen[-6:]
    assert [len(b) for b in batches] == [4, 4, 2, 4, 4, 2]
    for epoch in (batches[:3], batches[3:]):
        assert torch.equal(torch.cat(epoch)[:, 0].sort().values, rows[:, 0])
    assert result.history["step"] == [3, 6]


def test_the_best_validation_epoch_is_what_remains():
    vae = small("vae")

    def optimizer(parameters):
        return torch.optim.SGD(list(parameters), 3.0)  # far too large: the bound gets worse

    result = fit(vae, X, epochs=15, batch_size=30, optimizer=optimizer, validation=X, patience=4, progress=False)
    valid = result.history["valid"]
    best = valid.index(max(valid))
    assert len(valid) == best + 1 + 4 and "stopped early" in result.outcome
    again = small("vae")
    fit(again, X, epochs=best + 1, batch_size=30, optimizer=optimizer, progress=False)
    assert same(weights(vae), weights(again))


def test_the_average_of_the_weights_is_what_remains():
    plain, averaged = small("vae"), small("vae")
    start = weights(plain)
    fit(plain, X, epochs=1, batch_size=30, progress=False)
    fit(averaged, X, epochs=1, batch_size=30, average=0.999, progress=False)
    # one step, decay (1 + 0) / (10 + 0)
    for w0, w1, mean in zip(start, weights(plain), weights(averaged), strict=True):
        torch.testing.assert_close(mean, 0.1 * w0 + 0.9 * w1)


def test_clip_bounds_the_global_norm_of_a_step():
    moves = []
    for clip in (1e-3, 2e-3):
        vae = small("vae")
        before = weights(vae)
        fit(vae, X, epochs=1, batch_size=30, clip=clip, optimizer=lambda p: torch.optim.SGD(p, 1.0), progress=False)
        moves.append(math.sqrt(sum(float((a - b).pow(2).sum()) for a, b in zip(before, weights(vae), strict=True))))
    assert moves[0] == pytest.approx(1e-3, rel=1e-3) and moves[1] == pytest.approx(2e-3, rel=1e-3)


def test_the_learning_rate_follows_the_schedule():
    vae, still = small("vae"), small("vae")
    fit(vae, X, epochs=2, batch_size=30, schedule=lambda step: float(step == 0), progress=False)
    fit(still, X, epochs=1, batch_size=30, schedule=lambda step: float(step == 0), progress=False)
    assert same(weights(vae), weights(still))


def test_schedules_pass_through_their_ends():
    assert [Warmup(10)(s) for s in (0, 5, 10, 99)] == [0, 0.5, 1, 1]
    assert [Warmup(10, start=0.5)(s) for s in (0, 10)] == [0.5, 1]
    assert [round(Cosine(10, hold=0.5, end=0.1)(s), 6) for s in (0, 5, 10, 99)] == [1, 1, 0.1, 0.1]
    assert at(0.3, 7) == 0.3 and at(Warmup(10), 5) == 0.5


def test_a_non_finite_bound_stops_with_its_step():
    vae = small("vae-gaussian")
    with pytest.raises(NonFiniteError, match="NaN or infinite at step 2;"):
        fit(vae, torch.randn(20, 4), epochs=5, optimizer=lambda p: torch.optim.SGD(p, 1e30), progress=False)


def test_a_non_finite_start_is_refused_before_the_first_step():
    vae = small("vae-gaussian")
    before = weights(vae)
    with pytest.raises(NonFiniteError, match="before the first step"):
        fit(vae, torch.full((20, 4), 1e30), epochs=1, progress=False)
    assert same(weights(vae), before)


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"batch_size": 2.5},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"clip": -1.0},
        {"average": 1.0},
        {"patience": 3},
        {"precision": "float16"},
        {"precision": ["float32"]},
        {"seed": "0"},
        {"seed": 1.0},
        {"seed": -1},
        {"seed": 2**63},
        {"seed": True},
        {"schedule": 0.5},
        {"schedule": "cosine"},
        {"schedule": Warmup},
        {"schedule": lambda: 1.0},
        {"schedule": lambda step: math.nan},
        {"optimizer": "adam"},
        {"optimizer": torch.optim.SGD([torch.zeros(1)], 0.1)},
        {"optimizer": lambda parameters: None},
        {"learning_rate": None},
        {"learning_rate": "0.1"},
        {"learning_rate": True},
        {"epochs": None},
        {"objective": ELBO},
        {"guide": None, "model": lambda x: None},
    ],
)
def test_impossible_settings_are_refused(bad):
    settings = {"model": small("vae"), "data": X, "progress": False} | bad
    with pytest.raises(SettingsError, match=r"need .*; try "):
        fit(**settings)


@pytest.mark.parametrize("objective", [ELBO, IWAE])
@pytest.mark.parametrize(
    "bad",
    [{"particles": value} for value in ("5", 2.5, 0, -1, True, None)]
    + [{"beta": value} for value in ("1", None, math.nan, Warmup, lambda: 1.0, torch.ones(2))]
    + [{"gradient": "best"}],
)
def test_impossible_objectives_are_refused_when_they_are_made(objective, bad):
    with pytest.raises(SettingsError, match=r"need .*; try "):
        objective(**bad)


@pytest.mark.parametrize("free_bits", ["1", -0.1, math.nan, math.inf, None])
def test_free_bits_are_nats(free_bits):
    with pytest.raises(SettingsError, match=r"free_bits = .*; need nats"):
        ELBO(free_bits=free_bits)


def test_bad_data_and_devices_are_refused_before_any_work():
    vae = small("vae")
    before = weights(vae)
    with pytest.raises(SupportError):
        fit(vae, X * 0.3, progress=False)
    with pytest.raises(SupportError):
        fit(vae, X, validation=X * 0.3, progress=False)
    for device in ("gpu", "cuda:99"):
        with pytest.raises(DeviceError):
            fit(vae, X, device=device, progress=False)
    assert same(weights(vae), before)


def test_float64_rows_need_a_float64_model_and_get_it_said():
    fit(small("vae").double(), X.double(), epochs=1, progress=False)
    with pytest.raises(DtypeError, match=r"float64.*float32.*double"):
        fit(small("vae"), X.double(), epochs=1, progress=False)


@pytest.mark.parametrize("compile", ["eager", "graph"])
def test_bfloat16_networks_leave_parameters_and_bounds_in_float32(compile):
    digits = load("digits")["train"]
    bounds = []
    for precision in ("float32", "bfloat16"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            vae = VAE(MLP(64, 64, 8), MLP(4, 64, 64), BernoulliPixels(64), StandardNormal(4))
        seen = []
        vae.decoder[0].register_forward_hook(lambda module, args, out: seen.append(out.dtype))  # noqa: B023
        result = fit(vae, digits, epochs=8, precision=precision, compile=compile, progress=False)
        assert seen[-1] == getattr(torch, precision)
        assert {p.dtype for p in vae.parameters()} == {torch.float32}
        bounds.append(result.history["train"][-1])
    # 8 bits of mantissa in the networks move the bound, and not by much
    assert bounds[0] != bounds[1] and abs(bounds[0] - bounds[1]) < 0.5


def normal_mean(x, size=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", size or len(x), subsample=torch.arange(len(x))):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


@pytest.mark.parametrize("autoguide", [AutoNormal, AutoDiagonalNormal])
def test_an_autoguide_reaches_the_conjugate_posterior(autoguide):
    x = torch.randn(40, generator=torch.Generator().manual_seed(0)) + 2
    guide = autoguide(normal_mean)
    fit(
        normal_mean,
        x,
        guide=guide,
        objective=ELBO(particles=20),
        epochs=600,
        batch_size=40,
        learning_rate=0.05,
        schedule=Cosine(600, hold=0.7),
        progress=False,
    )
    precision = 40 + 1 / 100
    median = guide.median()["mean"]
    spread = (
        guide.quantiles([0.1586553])["mean"][0] if autoguide is AutoNormal else guide.quantiles([0.1586553])["mean"]
    )
    assert float(median) == pytest.approx(float(x.sum()) / precision, abs=0.02)
    assert float(median - torch.as_tensor(spread).reshape(())) == pytest.approx(precision**-0.5, rel=0.1)


@pytest.mark.parametrize("autoguide", [AutoNormal, AutoDiagonalNormal])
def test_a_second_autoguide_has_parameters_of_its_own(autoguide):
    x = torch.randn(40, generator=torch.Generator().manual_seed(0))
    settings = {"epochs": 50, "batch_size": 40, "learning_rate": 0.1, "progress": False}
    first, second = autoguide(normal_mean), autoguide(normal_mean)
    fit(normal_mean, x, guide=first, **settings)
    before = float(first.median()["mean"])
    fit(normal_mean, x + 50, guide=second, **settings)
    assert float(first.median()["mean"]) == before
    assert float(second.median()["mean"]) != before


def test_minibatches_of_an_unscaled_model_with_global_latents_are_refused():
    def unscaled(x):
        return normal_mean(x)

    def scaled(x):
        return normal_mean(x, 40)

    x = torch.randn(40)
    with pytest.raises(ModelError, match="40"):
        fit(unscaled, x, guide=AutoNormal(unscaled), epochs=1, batch_size=10, progress=False)
    fit(scaled, x, guide=AutoNormal(scaled), epochs=1, batch_size=10, progress=False)


def test_programs_with_bare_params_train():
    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        pyro.sample("mean", dist.Normal(loc, scale))

    x = torch.randn(40, generator=torch.Generator().manual_seed(0)) + 2
    fit(normal_mean, x, guide=guide, epochs=400, batch_size=40, learning_rate=0.05, progress=False)
    assert float(pyro.param("loc").detach()) == pytest.approx(float(x.mean()), abs=0.1)
    assert float(pyro.param("scale").detach()) == pytest.approx(40**-0.5, rel=0.35)


@pytest.mark.parametrize("objective", [ELBO(beta=Warmup(30)), IWAE(5, gradient="dreg")])
def test_digits_get_better_than_their_pixel_means(objective):
    digits = load("digits")
    train, valid = digits["train"], digits["valid"]
    p = train.mean(0).clamp(1e-3, 1 - 1e-3)
    independent = float((valid * p.log() + (1 - valid) * (1 - p).log()).sum(1).mean())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = VAE(MLP(64, 64, 8), MLP(4, 64, 64), BernoulliPixels(64), StandardNormal(4))
    result = fit(vae, train, objective=objective, epochs=30, learning_rate=3e-3, validation=valid, progress=False)
    assert max(result.history["valid"]) > independent + 3


def test_a_model_in_training_is_left_in_evaluation_mode_with_its_name():
    vae = small("vae")
    name = vae.site_name
    result = fit(copy.copy(vae), X, epochs=1, progress=False)
    assert result.model.site_name == name or result.model.site_name.startswith("VAE-")
    assert not result.model.training


def local_model(x):
    with pyro.plate("data", 1000, subsample=torch.arange(len(x))):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_a_guides_plate_of_another_name_and_size_does_not_weigh_the_kl():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 2**0.5

    def guide(x):
        a, s = (
            pyro.param("a", torch.tensor(0.3)),
            pyro.param("s", torch.tensor(1.0), constraint=dist.constraints.positive),
        )
        with pyro.plate("other", len(x)):
            pyro.sample("z", dist.Normal(a * x, s))

    fit(local_model, x, guide=guide, epochs=30, batch_size=100, learning_rate=0.02, progress=False)
    # the exact posterior is Normal(x / 2, 1 / sqrt(2)); with the KL weighed by 1/10 it was (0.91 x, 0.30)
    assert float(pyro.param("a").detach()) == pytest.approx(0.5, abs=0.05)
    assert float(pyro.param("s").detach()) == pytest.approx(2**-0.5, abs=0.05)


@pytest.mark.parametrize("shape", ["event", "plate", "whole"])
def test_bounds_are_per_row_of_the_data_however_the_model_counts(shape):
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))

    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        if shape == "plate":
            with pyro.plate("columns", 5, dim=-1), pyro.plate("rows", len(x), dim=-2):
                pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        elif shape == "event":
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Normal(mean[..., None, None], 1.0).expand([len(x), 5]).to_event(1), obs=x)
        else:
            pyro.sample("x", dist.Normal(mean, 1.0).expand([len(x), 5]).to_event(2), obs=x)

    def guide(x):
        pyro.sample("mean", dist.Normal(pyro.param("m", torch.tensor(0.2)), 0.1))

    settings = {"epochs": 1, "batch_size": 12, "optimizer": lambda p: torch.optim.SGD(p, 1e-9), "progress": False}
    bound = fit(model, x, guide=guide, **settings).history["train"][0]
    q = dist.Normal(torch.tensor(0.2), 0.1)
    expected = (
        dist.Normal(0.2, 1.0).log_prob(x).sum()
        - 60 * 0.005
        - torch.distributions.kl_divergence(q, dist.Normal(0.0, 1.0))
    )
    assert bound == pytest.approx(float(expected) / 12, abs=0.5)


def test_a_model_without_a_plate_is_refused_in_batches_of_one_too():
    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=x)

    for batch_size in (1, 2, 39):
        with pytest.raises(ModelError, match="plate"):
            fit(model, torch.randn(40), guide=AutoNormal(model), batch_size=batch_size, epochs=1, progress=False)


def test_what_validation_or_the_last_batch_would_break_is_found_before_the_first_step():
    with pytest.raises(ShapeError, match="validation"):
        fit(normal_mean, torch.randn(40), guide=AutoNormal(normal_mean), validation=torch.randn(5, 2), progress=False)
    vae = VAE(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), MLP(2, 5, 4), BernoulliPixels(4), StandardNormal(2))
    before = weights(vae)
    with pytest.raises(ValueError, match="more than 1 value"):
        fit(vae, X[:21], batch_size=10, epochs=1, progress=False)
    assert same(weights(vae), before)
