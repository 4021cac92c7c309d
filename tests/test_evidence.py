"""The evidence rooms: every model has a recipe, and every recipe the JSON that it wrote."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from pyrogen.cli.recipe import Recipe
from pyrogen.cli.run import run
from pyrogen.data import load
from pyrogen.data.torus import torus_log_prob
from pyrogen.models import MODELS

ROOT = Path(__file__).parent.parent
RECIPES = sorted(p.relative_to(ROOT) for room in ("models", "inference") for p in (ROOT / room).glob("*/*.toml"))
FLOORS = {"models/vae/binarized-mnist.toml": -90.0}


def result_of(recipe: Path) -> dict:
    return json.loads((ROOT / recipe).with_suffix(".json").read_text())


def test_every_model_that_recipes_can_build_has_one():
    named = {Recipe.read(ROOT / recipe).model for recipe in RECIPES}
    assert named == set(MODELS)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
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


@pytest.mark.parametrize(("recipe", "floor"), FLOORS.items())
def test_the_number_is_above_its_floor(recipe, floor):
    result = result_of(Path(recipe))
    assert result["log_likelihood"]["interval"][0] > floor
    assert result["log_likelihood"]["particles"] >= 500 and result["split"] == "test"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [r for r in RECIPES if r.stem == "digits"], ids=str)
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
