"""A recipe, carried out: data, model, training, the number, and a folder that holds what came of it."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrogen.cli import toml
from pyrogen.cli.build import build_model, check_data, load_data
from pyrogen.cli.folder import FILES, OF_MACHINES, PRETRAINING, Folder, read_result
from pyrogen.cli.pictures import annealing, pictures, png
from pyrogen.cli.recipe import Recipe
from pyrogen.cli.result import first_result, parameters, write_json
from pyrogen.cli.train import pretrain, train
from pyrogen.data import Dataset
from pyrogen.diagnostics import khat, khat_threshold, to_arviz
from pyrogen.errors import NotNormalizedError, OutputError, PyrogenError
from pyrogen.evaluate import Bracket, LogLikelihood, latent_report, log_likelihood
from pyrogen.evaluate.undirected import check_undirected
from pyrogen.inference import Fit
from pyrogen.inference.checkpoint import save_weights, write_whole
from pyrogen.inference.checkpoints import Checkpoints
from pyrogen.inference.parallel import Ranks
from pyrogen.inference.run_folder import CHECKPOINTS, RunFolder
from pyrogen.models import DBN, Energy, Model, Pair
from pyrogen.ops import denormals_flushed, evenly, resolve_device

POSTERIOR_ROWS, POSTERIOR_DRAWS = 200, 200
LATENT_ROWS = 2000
"""Of the evaluated split: enough for the latent report, whose mutual information compares all pairs of rows."""


@dataclass
class Outcome:
    """What a run left: its folder, the content of result.json, and why some files are not there."""

    folder: Path
    result: dict[str, Any]
    not_made: dict[str, str] = field(default_factory=dict)


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    source: str = "the recipe",
    overwrite: bool = False,
    resume: bool = False,
    device: str = "auto",
    quiet: bool = False,
) -> Outcome:
    """Train what the recipe describes, evaluate it, and write the folder `out`.

    Whatever can be wrong in the recipe, the data, the device or the folder is found before training. The
    weights and a first result.json, without the number, are there as soon as training ends. Checkpoints are
    there until all is: the weights, the recipe and the history say then what is worth keeping of them.

    Of several processes all train, and the first one does the rest.

    Args:
        source: where the recipe is from, for messages.
        overwrite: replace the files of an earlier run in `out`.
        resume: go on with the run in `out`, if there is one; one that is finished is only told again.
        quiet: nothing on stderr.

    Raises:
        RecipeError, DataError, SupportError, DeviceError, OutputError: before any work, nothing was written.
        NonFiniteError: training diverged.
        Interrupted: a signal came while training; the run is saved.
    """
    start, ranks = time.perf_counter(), Ranks.here()
    with denormals_flushed():
        pass  # torch's threads start here, before data are read, and flush from now on
    quiet = quiet or ranks.rank > 0
    say = (lambda text: None) if quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    target = resolve_device(device)
    folder = ranks.at_first(lambda: Folder(out, overwrite=overwrite, resume=resume))
    if resume and (done := ranks.told(ranks.at_first(lambda: _finished(Path(out), recipe)))):
        say(f"{out} is finished")
        return done
    try:
        data = load_data(recipe, source)
        model = build_model(recipe, data.width, data.shape, data.support, source)
        splits = [name for name in ("train", "valid", recipe.evaluate.split) if name in data.splits]
        check_data(model, data, splits)
        if isinstance(model, Energy | DBN):
            check_undirected(model, recipe.evaluate.method, recipe.evaluate.steps)
        model.prepare(data["train"])
        rows = f"{len(data['train']):,} rows of {data.name}"
        with ExitStack() as stack:
            claimed = RunFolder(out, resume=resume, overwrite=overwrite, of=recipe.tables()["model"])
            place = ranks.at_first(lambda: stack.enter_context(claimed))
            if overwrite and folder is not None:
                folder.forget_pretraining()
            say(f"{recipe.model}, {parameters(model):,} parameters, on {rows}, {target}")
            pretraining = Path(out) / PRETRAINING
            if recipe.fit.greedy:
                pretrain(recipe, model, data["train"], target, pretraining, not quiet, say)
            trained = train(recipe, model, data, target, place, not quiet)
            say(f"{trained.outcome} after {len(trained.history['epoch'])} epochs, {trained.seconds:.0f} s")
            start = min(start, time.perf_counter() - trained.seconds)  # of a run that went on, all of it
            outcome = Outcome(Path(out), first_result(recipe, data, trained))
            if folder is not None and place is not None:  # in the other processes they are not
                _finish(outcome, folder, recipe, data, trained, start, say)
                place.checkpoints.clear()
                shutil.rmtree(pretraining, ignore_errors=True)
    except BaseException:
        if folder is not None:
            folder.give_up()
        raise
    return outcome


def _finish(
    outcome: Outcome,
    folder: Folder,
    recipe: Recipe,
    data: Dataset,
    trained: Fit,
    start: float,
    say: Callable[[str], None],
) -> None:
    """Write the weights; measure; write the result, whatever became of the measuring."""
    _keep(outcome, folder, recipe, trained)
    try:
        _measure(outcome, recipe, data, trained, say)
    except KeyboardInterrupt:
        say(f"{folder.path} holds the weights; `pyrogen evaluate {folder.path}` measures them")
        raise
    finally:
        outcome.result["seconds"] = time.perf_counter() - start
        write_json(folder.path / "result.json", outcome.result)


def _finished(path: Path, recipe: Recipe) -> Outcome | None:
    """The run in a folder, if nothing of it is left to do."""
    if not (path / "result.json").exists() or Checkpoints(path / CHECKPOINTS).names():
        return None
    result = read_result(path)
    if result.get("settings") != json.loads(json.dumps(recipe.tables())):
        raise OutputError(
            got=f"{path}, which holds a finished run of another recipe",
            need="the run to go on with",
            fix="another --out, or --overwrite to replace it",
        )
    if not result.get("log_likelihood"):
        return None
    return Outcome(path, result, result.get("not_made", {}))


def _keep(outcome: Outcome, folder: Folder, recipe: Recipe, trained: Fit) -> None:
    """Write what training gave, before anything else can go wrong."""
    path, result = folder.path, outcome.result
    folder.clear()
    # result.json is first and names all files, so that a run that is killed from here on can be overwritten
    write_json(path / "result.json", result)
    result["weights_sha256"] = save_weights(trained.model, path / "model.safetensors")
    write_whole(path / "recipe.toml", toml.dumps(recipe.tables()).encode())
    write_json(path / "history.json", trained.history)
    write_json(path / "result.json", result)


def _measure(outcome: Outcome, recipe: Recipe, data: Dataset, trained: Fit, say: Callable[[str], None]) -> None:
    """The number, then the pictures and the draws."""
    model, result, table, seed = trained.model, outcome.result, recipe.evaluate, recipe.seed
    x = data[table.split]
    say(f"evaluating {len(x):,} rows by {table.method}")
    number = measure(recipe, model, x, data["train"])
    result["log_likelihood"] = number.summary()
    result["latent"] = _latent(model, x[evenly(len(x), LATENT_ROWS)], seed)
    say("drawing")
    for name, picture in pictures(trained, data, table.split, seed):
        if isinstance(picture, str):
            outcome.not_made[name] = picture
        else:
            write_whole(outcome.folder / name, png(picture))
    if isinstance(number.log_z, Bracket) or (number.log_z is not None and number.log_z.log_weights is not None):
        write_whole(outcome.folder / "annealing.png", png(annealing(number.log_z)))
    _posterior(outcome, trained, x[evenly(len(x), POSTERIOR_ROWS)], seed)
    made = [name for name in OF_MACHINES if (outcome.folder / name).is_file()]
    result["files"] = [name for name in FILES if name not in outcome.not_made] + made
    result["not_made"] = outcome.not_made


def measure(recipe: Recipe, model: Model, x: Tensor, train: Tensor) -> LogLikelihood:
    """log p(x) as [evaluate] says; annealing starts at the rates of the training rows."""
    table = recipe.evaluate
    settings: dict[str, Any] = {"particles": table.particles, "seed": recipe.seed}
    if isinstance(model, Energy | DBN):
        given = {"steps": table.steps, "chains": table.chains, "data": train}
        settings |= {name: value for name, value in given.items() if value is not None}
    return log_likelihood(model, x, method=None if table.method == "auto" else table.method, **settings)  # type: ignore[arg-type]


def _latent(model: Model, x: Tensor, seed: int) -> dict[str, Any] | None:
    if not isinstance(model, Pair) or isinstance(model, Energy) or len(x) < 2:
        return None
    try:
        return latent_report(model, x, seed=seed).summary()
    except (PyrogenError, NotImplementedError) as error:
        return {"not_measured": str(error)}


def _posterior(outcome: Outcome, trained: Fit, x: Tensor, seed: int) -> None:
    """posterior.nc, and from its weights how well the guide fits, row by row."""
    x = x.to(next(trained.model.parameters()).device)
    try:
        idata = to_arviz(
            # of ArviZ's groups only the predictive one is large: D entries for every draw and row
            trained,
            data=(x,),
            num_samples=POSTERIOR_DRAWS,
            posterior_predictive=x.shape[1] <= 100,
            seed=seed,
        )
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "posterior.nc"
            idata.to_netcdf(str(file), engine="h5netcdf")
            content = file.read_bytes()
    except NotNormalizedError:
        outcome.not_made["posterior.nc"] = "the density of a draw needs log Z, which is only estimated"
        return
    except (PyrogenError, NotImplementedError, OSError) as error:
        outcome.not_made["posterior.nc"] = str(error)
        return
    write_whole(outcome.folder / "posterior.nc", content)
    if "log_weight" in idata.sample_stats:
        k = khat(torch.tensor(idata.sample_stats["log_weight"].values[0]))
        threshold = khat_threshold(POSTERIOR_DRAWS)
        outcome.result["khat"] = {
            "median": float(k.median()),
            "max": float(k.max()),
            "threshold": threshold,
            "share_above": float((k > threshold).double().mean()),
            "rows": k.numel(),
            "draws": POSTERIOR_DRAWS,
        }
