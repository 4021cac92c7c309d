"""Rows that are too many for the device stay on the host, and train as others do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyrogen.inference import fit, placing
from pyrogen.inference.placing import Rows, fits, place
from tests.zoo import small

X = (torch.rand(20, 4, generator=torch.Generator().manual_seed(3)) > 0.5).float()
META = torch.device("meta")  # a device that holds no numbers: what is moved there has shapes alone


def test_rows_may_take_half_of_what_is_free():
    assert fits(50, 100) and not fits(51, 100) and not fits(1, 0) and fits(0, 0)


@pytest.mark.parametrize(("free", "resident"), [(2 * (20 + 5) * 16, True), (2 * (20 + 5) * 16 - 1, False)])
def test_rows_and_validation_rows_are_counted_together(free, resident, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10 * free))
    monkeypatch.setattr(Rows, "__init__", lambda self, t, device, resident: setattr(self, "resident", resident))
    for found in place(X, X[:5], torch.device("cuda", 0)):
        assert found is not None and found.resident == resident


def test_on_a_cpu_rows_stay_where_they_are():
    found, none = place(X, None, torch.device("cpu"))
    assert found.rows is X and found.resident and none is None


def test_only_a_batch_is_moved():
    host = Rows(X, META, resident=False)
    assert host.rows is X and host.home == X.device and (len(host), host.shape) == (20, X.shape)
    for batch in (host[:8], host[torch.arange(8)], next(host.split(8))):
        assert batch.device == META and batch.shape == (8, 4)
    assert Rows(X, META).rows.device == META
    assert [len(batch) for batch in host.split(8)] == [8, 8, 4]


@pytest.mark.parametrize("compile", ["eager", "graph"])
def test_rows_on_the_host_train_as_rows_on_the_device(compile, monkeypatch):
    runs = []
    for resident in (True, False):

        def there(data, validation, device, resident=resident):
            return Rows(data, device, resident), Rows(validation, device, resident)

        monkeypatch.setattr(sys.modules["pyrogen.inference.fit"], "place", there)
        vae = small("vae")
        result = fit(vae, X, epochs=2, batch_size=8, validation=X[:5], compile=compile, progress=False)
        assert result.settings["rows"] == ("on the device" if resident else "on the host")
        runs.append((vae.state_dict(), result.history["train"], result.history["valid"]))
    assert runs[0][1:] == runs[1][1:]
    assert all(torch.equal(value, runs[1][0][name]) for name, value in runs[0][0].items())


def test_rows_too_many_for_a_gpu_train_as_those_on_it(monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    runs = []
    for room in (placing.ROOM, 0.0):
        monkeypatch.setattr(placing, "ROOM", room)
        vae = small("vae")
        result = fit(vae, X, epochs=2, batch_size=8, validation=X[:5], device="cuda", progress=False)
        runs.append((result.history["train"], result.history["valid"], result.settings["rows"]))
    assert runs[0][:2] == runs[1][:2] and [run[2] for run in runs] == ["on the device", "on the host"]


MAPPED = """
import sys, threading, torch
from pyrogen.inference import fit
from pyrogen.models import VAE, BernoulliPixels, StandardNormal
from pyrogen.nn import MLP

def anonymous():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["RssAnon"].split()[0]) // 1024

x = torch.from_file(sys.argv[1], shared=True, size=100_000 * 784).view(100_000, 784)
vae = VAE(MLP(784, 8, 4), MLP(2, 8, 784), BernoulliPixels(784), StandardNormal(2))
settings = {"compile": "eager", "batch_size": 100, "progress": False}  # what a trace leaves until collected is small
fit(vae, x[:2000], epochs=1, **settings)
before, peak, done = anonymous(), [0], threading.Event()

def watch():
    while not done.wait(0.005):
        peak.append(anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
fit(vae, x, epochs=1, folder=sys.argv[2], **settings)
done.set()
watcher.join()
print(max(peak) - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process as Linux tells it")
def test_rows_mapped_from_a_file_are_never_all_in_memory(tmp_path):
    with open(tmp_path / "rows", "wb") as file:
        for _ in range(100):
            file.write((torch.rand(1000, 784) < 0.2).float().numpy().tobytes())
    run = [sys.executable, "-c", MAPPED, tmp_path / "rows", tmp_path / "run"]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100  # MiB; the rows are 299 of them
