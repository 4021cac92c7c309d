"""What test_parallel trains in one process and in several: `python -m tests.together FOLDER CASE...`.

The guides draw no noise, or noise that is a function of the row, so that it does not matter who has which row.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoDelta
from torch import nn

from pyrogen.errors import PyrogenError
from pyrogen.inference import ELBO, IWAE, Warmup, fit, processes
from pyrogen.inference.parallel import leave
from pyrogen.inference.training import Training
from pyrogen.models import Pair
from tests.zoo import small

ROWS = torch.rand(30, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64).round()
EXACT = {"progress": False, "device": "cpu", "learning_rate": 0.01, "epochs": 4, "batch_size": 7}


class Quiet(Pair):
    """A VAE whose guide's noise is a fixed function of the row, and with a parameter that nothing uses."""

    def __init__(self, normalised: bool = False) -> None:
        super().__init__(4, "binary")
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(2, 4)
        self.norm = nn.BatchNorm1d(4) if normalised else nn.Identity()
        self.unused = nn.Parameter(torch.ones(3))

    def model(self, x, size=None):
        with self.rows(x, size):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x, size=None):
        with self.rows(x, size):
            mean, log_scale = self.norm(self.encoder(x)).chunk(2, -1)
            noise = torch.sin(37 * x @ torch.arange(1.0, 9, dtype=x.dtype).view(4, 2))
            z = mean + log_scale.exp() * noise
            log_q = dist.Normal(mean, log_scale.exp()).to_event(1).log_prob(z)
            pyro.sample("z", dist.Delta(z, log_density=log_q, event_dim=1))


def overall(x):
    """One latent for all rows."""
    mean = pyro.sample("mean", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
    with pyro.plate("rows", len(ROWS), subsample=torch.arange(len(x))):
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


def quiet(**settings):
    torch.manual_seed(1)
    pair = Quiet(settings.pop("normalised", False)).to(settings.pop("dtype", torch.float64))
    result = fit(pair, ROWS.to(pair.unused.dtype), **(EXACT | settings))
    return pair, result


def global_latent():
    torch.manual_seed(1)
    guide = AutoDelta(overall)
    return guide, fit(overall, ROWS, guide=guide, **EXACT)


def noisy(**settings):
    vae = small("vae").double()
    return vae, fit(vae, ROWS, validation=ROWS[:9], **(EXACT | {"average": 0.9} | settings))


def decaying(parameters):
    return torch.optim.AdamW(parameters, 0.01, weight_decay=0.5)


CASES = {
    "elbo": quiet,
    "float32": lambda: quiet(dtype=torch.float32),
    "iwae": lambda: quiet(objective=IWAE(3)),
    "clipped": lambda: quiet(clip=0.05, average=0.9, validation=ROWS[:9], patience=2),
    "graph": lambda: quiet(compile="graph", objective=ELBO(beta=Warmup(5))),
    "one row left": lambda: quiet(batch_size=29),
    "one row left, as a graph": lambda: quiet(batch_size=29, compile="graph"),
    "unused": lambda: quiet(optimizer=decaying),
    "global latent": global_latent,
}
"""What must end in several processes as in one."""


def boltzmann():
    """Particles are buffers, and offsets move once an epoch: by what the first process saw."""
    rbm = small("rbm").double()
    rows = torch.cat([ROWS[:, :1], 1 - ROWS[:, :1], ROWS[:, 2:]], 1)
    return rbm, fit(rbm, rows, validation=rows[:9], **(EXACT | {"average": 0.9}))


NOISY = {
    "noisy": noisy,
    "boltzmann": boltzmann,
    "again": noisy,
    "normalised": lambda: quiet(normalised=True, batch_size=8),
}


class Listener:
    """A callback that stores what it hears of."""

    def __init__(self, path):
        self.path = path

    def on_epoch(self, epoch, numbers):
        with self.path.open("a") as file:
            file.write(f"{epoch} ")


def heard(folder, rank):
    """The case whose noise, files and callbacks are looked at."""
    draws, opened = [], []
    normal, update = torch.distributions.Normal.rsample, Training.update

    def spied(self, shape=()):
        z = normal(self, shape)
        draws.append(((z - self.loc) / self.scale).detach().reshape(-1))
        return z

    def watched(self, x):  # what is drawn elsewhere, for the validation rows, is meant to be the same
        torch.distributions.Normal.rsample = spied
        update(self, x)
        torch.distributions.Normal.rsample = normal

    def audit(event, args):
        if event == "open" and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            opened.append(args[0])

    Training.update = watched
    sys.addaudithook(audit)
    listener = Listener(folder / f"heard-{rank}")
    result = noisy(epochs=200, batch_size=10, folder=folder / "run", callbacks=[listener], checkpoint_seconds=0)
    Training.update = update
    torch.save(torch.cat(draws), folder / f"draws-{rank}.pt")
    (folder / f"opened-{rank}").write_text("\n".join(opened))
    return result


def killed(folder, rank):
    """Killed at some steps, once each; KILL is `rank:step,rank:step`."""
    update = Training.update

    def dangerous(self, x):
        for kill in filter(None, os.environ.get("KILL", "").split(",")):
            mark = folder / f"killed-{kill}".replace(":", "-")
            if kill == f"{rank}:{self.step}" and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if os.environ.get("SLOW") and self.step > 3:
            (folder / f"training-{rank}").touch()
            time.sleep(float(os.environ["SLOW"]))
        update(self, x)

    Training.update = dangerous
    return noisy(epochs=12, folder=folder / "run", resume=True, checkpoint_seconds=0)


def disagreeing(folder, rank):
    """Each process has rows of its own."""
    try:
        fit(small("vae").double(), ROWS[rank:], **EXACT)
    except PyrogenError as error:
        (folder / f"refused-{rank}").write_text(f"{type(error).__name__}: {error}")
    return None


def save(path, result):
    module, trained = result
    history = {key: torch.tensor(values, dtype=torch.float64) for key, values in trained.history.items()}
    torch.save({"history": history, "state": {k: v.clone() for k, v in module.state_dict().items()}}, path)


def main(folder, cases):
    with processes("cpu", timeout=float(os.environ.get("TIMEOUT", "60"))) as ranks:
        for case in cases:
            pyro.clear_param_store()
            special = {"heard": heard, "killed": killed, "disagreeing": disagreeing}
            result = special[case](folder, ranks.rank) if case in special else (CASES | NOISY)[case]()
            if result is not None:
                save(folder / f"{case}-{ranks.rank}.pt", result)


if __name__ == "__main__":
    code = 0
    try:
        main(Path(sys.argv[1]), sys.argv[2:])
    except PyrogenError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 128 + getattr(error, "signal", -127)
    leave(code)
