from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from pyrogen.diagnostics import annealing_weights, chain_movie, filters, gibbs_frames, tempering_ladder
from pyrogen.errors import SettingsError, ShapeError
from pyrogen.evaluate import log_z
from tests.machines import machine


def bars(figure) -> list[tuple[float, float, float]]:
    patches: list[Any] = figure.axes[0].patches
    return [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in patches]


def canvas(figure) -> np.ndarray:
    return np.asarray(figure.axes[0].images[0].get_array())


def test_filters_are_the_columns_the_longest_first_each_on_its_own_scale():
    W = torch.tensor([[1.0, 4.0], [0.0, -8.0], [-0.5, 0.0], [0.0, 0.0]])
    shown = canvas(filters(W, (2, 2), columns=2))
    # 0 is grey; the longer column is left, and its -8 is black
    np.testing.assert_allclose(shown[:, :2], [[0.75, 0.0], [0.5, 0.5]])
    np.testing.assert_allclose(shown[:, 3:], [[1.0, 0.5], [0.25, 0.5]])
    assert canvas(filters(W, (2, 2), most=1)).shape == (2, 2)


def test_filters_of_a_dead_unit_are_grey_and_a_vector_is_refused():
    assert (canvas(filters(torch.zeros(4, 1), (2, 2))) == 0.5).all()
    with pytest.raises(ShapeError, match=r"\(4,\)"):
        filters(torch.zeros(4), (2, 2))


def test_a_chain_is_a_line_and_time_runs_to_the_right():
    frames = torch.zeros(2, 3, 4)
    frames[1, 2] = 1.0
    figure = chain_movie(frames, (2, 2), times=[0, 1, 5])
    shown = canvas(figure)
    assert (shown[3:, 6:] == 1).all() and (shown[:2, 6:] == 0).all() and (shown[3:, :2] == 0).all()
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "1", "5"]
    with pytest.raises(ShapeError, match="2 times"):
        chain_movie(frames, (2, 2), times=[0, 1])


def test_frames_begin_at_the_rows_and_are_means_given_h():
    m = machine(4, 3)
    v = torch.eye(4).double()
    frames = gibbs_frames(m, v, (0, 1, 3))
    assert frames.shape == (4, 3, 4) and torch.equal(frames[:, 0], v)
    assert ((frames[:, 1:] > 0) & (frames[:, 1:] < 1)).all()
    with pytest.raises(SettingsError, match="increasing"):
        gibbs_frames(m, v, (1, 0))


def test_the_histogram_has_all_chains_and_the_mean_weight_at_zero():
    found = log_z(machine(4, 3), "ais", base=torch.zeros(4).double(), steps=20, chains=60)
    assert found.log_weights is not None
    drawn = bars(annealing_weights(found))
    assert sum(height for _, _, height in drawn) == 60
    left, right = drawn[0][0], drawn[-1][0] + drawn[-1][1]
    assert left < 0 < right  # the mean of the weights is between the least and the largest
    excess = found.log_weights - found.log_weights.logsumexp(0) + math.log(60)
    assert (left, right) == pytest.approx((float(excess.min()), float(excess.max())))
    with pytest.raises(SettingsError, match="exact"):
        annealing_weights(log_z(machine(4, 3), "exact"))


def test_the_ladder_has_a_bar_for_each_pair_from_rung_to_rung():
    report = {"betas": [0.0, 0.2, 1.0], "swap_rates": [0.5, 0.25], "round_trips_per_draw": 0.125}
    figure = tempering_ladder(report)
    np.testing.assert_allclose(bars(figure), [(0.0, 0.2, 0.5), (0.2, 0.8, 0.25)], atol=1e-12)
    assert "0.125 round trips" in figure.axes[0].get_title()
    with pytest.raises(SettingsError, match="swap_rates"):
        tempering_ladder({"betas": [0, 1]})
