"""The commands. Results go to stdout, progress and errors to stderr.

Exit codes: 0 done, 1 it failed, 2 the command or the recipe is wrong, 130 interrupted, 143 terminated.

torch and all that needs it are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pyrogen import __version__
from pyrogen.cli.toml import assignment
from pyrogen.errors import Interrupted, OutputError, PyrogenError, RecipeError, SettingsError

app = typer.Typer(
    name="pyrogen",
    help="Explicit generative models for Pyro, and numbers that can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # or [model] in a help text would be taken for a colour
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder to make; runs/MODEL-DATA by default.", show_default=False)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the files of an earlier run.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run, if there is one.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Run = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run.", show_default=False)]


def main() -> None:
    """Run the command line."""
    # before torch is imported: its threads otherwise spin while they wait for each other, and where another
    # process wants the same cores a step of a small model takes twenty times as long
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(prog_name="pyrogen")
    except SystemExit as end:
        if "torch.distributed" in sys.modules and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from pyrogen.inference.parallel import leave

            leave(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise


def in_words(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with our errors as one line on stderr and an exit code."""

    @functools.wraps(command)
    def wrapped(*args: Any, **settings: Any) -> None:
        rank = os.environ.get("RANK", "0")  # torchrun's
        who = "" if rank == "0" else f"process {rank}: "
        try:
            command(*args, **settings)
        except Interrupted as error:
            if not who:
                print(f"interrupted: {error.got}; the same command with --resume goes on", file=sys.stderr)
            raise typer.Exit(128 + error.signal) from None
        except PyrogenError as error:
            print(f"{who}error: {error}", file=sys.stderr)
            raise typer.Exit(2 if isinstance(error, RecipeError | SettingsError) else 1) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(130) from None

    return wrapped


@app.callback(invoke_without_command=False)
def pyrogen(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=lambda on: _version(on))
    ] = False,
) -> None:
    """Explicit generative models for Pyro, and numbers that can be trusted."""


@app.command()
@in_words
def models() -> None:
    """List the models and the data sets."""
    import inspect

    from pyrogen.data import names
    from pyrogen.models import MODELS

    width = max(map(len, MODELS))
    for name, model in sorted(MODELS.items()):
        print(f"{name:{width}}  {(inspect.getdoc(model) or '').partition(chr(10))[0]}")
    print(f"\nData sets: {', '.join(names())}")


@app.command()
@in_words
def fit(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="One of `pyrogen models`.", show_default=False)],
    data: Annotated[str, typer.Option(help="One of the data sets.", show_default=False)],
    objective: Annotated[str | None, typer.Option(help="elbo, iwae, or likelihood for an undirected model.")] = None,
    particles: Annotated[int | None, typer.Option(help="Of the objective.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam.")] = None,
    compile: Annotated[str | None, typer.Option(help="auto, eager, graph, inductor or cudagraph.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32, tf32 or bfloat16.")] = None,
    seed: Annotated[int, typer.Option(help="Of the start, the order of the rows and all noise.")] = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the model, or TABLE.KEY=VALUE of a recipe."),
    ] = None,
    out: Out = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train a model, evaluate it, and write numbers and pictures into a folder."""
    tables: dict[str, Any] = {"seed": seed, "model": {"name": model}, "data": {"name": data}}
    for text in setting or []:
        table, key, value = assignment(text)
        tables.setdefault(table, {})[key] = value
    given = {"objective": {"name": objective, "particles": particles}}
    given["fit"] = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    given["fit"] |= {"compile": compile, "precision": precision}
    for table, values in given.items():
        tables.setdefault(table, {}).update({key: value for key, value in values.items() if value is not None})
    _run(tables, "the command line", out, overwrite=overwrite, resume=resume, device=device, quiet=quiet)


@app.command()
@in_words
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="The recipe.", show_default=False)],
    out: Out = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Carry out a recipe: train, evaluate, and write numbers and pictures into a folder; or check a [kernel]."""
    from pyrogen.cli.recipe import read_toml

    if "kernel" in read_toml(recipe):
        _check_kernel(recipe, out, overwrite=overwrite, resume=resume, device=device, quiet=quiet)
        return
    _run(recipe, str(recipe), out, overwrite=overwrite, resume=resume, device=device, quiet=quiet)


@app.command()
@in_words
def sample(
    folder: Run,
    n: Annotated[int, typer.Option("-n", "--number", min=1, max=1_000_000, help="How many.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    kernel: Annotated[
        str | None, typer.Option(help="Of an undirected model: block-gibbs or parallel-tempering.", show_default=False)
    ] = None,
    sweeps: Annotated[
        int | None, typer.Option(min=1, help="Of the kernel, 1000 by default.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A .png or .npz; DIR/samples-SEED.png by default.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    device: Device = "auto",
) -> None:
    """Draw from a trained model: a picture, or the arrays `x` and `mean` = E[x | z]."""
    path = out or folder / f"samples-{seed}.png"
    _check_file(path, overwrite)
    from pyrogen.cli.samples import write_samples
    from pyrogen.cli.saved import Saved

    write_samples(Saved.open(folder, device), n, seed, path, kernel, sweeps)
    print(f"{path}: {n} samples, seed {seed}")


@app.command()
@in_words
def evaluate(
    folder: Run,
    method: Annotated[
        str | None,
        typer.Option(
            help="iwae, elbo, exact, csl; of undirected models ais, reverse, bracket; that of the run by default."
        ),
    ] = None,
    particles: Annotated[int | None, typer.Option(min=1, help="As in the run by default.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of annealing an undirected model; as in the run by default.")
    ] = None,
    chains: Annotated[int | None, typer.Option(min=1, help="Of annealing; as in the run by default.")] = None,
    split: Annotated[str | None, typer.Option(help="As in the run by default.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="As in the run by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Device = "auto",
) -> None:
    """Measure log p(x) of a trained model on held-out rows."""
    from pyrogen.cli.recipe import Recipe
    from pyrogen.cli.report import number
    from pyrogen.cli.result import finite
    from pyrogen.cli.run import measure
    from pyrogen.cli.saved import Saved

    saved = Saved.open(folder, device)
    tables = saved.recipe.tables()
    given = {"method": method, "particles": particles, "steps": steps, "chains": chains, "split": split}
    tables["evaluate"] |= {key: value for key, value in given.items() if value is not None}
    recipe = Recipe.of(tables | ({} if seed is None else {"seed": seed}), "the command line")
    split, data = recipe.evaluate.split, saved.data()
    found = measure(recipe, saved.model, data[split], data["train"]).summary()
    if (steps or chains) and found.get("log_z", {}).get("kind") == "exact":
        raise SettingsError(
            got="--steps or --chains where log Z is summed",
            need="annealing",
            fix="--method bracket, of an rbm or a dbm",
        )
    if as_json:
        about = {"model": saved.recipe.model, "data": saved.recipe.data, "split": split}
        print(json.dumps(finite(about | found), indent=2))
    else:
        print(f"{saved.recipe.model} on {saved.recipe.data}, split {split}: {number(found)}")


@app.command()
@in_words
def check(folder: Run) -> None:
    """Verify every checkpoint, the weights and the result of a run; exit 1 if something is wrong."""
    from pyrogen.cli.check import check as verify

    found = verify(folder)
    for name, wrong in found.items():
        print(f"bad  {name}: {wrong}" if wrong else f"ok   {name}")
    if any(found.values()):
        raise typer.Exit(1)


def _run(what: Path | dict[str, Any], source: str, out: Path | None, **settings: Any) -> None:
    from pyrogen.cli.recipe import Recipe

    recipe = Recipe.of(what, source) if isinstance(what, dict) else Recipe.read(what)
    from pyrogen.cli.report import report
    from pyrogen.cli.run import run as carry_out
    from pyrogen.inference import processes

    folder = out or Path("runs") / f"{recipe.model}-{recipe.data}"
    with processes(settings["device"]) as ranks, warnings.catch_warnings():
        if ranks.rank:
            warnings.simplefilter("ignore")  # the first process warns for all
        outcome = carry_out(recipe, folder, source=source, **settings)
        if ranks.rank == 0:
            print(report(outcome))


def _check_kernel(path: Path, out: Path | None, *, resume: bool, **settings: Any) -> None:
    from pyrogen.cli.folder import read_result
    from pyrogen.cli.kernels import KernelRecipe, run_check

    if resume:
        raise SettingsError(got="--resume for the check of a kernel", need="a run that trains", fix="--overwrite")
    recipe = KernelRecipe.read(path)
    folder = out or Path("runs") / f"{recipe.kernel}-{recipe.data}"
    check = run_check(recipe, folder, **settings)
    print(f"In {folder}: {', '.join(read_result(folder)['files'])}\n\n{check}")
    if not check.passed:
        raise typer.Exit(1)


def _check_file(path: Path, overwrite: bool) -> None:
    """Refuse a file to write before any work."""
    if path.suffix not in (".png", ".npz"):
        raise OutputError(got=f"{path}", need="a file ending in .png or .npz", fix=f"{path.with_suffix('.png')}")
    if path.exists() and not (overwrite and path.is_file()):
        raise OutputError(got=f"{path}, which exists", need="a new file", fix="another --out, or --overwrite")
    if not path.parent.is_dir():
        raise OutputError(got=f"{path} in a folder that does not exist", need="a folder", fix=f"mkdir -p {path.parent}")


def _version(on: bool) -> None:
    if on:
        print(f"pyrogen {__version__}")
        raise typer.Exit()
