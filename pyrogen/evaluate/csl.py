"""The conservative log-likelihood of a model that is a Markov chain."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrogen.errors import SettingsError
from pyrogen.evaluate.result import LogLikelihood
from pyrogen.models.contracts import Chain

CHAINS = 100
"""Side by side. Their spread gives the Monte-Carlo error, as they are independent."""


@torch.no_grad()
def csl(model: Chain, x: Tensor, *, particles: int = 10_000, seed: int = 0, chunk: int = 1_000_000) -> LogLikelihood:
    """log p(x) of rows under the law that the model's chains settle in.

        CSL(x) = log 1/K sum_k P(x | x~_k),   x~_k from chains that started at noise

    By Jensen's inequality a lower bound in expectation, and tight as K grows: on the log-density of the rows that
    such chains give, at a step among those kept. That is p where the chains have settled before the first of
    them. Chains that have not have another law, and it is that one which is bounded: no row of data is where they
    start. With few x~ the bound is loose, the more so the less they overlap, and worst for large D.

    Source: Bengio, Yao and Cho 2013, arXiv:1311.6184.

    Args:
        x: rows, (N, D).
        particles: K, in at most 100 independent chains, and rounded up to a multiple of these.
        seed: of the chains; the global random state is left as it was.
        chunk: rows times particles in memory at a time.

    Raises:
        SettingsError: fewer than two particles.
    """
    if not isinstance(particles, int) or particles < 2:
        raise SettingsError(got=f"particles={particles!r}", need="at least 2", fix="particles=10_000")
    model.check(x)
    like = next(model.parameters())
    x = x.to(like.device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        noisy = _chains(model, particles)  # (chains, steps, D)
    log_mean = torch.stack([_log_mean(model, x, part, chunk) for part in noisy]).double()  # (chains, N)
    c = len(noisy)
    rows = log_mean.logsumexp(0) - math.log(c)
    # by the delta method: how far each chain's mean weight is from all, averaged over the rows it is used for
    away = (log_mean - rows).exp().mean(1)
    stderr = float(rows.std()) / math.sqrt(len(rows)) if len(rows) > 1 else math.nan
    return LogLikelihood(
        rows=rows.cpu(),
        mean=float(rows.mean()),
        stderr=stderr,
        mc_stderr=float(away.std()) / math.sqrt(c) if c > 1 else math.nan,
        kind="lower bound",
        method="csl",
        n=len(rows),
        particles=noisy.shape[0] * noisy.shape[1],
        seed=seed,
    )


def _chains(model: Chain, particles: int) -> Tensor:
    chains = min(CHAINS, particles)
    kept = [model.noisy(chains)]
    for _ in range(math.ceil(particles / chains) - 1):
        kept.append(model.again(kept[-1]))
    return torch.stack(kept, 1)


def _log_mean(model: Chain, x: Tensor, noisy: Tensor, chunk: int) -> Tensor:
    """log of the mean over a chain's x~ of P(x | x~), (N,)."""
    at_once = max(1, chunk // len(noisy))
    return torch.cat([model.log_given(part, noisy).logsumexp(1) for part in x.split(at_once)]) - math.log(len(noisy))
