"""Statistical assertions, all with one false-alarm rate.

Every test with noise goes through here, so that the rate is stated once: a correct program fails one of these
assertions once in 1 / FALSE_ALARM seeds. Seeds are fixed, so a test that passes keeps passing; the rate says how
far a threshold is from the noise, not how often the suite is flaky. Sums over many entries are Bonferroni-corrected.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

FALSE_ALARM = 1e-6
"""Probability that an assertion fails for a correct program, per assertion."""


def threshold(comparisons: int = 1) -> float:
    """The |z| that a standard normal exceeds with probability FALSE_ALARM in any of so many comparisons."""
    return NormalDist().inv_cdf(1 - FALSE_ALARM / 2 / comparisons)


def assert_mean(samples: Tensor, expected: Tensor | float, *, exact_to: float = 0.0) -> None:
    """The mean over the first dimension is `expected`, up to its standard error.

    Args:
        samples: (n, ...), independent along n, at least 50 of them.
        exact_to: how far the expected value itself may be off, for example by quadrature.
    """
    samples = samples.double()
    expected = torch.as_tensor(expected, dtype=torch.float64)
    n = samples.shape[0]
    assert n >= 50, f"a z-test on {n} samples has no known rate"
    error = samples.std(0) / math.sqrt(n)
    _assert_z((samples.mean(0) - expected).abs() - exact_to, error)


def assert_same_mean(a: Tensor, b: Tensor) -> None:
    """Two independent sets of samples, (n, ...) and (m, ...), have one mean."""
    a, b = a.double(), b.double()
    assert min(len(a), len(b)) >= 50, "too few samples for a z-test"
    error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    _assert_z((a.mean(0) - b.mean(0)).abs(), error)


def assert_frequencies(counts: Tensor, probabilities: Tensor) -> None:
    """Counts of independent draws, (S,), have these probabilities: Pearson's chi-square, cells below 10 in one.

    Its cube root is nearly normal (Wilson and Hilferty 1931), which holds to the false-alarm rate from a few
    degrees of freedom on.
    """
    counts, expected = counts.double(), counts.sum() * probabilities.double()
    assert bool((counts[expected == 0] == 0).all()), "a state of probability zero was drawn"
    rare = expected < 10
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    there = expected > 1  # less than one draw in all rare cells together says nothing
    counts, expected = counts[there], expected[there]
    assert len(counts) > 1, "one cell has no frequency to test"
    chi2, freedom = float(((counts - expected) ** 2 / expected).sum()), len(counts) - 1
    spread = 2 / (9 * freedom)
    z = ((chi2 / freedom) ** (1 / 3) - 1 + spread) / math.sqrt(spread)
    assert z < NormalDist().inv_cdf(1 - FALSE_ALARM), f"chi-square {chi2:.1f} for {freedom} degrees, z = {z:.1f}"


def assert_standard_deviation(samples: Tensor, expected: Tensor | float, *, relative: float = 0.0) -> None:
    """The standard deviation over the first dimension is `expected`, up to the error that the samples' kurtosis gives.

    Args:
        relative: how far the expected value itself may be off, as a fraction of it.
    """
    off = (_log_std(samples) - torch.as_tensor(expected, dtype=torch.float64).log()).abs()
    _assert_z(off - math.log1p(relative), _log_std_error(samples))


def assert_more_spread(a: Tensor, b: Tensor, *, factor: float = 1.0) -> None:
    """a's standard deviation is more than `factor` times b's, and not by chance."""
    excess = _log_std(a) - _log_std(b) - math.log(factor)
    error = (_log_std_error(a) ** 2 + _log_std_error(b) ** 2).sqrt()
    assert bool((excess > threshold(excess.numel()) * error).all()), f"log ratio {excess} +- {error}"


def _assert_z(off: Tensor, error: Tensor) -> None:
    # rounding alone, when the samples have no spread
    allowed = threshold(off.numel()) * error + 1e-9
    assert bool((off <= allowed).all()), f"off by {off.max():.3g}, that is z = {(off / error).max():.1f}"


def _log_std(samples: Tensor) -> Tensor:
    return samples.double().std(0).log()


def _log_std_error(samples: Tensor) -> Tensor:
    """Standard error of log std: sqrt((kurtosis - 1) / 4n), at least that of normal samples."""
    samples = samples.double()
    centred = samples - samples.mean(0)
    kurtosis = centred.pow(4).mean(0) / centred.pow(2).mean(0).square()
    return ((kurtosis.clamp(min=3) - 1) / (4 * len(samples))).sqrt()
