"""The evidence rooms: every model has a recipe, and every recipe the JSON that it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyrogen.cli.recipe import Recipe
from pyrogen.cli.run import run
from pyrogen.models import MODELS

ROOT = Path(__file__).parent.parent
ALL = sorted(p.relative_to(ROOT) for room in ("models", "inference") for p in (ROOT / room).glob("*/*.toml"))
PREPARED = {Path(f"models/vae-planar/binarized-mnist-k{k}.toml") for k in (0, 10, 20, 40, 80)}
"""Recipes that nobody has run yet. One that has its JSON leaves this list."""
FLOORS = {"models/vae/binarized-mnist.toml": -90.0}


RECIPES = [recipe for recipe in ALL if recipe not in PREPARED]


def test_prepared_recipes_can_be_read_and_their_card_says_that_they_have_no_number():
    for recipe in PREPARED:
        assert (
            Recipe.read(ROOT / recipe).model and f"`{recipe.name}`" in (ROOT / recipe).with_name("card.md").read_text()
        )
        assert not (ROOT / recipe).with_suffix(".json").exists()
        assert "not been run" in (ROOT / recipe).with_name("card.md").read_text()


def result_of(recipe: Path) -> dict:
    return json.loads((ROOT / recipe).with_suffix(".json").read_text())


def test_every_model_that_recipes_can_build_has_one():
    named = {Recipe.read(ROOT / recipe).model for recipe in ALL}
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
