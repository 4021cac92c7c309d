"""A run that was interrupted after any step and resumed is the run that was not."""

from __future__ import annotations

import math
import os
import pickle
import signal
import threading

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from torch import nn
from torch.distributions import constraints

from pyrogen.errors import DataError, Interrupted, NonFiniteError, OutputError, SettingsError
from pyrogen.inference import ELBO, IWAE, Cosine, Warmup, compiling, fit
from pyrogen.inference.keeper import Keeper, digest
from pyrogen.inference.run_folder import RunFolder
from pyrogen.inference.training import Training
from pyrogen.models import VAE, BernoulliPixels, StandardNormal
from pyrogen.nn import MLP
from tests.zoo import small

X = (torch.rand(20, 4, generator=torch.Generator().manual_seed(3)) > 0.5).float()
STEPS = 6  # 2 epochs of 3 steps, the last of each with 4 rows instead of 8


@pytest.fixture(autouse=True)
def fresh_store():
    yield
    pyro.clear_param_store()


def normalised():
    """Batch norm keeps buffers, dropout draws noise, and a part is frozen."""
    vae = VAE(
        nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Linear(5, 4)),
        MLP(2, 5, 4),
        BernoulliPixels(4),
        StandardNormal(2),
    )
    vae.encoder[0].bias.requires_grad_(False)
    return vae, None


def functions():
    """A program without a module: its parameters live in Pyro's store."""

    def model(x):
        p = pyro.param("p", torch.full((4,), 0.5), constraint=constraints.unit_interval)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Bernoulli(logits=p.logit() + z[..., None]).to_event(1), obs=x)

    def guide(x):
        scale = pyro.param("scale", lambda: torch.rand(()) + 0.5, constraint=constraints.positive)
        weight = pyro.param("weight", lambda: torch.randn(4))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x @ weight, scale))

    return model, guide


class Regression(nn.Module):
    """Global latents; its `loc` has the name of one of the guide's parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.randn(4))

    def forward(self, x):
        pyro.module("regression", self)
        w = pyro.sample("w", dist.Normal(self.loc, 1.0).to_event(1))
        with pyro.plate("rows", 20, subsample=torch.arange(len(x))):
            pyro.sample("x", dist.Bernoulli(logits=w).to_event(1), obs=x)


def automatic(kind):
    model = Regression()
    return model, kind(model)


def tensor_rate(parameters):
    return torch.optim.Adam(list(parameters), torch.tensor(0.02), amsgrad=True, foreach=False)


CASES = {
    "elbo": (lambda: (small("vae"), None), {}),
    "iwae": (lambda: (small("vae"), None), {"objective": IWAE(3, gradient="dreg")}),
    "average": (lambda: (small("vae"), None), {"average": 0.9, "validation": X[:7]}),
    "schedules": (
        lambda: (small("vae"), None),
        {"schedule": Cosine(STEPS), "clip": 0.1, "objective": ELBO(beta=Warmup(6)), "validation": X[:7]},
    ),
    "patience": (
        lambda: (small("vae"), None),
        {"optimizer": lambda p: torch.optim.SGD(p, 3.0, momentum=0.9), "validation": X[:7], "patience": 1, "epochs": 4},
    ),
    "tensor rate": (lambda: (small("vae"), None), {"optimizer": tensor_rate, "schedule": Cosine(STEPS)}),
    "graph": (lambda: (small("vae"), None), {"compile": "graph", "average": 0.9}),
    "buffers": (normalised, {"validation": X[:7], "average": 0.5}),
    "functions": (functions, {"validation": X[:7]}),
    "AutoDiagonalNormal": (lambda: automatic(AutoDiagonalNormal), {"validation": X[:7]}),
    "AutoNormal": (lambda: automatic(AutoNormal), {"objective": ELBO(particles=2)}),
}


def start(case, start_seed=1, **more):
    """Train as in a new process; gives what a run ends with, without its times."""
    make, settings = CASES[case]
    pyro.clear_param_store()
    torch.manual_seed(start_seed)
    model, guide = make()
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 0.02, "seed": 5, "progress": False} | settings | more
    result = fit(model, X, guide=guide, **settings)
    modules = [part for part in (model, guide) if isinstance(part, nn.Module)]
    tensors = {f"{i}/{name}": value for i, part in enumerate(modules) for name, value in part.state_dict().items()}
    # a module's parameters are in the store too, under a name of the instance
    tensors |= {name: value.detach() for name, value in pyro.get_param_store().items() if "$$$" not in name}
    history = {name: values for name, values in result.history.items() if name != "seconds"}
    return {name: value.clone() for name, value in tensors.items()}, history, result.outcome


def signal_after(monkeypatch, step, number=signal.SIGINT):
    """A signal comes while step `step` is under way."""
    update = Training.update

    def interrupted(self, x):
        if self.step == step - 1:
            signal.raise_signal(number)
        update(self, x)

    monkeypatch.setattr(Training, "update", interrupted)


def same(one, other):
    return one[0].keys() == other[0].keys() and all(torch.equal(v, other[0][k]) for k, v in one[0].items())


@pytest.mark.filterwarnings("ignore:.* was not registered in the param store")  # Pyro's, of a frozen parameter
@pytest.mark.parametrize("case", CASES)
def test_interrupted_after_any_step_and_resumed_is_as_undisturbed(case, tmp_path, monkeypatch):
    whole = start(case)
    steps = int(whole[1]["step"][-1])
    for step in range(1, steps + 1, 3 if case == "graph" else 1):  # tracing takes its time
        folder = tmp_path / str(step)
        with monkeypatch.context() as patch, pytest.raises(Interrupted, match=f"after step {step};"):
            signal_after(patch, step)
            start(case, folder=folder)
        resumed = start(case, start_seed=step + 100, folder=folder, resume=True)  # another start, to be overwritten
        assert same(resumed, whole), step
        assert resumed[1:] == whole[1:], step


def test_interrupted_at_every_step_in_turn_is_as_undisturbed(tmp_path, monkeypatch):
    whole = start("average")
    for step in range(1, STEPS + 1):
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            signal_after(patch, step)
            start("average", folder=tmp_path, resume=True)
    resumed = start("average", folder=tmp_path, resume=True)
    assert same(resumed, whole) and resumed[1:] == whole[1:]


def test_a_folder_changes_nothing_and_more_epochs_go_on_from_the_end(tmp_path):
    whole = start("average", epochs=4)
    assert same(start("average", epochs=2, folder=tmp_path, checkpoint_seconds=0), start("average", epochs=2))
    resumed = start("average", epochs=4, folder=tmp_path, resume=True)
    assert same(resumed, whole) and resumed[1:] == whole[1:]


def test_resuming_what_is_finished_gives_it_again(tmp_path):
    once = start("patience", folder=tmp_path)
    again = start("patience", start_seed=9, folder=tmp_path, resume=True)
    assert same(once, again) and once[1:] == again[1:]


@pytest.mark.parametrize("mode", ["graph", "eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_auto_goes_on_in_the_mode_that_the_run_began_in(mode, tmp_path, monkeypatch):
    """Other measurements would take another mode, and inductor rounds otherwise."""

    def in_favour_of(best):
        return lambda candidates, *_: {name: float(name != best) for name in candidates}

    monkeypatch.setattr(compiling, "WORTH_COMPILING", 0.0 if mode == "inductor" else math.inf)
    monkeypatch.setattr(compiling, "_measure", in_favour_of(mode))
    whole = start("elbo", compile="auto")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        signal_after(patch, 4)
        start("elbo", compile="auto", folder=tmp_path)
    monkeypatch.setattr(compiling, "_measure", in_favour_of("eager" if mode == "graph" else "graph"))
    chosen = []
    monkeypatch.setattr(Keeper, "end", lambda self: chosen.append(self.training.mode))
    resumed = start("elbo", start_seed=9, compile="auto", folder=tmp_path, resume=True)
    assert chosen == [mode] and same(resumed, whole) and resumed[1:] == whole[1:]
    assert start("elbo", compile="auto") and chosen[1:] == ["eager" if mode == "graph" else "graph"]


def test_a_checkpoint_is_written_when_its_time_has_come_and_at_the_end(tmp_path):
    for seconds, made in ((0, 3), (math.inf, 1)):
        start("elbo", epochs=3, folder=tmp_path / str(seconds), checkpoint_seconds=seconds)
        names = sorted(path.name for path in (tmp_path / str(seconds) / "checkpoints").iterdir())
        assert names == [f"checkpoint-{n:06}" for n in (1, 2, 3)][:made][-2:]


def test_sigterm_saves_too_and_the_error_says_which_and_how_to_go_on(tmp_path, monkeypatch):
    signal_after(monkeypatch, 2, signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"SIGTERM after step 2.*resume=True") as caught:
        start("elbo", folder=tmp_path)
    assert caught.value.signal == signal.SIGTERM and isinstance(caught.value, KeyboardInterrupt)
    assert pickle.loads(pickle.dumps(caught.value)).signal == signal.SIGTERM


def test_handlers_are_as_before_after_a_run(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    start("elbo", folder=tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_sigint_stops_at_once(tmp_path, monkeypatch):
    def twice(self, x):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one was swallowed")

    monkeypatch.setattr(Training, "update", twice)
    with pytest.raises(KeyboardInterrupt) as caught:
        start("elbo", folder=tmp_path)
    assert not isinstance(caught.value, Interrupted)


def test_without_a_folder_sigint_is_a_keyboard_interrupt(monkeypatch):
    signal_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt) as caught:
        start("elbo")
    assert not isinstance(caught.value, Interrupted)


def test_an_ignored_signal_stays_ignored(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        signal_after(monkeypatch, 2)
        assert start("elbo", folder=tmp_path)[2] == "finished"
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_thread_that_is_not_the_main_one_can_keep_a_run(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(start("elbo", folder=tmp_path)))
    thread.start()
    thread.join()
    assert same(found[0], start("elbo"))


def other_width():
    return VAE(MLP(4, 6, 4), MLP(2, 5, 4), BernoulliPixels(4), StandardNormal(2)), None


def other_activation():
    return VAE(MLP(4, 5, 4, activation=nn.Tanh), MLP(2, 5, 4), BernoulliPixels(4), StandardNormal(2)), None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"batch_size": 7}, r"batch_size = 8; need batch_size = 7 to go on"),
        ({"learning_rate": 0.5}, r"learning_rate = 0\.02; need"),
        ({"seed": 6}, "seed = 5"),
        ({"objective": IWAE(2)}, 'objective = "ELBO'),
        ({"schedule": Cosine(7)}, "schedule = None"),
        ({"average": 0.5}, "average = None"),
        ({"validation": X[:3]}, "validation = None"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_run_with_other_settings_is_refused(more, message, tmp_path):
    start("elbo", folder=tmp_path, epochs=1)
    with pytest.raises(DataError, match=message):
        start("elbo", folder=tmp_path, resume=True, **more)


def test_other_rows_are_refused(tmp_path):
    start("elbo", folder=tmp_path, epochs=1)
    with pytest.raises(DataError, match=r"data = '\(20, 4\)"):
        fit(
            small("vae"),
            1 - X,
            epochs=2,
            batch_size=8,
            learning_rate=0.02,
            seed=5,
            progress=False,
            folder=tmp_path,
            resume=True,
        )


@pytest.mark.filterwarnings("ignore:.* was not registered in the param store")
@pytest.mark.parametrize("make", [other_width, other_activation, normalised, functions])
def test_another_model_is_refused(make, tmp_path, monkeypatch):
    start("elbo", folder=tmp_path, epochs=1)
    monkeypatch.setitem(CASES, "elbo", (make, {}))
    with pytest.raises(DataError, match=r"whose run has .*model = "):
        start("elbo", folder=tmp_path, resume=True)


def test_nan_names_the_last_good_checkpoint_and_is_not_saved(tmp_path, monkeypatch):
    gradient = Training.gradient

    def diverged(self, x):
        bound = gradient(self, x)
        return bound * math.nan if self.step == 4 else bound

    monkeypatch.setattr(Training, "gradient", diverged)
    with pytest.raises(NonFiniteError, match=r"infinite at step 5.*last good checkpoint is .*checkpoint-000001"):
        start("elbo", folder=tmp_path, checkpoint_seconds=0)
    assert os.listdir(tmp_path / "checkpoints") == ["checkpoint-000001"]


def test_weights_that_are_nan_are_not_saved(tmp_path, monkeypatch):
    update = Training.update

    def diverged(self, x):
        update(self, x)
        if self.step == 6:
            with torch.no_grad():
                self.parameters[0].fill_(math.nan)

    monkeypatch.setattr(Training, "update", diverged)
    with pytest.raises(NonFiniteError, match=r"by step 6, whose bound was finite.*last good checkpoint"):
        start("elbo", folder=tmp_path, checkpoint_seconds=0)
    assert os.listdir(tmp_path / "checkpoints") == ["checkpoint-000001"]


def test_settings_that_make_no_sense_are_refused(tmp_path):
    for settings in (
        {"resume": True},
        {"folder": 3},
        {"folder": RunFolder(tmp_path)},
        {"folder": tmp_path, "checkpoint_seconds": math.nan},
        {"folder": tmp_path, "checkpoint_seconds": "60"},
    ):
        with pytest.raises(SettingsError):
            start("elbo", **settings)


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    start("elbo", folder=tmp_path, epochs=1)
    with pytest.raises(OutputError, match=r"holds a run.*resume=True"):
        start("elbo", folder=tmp_path)


def test_a_model_and_its_guide_may_use_one_name():
    before = torch.manual_seed(1) and Regression().loc.detach().clone()
    tensors, _, _ = start("AutoDiagonalNormal")
    assert not torch.equal(tensors["0/loc"], before)


def test_the_digest_of_rows_sees_shape_dtype_and_values():
    rows = torch.zeros(2, 3)
    changed = rows.clone()
    changed[1, 2] = -0.0
    assert len({digest(r) for r in (rows, changed, rows.T, rows.double(), rows[:1])}) == 5
