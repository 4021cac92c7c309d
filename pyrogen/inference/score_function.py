"""Score functions, for sites without a reparameterisation: terms of value 0, whose gradient is what they add to a loss.

Source: Mnih and Rezende 2016 (VIMCO), arXiv:1602.06725.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrogen.errors import ModelError
from pyrogen.inference.terms import Terms


def score_term(terms: Terms, local: Tensor, overall: Tensor) -> Tensor:
    """Score-function part of the gradient per row, with leave-one-out baselines."""
    total = local.new_zeros(())
    k = terms.particles
    for site in terms.latents.values():
        if site.reparameterized:
            continue
        if site.is_global:
            signal = (local.mean(1, keepdim=True) + overall[:, None] / terms.size).detach()
        else:
            signal = local.detach()
        baseline = (signal.sum(0) - signal) / (k - 1) if k > 1 else 0.0
        total = total + ((signal - baseline) * site.log_q).mean()
    return total - total.detach()


def vimco_term(terms: Terms, log_w: Tensor, rows: Tensor) -> Tensor:
    """sum_k (L - L without particle k) log q_k over the sites that need a score, averaged over rows."""
    sites = [site for site in terms.latents.values() if not site.reparameterized]
    total = rows.new_zeros(())
    if not sites:
        return total
    k = terms.particles
    if k == 1:
        signal = log_w
    else:
        others = (log_w.sum(0) - log_w) / (k - 1)
        replaced = torch.where(torch.eye(k, dtype=torch.bool, device=log_w.device)[..., None], others, log_w)
        signal = rows - (replaced.logsumexp(1) - math.log(k))
    for site in sites:
        log_q = site.log_q if log_w.shape[1] == site.log_q.shape[1] else site.log_q.sum(1, keepdim=True)
        total = total + (signal * log_q).sum(0).mean()
    return total - total.detach()


def refuse_score(terms: Terms, objective: str) -> None:
    """Refuse sites that need a score where only the path counts.

    Raises:
        ModelError: a site without a reparameterisation.
    """
    for name, site in terms.latents.items():
        if not site.reparameterized:
            raise ModelError(
                got=f"{objective} by the path derivative with site {name!r}, which has no rsample",
                need="reparameterized latent sites",
                fix='gradient="auto", which uses the score function there',
            )
