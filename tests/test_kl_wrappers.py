"""Closed-form KL divergences through events, batches, masks, transforms and deltas, and per dimension."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from torch import Tensor

from pyrogen.distributions import closed_form_kl, kl_per_dimension
from pyrogen.errors import ShapeError


def scalars(*values: float) -> list[Tensor]:
    return [torch.tensor(v, dtype=torch.float64) for v in values]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> dist.Normal:
    return dist.Normal(randn(*shape, seed=seed), randn(*shape, seed=seed + 1).exp())


def full(*batch: int) -> dist.MultivariateNormal:
    return dist.MultivariateNormal(
        randn(*batch, 3), scale_tril=torch.eye(3) + 0.3 * randn(*batch, 3, 3, seed=1).tril(-1)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_shapes_broadcast_and_dtype_stays(dtype):
    q = dist.Normal(torch.randn(4, 5, 3, dtype=dtype), torch.ones(3, dtype=dtype)).to_event(1)
    p = dist.Normal(torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype)).to_event(1)
    assert closed_form_kl(q, p).shape == (4, 5) and closed_form_kl(q, p).dtype == dtype
    torch.testing.assert_close(closed_form_kl(q, p), td.kl_divergence(q, p.expand((4, 5))))
    assert closed_form_kl(p, p.expand((7, 1))).shape == (7, 1)


def test_broadcasting_works_where_torchs_formula_indexes_one_batch_with_the_other():
    q, p = dist.Bernoulli(torch.rand(4, 3)), dist.Bernoulli(torch.rand(3))
    with pytest.raises(IndexError):
        td.kl_divergence(q, p)
    torch.testing.assert_close(closed_form_kl(q, p)[2], td.kl_divergence(dist.Bernoulli(q.probs[2]), p))


def test_to_event_in_any_number_of_steps_is_the_same():
    q, p = normal(2, 3, 4), normal(2, 3, 4, seed=5)
    each = td.kl_divergence(q, p)
    for a, b in ((q.to_event(2), p.to_event(2)), (td.Independent(td.Independent(q, 1), 1), p.to_event(2))):
        torch.testing.assert_close(closed_form_kl(a, b), each.sum((-1, -2)))
    torch.testing.assert_close(closed_form_kl(q.to_event(1), p.to_event(1)), each.sum(-1))
    torch.testing.assert_close(closed_form_kl(td.Independent(q, 0), td.Independent(p, 0)), each)


def test_rows_of_full_gaussians_against_a_matrix_of_normals():
    q, p = full(2, 4).to_event(1), normal(2, 4, 3, seed=9).to_event(2)
    expected = td.kl_divergence(full(2, 4), normal(2, 4, 3, seed=9).to_event(1)).sum(-1)
    torch.testing.assert_close(closed_form_kl(q, p), expected)
    assert closed_form_kl(p, q).shape == (2,)


def test_expanded_distributions_are_looked_through():
    q, p = normal(3), normal(3, seed=5)
    wrapped = dist.ExpandedDistribution(q, (4, 3))
    for a, b in ((wrapped, p), (wrapped, dist.ExpandedDistribution(p, (4, 3)))):
        torch.testing.assert_close(closed_form_kl(a, b), td.kl_divergence(q, p).expand(4, 3))
    inside = td.Independent(dist.ExpandedDistribution(dist.Normal(*scalars(0.1, 0.2)), (3,)), 1)
    expected = td.kl_divergence(dist.Normal(*scalars(0.1, 0.2)), p).sum()
    torch.testing.assert_close(closed_form_kl(inside, p.to_event(1)), expected)


def test_masked_entries_count_zero_when_both_sides_have_the_same_mask():
    q, p = normal(4, 3).to_event(1), normal(4, 3, seed=5).to_event(1)
    mask = torch.tensor([True, False, True, True])
    kl = td.kl_divergence(q, p)
    torch.testing.assert_close(closed_form_kl(q.mask(mask), p.mask(mask.clone())), kl * mask)
    torch.testing.assert_close(closed_form_kl(q.mask(True), p), kl)
    assert closed_form_kl(q.mask(False), p.mask(False)).eq(0).all()
    each = torch.tensor([True, False, True])
    inner = closed_form_kl(q.base_dist.mask(each).to_event(1), p.base_dist.mask(each).to_event(1))
    torch.testing.assert_close(inner, (td.kl_divergence(q.base_dist, p.base_dist) * each).sum(-1))
    wide = closed_form_kl(q.expand((2, 4)).mask(mask), p.mask(mask))
    torch.testing.assert_close(wide, (kl * mask).expand(2, 4))


@pytest.mark.parametrize("other", [True, False, torch.tensor([True, True, False])])
def test_different_masks_have_no_formula_because_the_difference_is_no_kl(other):
    q, p, mask = normal(3), normal(3, seed=5), torch.tensor([True, False, True])
    assert closed_form_kl(q.mask(mask), p.mask(other)) is None
    assert closed_form_kl(q.mask(other), p.mask(mask)) is None
    assert closed_form_kl(q.mask(mask), p) is None


def test_shared_bijections_drop_out():
    q, p = normal(4, 3), normal(4, 3, seed=5)
    kl = td.kl_divergence(q, p)
    stretch = [td.AffineTransform(1.0, 2.0), td.ComposeTransform([td.SigmoidTransform(), td.ExpTransform().inv])]
    again = [td.AffineTransform(1.0, 2.0), td.ComposeTransform([td.SigmoidTransform(), td.ExpTransform().inv])]
    torch.testing.assert_close(
        closed_form_kl(td.TransformedDistribution(q, stretch), dist.TransformedDistribution(p, again)), kl
    )
    flow = dist.transforms.Spline(3)
    a, b = dist.TransformedDistribution(q.to_event(1), [flow]), dist.TransformedDistribution(p.to_event(1), [flow])
    torch.testing.assert_close(closed_form_kl(a, b), kl.sum(-1))
    simplex = [td.TransformedDistribution(d.to_event(1), td.StickBreakingTransform()) for d in (q, p)]
    torch.testing.assert_close(closed_form_kl(*simplex), kl.sum(-1))
    assert closed_form_kl(a, dist.TransformedDistribution(p.to_event(1), [dist.transforms.Spline(3)])) is None


def test_maps_that_are_not_one_to_one_do_not_drop_out():
    q, p = normal(3).to_event(1), normal(3, seed=5).to_event(1)
    for many_to_one in (td.SoftmaxTransform(), td.AbsTransform()):
        a, b = (td.TransformedDistribution(d, many_to_one) for d in (q, p))
        assert closed_form_kl(a, b) is None


def test_transforms_that_are_equal_only_now_do_not_hide_their_gradient():
    loc = torch.zeros((), requires_grad=True)
    base = dist.Normal(0.0, 1.0), dist.Normal(0.5, 2.0)
    q = dist.TransformedDistribution(base[0], [td.AffineTransform(loc, 1.0)])
    p = dist.TransformedDistribution(base[1], [td.AffineTransform(torch.zeros(()), 1.0)])
    assert closed_form_kl(q, p) is None
    q, p = (dist.TransformedDistribution(b, [td.AffineTransform(loc, 1.0).inv]) for b in base)
    assert closed_form_kl(q, p) is None
    assert closed_form_kl(dist.Gumbel(loc, 1.0), dist.Gumbel(0.0, 1.0)).requires_grad


def test_a_delta_gives_its_log_density_minus_log_p():
    v, log_density = randn(4, 3), randn(4, seed=1)
    p = full()
    torch.testing.assert_close(closed_form_kl(dist.Delta(v, log_density, event_dim=1), p), log_density - p.log_prob(v))
    p = normal(3, seed=5).to_event(1)
    torch.testing.assert_close(closed_form_kl(dist.Delta(v).to_event(1), p), -p.log_prob(v))
    assert closed_form_kl(p, dist.Delta(v[0]).to_event(1)) is None


def test_no_formula_is_none_and_wrong_shapes_are_an_error_in_words():
    q = normal(3)
    assert closed_form_kl(dist.StudentT(*scalars(4.0, 0.0, 1.0)), q) is None
    assert closed_form_kl(q, dist.ImproperUniform(dist.constraints.real, (), ())) is None
    assert closed_form_kl(object(), q) is None and kl_per_dimension(q, object()) is None
    with pytest.raises(ShapeError, match=r"got events of shape \(3,\) in q and \(\) in p; need .* try to_event"):
        closed_form_kl(q.to_event(1), q)
    for f in (closed_form_kl, kl_per_dimension):
        with pytest.raises(ShapeError, match=r"batches of shape \(2,\) in q and \(5,\) in p"):
            f(normal(2, 3).to_event(1), normal(5, 3).to_event(1))


@pytest.mark.parametrize("p_batch", [(), (5,), (4, 5)])
def test_per_dimension_terms_have_batch_and_event_shape_and_add_up(p_batch):
    q, p = normal(4, 5, 3).to_event(1), normal(*p_batch, 3, seed=5).to_event(1)
    terms = kl_per_dimension(q, p)
    assert terms.shape == (4, 5, 3)
    torch.testing.assert_close(terms.sum(-1), closed_form_kl(q, p))
    torch.testing.assert_close(terms, td.kl_divergence(q.base_dist, p.base_dist.expand((4, 5, 3))))


def test_per_dimension_terms_follow_masks_and_other_families():
    q, p = normal(4, 3).to_event(1), normal(4, 3, seed=5).to_event(1)
    mask = torch.tensor([True, False, True, True])
    expected = kl_per_dimension(q, p) * mask[:, None]
    torch.testing.assert_close(kl_per_dimension(q.mask(mask), p.mask(mask)), expected)
    torch.testing.assert_close(kl_per_dimension(q.mask(True), p), kl_per_dimension(q, p))
    assert kl_per_dimension(q.mask(mask), p) is None
    a, b = dist.Laplace(randn(3), 1.0).to_event(1), normal(3).to_event(1)
    torch.testing.assert_close(kl_per_dimension(a, b).sum(-1), closed_form_kl(a, b))


def test_what_does_not_factorise_over_one_event_dimension_has_no_terms():
    q, p = normal(2, 3), normal(2, 3, seed=5)
    assert kl_per_dimension(q, p) is None
    assert kl_per_dimension(q.to_event(2), p.to_event(2)) is None
    assert kl_per_dimension(full(2), p.to_event(1)) is None
    assert kl_per_dimension(q.to_event(1), full(2)) is None
    assert kl_per_dimension(dist.StudentT(4.0, q.loc).to_event(1), p.to_event(1)) is None
