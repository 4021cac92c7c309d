import copy
import math
import tomllib
from typing import get_args

import pytest
import torch

from pyrogen.cli import toml
from pyrogen.cli.build import build_model, check_data, load_data, objective, optimizer, schedule
from pyrogen.cli.recipe import Recipe
from pyrogen.cli.tables import EvaluateTable, FitTable, ObjectiveTable
from pyrogen.data import load
from pyrogen.errors import DataError, PyrogenError, RecipeError, SupportError
from pyrogen.inference import ELBO, IWAE, Cosine, Warmup
from pyrogen.inference.compiling import Compile
from pyrogen.ops.precision import Precision

LEAST = {"model": {"name": "vae"}, "data": {"name": "digits"}}


def changed(**tables):
    """The smallest recipe with other or further keys in its tables."""
    out = copy.deepcopy(LEAST)
    for name, table in tables.items():
        out[name] = out.get(name, {}) | table if isinstance(table, dict) else table
    return out


def test_a_recipe_of_two_names_is_complete():
    recipe = Recipe.of(LEAST, "r.toml")
    assert recipe.fit == FitTable()
    assert recipe.objective == ObjectiveTable(name="elbo", particles=1)
    assert recipe.evaluate == EvaluateTable(method="iwae")
    assert recipe.seed == 0


def test_an_undirected_model_is_trained_and_measured_in_its_own_way():
    recipe = Recipe.of(changed(model={"name": "rbm"}), "r")
    assert recipe.objective.name == "likelihood" and recipe.evaluate.method == "auto"
    assert recipe.fit.learning_rate == 0.01 and recipe.fit.epochs == 300
    assert Recipe.of(changed(model={"name": "rbm"}, fit={"epochs": 7}), "r").fit.epochs == 7
    assert Recipe.of(recipe.tables(), "r") == recipe


def test_what_depends_on_other_keys_is_filled_in():
    assert Recipe.of(changed(objective={"name": "iwae"}), "r").objective.particles == 5
    assert Recipe.of(changed(model={"name": "ppca"}), "r").evaluate.method == "exact"


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({}, ["no name in [model] of r.toml", "ppca, ", "vae"]),
        ({"model": {"name": "vae"}}, ["no name in [data] of r.toml", "digits"]),
        (changed(model="vae"), ["model = 'vae'", "a table [model]"]),
        (changed(fit=3), ["fit = 3", "a table [fit]"]),
        (changed(modle={}), ["unknown key 'modle' in r.toml", "try 'model'"]),
        (changed(epochs=3), ["unknown key 'epochs' in r.toml", "moving it to [fit]"]),
        (changed(fit={"epocs": 3}), ["unknown key 'epocs' in [fit] of r.toml", "try 'epochs'"]),
        (changed(fit={"batchsize": 3}), ["try 'batch_size'"]),
        (changed(fit={"particles": 3}), ["moving it to [objective]"]),
        (changed(objective={"free-bits": 3}), ["try 'free_bits'"]),
        (changed(evaluate={"partition": "x"}), ["unknown key 'partition' in [evaluate]"]),
        (changed(model={"name": "vea"}), ["unknown model 'vea'", "try 'vae'"]),
        (changed(model={"name": 3}), ["unknown model 3"]),
        (changed(model={"name": ["vae"]}), ["unknown model"]),
        (changed(model={"name": "TwoLayerVAE"}), ["vae-two-layer"]),
        (changed(model={"latent": {"a": 1}}), ["latent = {'a': 1} in [model]", "a number"]),
        (changed(model={"latent": math.nan}), ["latent = nan"]),
        (changed(model={"hidden": [[1]]}), ["hidden = [[1]]"]),
        (changed(data={"name": "binarised-mnist"}), ["unknown data 'binarised-mnist'", "try 'binarized-mnist'"]),
        (changed(data={"root": 3}), ["root = 3", "a folder"]),
        (changed(objective={"name": "elob"}), ["name = 'elob' in [objective]", 'try name = "elbo"']),
        (changed(objective={"particles": 0}), ["particles = 0", "at least 1"]),
        (changed(objective={"particles": 10**6}), ["at most 100000"]),
        (changed(objective={"warmup": -1}), ["warmup = -1", "at least 0"]),
        (changed(objective={"free_bits": -0.5}), ["free_bits = -0.5", "at least 0"]),
        (changed(objective={"gradient": "dreg"}), ['gradient = "dreg" for elbo', "auto or stl"]),
        (changed(objective={"name": "iwae", "gradient": "stl"}), ["auto or dreg"]),
        (changed(objective={"name": "iwae", "free_bits": 0.1}), ["free_bits for iwae"]),
        (changed(fit={"epochs": 3.0}), ["epochs = 3.0", "a whole number"]),
        (changed(fit={"epochs": True}), ["epochs = True", "a whole number"]),
        (changed(fit={"epochs": "3"}), ["epochs = '3'", "a whole number"]),
        (changed(fit={"batch_size": 0}), ["batch_size = 0"]),
        (changed(fit={"learning_rate": 0}), ["learning_rate = 0", "above 0", "try learning_rate = 0.001"]),
        (changed(fit={"learning_rate": math.inf}), ["learning_rate = inf"]),
        (changed(fit={"learning_rate": math.nan}), ["learning_rate = nan"]),
        (changed(fit={"schedule": "cosin"}), ['try schedule = "cosine"']),
        (changed(fit={"schedule": "cosine", "hold": 1.0}), ["hold = 1.0", "below 1"]),
        (changed(fit={"hold": 0.5}), ["hold without a cosine"]),
        (changed(fit={"clip": 0}), ["clip = 0", "above 0"]),
        (changed(fit={"average": 1}), ["average = 1", "below 1", "0.5"]),
        (changed(fit={"patience": 0}), ["patience = 0"]),
        (changed(fit={"compile": "cuda graph"}), ["one of auto, cudagraph", 'try compile = "cudagraph"']),
        (changed(fit={"precision": "float16"}), ['try precision = "bfloat16"']),
        (changed(evaluate={"method": "anneal"}), ["method = 'anneal'"]),
        (changed(evaluate={"method": "ais"}), ['method = "ais" for vae', "undirected"]),
        (changed(evaluate={"chains": 5}), ["steps or chains in [evaluate] for vae"]),
        (changed(objective={"name": "likelihood"}), ['name = "likelihood" for vae', "undirected", 'name = "elbo"']),
        (changed(model={"name": "rbm"}, objective={"warmup": 5}), ["warmup or particles for likelihood"]),
        (changed(evaluate={"method": "exact"}), ['method = "exact" for vae', "exact log p(x)"]),
        (changed(model={"name": "rbm"}, evaluate={"method": "iwae"}), ['method = "iwae" for rbm', "auto"]),
        (changed(model={"name": "rbm", "centred": "no"}), ["centred = 'no'", "true or false"]),
        (changed(model={"name": "dbm", "centred": 7}), ["centred = 7", "true or false"]),
        (changed(evaluate={"particles": 0}), ["particles = 0"]),
        (changed(evaluate={"split": 3}), ["split = 3", "a word"]),
        (changed(seed=-1), ["seed = -1", "at least 0"]),
        (changed(seed=2**32), ["at most 4294967295"]),
        (changed(seed=0.5), ["seed = 0.5"]),
    ],
    ids=str,
)
def test_a_mistake_is_named_with_its_place_and_a_remedy(tables, words):
    with pytest.raises(RecipeError) as caught:
        Recipe.of(tables, "r.toml")
    for word in [*words, "r.toml"]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"a = 1\nb = =", "line 2"),
        (b"\xff", "not TOML"),
        (b"a = 1\na = 2", "not TOML"),
        (b"x = " + b"[" * 5000, "not TOML"),
    ],
    ids=["unfinished", "bytes", "twice", "deep"],
)
def test_a_file_that_is_not_toml_is_named(content, word, tmp_path):
    (tmp_path / "r.toml").write_bytes(content)
    with pytest.raises(RecipeError, match=word) as caught:
        Recipe.read(tmp_path / "r.toml")
    assert str(tmp_path / "r.toml") in str(caught.value)


def test_a_recipe_that_is_not_there_is_named(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(RecipeError, match="cannot be read"):
            Recipe.read(path)


def test_a_recipe_written_and_read_is_the_same(tmp_path):
    tables = changed(
        model={"latent": 3, "hidden": [5, 6], "likelihood": "bernoulli"},
        data={"binarize": True},
        objective={"name": "iwae", "particles": 3, "gradient": "dreg", "warmup": 10},
        fit={"schedule": "cosine", "hold": 0.25, "clip": 1, "average": 0.9, "patience": 3, "compile": "graph"},
        seed=7,
    )
    recipe = Recipe.of(tables, "r")
    (tmp_path / "r.toml").write_text(toml.dumps(recipe.tables()), encoding="utf-8")
    assert Recipe.read(tmp_path / "r.toml") == recipe


def test_how_it_is_computed_is_a_key_and_written_only_where_it_was_asked_for():
    """Results from before there were these keys have settings without them."""
    modes, precisions = (FitTable.__dataclass_fields__[key].metadata["choices"] for key in ("compile", "precision"))
    assert modes == get_args(Compile) and precisions == get_args(Precision)
    plain, asked = (Recipe.of(changed(fit=table), "r") for table in ({}, {"compile": "auto", "precision": "tf32"}))
    assert plain == Recipe.of(changed(fit={"compile": "eager", "precision": "float32"}), "r")
    assert plain.tables()["fit"] | {"compile": "auto", "precision": "tf32"} == asked.tables()["fit"]
    assert not {"compile", "precision"} & plain.tables()["fit"].keys()


def test_a_recipe_may_ask_for_stochastic_gradient_descent():
    plain, asked = (Recipe.of(changed(fit=table), "r") for table in ({}, {"optimizer": "sgd", "learning_rate": 0.5}))
    assert optimizer(plain) is None and "optimizer" not in plain.tables()["fit"]
    assert asked.tables()["fit"]["optimizer"] == "sgd"
    weight = torch.ones(2, requires_grad=True)
    weight.grad = torch.tensor([1.0, -2.0])
    optimizer(asked)([weight]).step()
    assert weight.tolist() == [0.5, 2.0]


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_recipe_may_ask_for_few_weights(name):
    recipe = Recipe.of(changed(fit={"optimizer": name, "learning_rate": 0.5, "lasso": 2.0}), "r")
    assert Recipe.of(recipe.tables(), "r") == recipe and recipe.tables()["fit"]["lasso"] == 2.0
    weight = torch.tensor([[3.0, 0.25]], requires_grad=True)
    weight.grad = torch.ones(1, 2)
    optimizer(recipe)([weight]).step()
    # the first step of both is 0.5 here, and then the cost takes 0.5 * 2
    torch.testing.assert_close(weight.detach(), torch.tensor([[1.5, 0.0]]))


@pytest.mark.parametrize(
    "value",
    [
        True,
        0,
        -(2**63),
        -0.0,
        5e-324,
        1e300,
        math.inf,
        "",
        'a "quoted" \\ word\nand\ttabs',
        "\x00\x1f\x7f\x80\u2028",
        "\U0001f600 \u00e9",
        [],
        [1, 2],
        ["a", "]"],
    ],
    ids=repr,
)
@pytest.mark.parametrize("key", ["plain-key_1", "with.dot", "", 'a "b"', "\x7f\n", "\u00e9"], ids=repr)
def test_what_is_written_as_toml_is_read_as_it_was(key, value):
    tables = {key: value, "table": {key: value}, f"{key}.": {key: value}}
    assert tomllib.loads(toml.dumps(tables)) == tables


def build(**tables):
    recipe = Recipe.of(changed(**tables), "r.toml")
    data = load_data(recipe, "r.toml")
    return build_model(recipe, data.width, data.shape, data.support, "r.toml"), data


@pytest.mark.parametrize(
    ("tables", "word"),
    [
        ({"model": {"latnet": 8}}, "try 'latent'"),
        ({"model": {"latent": "8"}}, "latent"),
        ({"model": {"latent": -8}}, "positive"),
        ({"model": {"latent": 2.5}}, "2.5"),
        ({"model": {"hidden": 200}}, "hidden"),
        ({"model": {"hidden": ["a"]}}, "hidden"),
        ({"model": {"hidden": [0]}}, "positive"),
        ({"model": {"likelihood": "bernouli"}}, "bernoulli"),
        ({"model": {"network": "conv", "channels": []}}, "channels"),
        ({"model": {"name": "ppca", "hidden": [3]}}, "try 'latent'"),
        ({"data": {"binarise": True}}, "try 'binarize'"),
        ({"data": {"binarize": 1}}, "True or False"),
    ],
    ids=str,
)
def test_settings_of_model_and_data_are_checked_before_training(tables, word):
    with pytest.raises(RecipeError) as caught:
        build(**tables)
    assert word in str(caught.value)
    assert "r.toml" in str(caught.value)


def test_a_split_that_is_not_there_is_an_error_before_training():
    with pytest.raises(DataError, match="train, valid, test"):
        build(evaluate={"split": "holdout"})


def test_grey_pixels_for_bits_are_an_error_that_names_the_data_and_the_key():
    model, data = build(model={"likelihood": "bernoulli"}, data={"binarize": False})
    with pytest.raises(SupportError, match=r"digits, split train: .*binarize = true in \[data\]"):
        check_data(model, data, ["train"])


def test_a_model_of_another_width_is_an_error_too():
    recipe = Recipe.of(LEAST, "r")
    model = build_model(recipe, 784, (1, 28, 28), "binary", "r")
    with pytest.raises(PyrogenError, match="784"):
        check_data(model, load("digits"), ["train"])


def test_the_same_seed_builds_the_same_model_and_leaves_the_global_state():
    import torch

    before = torch.get_rng_state()
    one, two, other = (build(seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    first = [next(model.parameters()) for model in (one, two, other)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({}, ELBO()),
        ({"warmup": 5, "free_bits": 0.5, "particles": 2}, ELBO(2, Warmup(5), 0.5)),
        ({"gradient": "stl"}, ELBO(gradient="stl")),
        ({"name": "iwae", "gradient": "dreg", "warmup": 3}, IWAE(5, Warmup(3), "dreg")),
    ],
    ids=str,
)
def test_the_objective_table_is_the_objective(table, expected):
    assert objective(Recipe.of(changed(objective=table), "r")) == expected


def test_the_cosine_ends_with_the_last_step():
    recipe = Recipe.of(changed(fit={"schedule": "cosine", "epochs": 10, "batch_size": 100, "hold": 0.5}), "r")
    assert schedule(recipe, 1201) == Cosine(130, hold=0.5)
    assert schedule(Recipe.of(LEAST, "r"), 1201) is None
