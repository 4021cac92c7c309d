"""A deep model's layers are trained first, in the recipe's way, and what they learned is not lost."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from pyrogen.cli import app

RECIPE = """
seed = 3
[model]
name = "dbn"
hidden = [6, 5]
[data]
name = "digits"
[fit]
greedy = 2
epochs = 1
optimizer = "sgd"
learning_rate = 0.05
[evaluate]
method = "iwae"
particles = 5
"""


def here(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A run that ended between the pre-training of the layers and the training of all."""
    (tmp_path / "small.toml").write_text(RECIPE)

    def killed(*args, **settings):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("pyrogen.cli.run.train", killed)
        assert here("run", tmp_path / "small.toml", "--out", tmp_path / "out").exception.args == ("killed",)
    return tmp_path / "out"


def weights(folder):
    return json.loads((folder / "result.json").read_text())["weights_sha256"]


def test_layers_are_trained_by_the_optimizer_of_the_recipe(stopped):
    for part in ("part-0", "part-1"):
        assert "SGD" in json.dumps(json.loads((stopped / "pretraining" / part / "config.json").read_text()))


def test_a_run_goes_on_with_the_layers_that_it_has(stopped, tmp_path, monkeypatch):
    refused = here("run", tmp_path / "small.toml", "--out", stopped)
    assert refused.exit_code == 1 and "--resume" in refused.stderr
    steps = []
    monkeypatch.setattr("pyrogen.inference.training.Training.gradient", _counted(steps))
    resumed = here("run", tmp_path / "small.toml", "--out", stopped, "--resume", "-q")
    assert resumed.exit_code == 0, resumed.stderr
    part = len(steps)
    assert here("run", tmp_path / "small.toml", "--out", tmp_path / "whole", "-q").exit_code == 0
    assert len(steps) - part == 5 * part  # two layers of two epochs, and one of all
    assert weights(stopped) == weights(tmp_path / "whole")
    assert not (stopped / "pretraining").exists()


def test_overwriting_forgets_the_layers(stopped, tmp_path):
    (tmp_path / "small.toml").write_text(RECIPE.replace("0.05", "0.02"))
    assert here("run", tmp_path / "small.toml", "--out", stopped, "--resume").exit_code == 1
    assert here("run", tmp_path / "small.toml", "--out", stopped, "--overwrite", "-q").exit_code == 0
    assert here("run", tmp_path / "small.toml", "--out", tmp_path / "whole", "-q").exit_code == 0
    assert weights(stopped) == weights(tmp_path / "whole")


def _counted(steps):
    from pyrogen.inference.training import Training

    plain = Training.gradient

    def gradient(self, x):
        steps.append(len(x))
        return plain(self, x)

    return gradient
