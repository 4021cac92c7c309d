import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tomllib

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pyrogen import __version__
from pyrogen.cli import app
from pyrogen.cli.folder import FILES
from pyrogen.cli.recipe import Recipe
from pyrogen.cli.report import report
from pyrogen.cli.run import run
from pyrogen.models import MODELS

RECIPE = """
seed = 3
[model]
name = "vae"
latent = 3
hidden = [20]
[data]
name = "digits"
[fit]
epochs = 2
learning_rate = 0.005
[evaluate]
particles = 20
"""


def pyrogen(*args, **settings):
    """The command line in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, "-m", "pyrogen", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=120,
        **settings,
    )


def here(*args, **settings):
    """The command line in this process."""
    return CliRunner().invoke(app, [str(arg) for arg in args], **settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """What `pyrogen run` printed, and the folder that it left."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "small.toml").write_text(RECIPE)
    done = pyrogen("run", "small.toml", "--out", "made/small", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done, folder / "made" / "small"


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def test_a_run_leaves_every_file_and_says_so(finished):
    done, folder = finished
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    for name in FILES:
        assert name in done.stdout
    for picture in folder.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
    history = json.loads((folder / "history.json").read_text())
    assert len(history["train"]) == len(history["valid"]) == 2


def test_a_result_holds_what_is_needed_to_believe_and_repeat_it(finished):
    result = result_of(finished[1])
    assert (result["model"], result["data"], result["seed"]) == ("vae", "digits", 3)
    number = result["log_likelihood"]
    assert (number["kind"], number["method"], number["n"], number["particles"]) == ("lower bound", "iwae", 397, 20)
    assert -64 * math.log(2) < number["mean"] < -10  # better than a coin for each pixel
    assert 0 < number["mc_stderr"] < number["stderr"] < 1
    assert set(result["versions"]) >= {"python", "torch", "pyro", "pyrogen", "numpy"}
    assert result["versions"]["pyrogen"] == __version__
    assert len(result["data_sha256"]) == len(result["weights_sha256"]) == 64
    assert result["seconds"] > result["fit_seconds"] > 0
    assert result["parameters"] == (64 * 20 + 20) + (20 * 6 + 6) + (3 * 20 + 20) + (20 * 64 + 64)
    assert result["settings"]["fit"] == {
        "epochs": 2,
        "batch_size": 100,
        "learning_rate": 0.005,
        "schedule": "constant",
        "hold": 0.0,
    }
    assert result["last"]["step"] == 24
    assert result["latent"]["sites"]["z"]["units"] == 3
    assert 0 <= result["khat"]["share_above"] <= 1
    assert result["device"]
    assert result["outcome"] == "finished"


def test_the_last_lines_give_the_number_and_commands_that_work(finished):
    done, folder = finished
    number = result_of(folder)["log_likelihood"]
    assert f"{number['mean']:.3f} +- {number['stderr']:.3f} nats per row (lower bound" in done.stdout
    commands = done.stdout[done.stdout.index("Try next:") :]
    for command in ("pyrogen sample made/small", "pyrogen evaluate made/small", "pyrogen run made/small/recipe.toml"):
        assert command in commands
    assert "1,200 rows of digits" in done.stderr  # progress is not a result
    assert "1,200 rows" not in done.stdout


def test_a_compiled_run_has_the_same_weights_and_says_how_it_was_compiled(finished, tmp_path):
    (tmp_path / "graph.toml").write_text(RECIPE.replace("[fit]", '[fit]\ncompile = "graph"'))
    done = here("run", tmp_path / "graph.toml", "--out", tmp_path / "made", "--quiet")
    assert done.exit_code == 0, done.output
    result, eager = result_of(tmp_path / "made"), result_of(finished[1])
    assert result["compiled"] == {"mode": "graph", "reason": "asked for"} and "compiled" not in eager
    assert result["settings"]["fit"] == eager["settings"]["fit"] | {"compile": "graph"}
    if torch.get_num_threads() == eager["threads"]:
        assert result["weights_sha256"] == eager["weights_sha256"]


def test_the_recipe_in_the_folder_repeats_the_run_to_the_bit(finished, tmp_path):
    _, folder = finished
    again = pyrogen("run", folder / "recipe.toml", "--out", tmp_path / "again", "--quiet")
    assert (again.returncode, again.stderr) == (0, "")
    one, two = result_of(folder), result_of(tmp_path / "again")
    for key in ("log_likelihood", "latent", "khat", "settings", "weights_sha256"):
        assert one[key] == two[key]


def test_evaluate_gives_the_number_of_the_run_again(finished):
    _, folder = finished
    done = pyrogen("evaluate", folder, "--json")
    assert done.returncode == 0, done.stderr
    found, expected = json.loads(done.stdout), result_of(folder)["log_likelihood"]
    assert {key: found[key] for key in expected} == expected


def test_evaluate_takes_another_split_and_more_particles(finished):
    _, folder = finished
    one = json.loads(here("evaluate", folder, "--split", "valid", "--json").stdout)
    more = json.loads(here("evaluate", folder, "--split", "valid", "--particles", 200, "--json").stdout)
    assert one["n"] == more["n"] == 200
    assert more["mean"] > one["mean"]
    assert "200 rows" in here("evaluate", folder, "--split", "valid", "--method", "elbo").stdout


def test_samples_come_as_arrays_and_as_a_picture(finished, tmp_path):
    _, folder = finished
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        done = here("sample", folder, "-n", 7, "--seed", seed, "--out", tmp_path / f"{name}.npz")
        assert done.exit_code == 0, done.stderr
    a, b, c = (np.load(tmp_path / f"{name}.npz") for name in "abc")
    assert a["x"].shape == a["mean"].shape == (7, 64)
    assert set(np.unique(a["x"])) == {0, 1}
    assert (a["mean"] > 0).all() and (a["mean"] < 1).all()
    assert (a["x"] == b["x"]).all()
    assert (a["x"] != c["x"]).any()
    done = pyrogen("sample", folder, "-n", 7, "--out", tmp_path / "s.png")
    assert (done.returncode, (tmp_path / "s.png").read_bytes()[:4]) == (0, b"\x89PNG")
    refused = here("sample", folder, "--out", tmp_path / "s.png")
    assert refused.exit_code == 1
    assert "--overwrite" in refused.stderr
    assert here("sample", folder, "--out", tmp_path / "s.png", "--overwrite").exit_code == 0


def test_the_posterior_file_is_one_that_arviz_reads(finished):
    from importlib import import_module

    from pyrogen.diagnostics.containers import arviz_generation

    az = import_module("arviz_base" if arviz_generation() >= 1 else "arviz")
    idata = az.from_netcdf(str(finished[1] / "posterior.nc"))
    assert idata["posterior"]["z"].shape == (1, 200, 200, 3)
    assert idata["log_likelihood"]["x"].shape == (1, 200, 200)


def test_fit_is_a_recipe_from_the_command_line(tmp_path):
    settings = ("latent=2", "hidden=[10]", "data.binarize=false", "fit.clip=1", "likelihood=gaussian")
    done = here(
        "fit", "vae", "--data", "digits", "--objective", "iwae", "--particles", 2, "--epochs", 1, "--batch-size", 300,
        "--learning-rate", 0.01, "--seed", 5, *(part for text in settings for part in ("--set", text)),
        "--set", "evaluate.particles=5", "--out", tmp_path / "fit", "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    recipe = tomllib.loads((tmp_path / "fit" / "recipe.toml").read_text())
    assert recipe["model"] == {"name": "vae", "latent": 2, "hidden": [10], "likelihood": "gaussian"}
    assert recipe["data"] == {"name": "digits", "binarize": False}
    assert recipe["objective"] | {"name": "iwae", "particles": 2} == recipe["objective"]
    assert recipe["fit"] | {"epochs": 1, "batch_size": 300, "learning_rate": 0.01, "clip": 1.0} == recipe["fit"]
    assert (recipe["seed"], recipe["evaluate"]["particles"]) == (5, 5)


def test_a_folder_of_an_earlier_run_is_replaced_only_when_asked(finished, tmp_path):
    small = tmp_path / "small.toml"
    small.write_text(RECIPE.replace("epochs = 2", "epochs = 1").replace("latent = 3", "latent = 1"))
    out = tmp_path / "out"
    first = here("run", small, "--out", out, "-q")
    assert first.exit_code == 0, first.stderr
    assert "a code of one dimension has no plane" in first.stdout
    assert not (out / "latent-map.png").exists()
    (out / "notes.txt").write_text("mine")
    refused = here("run", small, "--out", out)
    assert refused.exit_code == 1
    assert "--overwrite" in refused.stderr
    assert here("run", small, "--out", out, "--overwrite", "-q").exit_code == 0
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["fit", "vea", "--data", "digits"], 2, ["unknown model 'vea'", "try 'vae'", "the command line"]),
        (["fit", "vae", "--data", "mnits"], 2, ["unknown data 'mnits'", "try 'mnist'"]),
        (["fit", "vae", "--data", "digits", "--epochs", "0"], 2, ["epochs = 0"]),
        (["fit", "vae", "--data", "digits", "--objective", "vb"], 2, ["elbo, iwae"]),
        (["fit", "vae", "--data", "digits", "--set", "latnet=3"], 2, ["try 'latent'"]),
        (["fit", "vae", "--data", "digits", "--set", "latent"], 2, ["--set latent", "KEY=VALUE"]),
        (["fit", "vae", "--data", "digits", "--set", "fti.clip=3"], 2, ["unknown key 'fti'", "try 'fit'"]),
        (["fit", "vae"], 2, ["--data"]),
        (["fti", "vae"], 2, ["fti"]),
        (["fit", "vae", "--data", "digits", "--device", "tpu"], 1, ["device 'tpu'", "cpu"]),
        (
            ["fit", "vae", "--data", "digits", "--set", "likelihood=bernoulli", "--set", "data.binarize=false"],
            1,
            ["digits, split train: 0.", "every entry 0 or 1", "binarize = true"],
        ),
        (["run", "none.toml"], 2, ["none.toml", "cannot be read"]),
        (["sample", "nowhere", "--out", "x.png"], 1, ["nowhere/result.json"]),
        (["sample", "nowhere", "--out", "x.jpg"], 1, [".png or .npz"]),
        (["sample", "nowhere", "-n", "0", "--out", "x.png"], 2, ["--number", "equal to 1"]),
        (["evaluate", "nowhere"], 1, ["nowhere/result.json"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_on_stderr_and_an_exit_code_and_leaves_nothing(args, code, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = here(*args)
    assert (done.exit_code, done.stdout) == (code, "")
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    if not done.stderr.startswith("Usage"):
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_typo_in_a_recipe_is_found_before_the_folder_is_made(tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE.replace("epochs", "epocs"))
    done = pyrogen("run", "r.toml", "--out", "out", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: got unknown key 'epocs' in [fit] of r.toml")
    assert not (tmp_path / "out").exists()


def test_data_that_is_not_there_names_the_file_and_the_remedy(tmp_path):
    done = here("fit", "vae", "--data", "binarized-mnist", "--out", tmp_path / "o", env={"PYROGEN_DATA": str(tmp_path)})
    assert done.exit_code == 1
    assert str(tmp_path / "binarized_mnist.npz") in done.stderr
    assert not (tmp_path / "o").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_any_work():
    done = here("fit", "vae", "--data", "digits", "--epochs", 10**6, "--out", "/proc/out")
    assert done.exit_code == 1
    assert "/proc/out, which cannot be written" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused_before_any_work(tmp_path):
    done = here("fit", "vae", "--data", "digits", "--epochs", 10**6, "--device", "cuda", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "here is none" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["result.json", "model.safetensors"])
def test_a_changed_file_of_a_run_is_noticed(name, finished, tmp_path):
    for path in finished[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert here("evaluate", tmp_path).exit_code == 0
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content if name != "result.json" else content[: len(content) // 2])
    for command in ("evaluate", "sample"):
        done = here(command, tmp_path)
        assert done.exit_code == 1
        assert name in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_result_with_other_settings_does_not_take_the_weights(finished, tmp_path):
    for path in finished[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = (tmp_path / "result.json").read_text()
    (tmp_path / "result.json").write_text(text.replace('"latent": 3', '"latent": 4'))
    assert "shape" in here("sample", tmp_path).stderr
    (tmp_path / "result.json").write_text(text.replace('"latent": 3', '"latnet": 3'))
    assert "try 'latent'" in here("sample", tmp_path).stderr or "recipe.toml" in here("sample", tmp_path).stderr


def test_an_interrupt_saves_the_run_and_resume_ends_it_as_if_nothing_had_been(tmp_path):
    (tmp_path / "long.toml").write_text(
        RECIPE.replace("epochs = 2", "epochs = 30").replace("particles = 20", "particles = 2")
    )
    args = [sys.executable, "-m", "pyrogen", "run", "long.toml", "--out", "out"]
    with subprocess.Popen(args, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert "rows of digits" in process.stderr.readline()
        while not (metrics := tmp_path / "out" / "metrics.jsonl").exists() or not metrics.read_text():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "interrupted: SIGINT after step" in err and "--resume" in err
    folder = tmp_path / "out"
    assert sorted(os.listdir(folder)) == ["checkpoints", "config.json", "metrics.jsonl"]
    assert here("check", folder).exit_code == 0
    assert "--resume" in here("run", tmp_path / "long.toml", "--out", folder).stderr
    assert here("run", tmp_path / "long.toml", "--out", folder, "--resume", "-q").exit_code == 0
    assert here("run", tmp_path / "long.toml", "--out", tmp_path / "whole", "-q").exit_code == 0
    assert sorted(os.listdir(folder)) == sorted(FILES)
    for key in ("weights_sha256", "log_likelihood", "latent", "khat", "files"):
        assert result_of(folder)[key] == result_of(tmp_path / "whole")[key]
    assert result_of(folder)["seconds"] > result_of(folder)["fit_seconds"]


def test_resume_begins_goes_on_and_tells_what_is_finished(tmp_path, monkeypatch):
    (tmp_path / "small.toml").write_text(RECIPE)
    args = ("run", tmp_path / "small.toml", "--out", tmp_path / "out", "--resume")

    def killed(*args, **settings):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("pyrogen.cli.run.log_likelihood", killed)  # when the weights are there and the number is not
        assert here(*args).exception.args == ("killed",)
    assert (tmp_path / "out" / "checkpoints").is_dir()
    done = here(*args)
    assert done.exit_code == 0 and "finished" in done.stderr
    again = here(*args)
    assert again.exit_code == 0 and "is finished" in again.stderr and again.stdout == done.stdout
    (tmp_path / "small.toml").write_text(RECIPE.replace("seed = 3", "seed = 4"))
    assert "finished run of another recipe" in here(*args).stderr
    assert here(*args, "--overwrite").exit_code == 2


def test_overwriting_replaces_an_interrupted_run(tmp_path):
    from pyrogen.inference.run_folder import RunFolder

    with RunFolder(tmp_path / "out") as place:
        place.start({"epoch": []})
    (tmp_path / "small.toml").write_text(RECIPE)
    args = ("run", tmp_path / "small.toml", "--out", tmp_path / "out", "-q")
    assert here(*args).exit_code == 1
    assert here(*args, "--overwrite").exit_code == 0


def test_check_says_which_file_of_a_run_was_changed(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[1], folder)
    written = sorted(entry.name for entry in folder.iterdir())
    assert here("check", folder).stdout.count("ok  ") == len(written)
    for name in ("model.safetensors", "result.json", "config.json", "metrics.jsonl"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(b"\xff" + content[1:])
        done = here("check", folder)
        assert done.exit_code == 1 and f"bad  {name}: " in done.stdout and done.stdout.count("bad") == 1
        (folder / name).write_bytes(content)
    for name in written:
        content = (folder / name).read_bytes()
        text = name.endswith(("json", "jsonl", "toml"))  # half of it may be a whole file again
        (folder / name).write_bytes(content[:-5] if text else content[: len(content) // 2])
        done = here("check", folder)
        assert done.exit_code == 1 and f"bad  {name}: " in done.stdout and done.stdout.count("bad") == 1, name
        (folder / name).write_bytes(content)
    for name in ("recipe.toml", "samples.png"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(b"")
        assert f"bad  {name}: is empty" in here("check", folder).stdout
        (folder / name).write_bytes(content)
    history = (folder / "history.json").read_text()
    for wrong in ("NaN", "[1]", history.replace("[", "[NaN, ", 1)):
        (folder / "history.json").write_text(wrong)
        assert "bad  history.json: cannot be read to its end" in here("check", folder).stdout
    (folder / "history.json").write_text(history)
    result = (folder / "result.json").read_text()
    for wrong in (result.replace('"seconds": ', '"seconds": NaN, "s": ', 1), result.replace("{", '{"seed": 1, ', 1)):
        (folder / "result.json").write_text(wrong)
        assert "bad  result.json" in here("check", folder).stdout
    (folder / "result.json").write_text(result)
    for name in ("samples.png", "history.json"):
        (folder / name).unlink()
        os.mkfifo(folder / name)  # which would be waited for
        assert f"bad  {name}: is missing" in here("check", folder).stdout
    assert "where no run is" in here("check", tmp_path).stderr


def test_an_interrupt_while_measuring_keeps_the_weights(tmp_path, monkeypatch, capsys):
    def interrupted(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyrogen.cli.run.log_likelihood", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(Recipe.of(tomllib.loads(RECIPE), "r"), tmp_path / "out")
    assert "holds the weights" in capsys.readouterr().err
    monkeypatch.undo()
    assert here("evaluate", tmp_path / "out").exit_code == 0
    assert here("run", tmp_path / "out" / "recipe.toml", "--out", tmp_path / "out", "--overwrite", "-q").exit_code == 0


SMALL = {"hidden": [8]}
WHOLE_WAY = {  # the smallest recipe of each model: settings, data, options; digits above half ink unless said
    "vae": ({"latent": 2, **SMALL}, "digits", {"binarize": False}),
    "vae-two-layer": ({"latent": 2, "bridge": 8, **SMALL}, "digits", {"binarize": False}),
    "vae-planar": ({"latent": 2, "flows": 2, "context": 3, **SMALL},),
    "ppca": ({"latent": 2}, "digits", {"binarize": False}),
    "rbm": ({"hidden": 4, "chains": 10},),
    "dbm": ({"hidden": [4, 3], "chains": 10},),
    "dbn": ({"hidden": [4, 3], "chains": 10},),
    "fvbn": ({},),
    "made": (SMALL,),
    "nade": ({"hidden": 8},),
    "deep-nade": (SMALL,),
    "bernoulli-mixture": ({"components": 3},),
    "pixelcnn": ({"channels": 4, "layers": 1},),
    "pixelrnn": ({"units": 3, "layers": 1},),
    "gsn": (SMALL,),
    "nice": ({"layers": 2, **SMALL}, "warped-mixture", {}),
    "realnvp": ({"layers": 2, **SMALL}, "warped-mixture", {}),
    "maf": ({"layers": 2, **SMALL}, "warped-mixture", {}),
    "nsf": ({"layers": 2, "bins": 3, **SMALL}, "warped-mixture", {}),
    "dequantized-flow": ({"layers": 2, **SMALL}, "digits", {"binarize": False}),
    "sphere-flow": ({"layers": 2, **SMALL}, "earth", {"events": "volcano"}),
    "kernel-density": ({"points": 20, "scales": 2}, "earth", {"events": "volcano"}),
    "torus-flow": ({"layers": 2, **SMALL}, "torus", {}),
}


def test_each_model_has_a_smallest_recipe():
    assert WHOLE_WAY.keys() == MODELS.keys()


@pytest.mark.parametrize("name", WHOLE_WAY)
def test_every_model_goes_the_whole_way(name, tmp_path):
    settings, data, options = (*WHOLE_WAY[name], "digits", {"binarize": True})[:3]
    tables = {
        "model": {"name": name, **settings},
        "data": {"name": data, **options},
        "fit": {"epochs": 1, "batch_size": 1000},
        "evaluate": {"particles": 2},
    }
    if data == "earth" and "PYROGEN_DATA" not in os.environ:
        pytest.skip("the Earth's events are read from PYROGEN_DATA, which is not set")
    outcome = run(Recipe.of(tables, name), tmp_path / name, quiet=True)
    assert math.isfinite(outcome.result["log_likelihood"]["mean"])
    assert all(outcome.not_made.values())
    if name in ("vae", "vae-two-layer", "ppca"):
        assert outcome.not_made == {}
    assert name in report(outcome)
    assert here("sample", tmp_path / name, "-n", 3).exit_code == 0


def test_models_lists_each_with_a_line_and_the_data():
    done = here("models")
    assert done.exit_code == 0
    table, _, data = done.stdout.partition("\n\n")
    lines = dict(line.split(maxsplit=1) for line in table.splitlines())
    assert lines.keys() == MODELS.keys()
    assert all(line[0].isupper() and line.endswith(".") for line in lines.values())
    assert "digits" in data


def test_the_version_is_that_of_the_package():
    done = here("--version")
    assert (done.exit_code, done.stdout) == (0, f"pyrogen {__version__}\n")


def test_help_does_not_wait_for_torch():
    code = """
import sys
from typer.testing import CliRunner
from pyrogen.cli import app
for args in ([], ["models"], ["fit"], ["run"], ["sample"], ["evaluate"]):
    done = CliRunner().invoke(app, [*args, "--help"])
    if done.exit_code or "Usage: " not in done.stdout:
        print(args, done.output)
print([name for name in ("torch", "pyro", "numpy", "matplotlib", "arviz") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


@pytest.mark.parametrize(("name", "hidden"), [("rbm", 4), ("dbm", [4, 3])])
def test_a_boltzmann_machine_leaves_its_filters_and_its_chains(name, hidden, tmp_path):
    tables = {
        "model": {"name": name, "hidden": hidden},
        "data": {"name": "digits", "binarize": True},
        "fit": {"epochs": 1, "batch_size": 1000},
        "evaluate": {"method": "exact", "particles": 2} if name == "rbm" else {"particles": 2},
    }
    outcome = run(Recipe.of(tables, name), tmp_path / name, quiet=True)
    for picture in ("filters.png", "chains.png"):
        assert (tmp_path / name / picture).read_bytes().startswith(b"\x89PNG")
        assert picture in outcome.result["files"] and picture in report(outcome)
    assert here("check", tmp_path / name).exit_code == 0
