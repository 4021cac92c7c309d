"""The command line on Boltzmann machines: draws by a kernel of one's choice, and what annealing leaves."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from pyrogen.cli import app
from pyrogen.cli.recipe import Recipe
from pyrogen.cli.run import run
from pyrogen.cli.saved import Saved
from pyrogen.errors import SettingsError
from pyrogen.evaluate.kernels import exact_moments

TABLES = {
    "model": {"name": "rbm", "hidden": 3},
    "data": {"name": "digits", "binarize": True},
    "fit": {"epochs": 5, "batch_size": 500},
    "evaluate": {"method": "bracket", "chains": 20, "steps": 10},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("machines") / "rbm"
    run(Recipe.of(TABLES, "rbm"), path, quiet=True, device="cpu")
    return path


def here(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def arrays(path):
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize("kernel", ["block-gibbs", "parallel-tempering"])
def test_draws_by_a_kernel_have_the_machines_means(kernel, folder, tmp_path):
    """64 means of x, and of E[x | h], from 1500 chains: |z| < 6, 2e-7 for both."""
    out = tmp_path / "draws.npz"
    done = here("sample", folder, "--kernel", kernel, "--sweeps", 60, "-n", 1500, "--out", out, "--device", "cpu")
    assert done.exit_code == 0, done.output
    exact = exact_moments(Saved.open(folder, "cpu").model.machine().detached()).v.double().numpy()
    drawn = arrays(out)
    assert drawn["x"].shape == drawn["mean"].shape == (1500, 64) and set(np.unique(drawn["x"])) == {0, 1}
    scale = np.sqrt(exact * (1 - exact) / 1500)
    assert np.abs((drawn["x"].mean(0) - exact) / scale).max() < 6
    assert np.abs((drawn["mean"].mean(0) - exact) / scale).max() < 6


def test_the_same_seed_draws_the_same_by_a_kernel(folder, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        done = here(
            "sample", folder, "--kernel", "block-gibbs", "--seed", seed, "-n", 9, "-o", tmp_path / f"{name}.npz"
        )
        assert done.exit_code == 0, done.output
    a, b, c = (arrays(tmp_path / f"{name}.npz")["x"] for name in "abc")
    assert (a == b).all() and (a != c).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--kernel", "gibs"), "'block-gibbs'"),
        (("--sweeps", 5), "--kernel block-gibbs"),
    ],
)
def test_a_kernel_that_cannot_be_is_refused_in_words(options, words, folder, tmp_path):
    done = here("sample", folder, *options, "--out", tmp_path / "x.npz")
    assert done.exit_code == 2 and words in done.output and not (tmp_path / "x.npz").exists()


def test_annealing_is_repeated_with_other_steps_and_chains(folder):
    def measured(*options):
        done = here("evaluate", folder, "--json", *options)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    more = measured("--steps", 300, "--chains", 30)
    below = more["log_z"]["below"]
    assert (below["steps"], below["chains"]) == (300, 30)
    assert more["log_z"]["width"] < measured()["log_z"]["width"]


def test_a_model_without_a_machine_has_no_kernel(tmp_path):
    tables = {"model": {"name": "vae", "latent": 2, "hidden": [5]}, "data": TABLES["data"], "fit": {"epochs": 1}}
    run(Recipe.of(tables | {"evaluate": {"particles": 2}}, "vae"), tmp_path / "vae", quiet=True, device="cpu")
    done = here("sample", tmp_path / "vae", "--kernel", "block-gibbs")
    assert done.exit_code == 2 and "an undirected model" in " ".join(done.output.split())
    done = here("evaluate", tmp_path / "vae", "--steps", 5)
    assert done.exit_code == 2 and "an undirected model" in " ".join(done.output.split())


def test_annealing_leaves_a_picture_of_its_weights(folder):
    assert (folder / "annealing.png").read_bytes().startswith(b"\x89PNG")
    assert "annealing.png" in Saved.open(folder, "cpu").result["files"]
    assert here("check", folder).exit_code == 0


@pytest.mark.filterwarnings("error::UserWarning")
def test_posterior_draws_without_a_known_log_z_are_not_made_in_plain_words(tmp_path):
    tables = TABLES | {"model": {"name": "rbm", "hidden": 40}, "fit": {"epochs": 1, "batch_size": 500}}
    outcome = run(Recipe.of(tables, "rbm"), tmp_path / "rbm", quiet=True, device="cpu")
    assert outcome.not_made["posterior.nc"] == "the density of a draw needs log Z, which is only estimated"
    assert outcome.result["best_valid"] is None  # the best of estimates is the luckiest


def test_scores_that_are_exact_have_a_best(folder):
    assert Saved.open(folder, "cpu").result["best_valid"] is not None


@pytest.mark.parametrize(
    ("model", "evaluate", "words"),
    [
        ({"name": "rbm", "hidden": 64}, {"method": "exact"}, "joint states"),
        ({"name": "rbm"}, {"method": "ais", "steps": 2}, "at least three"),
        ({"name": "dbm"}, {"method": "raise"}, "'raise' for a DBM"),
        ({"name": "dbn"}, {"method": "iwae", "steps": 1}, "at least three"),
    ],
)
def test_what_could_not_be_measured_is_refused_before_training(model, evaluate, words, tmp_path):
    tables = TABLES | {"model": model, "evaluate": evaluate}
    with pytest.raises(SettingsError, match=words):
        run(Recipe.of(tables, "r.toml"), tmp_path / "run", quiet=True, device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_a_run_that_is_killed_while_drawing_goes_on(flag, tmp_path, monkeypatch, folder):
    (tmp_path / "r.toml").write_text((folder / "recipe.toml").read_text())
    args = ("run", tmp_path / "r.toml", "--out", tmp_path / "out", "--device", "cpu", "-q")

    def killed(*args):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("pyrogen.cli.run._posterior", killed)  # when the pictures are there
        assert here(*args).exception.args == ("killed",)
    assert (tmp_path / "out" / "chains.png").is_file() and here("check", tmp_path / "out").exit_code == 0
    assert here(*args, flag).exit_code == 0
    found = Saved.open(tmp_path / "out", "cpu").result
    assert (
        found["files"] == Saved.open(folder, "cpu").result["files"] and here("check", tmp_path / "out").exit_code == 0
    )


def test_settings_of_annealing_are_refused_where_log_z_is_summed(tmp_path):
    run(Recipe.of(TABLES | {"evaluate": {"method": "exact"}}, "r"), tmp_path / "run", quiet=True, device="cpu")
    for option in ("--steps", "--chains"):
        done = here("evaluate", tmp_path / "run", option, 9)
        assert done.exit_code == 2 and "--method bracket" in " ".join(done.output.split())
    assert here("evaluate", tmp_path / "run", "--method", "bracket", "--steps", 9).exit_code == 0
