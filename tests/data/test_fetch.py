import errno
import hashlib
import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from pyrogen.data import fetch
from pyrogen.data.npz import Published
from pyrogen.errors import DataError

ROWS = np.arange(200, dtype=np.uint8).reshape(50, 4)
TINY = Published(name="tiny.npz", arrays={"rows": (50, 4)}, sha256=hashlib.sha256(ROWS.tobytes()).hexdigest())


class Handler(BaseHTTPRequestHandler):
    """Answers /good with the rows, and everything else as its name says."""

    def do_GET(self):
        if self.path == "/missing":
            self.send_error(404)
            return
        content = bytes(200) if self.path == "/wrong" else ROWS.tobytes()
        self.send_response(200)
        if self.path != "/unannounced":
            self.send_header("Content-Length", "many" if self.path == "/nonsense" else str(len(content)))
        self.end_headers()
        self.wfile.write(content[:120] if self.path == "/truncated" else content)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("PYROGEN_DATA", raising=False)
    return tmp_path / ".cache" / "pyrogen"


def find(url, root=None):
    def download(path):
        return {"rows": np.frombuffer(fetch.download(url, path), dtype=np.uint8).reshape(50, 4)}

    return fetch.find(TINY, download, root)["rows"]


def nothing(path):
    raise AssertionError("downloaded")


@pytest.mark.parametrize("page", ["good", "unannounced"])
def test_a_missing_file_is_downloaded_once(server, cache, capsys, page):
    np.testing.assert_array_equal(find(f"{server}/{page}"), ROWS)
    assert [path.name for path in cache.iterdir()] == ["tiny.npz"]
    out, err = capsys.readouterr()
    assert out == "" and page in err
    np.testing.assert_array_equal(fetch.find(TINY, nothing, None)["rows"], ROWS)


@pytest.mark.parametrize(
    ("page", "why"),
    [
        ("wrong", "with contents of sha256 .* again, in case it was damaged"),
        ("truncated", "the connection ended after 120 of 200 bytes"),
        ("missing", "404"),
        ("nonsense", "many"),
    ],
)
def test_a_bad_download_names_file_and_remedy_and_leaves_nothing(server, cache, page, why):
    with pytest.raises(DataError, match=why) as caught:
        find(f"{server}/{page}")
    assert str(cache / "tiny.npz") in caught.value.got
    assert "root or PYROGEN_DATA" in caught.value.fix
    assert list(cache.iterdir()) == []


def test_no_network_names_file_and_remedy(cache):
    with pytest.raises(DataError, match=r"tiny\.npz.*failed.*root or PYROGEN_DATA"):
        find("http://127.0.0.1:1/good")


def test_a_download_without_end_is_cut(server, cache, monkeypatch):
    monkeypatch.setattr(fetch, "_LIMIT", 150)
    with pytest.raises(DataError, match="more than 150 bytes"):
        find(f"{server}/good")


class FullDisk(io.FileIO):
    def write(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_names_file_and_remedy_and_leaves_nothing(server, cache, monkeypatch):
    monkeypatch.setattr(fetch, "open", FullDisk, raising=False)
    with pytest.raises(DataError, match=r"No space left on device; need free space there; try again with space freed"):
        find(f"{server}/good")
    assert list(cache.iterdir()) == []


def test_a_disk_that_fills_up_at_the_last_moment_leaves_nothing(server, cache, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch.os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device"):
        find(f"{server}/good")
    assert list(cache.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_known_before_the_download(cache):
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"tiny\.npz, which cannot be written"):
        fetch.find(TINY, nothing, None)


def test_an_interrupt_leaves_nothing_under_any_name(tmp_path):
    with pytest.raises(KeyboardInterrupt), fetch.whole_file(tmp_path / "x.npz") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_name_appears_only_when_all_is_written(tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(b"old")
    with fetch.whole_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_a_damaged_cache_says_to_delete_the_file(cache):
    cache.mkdir(parents=True)
    np.savez(cache / "tiny.npz", rows=np.zeros((50, 4), dtype=np.uint8))
    with pytest.raises(DataError, match="deleting it, so that it is downloaded again"):
        fetch.find(TINY, nothing, None)


def test_root_comes_before_the_variable_and_the_variable_before_the_cache(cache, tmp_path, monkeypatch):
    for name in ("root", "variable"):
        (tmp_path / name).mkdir()
    np.savez(tmp_path / "root" / "tiny.npz", rows=ROWS)
    monkeypatch.setenv("PYROGEN_DATA", str(tmp_path / "variable"))
    np.testing.assert_array_equal(fetch.find(TINY, nothing, tmp_path / "root")["rows"], ROWS)
    with pytest.raises(DataError, match=r"variable/tiny\.npz, where PYROGEN_DATA points"):
        fetch.find(TINY, nothing, None)
    np.savez(tmp_path / "variable" / "tiny.npz", rows=ROWS)
    np.testing.assert_array_equal(fetch.find(TINY, nothing, None)["rows"], ROWS)
    with pytest.raises(DataError, match=r"nowhere/tiny\.npz, where root points.*copying it there"):
        fetch.find(TINY, nothing, str(Path("nowhere")))
