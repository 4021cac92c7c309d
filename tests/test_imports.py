"""Rooms import leftwards only, ArviZ is imported in one of them, and importing has no side effect.

Imports inside functions and under TYPE_CHECKING count like those at the top.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pyrogen"
ROOMS = [
    "errors",
    "ops",
    "data",
    "nn",
    "distributions",
    "models",
    "inference",
    "evaluate",
    "diagnostics",
    "cli",
]
ARVIZ = {"arviz", "arviz_base", "arviz_stats", "arviz_plots"}


def imported(source: str, package: str) -> list[tuple[int, str]]:
    """Line and absolute name of everything that the source imports; package is what its dots start from."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join(base + ([node.module] if node.module else []))
            found += [(node.lineno, f"{origin}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
            "import_module",
            "__import__",
        ):
            found += [(node.lineno, arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)]
    return found


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What a module imports that it must not, in words."""
    room = "cli" if module == "pyrogen.__main__" else module.partition(".")[2].partition(".")[0]
    found = []
    for line, name in imported(source, module if is_package else module.rpartition(".")[0]):
        top, _, rest = name.partition(".")
        if top in ARVIZ and room != "diagnostics":
            found.append(f"{module}:{line} imports {name}, which belongs in diagnostics")
        if top != "pyrogen" or not room or rest == "__version__":
            continue
        other = rest.partition(".")[0]
        if other not in ROOMS:
            if room != "cli":
                found.append(f"{module}:{line} imports {name}, from the house and not from a room")
        elif ROOMS.index(other) > ROOMS.index(room):
            found.append(f"{module}:{line} imports {name}, to the right of {room}")
    return found


def modules() -> dict[str, Path]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return {".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}


@pytest.mark.parametrize("module", modules())
def test_rooms_import_leftwards_only(module):
    path = modules()[module]
    assert violations(path.read_text(), module, is_package=path.name == "__init__.py") == []


def test_the_house_has_no_other_rooms():
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there <= {*ROOMS, "__init__", "__main__"}


@pytest.mark.parametrize("module", modules())
def test_library_code_has_no_assert_which_python_optimised_would_drop(module):
    tree = ast.parse(modules()[module].read_text())
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)] == []


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from pyrogen.inference import fit", "pyrogen.models.latent.vae"),
        ("from pyrogen import inference", "pyrogen.models.latent.vae"),
        ("import pyrogen.inference.fit as f", "pyrogen.models.latent.vae"),
        ("from ...inference import fit", "pyrogen.models.latent.vae"),
        ("from ... import inference", "pyrogen.models.latent.vae"),
        ("def late():\n    from pyrogen.cli import main", "pyrogen.evaluate.league"),
        ("import importlib\nimportlib.import_module('pyrogen.models')", "pyrogen.nn.mlp"),
        ("if TYPE_CHECKING:\n    from ..models import Pair", "pyrogen.nn.mlp"),
        ("from pyrogen import fit", "pyrogen.models.latent.vae"),
        ("import pyrogen", "pyrogen.models.latent.vae"),
        ("from pyrogen import ops", "pyrogen.errors"),
        ("import arviz as az", "pyrogen.evaluate.league"),
        ("def late():\n    from arviz_stats import loo", "pyrogen.evaluate.league"),
        ("import arviz", "pyrogen"),
    ],
)
def test_the_reader_of_imports_objects_to_a_planted_violation(source, module):
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from pyrogen.ops import check_rows", "pyrogen.models.contracts"),
        ("from .contracts import Pair", "pyrogen.models.vae"),
        ("from .. import ops, errors", "pyrogen.data.fetch"),
        ("from pyrogen.models.contracts import Pair", "pyrogen.models.latent.vae"),
        ("import arviz as az", "pyrogen.diagnostics.arviz"),
        ("from pyrogen import __version__", "pyrogen.inference.fit"),
        ("import pyrogen", "pyrogen.cli"),
        ("from pyrogen.cli import main", "pyrogen.__main__"),
        ("from pyrogen.inference import fit", "pyrogen"),
        ("import pyro, torch, numpy as np", "pyrogen.ops.checks"),
    ],
)
def test_the_reader_of_imports_lets_leftward_imports_pass(source, module):
    assert violations(source, module) == []


def test_relative_imports_of_a_package_start_at_itself():
    assert imported("from .checks import f", "pyrogen.ops") == [(1, "pyrogen.ops.checks.f")]
    assert violations("from ..data import load", "pyrogen.ops", is_package=True) != []


def test_importing_pyrogen_has_no_side_effect():
    code = """
import importlib, logging, os, pickle, random, signal, socket, sys, warnings
import numpy, pyro, torch

def world():
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": str(torch.get_default_device()),
        "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "torch's random state": bytes(torch.get_rng_state().numpy()),
        "numpy's random state": pickle.dumps(numpy.random.get_state()),
        "python's random state": random.getstate(),
        "root logger": (list(logging.getLogger().handlers), logging.getLogger().level),
        "validation": torch.distributions.Distribution._validate_args,
        "parameter store": list(pyro.get_param_store()),
        "environment": dict(os.environ),
        "interrupts": signal.getsignal(signal.SIGINT),
        "warning filters": list(warnings.filters),
    }

def no_network(*args, **kwargs):
    raise RuntimeError("network at import")

before = world()
socket.socket.connect = no_network
socket.getaddrinfo = no_network
import pyrogen
for room in sys.argv[1:]:
    importlib.import_module(f"pyrogen.{room}")
after = world()
for what in before:
    if before[what] != after[what]:
        print(what)
for module in ("arviz", "arviz_base", "matplotlib.pyplot"):
    if module in sys.modules:
        print(module)
"""
    there = [room for room in ROOMS[:-2] if f"pyrogen.{room}" in modules()]
    out = subprocess.run([sys.executable, "-c", code, *there], capture_output=True, text=True, check=False)
    assert (out.returncode, out.stdout, out.stderr) == (0, "", "")
