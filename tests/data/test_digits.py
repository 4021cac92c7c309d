import hashlib
import zipfile

import numpy as np
import pytest
import torch

from pyrogen.data import digits as module
from pyrogen.data import load
from pyrogen.ops import check_rows


def test_digits_have_the_published_splits():
    data = load("digits")
    assert {split: tuple(x.shape) for split, x in data.splits.items()} == {
        "train": (1200, 64),
        "valid": (200, 64),
        "test": (397, 64),
    }
    assert data.shape == (1, 8, 8)
    assert {split: tuple(y.shape) for split, y in data.labels.items()} == {
        "train": (1200,),
        "valid": (200,),
        "test": (397,),
    }


@pytest.mark.parametrize(("binarize", "support"), [(True, "binary"), (False, "grey17")])
def test_digits_are_inside_their_support_and_touch_its_ends(binarize, support):
    data = load("digits", binarize=binarize)
    assert data.support == support
    for x in data.splits.values():
        assert x.dtype == torch.float32
        check_rows(x, width=64, support=support)
        assert (x.min(), x.max()) == (0, 1)


def test_bits_are_grey_values_above_seven_and_a_half():
    grey, bits = load("digits", binarize=False), load("digits")
    for split in bits.splits:
        assert torch.equal((grey[split] * 16).round() > 7.5, bits[split].bool())


def test_the_splits_part_the_file_as_the_permutation_says():
    # pinned, because numpy may change its streams: comparisons need these very rows
    order = np.random.default_rng(0).permutation(1797)
    assert order[:8].tolist() == [360, 1773, 1482, 600, 850, 196, 968, 1742]
    with np.load(module.__file__.replace(".py", ".npz"), allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    data = load("digits", binarize=False)
    together = torch.cat(list(data.splits.values()))
    assert torch.equal(together, torch.from_numpy(images.reshape(1797, 64)[order]) / 16)
    assert torch.equal(torch.cat(list(data.labels.values())), torch.from_numpy(labels[order]).long())


def test_no_picture_is_in_two_splits():
    data = load("digits", binarize=False)
    rows = [{bytes((row * 16).byte().numpy()) for row in x} for x in data.splits.values()]
    assert len(rows[0] | rows[1] | rows[2]) == sum(map(len, rows)) == 1797


def test_a_picture_looks_like_its_label():
    # one nearest neighbour knows 98% of handwritten digits, and 10% if rows or labels were shuffled apart
    data = load("digits", binarize=False)
    nearest = torch.cdist(data["test"], data["train"]).argmin(dim=1)
    assert (data.labels["train"][nearest] == data.labels["test"]).float().mean() > 0.95


def test_the_embedded_file_is_small_and_its_hash_is_that_of_its_arrays():
    path = module.__file__.replace(".py", ".npz")
    with zipfile.ZipFile(path) as file:
        assert sum(member.compress_size for member in file.infolist()) < 100_000
    with np.load(path, allow_pickle=False) as file:
        raw = file["images"].tobytes() + file["labels"].tobytes()
    assert load("digits").sha256 == hashlib.sha256(raw).hexdigest()
