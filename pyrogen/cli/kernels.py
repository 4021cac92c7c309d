"""The check of a kernel: a recipe with a table [kernel], carried out.

seed = 0
[data]                      # name, and the options of that data set; bits
name = "digits"
[machine]                   # so many hidden units and steps of Adam on the exact likelihood of the training rows
hidden = 12
[kernel]                    # name, and the settings of that kernel
name = "block-gibbs"
[chains]                    # optional: how many, how long
chains = 1000
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from pyrogen.cli import toml
from pyrogen.cli.folder import Folder
from pyrogen.cli.pictures import png
from pyrogen.cli.recipe import read_toml
from pyrogen.cli.result import versions, write_json
from pyrogen.data import Dataset, load
from pyrogen.diagnostics import tempering_ladder
from pyrogen.distributions.boltzmann import Bernoulli, Machine, log_partition
from pyrogen.errors import PyrogenError, RecipeError, SettingsError
from pyrogen.evaluate import KernelCheck, check_kernel
from pyrogen.inference import BlockGibbs, Kernel, ParallelTempering
from pyrogen.inference.checkpoint import write_whole
from pyrogen.models.contracts import refuse_unknown
from pyrogen.ops import check_rows, resolve_device

KERNELS: dict[str, type[Kernel]] = {"block-gibbs": BlockGibbs, "parallel-tempering": ParallelTempering}


@dataclass(frozen=True)
class MachineTable:
    """[machine]: what the kernel samples, small enough to be listed."""

    hidden: int = 12
    steps: int = 400
    learning_rate: float = 0.03


@dataclass(frozen=True)
class ChainsTable:
    """[chains]: as in `pyrogen.inference.MCMC`."""

    chains: int = 1000
    draws: int = 200
    warmup_steps: int = 200
    thinning: int = 1


@dataclass(frozen=True)
class KernelRecipe:
    """All that the check of a kernel depends on, besides the machine it runs on and the versions."""

    kernel: str
    settings: dict[str, Any]
    data: str
    options: dict[str, Any]
    machine: MachineTable = MachineTable()
    chains: ChainsTable = ChainsTable()
    seed: int = 0

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The recipe in a TOML file.

        Raises:
            RecipeError: the file cannot be read, is not TOML, or has a key or value that cannot be.
        """
        return cls.of(read_toml(path), str(path))

    @classmethod
    def of(cls, tables: Mapping[str, Any], source: str) -> Self:
        """The recipe in nested tables; `source` is where they are from, for messages."""
        try:
            refuse_unknown("a check", tables, {"seed": 0, "data": 0, "machine": 0, "kernel": 0, "chains": 0})
            for name, table in tables.items():
                if name != "seed" and not isinstance(table, Mapping):
                    raise SettingsError(got=f"{name} = {table!r}", need=f"a table [{name}]", fix=f"a line [{name}]")
            kernel, data = dict(tables["kernel"]), dict(tables.get("data", {}))
            machine, chains = (_table(c, tables, n) for c, n in ((MachineTable, "machine"), (ChainsTable, "chains")))
            name = kernel.pop("name", None)
            if not isinstance(name, str) or name not in KERNELS:
                raise SettingsError(
                    got=f"kernel {name!r}", need=f"one of {sorted(KERNELS)}", fix='name = "block-gibbs"'
                )
            seed = tables.get("seed", 0)
            if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
                raise SettingsError(got=f"seed = {seed!r}", need="a whole number, at least 0", fix="seed = 0")
            return cls(name, kernel, data.pop("name", "digits"), data, machine, chains, seed)
        except SettingsError as error:
            raise RecipeError(got=f"{error.got} in {source}", need=error.need, fix=error.fix) from error

    def tables(self) -> dict[str, Any]:
        """The nested tables with all defaults filled in; `of` and a TOML file take them."""
        return {
            "seed": self.seed,
            "data": {"name": self.data} | self.options,
            "machine": dataclasses.asdict(self.machine),
            "kernel": {"name": self.kernel} | self.settings,
            "chains": dataclasses.asdict(self.chains),
        }


def run_check(
    recipe: KernelRecipe, out: str | Path, *, overwrite: bool = False, device: str = "auto", quiet: bool = False
) -> KernelCheck:
    """Train the machine by its exact likelihood, check the kernel on it, and write result.json into `out`.

    Raises:
        RecipeError, DataError, SupportError, DeviceError, OutputError: before any work, nothing was written.
    """
    start, target = time.perf_counter(), resolve_device(device)
    data = load(recipe.data, root=recipe.options.get("root"), **_without_root(recipe.options))
    train, test = data["train"].to(target), data["test"].to(target)
    check_rows(train, width=data.width, support="binary")
    folder = Folder(out, overwrite=overwrite)
    try:
        machine = _started(recipe, train)
        kernel = _kernel(recipe, machine, train)
        if not quiet:
            print(f"{recipe.kernel} on a machine of {data.width} and {recipe.machine.hidden} units", file=sys.stderr)
        _train(machine, train, recipe.machine)
        check = check_kernel(kernel, **dataclasses.asdict(recipe.chains), seed=recipe.seed, quiet=quiet)
    except BaseException:
        folder.give_up()
        raise
    folder.clear()
    write_whole(folder.path / "recipe.toml", toml.dumps(recipe.tables()).encode())
    likelihood = {"train": _log_likelihood(machine, train), "test": _log_likelihood(machine, test)}
    result = _result(recipe, data, check, likelihood, target)
    if "swap_rates" in check.report:
        write_whole(folder.path / "ladder.png", png(tempering_ladder(check.report)))
        result["files"].append("ladder.png")
    write_json(folder.path / "result.json", result | {"seconds": time.perf_counter() - start})
    return check


def _result(
    recipe: KernelRecipe, data: Dataset, check: KernelCheck, likelihood: dict[str, float], device: torch.device
) -> dict[str, Any]:
    return {
        "kernel": recipe.kernel,
        "data": recipe.data,
        "seed": recipe.seed,
        "check": check.summary(),
        "machine": {"exact_log_likelihood": likelihood, "unit": "nats per row"},
        "device": str(device),
        "threads": torch.get_num_threads(),
        "settings": recipe.tables(),
        "versions": versions(),
        "data_sha256": data.sha256,
        "files": ["result.json", "recipe.toml"],
    }


def _table(cls: type, tables: Mapping[str, Any], name: str) -> Any:
    given, known = dict(tables.get(name, {})), {field.name: field.default for field in dataclasses.fields(cls)}
    refuse_unknown(f"[{name}]", given, known)
    for key, value in given.items():
        whole = isinstance(known[key], int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not 0 < value < math.inf:
            need = "a whole number, at least 1" if whole else "a number above 0"
            raise SettingsError(got=f"{key} = {value!r} in [{name}]", need=need, fix=f"{key} = {known[key]}")
    return cls(**given)


def _started(recipe: KernelRecipe, train: Tensor) -> Machine:
    """Small random couplings, the visible biases of the data."""
    visible, hidden, noise = Bernoulli(train.shape[1]), Bernoulli(recipe.machine.hidden), torch.Generator()
    W = 0.05 * torch.randn(visible.n, hidden.n, generator=noise.manual_seed(recipe.seed))
    b = visible.bias_of(train.mean(0), len(train))
    W, b, c = (x.to(train).requires_grad_() for x in (W, b, torch.zeros(hidden.n)))
    return Machine(visible, hidden, W, b, c)


def _kernel(recipe: KernelRecipe, machine: Machine, train: Tensor) -> Kernel:
    """With the data's rates as the base of tempering."""
    settings = dict(recipe.settings)
    for name in {"base", "clamp"} & set(settings):
        raise RecipeError(got=f"{name} in [kernel]", need="the data's base, and no clamp", fix="the kernel in Python")
    if recipe.kernel == "parallel-tempering":
        settings["base"] = machine.visible.bias_of(train.mean(0), len(train))
    try:
        return KERNELS[recipe.kernel](machine, **settings)
    except TypeError as error:
        raise RecipeError(
            got=f"{recipe.settings} in [kernel]: {error}", need="its settings", fix="fewer keys"
        ) from error
    except PyrogenError as error:
        raise RecipeError(got=f"{error.got} in [kernel]", need=error.need, fix=error.fix) from error


def _train(machine: Machine, train: Tensor, table: MachineTable) -> None:
    """Adam on all rows at once; the gradient is exact, so the result is one of the recipe alone."""
    optimiser = torch.optim.Adam([machine.W, machine.b, machine.c], lr=table.learning_rate)
    for _ in range(table.steps):
        optimiser.zero_grad()
        (machine.free_energy(train).mean() + log_partition(machine)).backward()
        optimiser.step()


@torch.no_grad()
def _log_likelihood(machine: Machine, rows: Tensor) -> float:
    return float(-machine.free_energy(rows).double().mean() - log_partition(machine))


def _without_root(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != "root"}
