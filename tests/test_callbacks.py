"""Callbacks hear of every epoch and cannot harm a training."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import pytest
import torch

from pyrogen.errors import ExtraError, SettingsError
from pyrogen.inference import Callback, Fit, TensorBoard, fit
from pyrogen.inference.training import Training
from tests.zoo import small

BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
X = (torch.rand(30, 4, generator=torch.Generator().manual_seed(3)) > 0.5).float()


class Recorder(Callback):
    def __init__(self):
        self.heard = []

    def on_start(self, training):
        assert isinstance(training, Training)
        self.heard.append(("start", training.epoch))

    def on_epoch(self, epoch, numbers):
        self.heard.append((epoch, numbers))

    def on_end(self, result):
        assert isinstance(result, Fit)
        self.heard.append(("end", result.outcome))


def train(callbacks, epochs=3, **settings):
    vae = small("vae")
    return vae, fit(vae, X, epochs=epochs, batch_size=8, progress=False, callbacks=callbacks, **settings)


def test_they_hear_what_the_history_holds_in_its_order():
    one = Recorder()
    _, result = train([one], validation=X[:9])
    rows = [{name: values[i] for name, values in result.history.items() if name != "epoch"} for i in range(3)]
    assert set(rows[0]) == {"step", "train", "valid", "seconds"}
    assert one.heard == [("start", 0), *zip((1, 2, 3), rows, strict=True), ("end", "finished")]


def test_they_do_not_change_the_training():
    plain, _ = train(())
    told, _ = train([Recorder()])
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), told.parameters(), strict=True))


def test_a_resumed_run_says_how_far_it_was(tmp_path):
    train((), folder=tmp_path / "run")
    one = Recorder()
    train([one], epochs=5, folder=tmp_path / "run", resume=True)
    assert [heard[0] for heard in one.heard] == ["start", 4, 5, "end"] and one.heard[0] == ("start", 3)


@pytest.mark.parametrize("method", ["on_start", "on_epoch", "on_end"])
def test_one_that_raises_is_reported_once_and_dropped(method):
    class Broken(Recorder):
        def on_start(self, training):
            return self.fail("on_start")

        def on_epoch(self, epoch, numbers):
            numbers.clear()  # its own copy
            return self.fail("on_epoch")

        def on_end(self, result):
            return self.fail("on_end")

        def fail(self, name):
            self.heard.append(name)
            if name == method:
                raise OSError("the server is gone")

    broken, good = Broken(), Recorder()
    with pytest.warns(UserWarning, match=rf"Broken\.{method} raised OSError: the server is gone") as seen:
        vae, result = train([broken, good])
    assert len(seen) == 1 and broken.heard.count(method) == 1 and broken.heard[-1] == method
    assert result.outcome == "finished" and len(good.heard) == 5 and good.heard[1][1]
    plain, _ = train(())
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), vae.parameters(), strict=True))


def test_where_warnings_are_errors_the_training_still_goes_on(capsys):
    class Broken:
        def on_epoch(self, epoch, numbers):
            raise ValueError("no")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, result = train([Broken()])
    assert result.outcome == "finished" and capsys.readouterr().err.count("Broken.on_epoch raised ValueError: no") == 1


def test_control_c_in_a_callback_is_no_error_of_it():
    class Stopped:
        def on_epoch(self, epoch, numbers):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train([Stopped()])


def test_what_is_no_callback_is_refused_before_the_training():
    class Misspelt:
        def on_epochs(self, epoch, numbers): ...

    with pytest.raises(SettingsError, match="try on_epoch instead of on_epochs"):
        train([Misspelt()])
    with pytest.raises(SettingsError, match="need a list of them"):
        train(3)


def test_tensorboard_without_its_package_names_the_extra(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.startswith(("torch.utils.tensorboard", "tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ExtraError, match=r"pip install 'pyrogen\[tensorboard\]'"):
        TensorBoard(tmp_path)


class Writer:
    """Stands in for SummaryWriter."""

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.scalars, self.closed = folder, purge_step, [], False

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def flush(self): ...

    def close(self):
        self.closed = True


@pytest.fixture
def writers(monkeypatch):
    """The stand-ins that are made while tensorboard need not be installed."""
    import types

    made = []

    def make(*args, **settings):
        made.append(Writer(*args, **settings))
        return made[-1]

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=make))
    return made


def test_tensorboard_gets_the_bounds_and_the_speed(writers, tmp_path):
    board = TensorBoard(tmp_path)
    assert writers == []  # nothing is written before the training
    _, result = train([board], validation=X[:9])
    (writer,) = writers
    assert writer.closed and writer.purge_step is None and writer.folder == str(tmp_path)
    for name in ("train", "valid"):
        assert [(v, s) for n, v, s in writer.scalars if n == f"bound/{name}"] == list(
            zip(result.history[name], (1, 2, 3), strict=True)
        )
    seconds = [0.0, *result.history["seconds"]]
    speeds = [30 / (seconds[i + 1] - seconds[i]) for i in range(3)]
    assert [v for n, v, _ in writer.scalars if n == "rows per second"] == pytest.approx(speeds)


def test_tensorboard_hides_what_a_killed_run_wrote_past_its_checkpoint(writers, tmp_path):
    train((), folder=tmp_path / "run")
    train([TensorBoard(tmp_path / "board")], epochs=5, folder=tmp_path / "run", resume=True)
    assert writers[0].purge_step == 4 and {step for *_, step in writers[0].scalars} == {4, 5}


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        _, result = train([TensorBoard(tmp_path)])
        events = EventAccumulator(str(tmp_path))
        events.Reload()
    assert [event.value for event in events.Scalars("bound/train")] == pytest.approx(result.history["train"])


class Remote:
    """Stands in for mlflow and wandb: writes down what is called, with what."""

    def __init__(self, calls, name=""):
        self._calls, self._name = calls, name

    def __getattr__(self, name):
        return Remote(self._calls, f"{self._name}.{name}".lstrip("."))

    def __call__(self, *args, **settings):
        self._calls.append((self._name, args, settings))
        return self


@pytest.mark.parametrize(
    ("package", "log"), [("torch.utils.tensorboard", ""), ("mlflow", "log_metrics"), ("wandb", "init.log")]
)
def test_the_examples_of_the_page_run(package, log, monkeypatch):
    text = (Path(__file__).parents[1] / "docs" / "tracking.md").read_text("utf-8")
    blocks = dict(zip(("torch.utils.tensorboard", "mlflow", "wandb"), BLOCK.findall(text), strict=True))
    calls = []
    monkeypatch.setitem(sys.modules, package, Remote(calls))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(blocks[package].replace("rows,", "rows, epochs=3, progress=False,"), {"model": small("vae"), "rows": X})
    if log:
        logged = [(args[0], settings["step"]) for name, args, settings in calls if name == log]
        assert [step for _, step in logged] == [1, 2, 3] and all("train" in numbers for numbers, _ in logged)
    else:
        assert [args[0] for name, args, _ in calls if name.endswith("add_scalar")][::2] == ["bound/train"] * 3
