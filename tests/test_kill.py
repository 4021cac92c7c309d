"""A run that is killed again and again ends as the one that was not, and nothing that was saved is lost.

One process imports everything and forks a child for each start, so that fifty starts take a minute.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pyrogen.inference.checkpoints import Checkpoints
from pyrogen.inference.run_folder import check_training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EPOCHS = 40
NURSERY = '''
import hashlib, os, signal, sys, time
import torch
from pyrogen.errors import Interrupted
from pyrogen.inference import fit
from pyrogen.inference.training import Training
from tests.zoo import small

X = (torch.rand(40, 4, generator=torch.Generator().manual_seed(3)) > 0.5).float()

def kill_at(call):
    """The process kills itself at the given one of its calls that change the disk."""
    count = 0
    def wrapped(function):
        def counted(*args, **settings):
            nonlocal count
            count += 1
            if count == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **settings)
        return counted
    for name in ("write", "fsync", "replace", "mkdir", "unlink", "rmdir"):
        setattr(os, name, wrapped(getattr(os, name)))

def train(folder, epochs, call, sleep):
    if call:
        kill_at(call)
    if sleep:
        update = Training.update
        def drowsy(self, x):
            if self.step == 20:
                open(folder + ".asleep", "w").close()
                time.sleep(sleep)
            update(self, x)
        Training.update = drowsy
    vae = small("vae")
    settings = {"epochs": epochs, "batch_size": 8, "average": 0.9, "validation": X[:9], "progress": False}
    result = fit(vae, X, folder=folder, resume=True, checkpoint_seconds=0, **settings)
    digest = hashlib.sha256(repr(result.history["train"] + result.history["valid"]).encode())
    for parameter in vae.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    with open(folder + ".digest", "w") as file:
        file.write(digest.hexdigest())

fit(small("vae"), X, epochs=1, progress=False)  # what is done once is done here
print("ready", flush=True)
for line in sys.stdin:
    folder, epochs, call, sleep = line.split()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            train(folder, int(epochs), int(call), float(sleep))
            code = 0
        except Interrupted as error:
            code = 128 + error.signal
        except KeyboardInterrupt:
            code = 99
        finally:
            os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
'''


class Nursery:
    """Starts trainings, one at a time."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        command = [sys.executable, "-W", "ignore", "-c", NURSERY]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout.readline() == "ready\n"

    def start(self, folder, epochs=EPOCHS, call=0, sleep=0.0) -> int:
        """Start one; gives its pid."""
        self.process.stdin.write(f"{folder} {epochs} {call} {sleep}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self) -> int:
        """Its exit code, negative for a signal."""
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def nursery():
    one = Nursery()
    yield one
    one.process.communicate()


@pytest.fixture(scope="module")
def undisturbed(nursery, tmp_path_factory):
    """The digest of the run that nobody disturbs, and the seconds that it takes."""
    folder = tmp_path_factory.mktemp("kill") / "undisturbed"
    start = time.monotonic()
    nursery.start(folder)
    assert nursery.wait() == 0
    return digest_of(folder), time.monotonic() - start


def digest_of(folder):
    return Path(f"{folder}.digest").read_text()


def saved_step(folder):
    """The step of the newest checkpoint; all there are must be whole."""
    wrong = {name: what for name, what in check_training(folder).items() if what and name.startswith("checkpoints")}
    assert wrong == {}
    checkpoints = Checkpoints(folder / "checkpoints")
    names = checkpoints.names()
    return checkpoints.read(names[-1]).meta["training"]["step"] if names else 0


def test_fifty_kills_lose_nothing_and_the_end_is_the_same_to_the_bit(nursery, undisturbed, tmp_path):
    rng, (digest, seconds) = random.Random(time.time_ns()), undisturbed
    kills, in_writing, ends, run, reached = 0, 0, 0, 0, 0
    while kills < 50:
        folder = tmp_path / str(run)
        by_itself = rng.random() < 0.5  # at a call that changes the disk, or whenever it happens
        pid = nursery.start(folder, call=rng.randrange(1, 120) if by_itself else 0)
        if not by_itself:
            time.sleep(rng.random() * seconds / 2)
            with suppress(ProcessLookupError):  # it has ended
                os.kill(pid, signal.SIGKILL)
        code = nursery.wait()
        assert code in (0, -signal.SIGKILL)
        before, reached = reached, saved_step(folder) if folder.exists() else 0
        assert reached >= before
        if code == 0:
            assert digest_of(folder) == digest
            ends, run, reached = ends + 1, run + 1, 0
        else:
            kills += 1
            in_writing += by_itself
    nursery.start(tmp_path / str(run))
    assert nursery.wait() == 0
    assert digest_of(tmp_path / str(run)) == digest
    assert in_writing > 0 and kills > in_writing


@pytest.mark.parametrize("call", range(1, 40, 3))
def test_a_kill_at_each_call_that_changes_the_disk(call, nursery, undisturbed, tmp_path):
    assert nursery.start(tmp_path / "run", call=call) and nursery.wait() == -signal.SIGKILL
    saved_step(tmp_path / "run")
    assert nursery.start(tmp_path / "run") and nursery.wait() == 0
    assert digest_of(tmp_path / "run") == undisturbed[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_saves_and_goes_on_later(number, nursery, undisturbed, tmp_path):
    pid = nursery.start(tmp_path / "run", sleep=1.0)
    while not (tmp_path / "run.asleep").exists():
        time.sleep(0.01)
    os.kill(pid, number)
    assert nursery.wait() == 128 + number
    assert saved_step(tmp_path / "run") == 21  # it slept in the step after the 20th
    nursery.start(tmp_path / "run")
    assert nursery.wait() == 0
    assert digest_of(tmp_path / "run") == undisturbed[0]


def test_a_second_sigint_ends_at_once_what_does_not_end(nursery, undisturbed, tmp_path):
    pid = nursery.start(tmp_path / "run", sleep=10_000)
    while not (tmp_path / "run.asleep").exists():
        time.sleep(0.01)
    for _ in range(200):  # two that come at once are one
        try:
            os.kill(pid, signal.SIGINT)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    assert nursery.wait() == 99
    assert saved_step(tmp_path / "run") == 20
    nursery.start(tmp_path / "run")
    assert nursery.wait() == 0
    assert digest_of(tmp_path / "run") == undisturbed[0]
