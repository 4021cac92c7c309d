"""Checkpoints: what is damaged is noticed, what is good is kept, whatever the disk does."""

from __future__ import annotations

import errno
import os
import random
import shutil

import pytest
import torch

from pyrogen.errors import ModelError, OutputError
from pyrogen.inference import checkpoints as module
from pyrogen.inference.checkpoints import FILES, Checkpoints
from pyrogen.inference.state import State
from pyrogen.inference.strict import DamagedError


def state(value=1.0):
    tensors = {
        "w": torch.full((3, 5), value),
        "n": torch.arange(4),
        "empty": torch.zeros(0, 2),
        "b": torch.tensor(True),
    }
    return State(tensors, {"step": value})


def equal(one, other):
    return one.meta == other.meta and all(torch.equal(one.tensors[name], v) for name, v in other.tensors.items())


@pytest.fixture
def written(tmp_path):
    """Two checkpoints."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.write(state(1.0))
    checkpoints.write(state(2.0))
    return checkpoints


def test_a_checkpoint_comes_back_to_the_bit(written):
    assert written.names() == ["checkpoint-000001", "checkpoint-000002"]
    assert equal(written.read("checkpoint-000002"), state(2.0))
    assert sorted(p.name for p in (written.path / "checkpoint-000002").iterdir()) == sorted(FILES)


def test_the_last_two_good_ones_are_kept(written):
    written.write(state(3.0))
    assert written.names() == ["checkpoint-000002", "checkpoint-000003"]
    (written.path / "checkpoint-000003" / "state.json").write_bytes(b"")
    later = Checkpoints(written.path)
    with pytest.warns(UserWarning, match=r"checkpoint-000003 is damaged, falling back"):
        name, found = next(later.last_good())
    assert name == "checkpoint-000002" and equal(found, state(2.0))
    later.write(state(4.0))
    assert later.names() == ["checkpoint-000002", "checkpoint-000004"]


def test_nothing_is_removed_before_something_is_known_to_be_good(written):
    (written.path / "checkpoint-000002" / "state.json").write_bytes(b"")
    Checkpoints(written.path).write(state(3.0))  # it has looked at none
    assert len(written.names()) == 3


def test_every_one_of_500_flipped_bits_is_noticed(written):
    folder, rng, noticed = written.path / "checkpoint-000002", random.Random(0), 0
    contents = {name: (folder / name).read_bytes() for name in FILES}
    for flip in range(500):
        name = FILES[flip % 3]
        content = bytearray(contents[name])
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (folder / name).write_bytes(content)
        with pytest.raises(DamagedError):
            written.read("checkpoint-000002")
        noticed += 1
        (folder / name).write_bytes(contents[name])
    assert noticed == 500 and equal(written.read("checkpoint-000002"), state(2.0))


def test_a_flipped_bit_in_every_byte_of_the_manifest_is_noticed(written):
    file, rng = written.path / "checkpoint-000002" / "manifest.json", random.Random(1)
    content = file.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.randrange(8)
        file.write_bytes(changed)
        with pytest.raises(DamagedError):
            written.read("checkpoint-000002")


@pytest.mark.parametrize("name", FILES)
def test_truncation_at_every_percent_is_noticed(name, written):
    file = written.path / "checkpoint-000002" / name
    content = file.read_bytes()
    for percent in range(100):
        file.write_bytes(content[: len(content) * percent // 100])
        with pytest.raises(DamagedError):
            written.read("checkpoint-000002")
    file.write_bytes(content + b"\0")
    with pytest.raises(DamagedError):
        written.read("checkpoint-000002")
    file.unlink()
    with pytest.raises(DamagedError, match=f"{name} cannot be read"):
        written.read("checkpoint-000002")


def test_names_that_lead_elsewhere_are_no_checkpoints(written, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(written.path / "checkpoint-000002", elsewhere)
    (written.path / "checkpoint-000009").symlink_to(elsewhere)
    for name in ("checkpoint-..", "checkpoint-000003x", "checkpoint-1", "..checkpoint-000003", "checkpoint-000003\n"):
        (written.path / name).mkdir()
    (written.path / "checkpoint-000008").touch()
    assert written.names() == ["checkpoint-000001", "checkpoint-000002"]
    (written.path / ".writing").symlink_to(elsewhere)
    (written.path / "checkpoint-000008").unlink()
    written.write(state(3.0))
    assert sorted(path.name for path in elsewhere.iterdir()) == sorted(FILES)


class Fault:
    """os functions that fail at the n-th call of all; counts the calls."""

    def __init__(self, monkeypatch, at, code=errno.ENOSPC):
        self.calls, self.at, self.code = 0, at, code
        for name in ("write", "fsync", "replace", "open", "mkdir"):
            monkeypatch.setattr(os, name, self.wrapped(getattr(os, name)))

    def wrapped(self, function):
        def call(*args, **settings):
            self.calls += 1
            if self.calls == self.at:
                raise OSError(self.code, os.strerror(self.code))
            return function(*args, **settings)

        return call


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_disk_at_any_call_loses_no_checkpoint_and_leaves_no_litter(code, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 64)  # many writes
    with monkeypatch.context() as patch:
        fault = Fault(patch, at=0)
        Checkpoints(tmp_path / "whole").write(state(1.0))
    assert fault.calls > 15
    for at in range(1, fault.calls + 1):
        checkpoints = Checkpoints(tmp_path / str(at))
        checkpoints.write(state(1.0))
        checkpoints.write(state(2.0))
        with monkeypatch.context() as patch:
            calls = Fault(patch, at=at, code=code)
            try:
                checkpoints.write(state(3.0))
            except OutputError as error:
                assert os.strerror(code) in str(error) and str(tmp_path / str(at)) in str(error)
            assert calls.calls >= at
        names = checkpoints.names()
        assert {"checkpoint-000002"} <= set(names) and len(names) >= 2, at
        assert sorted(os.listdir(checkpoints.path)) == names, at
        for name in names:
            assert equal(checkpoints.read(name), state(float(name[-1]))), at
        checkpoints.write(state(4.0))  # with space again


def test_what_a_killed_writer_left_is_overwritten(written):
    for name in (".writing", ".removing"):
        (written.path / name).mkdir()
        (written.path / name / "tensors.safetensors").write_bytes(b"half")
    written.write(state(3.0))
    assert sorted(os.listdir(written.path)) == ["checkpoint-000002", "checkpoint-000003"]


def test_what_is_of_somebody_else_is_not_removed(written):
    (written.path / "checkpoint-000001" / "notes.txt").write_text("mine")
    written.write(state(3.0))
    assert [path.name for path in written.path.rglob("notes.txt")] == ["notes.txt"]


def test_a_tensor_that_could_not_be_read_again_is_refused_when_it_is_written(tmp_path):
    with pytest.raises(ModelError, match="cannot hold"):
        Checkpoints(tmp_path).write(State({"w": torch.eye(3).to_sparse()}, {}))
    assert os.listdir(tmp_path) == []
