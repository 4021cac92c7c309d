"""Files from elsewhere: an error in words, and no code is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys

import pytest
import torch

from pyrogen.inference import checkpoints as module
from pyrogen.inference.checkpoints import FILES, Checkpoints
from pyrogen.inference.state import State
from pyrogen.inference.strict import DamagedError, read_json, read_tensors, sha256_of


@pytest.fixture
def written(tmp_path):
    """Two checkpoints."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for value in (1.0, 2.0):
        checkpoints.write(State({"w": torch.full((3, 5), value)}, {"step": value}))
    return checkpoints


class Canary:
    """Whoever unpickles it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def manifest(folder, **sizes):
    """A manifest that fits the files, as somebody who knows the format would write it."""
    files = {}
    for name in FILES[:2]:
        content = (folder / name).read_bytes()
        files[name] = {"sha256": sha256_of(content), "size": sizes.get(name.partition(".")[0], len(content))}
    (folder / "manifest.json").write_bytes(module._json({"files": files, "schema": 1}))


def safetensors(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(dtype="F32", shape=(1,), place=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(place)}


ROW = json.dumps(entry())
HOSTILE = {
    "huge header": struct.pack("<Q", 2**63) + b"{}",
    "huge shape": safetensors({"w": entry(shape=(2**40, 2**21), place=(0, 2**63))}, b"1234"),
    "huge place": safetensors({"w": entry(shape=(2**50,), place=(0, 2**52))}, b"1234"),
    "product that overflows": safetensors({"w": entry(shape=(2**32, 2**32), place=(0, 0))}),
    "negative place": safetensors({"w": entry(place=(-4, 0))}, b"1234"),
    "negative shape": safetensors({"w": entry(shape=(-1, -1))}, b"1234"),
    "fractions": safetensors({"w": entry(shape=(1.0,))}, b"1234"),
    "true": safetensors({"w": entry(shape=(True,))}, b"1234"),
    "another dtype": safetensors({"w": entry(dtype="F64")}, b"1234"),
    "unknown dtype": safetensors({"w": entry(dtype="OBJECT")}, b"1234"),
    "a dtype that is a list": safetensors({"w": entry(dtype=["F32"])}, b"1234"),
    "shared place": safetensors({"w": entry(), "v": entry()}, b"1234"),
    "a gap": safetensors({"w": entry(place=(4, 8))}, b"12345678"),
    "more than declared": safetensors({"w": entry()}, b"12345678"),
    "a key twice": safetensors(f'{{"w": {ROW}, "w": {ROW}}}'.encode(), b"1234"),
    "an inner key twice": safetensors(b'{"w": {"dtype": "F32", "dtype": "I32", "shape": [1], "data_offsets": [0,4]}}'),
    "nan": safetensors(b'{"w": NaN}'),
    "a list": safetensors(b"[]"),
    "deep": safetensors(b"[" * 10**5),
    "no utf-8": safetensors(b'{"\xff": 1}'),
    "a zip": b"PK\x03\x04" + b"0" * 100,
    "nothing": b"",
    "short": b"\0\0",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tensors_are_refused_though_their_checksum_is_right(name, written):
    folder = written.path / "checkpoint-000002"
    (folder / "tensors.safetensors").write_bytes(HOSTILE[name])
    manifest(folder)
    with pytest.raises(DamagedError, match=r"safetensors"):
        written.read("checkpoint-000002")


@pytest.mark.parametrize(
    "content",
    [
        b'{"identity": 1, "identity": 2}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e400}',
        b'{"a": ' + b"1" * 10**4 + b"}",
        b"[" * 10**5,
        b'{"a":' * 10**5,
        b"[]",
        b"3",
        b"",
        b"\xff\xfe",
        b"{} {}",
        b"{'a': 1}",
    ],
    ids=range(13),
)
def test_json_that_could_be_read_in_two_ways_is_refused(content, written):
    folder = written.path / "checkpoint-000002"
    (folder / "state.json").write_bytes(content)
    manifest(folder)
    with pytest.raises(DamagedError):
        written.read("checkpoint-000002")
    with pytest.raises(DamagedError):
        read_json(content, "it")


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_under_any_name_is_not_opened(name, written, tmp_path):
    folder, canary = written.path / "checkpoint-000002", tmp_path / "canary"
    for content in (pickle.dumps(Canary(canary)), pickle.dumps(Canary(canary), protocol=0)):
        (folder / name).write_bytes(content)
        with pytest.raises(DamagedError):
            written.read("checkpoint-000002")
        if name != "manifest.json":
            manifest(folder)
            with pytest.raises(DamagedError):
                written.read("checkpoint-000002")
    torch.save(Canary(canary), folder / name)
    with pytest.raises(DamagedError):
        written.read("checkpoint-000002")
    assert not canary.exists()
    pickle.loads(pickle.dumps(Canary(canary)))
    assert canary.exists()  # it would have sung


def test_declared_sizes_are_checked_before_anything_is_read(written, monkeypatch):
    folder = written.path / "checkpoint-000002"
    manifest(folder, tensors=10**15)
    with pytest.raises(DamagedError, match=r"bytes instead of 1,000,000,000,000,000"):
        written.read("checkpoint-000002")
    with open(folder / "tensors.safetensors", "r+b") as file:
        file.truncate(10**12)  # a hole, a terabyte of it
    with pytest.raises(DamagedError, match=r"more than the 1,000 that it may have"):
        written.read("checkpoint-000002", most=1000)
    with open(folder / "manifest.json", "r+b") as file:
        file.truncate(10**12)
    with pytest.raises(DamagedError, match=r"more than the 65,536 that it may have"):
        written.read("checkpoint-000002")


@pytest.mark.parametrize(
    "content",
    [
        {"files": {}, "schema": 1},
        {"files": {"../../secret": {"sha256": "", "size": 1}, "state.json": {"sha256": "", "size": 1}}, "schema": 1},
        {"files": {name: {"sha256": "", "size": "1"} for name in FILES[:2]}, "schema": 1},
        {"files": {name: {"sha256": 3, "size": 1} for name in FILES[:2]}, "schema": 1},
        {"files": dict.fromkeys(FILES[:2], 3), "schema": 1},
        {"files": [], "schema": 1},
        {"files": {}, "schema": 2},
        {"schema": True},
    ],
    ids=range(8),
)
def test_a_manifest_that_lists_something_else_is_refused(content, written):
    (written.path / "checkpoint-000002" / "manifest.json").write_bytes(module._json(content))
    with pytest.raises(DamagedError, match=r"manifest\.json"):
        written.read("checkpoint-000002")


def test_links_pipes_and_folders_are_not_followed(written, tmp_path):
    folder = written.path / "checkpoint-000002"
    for make in (lambda f: f.symlink_to(tmp_path / "precious"), os.mkfifo, os.mkdir):
        shutil.copyfile(folder / "state.json", tmp_path / "precious")
        (folder / "state.json").unlink()
        make(folder / "state.json")
        with pytest.raises(DamagedError, match=r"state\.json"):
            written.read("checkpoint-000002")
        (folder / "state.json").rmdir() if (folder / "state.json").is_dir() else (folder / "state.json").unlink()
        shutil.copyfile(tmp_path / "precious", folder / "state.json")


def test_loading_opens_no_pickle_no_process_and_no_socket(written):
    program = f"""
import sys
from pyrogen.inference.checkpoints import Checkpoints
from pathlib import Path
import safetensors.torch
def hook(event, args):
    if event in ("exec", "compile", "pickle.find_class", "os.system", "subprocess.Popen", "socket.connect", "os.exec"):
        raise SystemExit(f"ran {{event}}")
checkpoints = Checkpoints(Path({str(written.path)!r}))
checkpoints.read(checkpoints.names()[-1])
sys.addaudithook(hook)
checkpoints.read(checkpoints.names()[-1])
print("quiet")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "quiet\n", done.stderr


def test_tensors_of_every_dtype_come_back():
    from safetensors.torch import save

    dtypes = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8]
    dtypes += [torch.uint8, torch.bool, torch.complex64, torch.uint16, torch.uint32, torch.uint64]
    dtypes += [torch.float32, torch.float8_e4m3fn, torch.float8_e5m2]
    tensors = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in dtypes}
    found = read_tensors(save(tensors), "it")
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in tensors.items())
