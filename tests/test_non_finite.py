"""NaN and infinity are named with their step and where they were first, and no step waits for that."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.distributed as td
from torch.utils._python_dispatch import TorchDispatchMode

from pyrogen.errors import NonFiniteError
from pyrogen.inference import ELBO, IWAE, fit
from pyrogen.inference import keeper as keeping
from pyrogen.inference.compiling import choose
from pyrogen.inference.programs import Programs
from pyrogen.inference.training import Training
from tests.zoo import small

N, BATCH, BAD, SEED = 20, 4, 13, 2  # the bad row comes in the fourth step
X = torch.randn(N, 2, generator=torch.Generator().manual_seed(0))
POISONED = X.clone()
POISONED[BAD] = 7.0  # not in the first batch, whose bound is taken before any step


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def step_with(row, seed=SEED, epoch=1):
    """The step of an epoch in which a row has its turn."""
    source = torch.Generator().manual_seed(seed)
    order = [torch.randperm(N, generator=source) for _ in range(epoch)][-1]
    return (epoch - 1) * N // BATCH + int((order == row).nonzero()) // BATCH + 1


def guide(x):
    with pyro.plate("rows", len(x)):
        loc = pyro.param("weight", torch.full((2,), 0.3)) * x
        pyro.sample("z", dist.Normal(loc, pyro.param("scale", torch.tensor(0.5))).to_event(1))


def model(x):
    """Rows of 7 have no density."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z + pyro.param("b", torch.zeros(2)), 1.0).to_event(1), obs=x)
        pyro.sample("below 7", dist.Normal(z, 1.0).to_event(1), obs=(7 - x).log())  # inductor takes 0 * NaN for 0


def draws_rarely_kill(x):
    """Where a z is above 2.4, which is rare, the mean of x is NaN."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z + 0 * (2.4 - z).sqrt(), 1.0).to_event(1), obs=x)


def steep(x):
    """The bound is finite for all rows, and its gradient is not for rows of 7."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        w = pyro.param("steep", torch.ones(2))
        pyro.sample("x", dist.Normal(z + (w * (x != 7)).sqrt(), 1.0).to_event(1), obs=x)


def caught(program=model, rows=POISONED, **settings):
    """The error's text, and what was trained when it came."""
    trained = {}
    update = Training.update

    def watched(self, x):
        trained["training"] = self
        trained.setdefault("weights", []).append({n: p.detach().clone() for n, p in self.named.items()})
        update(self, x)

    settings = {"epochs": 2, "batch_size": BATCH, "seed": SEED, "progress": False} | settings
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "update", watched)
        with pytest.raises(NonFiniteError) as error:
            fit(program, rows, guide=guide, **settings)
    return str(error.value), trained["training"], trained["weights"]


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


BEFORE = step_with(BAD) - 1
MODES = ["eager", "graph", pytest.param("inductor", marks=pytest.mark.slow)]


@pytest.mark.parametrize("compile", MODES)
@pytest.mark.parametrize("objective", [ELBO(), IWAE(3, gradient="dreg")], ids=["elbo", "dreg"])
def test_the_step_and_the_site_are_named_and_the_weights_are_those_before(compile, objective):
    text, training, weights = caught(compile=compile, objective=objective)
    assert f"NaN or infinite at step {BEFORE + 1}: first in the model's site 'below 7', 2 of" in text
    assert training.step > BEFORE + 1 and same(training.named, weights[BEFORE])
    assert not same(weights[BEFORE], weights[0])


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("compile", MODES)
def test_a_bad_gradient_under_a_finite_bound_is_of_the_step_that_had_it(compile, clip):
    text, *_ = caught(steep, compile=compile, clip=clip)
    spoilt = "scale, steep, weight" if clip else "steep"  # the norm of all is NaN
    assert f"put into the weights {spoilt} by step {BEFORE + 1}, whose bound was finite" in text
    assert f"NaN or infinite at step {BEFORE + 2}" in text


def test_a_bad_gradient_of_the_last_step_is_noticed():
    last = next(seed for seed in range(99) if step_with(BAD, seed) == N // BATCH)
    text, *_ = caught(steep, seed=last, epochs=1)
    assert f"weights steep by step {N // BATCH}, whose bound was finite" in text and "and a bound" not in text


@pytest.mark.parametrize("compile", ["eager", "graph"])
def test_a_rare_draw_is_found_again_in_the_noise_of_its_step(compile):
    text, training, weights = caught(draws_rarely_kill, X, epochs=200, compile=compile)
    step = next(i for i, kept in enumerate(weights) if same(kept, training.named)) + 1
    assert step > 10 * N // BATCH
    assert f"at step {step}: first in the model's site 'x', 1 of whose 4 log p" in text


def test_an_optimiser_that_cannot_hold_still_has_the_step_named():
    text, *_ = caught(optimizer=lambda p: torch.optim.SGD(p, 0.1))
    assert f"NaN or infinite at step {BEFORE + 1}; need" in text


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_torchs_fused_optimisers_hold_still_too(kind):
    text, training, weights = caught(optimizer=lambda p: kind(p, lr=0.01, fused=True))
    assert "'below 7'" in text and same(training.named, weights[BEFORE])


def test_in_a_long_epoch_it_is_noticed_within_about_a_second(monkeypatch):
    clock = itertools.count()  # a second passes between any two looks at it
    monkeypatch.setattr(keeping.time, "monotonic", lambda: float(next(clock)))
    text, training, _ = caught(epochs=1)
    assert training.step == BEFORE + 1 < N // BATCH and f"step {BEFORE + 1}: first in" in text


def test_a_later_epoch_counts_on(tmp_path):
    rows = X.clone()

    class Poison:
        def on_epoch(self, epoch, numbers):
            if epoch == 2:
                training.data.rows[BAD] = 7.0

        def on_start(self, started):
            nonlocal training
            training = started

    training = None
    with pytest.raises(NonFiniteError) as error:
        fit(
            model,
            rows,
            guide=guide,
            epochs=4,
            batch_size=BATCH,
            seed=SEED,
            callbacks=[Poison()],
            progress=False,
            folder=tmp_path,
            checkpoint_seconds=0,
        )
    text = str(error.value)
    assert f"at step {step_with(BAD, epoch=3)}: first in" in text
    assert f"last good checkpoint is {tmp_path / 'checkpoints' / 'checkpoint-000002'}" in text


class Count(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.ops = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops[str(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_whole_step_never_waits_for_a_number_and_the_guard_adds_four_operations(mode, monkeypatch):
    rows = (torch.rand(14, 4, generator=torch.Generator().manual_seed(3)) > 0.5).float()
    options = {"schedule": None, "optimizer": None, "clip": None, "average": None}
    training = Training(
        Programs.of(small("vae")), rows, None, ELBO(), batch_size=7, learning_rate=0.01, seed=0, **options
    )
    with pyro.validation_enabled(False):
        training.lowered = choose(training, mode, 100).lowered
        training.update(rows[:7])  # Adam makes its moments
        with Count() as guarded:
            training.update(rows[:7])
        monkeypatch.setattr(training.guard, "watch", lambda total: None)
        monkeypatch.setattr(training.guard, "before", lambda step: None)
        del training.optimizer.found_inf
        with Count() as bare:
            training.update(rows[7:])
    assert guarded.ops["aten._local_scalar_dense.default"] == 0
    assert guarded.ops.total() - bare.ops.total() == 4


def test_the_first_bad_process_is_named_by_all(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.test_non_finite", str(tmp_path), str(rank)],
            cwd=Path(__file__).parents[1],
            env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=100) for process in processes] == [0, 0]
    texts = [(tmp_path / f"{rank}").read_text() for rank in (0, 1)]
    at = int((torch.randperm(N, generator=torch.Generator().manual_seed(SEED)) == BAD).nonzero()) % BATCH
    assert texts[0] == texts[1]
    assert f"at step {BEFORE + 1}: first in the model's site 'below 7', 2 of" in texts[0]
    assert f"in process {at // 2};" in texts[0]


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    td.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    (folder / f"{rank}").write_text(caught()[0])
    td.destroy_process_group()
