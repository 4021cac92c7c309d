import dataclasses

import pytest
import torch

from pyrogen.data import Dataset
from pyrogen.errors import DataError, ShapeError


def tiny(**changes) -> Dataset:
    settings = {
        "name": "tiny",
        "splits": {"train": torch.zeros(4, 6), "test": torch.ones(2, 6)},
        "labels": {"train": torch.arange(4)},
        "shape": (1, 2, 3),
        "support": "binary",
        "sha256": "0",
    }
    return Dataset(**{**settings, **changes})


def test_a_split_is_had_by_its_name():
    data = tiny()
    assert data["test"] is data.splits["test"]
    assert data.width == 6


def test_a_missing_split_names_those_that_are_there():
    with pytest.raises(DataError, match="got split 'valid' of data set 'tiny'; need one of train, test"):
        tiny()["valid"]


@pytest.mark.parametrize("x", [torch.zeros(4, 5), torch.zeros(6), torch.zeros(4, 1, 2, 3)])
def test_rows_that_do_not_fit_the_picture_are_refused(x):
    with pytest.raises(ShapeError, match="split 'train'"):
        tiny(splits={"train": x}, labels={})


def test_labels_that_are_not_one_per_row_are_refused():
    with pytest.raises(ShapeError, match="labels of 'train' of shape"):
        tiny(labels={"train": torch.arange(3)})
    with pytest.raises(DataError, match="split 'valid'"):
        tiny(labels={"valid": torch.arange(4)})


def test_a_data_set_cannot_be_changed_and_prints_in_one_line():
    data = tiny()
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"  # type: ignore[misc]
    assert repr(data) == "Dataset('tiny': train 4, test 2; shape (1, 2, 3), binary)"
