"""The mixture of Bernoullis against Pyro's own, by enumeration."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from pyrogen.distributions import BernoulliMixture
from pyrogen.errors import ShapeError
from pyrogen.models import MixtureOfBernoullis
from tests.statistics import assert_frequencies


@pytest.fixture
def mixture() -> BernoulliMixture:
    source = torch.Generator().manual_seed(0)
    draw = torch.randn(3, 6, generator=source, dtype=torch.float64)
    return BernoulliMixture(draw[:, 0], 2 * draw[:, 1:])


def test_it_is_pyros_mixture_and_sums_to_one(mixture):
    theirs = dist.MixtureSameFamily(
        dist.Categorical(logits=mixture.weights), dist.Bernoulli(logits=mixture.logits).to_event(1)
    )
    x = mixture.enumerate_support()
    assert len(x.unique(dim=0)) == 32
    torch.testing.assert_close(mixture.log_prob(x), theirs.log_prob(x))
    torch.testing.assert_close(mixture.log_prob(x).exp().sum(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(mixture.mean, theirs.mean)


def test_marginals_are_sums_over_what_is_missing(mixture):
    known = torch.tensor([True, False, True, False, False])
    x = mixture.enumerate_support()
    agree = (x[:, known] == torch.tensor([1.0, 0.0])).all(1)
    found = mixture.joint(x[agree][0], known).logsumexp(-1)
    torch.testing.assert_close(found, mixture.log_prob(x)[agree].logsumexp(0))


def test_draws_have_the_frequencies_that_the_density_says(mixture):
    torch.manual_seed(0)
    x = mixture.enumerate_support()
    drawn = mixture.expand((2,)).sample((5000,))
    assert drawn.shape == (5000, 2, 5)
    counts = (drawn.reshape(-1, 1, 5) == x).all(-1).sum(0)
    assert_frequencies(counts, mixture.log_prob(x).exp())


def test_expanding_broadcasts(mixture):
    x = mixture.enumerate_support()[:4]
    torch.testing.assert_close(mixture.expand((3, 4)).log_prob(x), mixture.log_prob(x).expand(3, 4))
    assert mixture.expand((2,)).enumerate_support().shape == (32, 2, 5)


def test_components_start_apart_from_each_other():
    model = MixtureOfBernoullis(6, 3)
    x = torch.eye(6)
    model.prepare(x)
    assert torch.pdist(model.logits.detach()).min() > 0.1
    assert model.log_prob(x).isfinite().all()


def test_parameters_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"\(2,\) and logits of shape \(3, 5\)"):
        BernoulliMixture(torch.zeros(2), torch.zeros(3, 5))
