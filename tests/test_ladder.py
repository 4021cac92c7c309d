"""The ladder of temperatures: equal rejection, and words for ladders that are none."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from pyrogen.errors import SettingsError
from pyrogen.inference.kernels.ladder import fresh, read_betas


def test_retuning_is_the_inverse_of_the_cumulative_rejection():
    """Rejections .6 and .2 over [0, 1/2] and [1/2, 1]: half of .8 is reached two thirds of the way to 1/2."""
    ladder = fresh(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    for accepted in (torch.tensor([[0.5, 0.9]]), torch.tensor([[0.3, 0.7]])):
        ladder = ladder.with_rates(accepted.double())
    assert_close(ladder.rejected / ladder.seen, torch.tensor([0.6, 0.2], dtype=torch.float64))
    assert_close(ladder.retuned().betas, torch.tensor([0.0, 1 / 3, 1.0], dtype=torch.float64))


def test_equal_rejection_is_a_fixed_point_and_the_ends_stay():
    betas = torch.tensor([0.0, 0.1, 0.4, 1.0], dtype=torch.float64)
    same = fresh(betas).with_rates(torch.full((5, 3), 0.7, dtype=torch.float64))
    assert_close(same.retuned().betas, betas)
    never = fresh(betas).with_rates(torch.ones(5, 3, dtype=torch.float64))
    assert_close(never.retuned().betas, betas)
    one = fresh(betas).with_rates(torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)).retuned().betas
    assert one[0] == 0 and one[-1] == 1 and bool((one.diff() > 0).all()) and one[1] > 0.4


def test_a_ladder_that_nothing_is_known_of_stays():
    betas = torch.tensor([0.0, 0.1, 1.0])
    assert torch.equal(fresh(betas).retuned().betas, betas)


@pytest.mark.parametrize(
    ("rungs", "betas", "words"),
    [
        (1, None, "rungs=1"),
        (True, None, "rungs=True"),
        (3, [0.0, 1.0], "one of the two"),
        (None, [0.0, 0.5, 0.5, 1.0], "strictly rising"),
        (None, [0.0, float("nan"), 1.0], "strictly rising"),
        (None, [0.1, 1.0], "from 0.1 to 1; need from 0"),
        (None, [0.0, 0.9], "to 0.9"),
        (None, [1.0], "at least 2"),
    ],
)
def test_what_is_no_ladder_is_said_in_words(rungs, betas, words):
    with pytest.raises(SettingsError, match=words):
        read_betas(rungs, betas)
