"""Draws of some variables given the others, with the number of draws that they are worth."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from pyro.ops.stats import effective_sample_size
from torch import Tensor

from pyrogen.distributions.autoregressive.ancestral import Walk, ancestral
from pyrogen.distributions.autoregressive.joint import Autoregressive, check_values
from pyrogen.errors import DtypeError, SettingsError, ShapeError

Method = Literal["auto", "exact", "importance", "gibbs"]


class Given(NamedTuple):
    """Draws of p(x_missing | x_observed), for each of N rows.

    draws (n, N, D) hold the observed values too. ess (N,) is how many independent draws they are worth: n where
    the method is exact, the particles' (sum w)^2 / sum w^2 for importance resampling, and for Gibbs that of log p
    along the chains, at most n. log_evidence (N,) is log p(x_observed) in nats: exact for the exact method, the
    log of an unbiased estimate for importance, NaN for Gibbs.
    """

    draws: Tensor
    ess: Tensor
    log_evidence: Tensor
    method: str


@torch.no_grad()
def draw_given(
    fn: Autoregressive,
    x: Tensor,
    observed: Tensor,
    n: int = 1,
    *,
    method: Method = "auto",
    particles: int = 1000,
    sweeps: int = 50,
) -> Given:
    """`Autoregressive.sample_given`: n draws for each row of x of what is not observed, given what is.

        exact        observed variables come first in the order: the walk is the conditional law
        importance   walks with the observed variables held, of weight prod over them of p(x_d | x_<d), resampled
        gibbs        from such walks, sweeps over p(x_d | all others) for each missing d; discrete variables

    Holding the observed variables alone is no conditional law: variables before them do not know of them.

    Args:
        fn: without a context, or with one for all rows or for each.
        x: (N, D); entries that are not observed may be anything.
        observed: (D,) or (N, D) bool.
        n: draws for each row.
        method: "auto" is "exact" where the order allows it, else "importance".
        particles: of importance resampling, for each row.
        sweeps: of Gibbs, at least 4.

    Raises:
        ShapeError, DtypeError, SupportError: x or observed are not as above.
        SettingsError: "exact" where the order does not allow it, Gibbs for real variables, or counts below these.
    """
    observed = check_given(fn, x, observed)
    for name, value, least in (("n", n, 1), ("particles", particles, 1), ("sweeps", sweeps, 4)):
        if not isinstance(value, int) or value < least:
            raise SettingsError(got=f"{name} = {value!r}", need=f"a whole number, {least} or more", fix=f"{least}")
    first = _comes_first(fn, observed)
    if method == "auto":
        method = "exact" if first else "importance"
    if method == "exact":
        if not first:
            raise SettingsError(
                got="method 'exact' with observed variables after missing ones in the order",
                need="an order in which they come first",
                fix="method='importance', or an orderless model, which chooses the order",
            )
        walk = _walks(fn, x, observed, n)
        return Given(walk.x, torch.full_like(walk.log_weight[0], n), walk.log_weight[0], "exact")
    if method == "importance":
        return _importance(_walks(fn, x, observed, particles), n)
    if method == "gibbs":
        return _gibbs(fn, _walks(fn, x, observed, n).x, observed, sweeps)
    raise SettingsError(got=f"method {method!r}", need="'auto', 'exact', 'importance' or 'gibbs'", fix="'auto'")


def check_given(fn: Autoregressive, x: Tensor, observed: Tensor) -> Tensor:
    """The mask as (N, D), once it and the observed entries are known to be right."""
    observed = check_mask(x, observed, fn.network.width)
    values = fn.conditional.values(x)
    filler = x.new_zeros(()) if values is None else values[0]
    check_values(torch.where(observed, x, filler), fn)
    return observed


def check_mask(x: Tensor, observed: Tensor, width: int) -> Tensor:
    """The mask as (N, D), once its shape and that of x are known to be right."""
    if x.dim() != 2 or x.shape[1] != width:
        raise ShapeError(got=f"x of shape {tuple(x.shape)}", need=f"(N, {width})", fix=f"x.reshape(-1, {width})")
    if observed.dtype != torch.bool:
        raise DtypeError(got=f"a mask of {observed.dtype}", need="torch.bool, True where observed", fix="mask.bool()")
    if observed.shape not in ((width,), x.shape):
        raise ShapeError(
            got=f"a mask of shape {tuple(observed.shape)}",
            need=f"({width},) or {tuple(x.shape)}, True where observed",
            fix="one entry for each variable",
        )
    return observed.expand_as(x)


def _comes_first(fn: Autoregressive, observed: Tensor) -> bool:
    """Whether no observed variable comes after a missing one, in any row: for one order."""
    if len(fn.orders) != 1:
        return False
    there = observed[:, fn.network.orders[int(fn.orders[0])]]
    return bool((there[:, :-1] | ~there[:, 1:]).all())


def _walks(fn: Autoregressive, x: Tensor, observed: Tensor, k: int) -> Walk:
    """k walks for each row with the observed variables held: x (k, N, D), log weights (k, N)."""
    n, width = x.shape
    like = next(fn.network.parameters())
    x, held = (t.to(like.device).expand(k, n, width).reshape(-1, width) for t in (x, observed))
    context = fn.context
    if context is not None:
        context = context.expand(k, n, context.shape[-1]).reshape(-1, context.shape[-1])
    uniforms = torch.rand(k * n, width, dtype=torch.float64, device=like.device)
    orders = [int(which) for which in fn.orders]
    picked = torch.randint(len(orders), (k * n,), device=like.device)
    out, log_weight = like.new_empty(k * n, width), like.new_empty(k * n)
    for i in picked.unique().tolist():
        # a walk under an order of a mixture is a draw of the order and of x, weighed with that order's terms
        rows = (picked == i).nonzero().squeeze(-1)
        stepper = fn.network.stepper(len(rows), None if context is None else context[rows], orders[i])
        out[rows], log_weight[rows] = ancestral(stepper, fn.conditional, uniforms[rows], held[rows], x[rows].to(like))
    return Walk(out.reshape(k, n, width), log_weight.reshape(k, n))


def _importance(walks: Walk, n: int) -> Given:
    log_w = walks.log_weight.double()
    weights = log_w.softmax(0)
    picked = torch.multinomial(weights.T, n, replacement=True).T  # (n, N)
    draws = walks.x.gather(0, picked.unsqueeze(-1).expand(-1, -1, walks.x.shape[-1]))
    evidence = log_w.logsumexp(0) - math.log(len(log_w))
    return Given(draws, 1 / weights.square().sum(0), evidence, "importance")


def _gibbs(fn: Autoregressive, state: Tensor, observed: Tensor, sweeps: int) -> Given:
    values = fn.conditional.values(state)
    if values is None:
        raise SettingsError(got="method 'gibbs' for real variables", need="discrete ones", fix="method='importance'")
    missing = (~observed).any(0).nonzero().squeeze(-1).tolist()
    history = []
    for _ in range(sweeps):
        for d in missing:
            options = state.expand(len(values), *state.shape).clone()
            options[..., d] = values[:, None, None]
            log_p = fn.log_prob(options)  # (V, n, N)
            picked = torch.distributions.Categorical(logits=log_p.movedim(0, -1), validate_args=False).sample()
            state = torch.where(observed, state, _with(state, d, values[picked]))
        history.append(fn.log_prob(state))
    n, rows = state.shape[:2]
    # n chains of which the sweeps are the samples; a chain that never moves has no spread and no variance
    ess = effective_sample_size(torch.stack(history).double(), chain_dim=1, sample_dim=0) if n > 1 else None
    ess = torch.full((rows,), float("nan"), dtype=torch.float64) if ess is None else ess
    return Given(state, ess.clamp(max=n), torch.full_like(ess, float("nan")), "gibbs")


def _with(state: Tensor, d: int, column: Tensor) -> Tensor:
    out = state.clone()
    out[..., d] = column
    return out
