"""The warped mixture: its law is the one that its rows come from."""

from __future__ import annotations

import torch

from pyrogen.data import load
from pyrogen.data.warped_mixture import _uncubed, log_density
from tests.statistics import assert_mean


def test_the_rows_are_scaled_and_the_same_each_time():
    data, again = load("warped-mixture"), load("warped-mixture")
    assert [len(data[split]) for split in ("train", "valid", "test")] == [45_000, 5_000, 10_000]
    assert data.sha256 == again.sha256 == "91410a5ac016cf0067089bf5d2374c2a16dcba3b58ef24d359944e17fcefc8cd"
    scaled_by = torch.cat([data["train"], data["valid"]])
    assert scaled_by.mean(0).abs().max() < 1e-5 and (scaled_by.std(0) - 1).abs().max() < 1e-4
    assert all(torch.equal(data[split], again[split]) for split in data.splits)


def test_the_cubic_is_undone():
    u = torch.linspace(-30, 30, 1001, dtype=torch.float64)
    torch.testing.assert_close(_uncubed(u + 0.05 * u**3), u, atol=1e-10, rtol=0)


def test_the_density_is_that_of_the_rows():
    """Stein: E[score] = 0 and E[x_d score_d] = -1 for the score of the law that x comes from."""
    x = load("warped-mixture")["train"].double().requires_grad_()
    log_p = log_density(x)
    (score,) = torch.autograd.grad(log_p.sum(), x)
    assert_mean(score, 0.0)
    assert_mean((x * score).detach(), -1.0)


def test_what_no_model_beats_but_by_chance():
    assert abs(float(log_density(load("warped-mixture")["test"]).mean()) + 5.0288) < 1e-3
