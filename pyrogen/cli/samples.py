"""Draws of a trained model as a file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrogen.cli.kernels import KERNELS
from pyrogen.cli.pictures import draw, drawn_title, png
from pyrogen.cli.saved import Saved
from pyrogen.diagnostics import image_grid
from pyrogen.errors import SettingsError
from pyrogen.inference import MCMC
from pyrogen.inference.checkpoint import write_whole
from pyrogen.models import Energy, Model
from pyrogen.models.contracts import refuse_unknown
from pyrogen.ops import evenly

MOST_IN_A_PICTURE = 2500
SWEEPS = 1000
"""Of a kernel, before what it has come to is taken."""
BASE_ROWS = 1000
"""Training rows whose rates are the base of tempering."""


def write_samples(
    saved: Saved, n: int, seed: int, path: Path, kernel: str | None = None, sweeps: int | None = None
) -> None:
    """n draws as a picture of E[x | z], or in an .npz with the arrays `x` and `mean`, each (n, D).

    Args:
        kernel: draws are where so many chains of it are after `sweeps`, 1000 unless given; for undirected models.

    Raises:
        SettingsError: more draws than a picture shows, or a kernel that does not exist or that this model has not.
        OutputError: the file cannot be written.
    """
    if path.suffix == ".png" and n > MOST_IN_A_PICTURE:
        raise SettingsError(
            got=f"{n} samples in a picture", need=f"at most {MOST_IN_A_PICTURE}", fix="--out samples.npz"
        )
    if kernel is None and sweeps is not None:
        raise SettingsError(got=f"{sweeps} sweeps of no kernel", need="a kernel", fix="--kernel block-gibbs")
    if kernel is None:
        (x, mean), how = draw(saved.model, n, seed), drawn_title(saved.model)
    else:
        sweeps = sweeps or SWEEPS
        (x, mean), how = _by(kernel, saved, n, seed, sweeps), f"samples: E[x | h] after {sweeps} sweeps of {kernel}"
    if path.suffix == ".png":
        content = png(image_grid(mean, saved.result["data_shape"], title=f"{saved.recipe.model}, {how}"))
    else:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, x=x.numpy(), mean=mean.numpy())
        content = buffer.getvalue()
    write_whole(path, content)


@torch.no_grad()
def _by(kernel: str, saved: Saved, n: int, seed: int, sweeps: int) -> tuple[Tensor, Tensor]:
    """The states of n chains, (n, D), and the E[x | h] that each was drawn around, (n, D)."""
    refuse_unknown("--kernel", {kernel: 0}, KERNELS)
    model: Model = saved.model
    if not isinstance(model, Energy):
        raise SettingsError(
            got=f"--kernel {kernel} for {type(model).__name__}",
            need="an undirected model; others draw without a chain",
            fix="no --kernel",
        )
    machine, settings = model.machine().detached(), dict[str, Any]()
    if kernel == "parallel-tempering":
        train = saved.data()["train"]
        some = model.filled(train[evenly(len(train), BASE_ROWS)].to(machine.b))
        settings["base"] = machine.visible.bias_of(some.mean(0), len(some))
    mcmc = MCMC(KERNELS[kernel](machine, **settings), 1, sweeps, num_chains=n, seed=seed, disable_progbar=True)
    mcmc.run()
    v, h = (mcmc.get_samples()[name].to(machine.b) for name in ("v", "h"))
    mean = machine.visible.mean(machine.visible_input(h))
    return v[:, : model.width].cpu(), mean[:, : model.width].cpu()
