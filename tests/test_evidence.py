"""The evidence rooms: every model has a recipe, and every recipe the JSON that it wrote."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from pyrogen.cli.kernels import KERNELS, KernelRecipe, run_check
from pyrogen.cli.recipe import Recipe, read_toml
from pyrogen.cli.run import run
from pyrogen.data import load
from pyrogen.data.torus import torus_log_prob
from pyrogen.models import MODELS

ROOT = Path(__file__).parent.parent
EVERY = sorted(p.relative_to(ROOT) for room in ("models", "inference") for p in (ROOT / room).glob("*/*.toml"))
CHECKS = [recipe for recipe in EVERY if "kernel" in read_toml(ROOT / recipe)]
RECIPES = [recipe for recipe in EVERY if recipe not in CHECKS]
PREPARED = sorted(p.relative_to(ROOT) for p in ROOT.glob("models/*/prepared/*.toml"))
ROWS = {"binarized-mnist": (784, (1, 28, 28), "binary"), "earth": (3, (1, 1, 3), "sphere")}
ROWS["digits"] = (64, (1, 8, 8), "grey17")
FLOORS = {"models/vae/binarized-mnist.toml": -90.0, "models/nade/binarized-mnist.toml": -89.0}


def result_of(recipe: Path) -> dict:
    return json.loads((ROOT / recipe).with_suffix(".json").read_text())


def test_every_model_that_recipes_can_build_has_one():
    named = {Recipe.read(ROOT / recipe).model for recipe in RECIPES}
    assert named == set(MODELS)


@pytest.mark.parametrize("recipe", EVERY, ids=str)
def test_a_recipe_has_a_card_that_names_it_and_its_json(recipe):
    card = (ROOT / recipe).with_name("card.md").read_text()
    assert f"`{recipe.name}`" in card and f"`{recipe.stem}.json`" in card


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_the_json_was_written_by_the_recipe_as_it_stands(recipe):
    result = result_of(recipe)
    assert result["settings"] == json.loads(json.dumps(Recipe.read(ROOT / recipe).tables()))
    number = result["log_likelihood"]
    assert {"kind", "method", "mean", "stderr", "mc_stderr", "n"} <= set(number)
    assert {"model", "data", "seed", "settings", "versions", "data_sha256", "seconds"} <= set(result)


def test_every_kernel_is_checked():
    assert {KernelRecipe.read(ROOT / recipe).kernel for recipe in CHECKS} == set(KERNELS)


@pytest.mark.parametrize("recipe", CHECKS, ids=str)
def test_the_check_of_a_kernel_was_written_by_its_recipe_and_passed(recipe):
    result = result_of(recipe)
    assert result["settings"] == json.loads(json.dumps(KernelRecipe.read(ROOT / recipe).tables()))
    check = result["check"]
    assert check["passed"] and check["largest_z"] <= check["allowed_z"] and check["r_hat"] < 1.01
    assert check["means"] > 60 and check["n_eff"] > 10_000
    assert check.get("report", {}).get("round_trips_per_draw", 1.0) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("recipe", CHECKS, ids=str)
def test_the_check_of_a_kernel_repeats(recipe, tmp_path):
    again = run_check(KernelRecipe.read(ROOT / recipe), tmp_path / "again", device="cpu")
    measured = result_of(recipe)["check"]
    # other processors round otherwise, which the training of the machine hardly and the chains wholly amplify
    assert again.passed and again.energy_exact == pytest.approx(measured["energy_exact"], abs=0.2)
    assert again.n_eff == pytest.approx(measured["n_eff"], rel=0.2)


@pytest.mark.parametrize(("recipe", "floor"), FLOORS.items())
def test_the_number_is_above_its_floor(recipe, floor):
    result = result_of(Path(recipe))
    assert result["log_likelihood"]["interval"][0] > floor
    number = result["log_likelihood"]
    assert (number["kind"] == "exact" or number["particles"] >= 500) and result["split"] == "test"


@pytest.mark.parametrize("recipe", PREPARED, ids=str)
def test_a_prepared_recipe_builds_and_its_card_says_that_it_was_not_run(recipe):
    prepared = Recipe.read(ROOT / recipe)
    assert prepared.evaluate.split == "test"
    assert prepared.model == recipe.parts[1]
    width, shape, support = ROWS[prepared.data]
    assert MODELS[prepared.model].build(width, shape, support, **prepared.settings).width == width
    card = (ROOT / recipe).parent.with_name("card.md").read_text()
    assert f"| `prepared/{recipe.name}` |" in card and "| not run yet |" in card
    assert not (ROOT / recipe).with_suffix(".json").exists(), "it was run: move it up, beside its number"


def _paced(recipe: Path):
    """Slow, or nightly where the run took more than a minute."""
    pace = pytest.mark.slow if result_of(recipe)["seconds"] < 60 else pytest.mark.nightly
    return pytest.param(recipe, marks=pace)


@pytest.mark.parametrize("recipe", [_paced(r) for r in RECIPES if r.stem == "digits"], ids=str)
def test_the_digits_recipes_repeat_their_number(recipe, tmp_path):
    measured = result_of(recipe)["log_likelihood"]
    again = run(Recipe.read(ROOT / recipe), tmp_path / "again", quiet=True).result["log_likelihood"]
    # other processors round otherwise and training amplifies it; the same one gives the same bits
    assert again["mean"] == pytest.approx(measured["mean"], abs=0.2)


def test_a_torus_flow_is_close_to_the_law_that_it_was_trained_on():
    result = result_of(Path("models/torus-flow/multimodal.toml"))
    best = float(torus_log_prob(load("torus")["test"].double()).mean())
    # over the same rows, so what is left of the noise is that of the difference
    assert 0 < best - result["log_likelihood"]["mean"] < 0.01


@pytest.mark.parametrize("recipe", [r for r in RECIPES if r.parent.name == "sphere-flow"], ids=str)
def test_densities_on_the_globe_gain_more_than_a_nat_over_the_uniform_law(recipe):
    assert result_of(recipe)["log_likelihood"]["interval"][0] > 1 - math.log(4 * math.pi)


def posteriors_found() -> dict:
    return json.loads((ROOT / "inference/flow-guide/posteriors.json").read_text())["posteriors"]


@pytest.mark.parametrize("name", posteriors_found())
def test_a_posterior_by_a_flow_guide_has_the_means_of_the_reference_and_weights_to_trust(name):
    found = posteriors_found()[name]
    assert found["khat"] <= 0.7 and found["largest_z"] <= 4
    assert found["settings"]["draws"] >= 20_000
    if "log_z_known" in found:
        assert abs(found["log_z_error"]) <= 5 * found["log_z_stderr"] < 0.25
