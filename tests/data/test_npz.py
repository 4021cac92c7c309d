import hashlib
import io
import zipfile

import numpy as np
import pytest

from pyrogen.data.npz import Published, read
from pyrogen.errors import DataError

ROWS = np.arange(12, dtype=np.uint8).reshape(4, 3)
CLASSES = np.array([1, 0, 1, 1], dtype=np.uint8)
PUBLISHED = Published(
    name="tiny.npz",
    arrays={"rows": (4, 3), "classes": (4,)},
    sha256=hashlib.sha256(ROWS.tobytes() + CLASSES.tobytes()).hexdigest(),
)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "pack", [np.asarray, np.asfortranarray, lambda a: a.astype(np.int64), lambda a: a.astype(">i4")]
)
def test_any_packing_of_the_right_contents_passes(tmp_path, save, pack):
    path = tmp_path / "tiny.npz"
    save(path, classes=pack(CLASSES), rows=pack(ROWS), more=np.zeros(3))
    arrays = read(path, PUBLISHED)
    assert list(arrays) == ["rows", "classes"]
    for found, right in zip(arrays.values(), (ROWS, CLASSES), strict=True):
        assert found.dtype == np.uint8 and found.flags.c_contiguous
        np.testing.assert_array_equal(found, right)


def test_one_changed_bit_is_noticed(tmp_path):
    rows = ROWS.copy()
    rows[3, 2] ^= 1
    np.savez(tmp_path / "tiny.npz", rows=rows, classes=CLASSES)
    with pytest.raises(DataError, match=r"tiny\.npz with contents of sha256 .*; need .*; try deleting it"):
        read(tmp_path / "tiny.npz", PUBLISHED, remedy="deleting it")


def test_a_missing_array_is_named_with_those_that_are_there(tmp_path):
    np.savez(tmp_path / "tiny.npz", rows=ROWS)
    with pytest.raises(DataError, match=r"tiny\.npz without 'classes', holding rows; need the arrays rows, classes"):
        read(tmp_path / "tiny.npz", PUBLISHED)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


def test_a_pickled_object_is_refused_and_never_runs(tmp_path):
    np.savez(tmp_path / "tiny.npz", rows=np.array([[Bomb()] * 3] * 4, dtype=object), classes=CLASSES)
    with pytest.raises(DataError, match="'rows' is object of shape"):
        read(tmp_path / "tiny.npz", PUBLISHED)


@pytest.mark.parametrize("shape", [(10**13,), (4, 10**12), (3, 4), (12,)])
def test_a_header_of_another_shape_is_refused_before_memory_is_reserved(tmp_path, shape):
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "tiny.npz", "w") as file:
        file.writestr("rows.npy", member.getvalue() + ROWS.tobytes())
        file.writestr("classes.npy", b"")
    with pytest.raises(DataError, match=r"'rows' is uint8 of shape .*; need integers of shape \(4, 3\)"):
        read(tmp_path / "tiny.npz", PUBLISHED)


@pytest.mark.parametrize("dtype", ["f8", "S1", "V1", "M8[s]"])
def test_entries_that_are_not_integers_are_refused(tmp_path, dtype):
    np.savez(tmp_path / "tiny.npz", rows=np.zeros((4, 3), dtype=dtype), classes=CLASSES)
    with pytest.raises(DataError, match=r"need integers of shape \(4, 3\)"):
        read(tmp_path / "tiny.npz", PUBLISHED)


@pytest.mark.parametrize("kept", [0, 10, 100, 300, -30])
def test_a_truncated_file_says_so(tmp_path, kept):
    path = tmp_path / "tiny.npz"
    np.savez_compressed(path, rows=ROWS, classes=CLASSES)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"tiny\.npz, which cannot be read.*need a whole \.npz file; try another copy"):
        read(path, PUBLISHED, remedy="another copy")


@pytest.mark.parametrize("content", [b"\x93NUMPY\x09\x00", b"\x93NUMPY\x01\x00\x10\x00garbage, no dict", b"", b"text"])
def test_a_member_that_is_no_array_says_so(tmp_path, content):
    with zipfile.ZipFile(tmp_path / "tiny.npz", "w") as file:
        file.writestr("rows.npy", content)
        file.writestr("classes.npy", content)
    with pytest.raises(DataError, match=r"tiny\.npz, which cannot be read"):
        read(tmp_path / "tiny.npz", PUBLISHED)


def test_every_damaged_byte_is_noticed_or_harmless(tmp_path):
    path = tmp_path / "tiny.npz"
    np.savez_compressed(path, rows=ROWS, classes=CLASSES)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            arrays = read(path, PUBLISHED)
        except DataError:
            continue
        np.testing.assert_array_equal(arrays["rows"], ROWS)
