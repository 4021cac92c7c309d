"""The recipe that checks a kernel, and its command."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from pyrogen.cli import toml
from pyrogen.cli.commands import app
from pyrogen.cli.kernels import KernelRecipe, run_check
from pyrogen.errors import OutputError, RecipeError
from tests.machines import machine

SMALL = {
    "machine": {"hidden": 3, "steps": 5},
    "kernel": {"name": "block-gibbs"},
    "chains": {"chains": 100, "draws": 20, "warmup_steps": 20},
}


def test_a_recipe_and_its_tables_are_the_same():
    recipe = KernelRecipe.of(SMALL, "here")
    assert KernelRecipe.of(recipe.tables(), "there") == recipe
    assert recipe.tables()["machine"] == {"hidden": 3, "steps": 5, "learning_rate": 0.03} and recipe.data == "digits"


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"kernal": {}}, "'kernal'.*'kernel'"),
        ({"kernel": {"name": "gibs"}}, "kernel 'gibs'"),
        ({"kernel": {}}, "kernel None"),
        ({"machine": {"hiden": 3}}, "'hiden'.*'hidden'"),
        ({"machine": {"hidden": 3.5}}, "hidden = 3.5"),
        ({"chains": {"draws": 0}}, "draws = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"kernel": 3}, r"kernel = 3 .*\[kernel\]"),
        ({"kernel": {"name": ["a"]}}, "kernel \\['a'\\]"),
        ({"machine": {"learning_rate": float("nan")}}, "learning_rate = nan"),
    ],
)
def test_what_no_recipe_can_have_is_said_in_words(tables, words):
    with pytest.raises(RecipeError, match=words) as told:
        KernelRecipe.of(SMALL | tables, "my.toml")
    assert "my.toml" in str(told.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"sweeps": 0}, "sweeps=0"), ({"rungs": 3}, "rungs"), ({"clamp": "a"}, "clamp"), ({"base": [0.0]}, "base")],
)
def test_settings_that_a_kernel_does_not_have_are_refused_before_any_work(settings, words, tmp_path):
    recipe = KernelRecipe.of(SMALL | {"kernel": {"name": "block-gibbs"} | settings}, "here")
    with pytest.raises(RecipeError, match=words):
        run_check(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_check_writes_its_result_and_does_not_write_over_another(tmp_path):
    recipe, out = KernelRecipe.of(SMALL, "here"), tmp_path / "out"
    check = run_check(recipe, out, device="cpu")
    result = json.loads((out / "result.json").read_text())
    assert check.passed and result["check"]["largest_z"] == check.largest_z
    assert result["settings"] == recipe.tables() == KernelRecipe.read(out / "recipe.toml").tables()
    assert {"versions", "data_sha256", "seconds", "device", "threads"} <= set(result)
    with pytest.raises(OutputError, match=r"result\.json"):
        run_check(recipe, out)
    again = run_check(recipe, out, overwrite=True, device="cpu")
    assert (again.largest_z, again.energy) == (check.largest_z, check.energy)


def test_tempering_starts_at_the_rates_of_the_data(tmp_path):
    tables = SMALL | {"kernel": {"name": "parallel-tempering", "rungs": 3}}
    check = run_check(KernelRecipe.of(tables, "here"), tmp_path / "out", device="cpu")
    assert check.passed and len(check.report["betas"]) == 3
    # after so few steps the machine is nearly its base: nothing is rejected
    assert min(check.report["swap_rates"]) > 0.8
    assert (tmp_path / "out" / "ladder.png").read_bytes().startswith(b"\x89PNG")
    run_check(KernelRecipe.of(tables, "here"), tmp_path / "out", device="cpu", overwrite=True)


def test_the_command_runs_it_and_fails_where_the_kernel_does(tmp_path, monkeypatch):
    path = tmp_path / "small.toml"
    path.write_text(toml.dumps(SMALL))
    done = CliRunner().invoke(app, ["run", str(path), "--out", str(tmp_path / "a"), "--device", "cpu"])
    assert done.exit_code == 0 and "agrees with the exact means" in done.stdout
    assert f"In {tmp_path / 'a'}: result.json, recipe.toml\n" in done.stdout
    checked = CliRunner().invoke(app, ["check", str(tmp_path / "a")])
    assert checked.exit_code == 0 and "bad" not in checked.output
    drawn = CliRunner().invoke(app, ["sample", str(tmp_path / "a")])
    assert drawn.exit_code == 1 and "where a kernel was checked" in " ".join(drawn.output.split())
    resumed = CliRunner().invoke(app, ["run", str(path), "--out", str(tmp_path / "a"), "--resume"])
    assert resumed.exit_code == 2 and "--overwrite" in resumed.output
    other = machine(64, 3)
    monkeypatch.setattr("pyrogen.evaluate.kernels.exact_moments", lambda m: true_moments(other))
    wrong = CliRunner().invoke(app, ["run", str(path), "--out", str(tmp_path / "b"), "--device", "cpu"])
    assert wrong.exit_code == 1 and "differs from the exact means" in wrong.stdout


def true_moments(m):
    from pyrogen.evaluate.kernels import Moments

    p = m.W.new_full((m.visible.n,), 0.5)
    return Moments(p, p[: m.hidden.n], p[0])
