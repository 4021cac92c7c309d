"""A run folder: one process at a time, and a run goes on from what is good in it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrogen.errors import DataError, OutputError
from pyrogen.inference import fit, lasso, max_norm
from pyrogen.inference.keeper import code_of
from pyrogen.inference.run_folder import RunFolder, check_training
from tests.zoo import small

X = (torch.rand(20, 4, generator=torch.Generator().manual_seed(3)) > 0.5).float()
IDENTITY = {"seed": 0}


def train(folder, epochs=1, **settings):
    return fit(small("vae"), X, epochs=epochs, progress=False, folder=folder, checkpoint_seconds=0, **settings)


def test_a_full_disk_while_training_is_an_error_in_words_and_the_run_can_go_on(tmp_path, monkeypatch):
    train(tmp_path, epochs=2)
    expected = train(tmp_path / "undisturbed", epochs=4)
    with monkeypatch.context() as patch:
        write = os.write
        refuse = OSError(errno.ENOSPC, "No space left on device")

        def full(descriptor, data):
            if len(data) > 1000:
                raise refuse
            return write(descriptor, data)

        patch.setattr(os, "write", full)
        with pytest.raises(OutputError, match=r"No space left on device.*need free space"):
            train(tmp_path, epochs=4, resume=True)
    assert check_training(tmp_path) == dict.fromkeys(check_training(tmp_path))
    resumed = train(tmp_path, epochs=4, resume=True)
    assert resumed.history["train"] == expected.history["train"]


def test_a_system_that_writes_a_part_at_a_time_writes_all(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:100]))
    train(tmp_path, epochs=2)
    found = check_training(tmp_path)
    assert len(found) == 4 and not any(found.values())


def test_a_damaged_checkpoint_is_said_and_the_one_before_goes_on_to_the_same_end(tmp_path):
    whole = train(tmp_path / "whole", epochs=4)
    train(tmp_path / "run", epochs=3)
    file = tmp_path / "run" / "checkpoints" / "checkpoint-000003" / "tensors.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=r"checkpoint-000003 is damaged, falling back to the one before"):
        resumed = train(tmp_path / "run", epochs=4, resume=True)
    assert resumed.history["train"] == whole.history["train"]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


def test_no_good_checkpoint_is_an_error_that_names_the_folder_and_the_remedy(tmp_path):
    train(tmp_path, epochs=2)
    for file in tmp_path.glob("checkpoints/*/state.json"):
        file.write_bytes(b"{}")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(DataError) as caught:
        train(tmp_path, epochs=3, resume=True)
    assert str(tmp_path / "checkpoints") in str(caught.value) and "to begin again" in caught.value.fix


def test_a_run_without_a_checkpoint_yet_begins(tmp_path):
    with RunFolder(tmp_path) as run:
        assert run.begin(IDENTITY, 1000) is None
        run.start({"epoch": [1.0], "train": [float("nan")]})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"epoch": 1, "train": None}
    assert len(train(tmp_path, resume=True).history["epoch"]) == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_metrics_have_a_line_per_epoch_and_are_cut_to_the_checkpoint(tmp_path):
    whole = train(tmp_path, epochs=3)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "step": 4}\n{"epoch": 5, "st')  # later than the checkpoint, and torn
    train(tmp_path, epochs=4, resume=True)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["train"] for row in rows[:3]] == whole.history["train"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["identity"]["batch_size"] == 100 and config["versions"]["torch"] == torch.__version__


def test_two_trainings_in_one_folder_are_one_too_many(tmp_path):
    with RunFolder(tmp_path), pytest.raises(OutputError, match="where another process is training"):
        train(tmp_path, resume=True)
    train(tmp_path, resume=True)
    assert not (tmp_path / ".lock").exists()


RACE = """
import sys, time
from pyrogen.errors import OutputError
from pyrogen.inference.run_folder import RunFolder
print("ready", flush=True)
sys.stdin.readline()
try:
    with RunFolder(sys.argv[1]):
        print("won", flush=True)
        sys.stdin.readline()
except OutputError as error:
    print(error, flush=True)
"""


def racer(folder):
    command = [sys.executable, "-c", RACE, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_of_simultaneous_starts_one_wins_and_a_kill_frees_the_folder(tmp_path):
    racers = [racer(tmp_path / "run") for _ in range(2)]
    for one in racers:
        assert one.stdout.readline() == "ready\n"
    for one in racers:
        one.stdin.write("go\n")
        one.stdin.flush()
    said = [one.stdout.readline() for one in racers]
    assert said.count("won\n") == 1
    assert all(str(tmp_path / "run") in text and "another process" in text for text in said if text != "won\n")
    racers[said.index("won\n")].kill()
    for one in racers:
        one.communicate("\n")
    with RunFolder(tmp_path / "run"):
        pass


def test_a_folder_that_was_made_for_nothing_is_removed(tmp_path):
    with RunFolder(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a" / "b").exists()


def test_where_nothing_can_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path in ("/proc/pyrogen", tmp_path / "file"):
        with pytest.raises(OutputError, match="cannot be written"):
            train(path)


def test_a_check_finds_nothing_wrong_with_a_run_and_all_that_is(tmp_path):
    train(tmp_path, epochs=3)
    parts = ["checkpoints/checkpoint-000002", "checkpoints/checkpoint-000003", "config.json", "metrics.jsonl"]
    assert check_training(tmp_path) == dict.fromkeys(parts)
    for file in ("checkpoints/checkpoint-000002/state.json", "config.json", "metrics.jsonl"):
        content = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(b"\xff" + content[1:])
        wrong = {name for name, what in check_training(tmp_path).items() if what}
        assert wrong == {file.removesuffix("/state.json")}
        (tmp_path / file).write_bytes(content)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "st')  # what a killed process leaves
    assert not any(check_training(tmp_path).values())


def test_a_good_run_warns_of_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tmp_path)
        train(tmp_path, epochs=2, resume=True)


def test_an_open_folder_is_for_one_run(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        rows = torch.zeros(10, 4)
        fit(small("vae"), rows, epochs=1, folder=folder, progress=False)
        with pytest.raises(OutputError, match="for each run"):
            fit(small("vae"), rows, epochs=2, folder=folder, progress=False)


def test_resume_refuses_a_function_that_does_something_else_now(tmp_path):
    def model_of(scale):
        def model(x):
            mean = pyro.sample("mean", dist.Normal(0.0, scale))
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

        return model

    def guide(x):
        pyro.sample("mean", dist.Normal(pyro.param("m", torch.tensor(0.0)), 0.1))

    rows = torch.linspace(-1, 1, 10)
    settings = {"guide": guide, "batch_size": 10, "folder": tmp_path / "run", "progress": False}
    fit(model_of(10.0), rows, epochs=1, **settings)
    with pytest.raises(DataError):
        fit(model_of(0.001), rows, epochs=2, resume=True, **settings)
    assert fit(model_of(10.0), rows, epochs=2, resume=True, **settings).history["epoch"] == [1, 2]


def test_the_hash_of_a_function_tells_what_functions_inside_it_close_over():
    def sgd(rate):
        return lambda parameters: torch.optim.SGD(parameters, rate)

    same, other = lasso(0.1, sgd(0.5)), [lasso(0.2, sgd(0.5)), lasso(0.1, sgd(0.6)), max_norm(0.1, sgd(0.5))]
    other += [lasso(0.1, partial(torch.optim.SGD, lr=rate)) for rate in (0.5, 0.6)]
    told = [code_of(make) for make in (same, *other)]
    assert code_of(lasso(0.1, sgd(0.5))) == told[0] and len(set(told)) == len(told)
    assert code_of(partial(sgd, 0.5)) == code_of(partial(sgd, 0.5)) != code_of(partial(sgd, 0.6))
    assert code_of(partial(lasso, 0.1, optimizer=sgd(0.5))) != code_of(partial(lasso, 0.1, optimizer=sgd(0.6)))

    def calls_itself(n):
        return calls_itself(n - 1) if n else 0

    assert code_of(calls_itself) == code_of(calls_itself)


def test_a_run_goes_on_only_with_what_its_folder_is_of(tmp_path):
    rows, program = torch.linspace(-1, 1, 10), {"model": {"order": "natural"}}
    settings = {"guide": lambda x: None, "batch_size": 10, "progress": False}

    def model(x):
        mean = pyro.param("mean", torch.tensor(0.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    for epochs, of in ((1, program), (2, program)):
        with RunFolder(tmp_path / "run", resume=True, of=of) as folder:
            assert len(fit(model, rows, epochs=epochs, folder=folder, **settings).history["epoch"]) == epochs
    with (
        RunFolder(tmp_path / "run", resume=True, of={"model": {"order": "random"}}) as folder,
        pytest.raises(DataError, match="random"),
    ):
        fit(model, rows, epochs=3, folder=folder, **settings)


def test_the_hash_of_a_function_is_the_same_in_every_process():
    script = (
        "from pyrogen.inference.keeper import code_of\n"
        "def f(x, k=2):\n    return [x in {'a', 'b', 'c', 'd'}, lambda y: y + k]\n"
        "print(code_of(f))"
    )
    seen = set()
    for seed in ("1", "2", "3"):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | {"PYTHONHASHSEED": seed}
        )
        assert done.returncode == 0, done.stderr
        seen.add(done.stdout)
    assert len(seen) == 1
