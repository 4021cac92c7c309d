"""Two angles from laws that are known: what a flow on the torus reaches can be compared with what there is to reach."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from pyrogen.data.dataset import Dataset
from pyrogen.errors import SettingsError, ShapeError
from pyrogen.ops.angles import wrap

MODES = {"unimodal": [(4.18, 5.96)], "multimodal": [(0.21, 2.85), (1.89, 6.18), (3.77, 1.56)]}
CORRELATED = 1.94
LAWS = (*MODES, "correlated")
SIZES = {"train": 20_000, "valid": 2_000, "test": 20_000}


def torus(law: str = "multimodal", sharpness: float = 1.0, seed: int = 0) -> Dataset:
    """Pairs of angles: 20000 for training, 2000 valid, 20000 test, drawn anew from the seed at each load.

        unimodal     p(a, b) ~ exp(k cos(a - 4.18) + k cos(b - 5.96))
        multimodal   the even mixture of three of these, at (0.21, 2.85), (1.89, 6.18), (3.77, 1.56)
        correlated   p(a, b) ~ exp(k cos(a + b - 1.94))

    Source: Rezende et al. 2020, arXiv:2002.02428, table 2 of the targets on T^2, there with k = 1.

    Args:
        law: one of these.
        sharpness: k, positive.
        seed: of numpy.random.default_rng.

    Raises:
        SettingsError: another law, or a sharpness that is not positive.
    """
    _check(law, sharpness)
    draw = np.random.default_rng(seed)
    n = sum(SIZES.values())
    noise = draw.vonmises(0.0, sharpness, size=(n, 2))
    if law == "correlated":
        first = draw.uniform(-math.pi, math.pi, size=n)
        angles = np.stack([first, CORRELATED + noise[:, 1] - first], 1)
    else:
        modes = np.array(MODES[law])
        angles = modes[draw.integers(len(modes), size=n)] + noise
    x = wrap(torch.from_numpy(angles)).float().clamp(-math.pi, np.nextafter(np.float32(math.pi), np.float32(0)).item())
    return Dataset(
        name="torus",
        splits=dict(zip(SIZES, x.split(list(SIZES.values())), strict=True)),
        shape=(1, 1, 2),
        support="torus",
        sha256=hashlib.sha256(x.numpy().tobytes()).hexdigest(),
    )


def torus_log_prob(x: Tensor, law: str = "multimodal", sharpness: float = 1.0) -> Tensor:
    """The exact log-density that `torus` draws from, in nats; minus its mean over the test rows is the least NLL.

    Shape: (..., 2) to (...).

    Raises:
        SettingsError: another law, or a sharpness that is not positive.
        ShapeError: rows that are no pairs.
    """
    _check(law, sharpness)
    if x.shape[-1:] != (2,):
        raise ShapeError(got=f"x of shape {tuple(x.shape)}", need="(..., 2)", fix="pairs of angles")
    k = torch.as_tensor(sharpness, dtype=x.dtype, device=x.device)
    log_mass = math.log(2 * math.pi) + torch.special.i0e(k).log() + k
    if law == "correlated":
        return k * torch.cos(x.sum(-1) - CORRELATED) - log_mass - math.log(2 * math.pi)
    modes = torch.tensor(MODES[law], dtype=x.dtype, device=x.device)
    log_each = k * torch.cos(x.unsqueeze(-2) - modes).sum(-1) - 2 * log_mass
    return log_each.logsumexp(-1) - math.log(len(modes))


def _check(law: str, sharpness: float) -> None:
    if law not in LAWS or not sharpness > 0:
        raise SettingsError(
            got=f"law={law!r}, sharpness={sharpness!r}",
            need=f"one of {', '.join(LAWS)}, positive",
            fix="law='multimodal'",
        )


__all__ = ["torus", "torus_log_prob"]
