"""Draws of a trained model as a file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from pyrogen.cli.pictures import draw, png, title_of
from pyrogen.cli.saved import Saved
from pyrogen.diagnostics import image_grid
from pyrogen.errors import SettingsError
from pyrogen.inference.checkpoint import write_whole

MOST_IN_A_PICTURE = 2500


def write_samples(saved: Saved, n: int, seed: int, path: Path) -> None:
    """n draws as a picture of E[x | z], or in an .npz with the arrays `x` and `mean`, each (n, D).

    Raises:
        SettingsError: more draws than a picture shows.
        OutputError: the file cannot be written.
    """
    if path.suffix == ".png" and n > MOST_IN_A_PICTURE:
        raise SettingsError(
            got=f"{n} samples in a picture", need=f"at most {MOST_IN_A_PICTURE}", fix="--out samples.npz"
        )
    x, mean = draw(saved.model, n, seed)
    if path.suffix == ".png":
        content = png(
            image_grid(mean, saved.result["data_shape"], title=f"{saved.recipe.model}, {title_of(saved.model)}")
        )
    else:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, x=x.numpy(), mean=mean.numpy())
        content = buffer.getvalue()
    write_whole(path, content)
