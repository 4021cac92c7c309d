"""Weights with a prior: rows given weights and weights given rows, in turns, keep their joint law (Geweke 2004)."""

from __future__ import annotations

import torch

from pyrogen.distributions.boltzmann import RBMDistribution, exact_draws
from tests.machines import machine

PRIOR = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
SCALES = (0.2, 1.0, 2.0, 4.0)
CHAINS, ROUNDS = 40_000, 4


def laws() -> list[RBMDistribution]:
    """p(v | theta) for each of four weights theta."""
    return [RBMDistribution.of(machine(4, 3, scale=scale), log_z="exact") for scale in SCALES]


def alternated(log_p) -> torch.Tensor:
    """Chi-square of the thetas against their prior after some rounds from an exact start; log_p(law, v) is used."""
    torch.manual_seed(0)
    theta = torch.multinomial(PRIOR, CHAINS, replacement=True)
    v = torch.zeros(CHAINS, 4, dtype=torch.float64)
    for k, law in enumerate(laws()):
        v[theta == k] = exact_draws(law.machine, int((theta == k).sum()))
    for _ in range(ROUNDS):
        for k, law in enumerate(laws()):
            v[theta == k] = law.machine.sweep(v[theta == k])
        posterior = (PRIOR.log() + torch.stack([log_p(law, v) for law in laws()], -1)).softmax(-1)
        theta = torch.multinomial(posterior, 1).squeeze(-1)
    found, expected = theta.bincount(minlength=4), CHAINS * PRIOR
    return ((found - expected).square() / expected).sum()


def test_rows_and_weights_in_turns_keep_the_prior_of_the_weights():
    # three degrees of freedom: a false alarm in 10^5
    assert alternated(lambda law, v: law.log_prob(v)) < 26


def test_the_alternation_sees_a_missing_normaliser():
    assert alternated(lambda law, v: law.unnormalized_log_prob(v)) > 1000
