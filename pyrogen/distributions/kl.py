"""KL(q || p) in closed form, through the wrappers that Pyro puts around distributions.

Importing this module registers two pairs that torch lacks, for `torch.distributions.kl_divergence` too:
a full or low-rank Gaussian against a diagonal one.

    KL(N(mu, S) || N(m, diag s^2)) = 1/2 sum_d [(S_dd + (mu_d - m_d)^2) / s_d^2 - 1 + 2 log s_d] - 1/2 log|S|
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Delta, ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import (
    ContinuousBernoulli,
    Distribution,
    Gumbel,
    HalfCauchy,
    HalfNormal,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    Pareto,
    TransformedDistribution,
    Uniform,
    Wishart,
    kl_divergence,
    register_kl,
)
from torch.distributions.transforms import ComposeTransform, Transform, _InverseTransform

from pyrogen.errors import ShapeError

# torch's number is wrong for these (2.13). Wishart falls to the rule for exponential families, which sums
# over the wrong dimensions, goes negative and gives q no gradient; the others are inf on equal supports.
_TORCH_IS_WRONG = ((Wishart, Wishart), (ContinuousBernoulli, Uniform), (Uniform, ContinuousBernoulli))

# transformed distributions for which torch has formulas that do not go by their transforms
_WITH_OWN_FORMULA = (Gumbel, HalfCauchy, HalfNormal, Pareto)


def closed_form_kl(q: Any, p: Any) -> Tensor | None:
    """KL(q || p) = E_q[log q - log p] when there is a formula for it, else None. Never Monte Carlo.

    Looks through `to_event`, `expand`, and transformed distributions that share their bijections. A
    transform is shared when both sides hold the same object, or equal ones without learnable tensors (two
    that are equal only now would hide their gradient). Masked entries count 0; the masks of the two
    sides must be the same, because otherwise E_q of the masked difference is no KL: None. A Delta gives
    log_density - log p(v), which is its expectation.

    Shape: batch shapes broadcast, for example q with (K, N) and p with (); the result has that shape.

    Args:
        q, p: torch or Pyro distributions, mixed as one likes; anything else has no formula.

    Raises:
        ShapeError: if the event shapes differ or the batch shapes do not broadcast.
    """
    if not (isinstance(q, Distribution) and isinstance(p, Distribution)):
        return None
    if q.event_shape != p.event_shape:
        raise ShapeError(
            got=f"events of shape {tuple(q.event_shape)} in q and {tuple(p.event_shape)} in p",
            need="the same event shape",
            fix="to_event(n) on the side with too few event dimensions",
        )
    _batch_shape(q, p)
    return _kl(q, p)


def kl_per_dimension(q: Any, p: Any) -> Tensor | None:
    """The terms of KL(q || p) = sum_d KL(q_d || p_d), when both sides factorise over one event dimension.

    That is, for `Normal(...).to_event(1)` on both sides, or other families of scalars that have a
    formula, also expanded or masked. None for everything else.

    Shape: the broadcast batch shape with D, the size of the event, at its end.
    """
    if not (isinstance(q, Distribution) and isinstance(p, Distribution)):
        return None
    if len(q.event_shape) != 1 or q.event_shape != p.event_shape:
        return None
    _batch_shape(q, p)
    q, p = _masks_inside(q), _masks_inside(p)
    if not (isinstance(q, Independent) and isinstance(p, Independent)):
        return None
    if not q.reinterpreted_batch_ndims == p.reinterpreted_batch_ndims == 1:
        return None
    return _kl(q.base_dist, p.base_dist)


def _kl(q: Distribution, p: Distribution) -> Tensor | None:
    kl = _unwrapped_kl(q, p)
    return None if kl is None else kl.expand(_batch_shape(q, p))


def _unwrapped_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """One wrapper less, then again; the result broadcasts to the batch shape."""
    if isinstance(q, ExpandedDistribution):
        return _kl(q.base_dist, p)
    if isinstance(p, ExpandedDistribution):
        return _kl(q, p.base_dist)
    if isinstance(q, MaskedDistribution) or isinstance(p, MaskedDistribution):
        return _masked_kl(q, p)
    if _is_delta(q):
        # at its own point a Delta's log_prob is its log_density, summed over the event
        return q.log_prob(q.mean) - p.log_prob(q.mean)
    if isinstance(q, Independent) and isinstance(p, Independent):
        n = min(q.reinterpreted_batch_ndims, p.reinterpreted_batch_ndims)
        kl = _kl(_peel(q, n), _peel(p, n))
        return kl.sum(tuple(range(-n, 0))) if kl is not None and n else kl
    if isinstance(q, TransformedDistribution) and isinstance(p, TransformedDistribution):
        return _transformed_kl(q, p)
    return _torch_kl(q, p)


def _torch_kl(q: Distribution, p: Distribution) -> Tensor | None:
    if any(isinstance(q, type_q) and isinstance(p, type_p) for type_q, type_p in _TORCH_IS_WRONG):
        return None
    shape = _batch_shape(q, p)
    try:
        # at full size, because some of torch's formulas index one side's batch with the other's
        return kl_divergence(_expand(q, shape), _expand(p, shape))
    except NotImplementedError:
        return None


def _masked_kl(q: Distribution, p: Distribution) -> Tensor | None:
    (q, q_mask), (p, p_mask) = _unmask(q), _unmask(p)
    if isinstance(q_mask, Tensor) and isinstance(p_mask, Tensor):
        shape = torch.broadcast_shapes(q_mask.shape, p_mask.shape)
        same = q_mask is p_mask or torch.equal(q_mask.expand(shape), p_mask.expand(shape))
    else:
        same = q_mask is p_mask
    kl = _kl(q, p) if same else None
    if kl is None or q_mask is True:
        return kl
    return torch.zeros_like(kl) if q_mask is False else torch.where(q_mask, kl, torch.zeros_like(kl))


def _unmask(d: Distribution) -> tuple[Distribution, Tensor | bool]:
    return (d.base_dist, d._mask) if isinstance(d, MaskedDistribution) else (d, True)


def _masks_inside(d: Distribution) -> Distribution:
    """masked(independent(d)) as independent(masked(d))."""
    if not isinstance(d, MaskedDistribution):
        return d
    base, mask = _masks_inside(d.base_dist), d._mask
    if not isinstance(base, Independent):
        return d
    n = base.reinterpreted_batch_ndims
    inner = mask if isinstance(mask, bool) else mask.reshape(mask.shape + (1,) * n)
    return Independent(MaskedDistribution(base.base_dist, inner), n)


def _is_delta(d: Distribution) -> bool:
    while isinstance(d, Independent):
        d = d.base_dist
    return isinstance(d, Delta)


def _peel(d: Independent, n: int) -> Distribution:
    left = d.reinterpreted_batch_ndims - n
    return Independent(d.base_dist, left) if left else d.base_dist


def _transformed_kl(q: TransformedDistribution, p: TransformedDistribution) -> Tensor | None:
    """Equal transforms drop out where log|det| cancels, that is for bijections."""
    own_formula = isinstance(q, _WITH_OWN_FORMULA) and isinstance(p, _WITH_OWN_FORMULA)
    if own_formula or q.transforms != p.transforms:
        return _torch_kl(q, p)
    pairs = zip(q.transforms, p.transforms, strict=True)
    shared = all(a is b or not (_learnable(a) or _learnable(b)) for a, b in pairs)
    one_to_one = all(t.bijective for t in q.transforms) and q.base_dist.event_shape == p.base_dist.event_shape
    return _kl(q.base_dist, p.base_dist) if shared and one_to_one else None


def _learnable(transform: Transform) -> bool:
    if isinstance(transform, ComposeTransform):
        return any(_learnable(part) for part in transform.parts)
    if isinstance(transform, _InverseTransform):
        return _learnable(transform.inv)
    return any(isinstance(value, Tensor) and value.requires_grad for value in vars(transform).values())


def _expand(d: Distribution, shape: torch.Size) -> Distribution:
    if d.batch_shape == shape:
        return d
    try:
        expanded = d.expand(shape)
    except NotImplementedError:
        return d
    return d if isinstance(expanded, ExpandedDistribution) else expanded


def _batch_shape(q: Distribution, p: Distribution) -> torch.Size:
    try:
        return torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    except RuntimeError:
        raise ShapeError(
            got=f"batches of shape {tuple(q.batch_shape)} in q and {tuple(p.batch_shape)} in p",
            need="batch shapes that broadcast",
            fix="to_event(n) where a batch dimension belongs to the event, or expand",
        ) from None


@register_kl(MultivariateNormal, Independent)
def _kl_full_diagonal(q: MultivariateNormal, p: Independent) -> Tensor:
    half_log_det = q.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return _kl_to_diagonal(q, half_log_det, p)


@register_kl(LowRankMultivariateNormal, Independent)
def _kl_low_rank_diagonal(q: LowRankMultivariateNormal, p: Independent) -> Tensor:
    # |D + W W'| = |D| |I + W' D^-1 W|
    scaled = q.cov_factor / q.cov_diag.unsqueeze(-1)
    capacitance = torch.eye(scaled.shape[-1]).to(scaled) + q.cov_factor.mT @ scaled
    root = torch.linalg.cholesky(capacitance).diagonal(dim1=-2, dim2=-1)
    return _kl_to_diagonal(q, root.log().sum(-1) + 0.5 * q.cov_diag.log().sum(-1), p)


def _kl_to_diagonal(q: Any, half_log_det: Tensor, p: Independent) -> Tensor:
    normal = p.base_dist
    if not isinstance(normal, Normal) or p.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    second_moment = q.variance + (q.loc - normal.loc).square()
    per_dimension = 0.5 * (second_moment / normal.scale.square() - 1) + normal.scale.log()
    return per_dimension.sum(-1) - half_log_det
