"""Draws of what is missing given what is observed, against the exact conditional by enumeration."""

from __future__ import annotations

import pytest
import torch

from pyrogen.distributions import Autoregressive
from pyrogen.errors import DtypeError, SettingsError, ShapeError, SupportError
from pyrogen.models import MADE, DeepNADE, MixtureOfBernoullis
from tests.autoregressive import BITS, joint, made, states, strong
from tests.statistics import assert_frequencies, assert_mean

OBSERVED = torch.tensor([False, True, False, True, False, True])
VALUES = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)


def natural(n: int = 1) -> Autoregressive:
    network, conditional = made(6, (20,), n=n, order="natural" if n == 1 else "random", direct=True)
    network = network.double()
    strong(network, 0.7)
    return Autoregressive(network, conditional)


def exact(fn, observed=OBSERVED, values=VALUES):
    """The states that agree with what is observed, their conditional probabilities, and log p(observed)."""
    x = fn.enumerate_support().reshape(-1, 6)
    x = x[(x == values)[:, observed].all(1)]
    log_p = fn.log_prob(x).detach()
    return x, log_p.softmax(0), log_p.logsumexp(0)


def assert_law(draws, x, p):
    """Draws (n, D) have the probabilities p of the states x, and are none but these."""
    counts = (draws[:, None] == x).all(-1).sum(0)
    assert counts.sum() == len(draws)
    assert_frequencies(counts, p)


@pytest.mark.parametrize("n_orders", [1, 3])
def test_importance_resampling_draws_the_conditional_and_gives_the_evidence(n_orders):
    torch.manual_seed(0)
    fn = natural(n_orders)
    x, p, log_evidence = exact(fn)
    given = fn.sample_given(VALUES.expand(2000, -1), OBSERVED, particles=50)
    assert given.method == "importance" and given.draws.shape == (1, 2000, 6)
    assert (given.draws[0][:, OBSERVED] == VALUES[:, OBSERVED]).all()
    # the estimate of p(observed) has no bias; that of a draw from 50 particles is of order 1 / 50
    assert_mean(given.log_evidence.exp(), log_evidence.exp())
    assert ((given.ess > 1) & (given.ess < 50)).all()
    many = fn.sample_given(VALUES.expand(10, -1), OBSERVED, n=300, particles=20_000)
    assert_law(many.draws.reshape(-1, 6), x, p)


def test_holding_the_observed_variables_is_not_the_conditional():
    torch.manual_seed(0)
    fn = natural()
    x, p, _ = exact(fn)
    clamped = fn.sample_given(VALUES.expand(3000, -1), OBSERVED, particles=1)  # nothing to resample from
    found = (clamped.draws.reshape(-1, 1, 6) == x).all(-1).double().mean(0)
    assert 0.5 * (found - p).abs().sum() > 0.1, "the total variation that the weights repair"


def test_gibbs_draws_the_conditional():
    torch.manual_seed(0)
    fn = natural()
    x, p, _ = exact(fn)
    given = fn.sample_given(VALUES, OBSERVED, n=2000, method="gibbs", sweeps=30)
    assert_law(given.draws[:, 0], x, p)
    assert given.log_evidence.isnan().all() and 0 < given.ess <= 2000


def test_gibbs_on_levels_draws_the_conditional():
    torch.manual_seed(0)
    fn = joint("made-levels")
    observed = torch.tensor([False, True, True, False, True])
    values = torch.tensor([[0.0, 0.5, 1.0, 0.0, 0.0]], dtype=torch.float64)
    x = states(fn)
    x = x[(x == values)[:, observed].all(1)]
    p = fn.log_prob(x).detach().softmax(0)
    given = fn.sample_given(values, observed, n=1000, method="gibbs", sweeps=40)
    assert_law(given.draws[:, 0], x, p)


def test_observed_variables_that_come_first_need_no_weights():
    torch.manual_seed(0)
    fn = natural()
    observed = torch.tensor([True, True, True, False, False, False])
    x, p, log_evidence = exact(fn, observed)
    given = fn.sample_given(VALUES, observed, n=4000)
    assert given.method == "exact" and (given.ess == 4000).all()
    torch.testing.assert_close(given.log_evidence[0], log_evidence)
    assert_law(given.draws[:, 0], x, p)


def test_an_orderless_model_is_exact_for_any_mask_and_for_one_mask_a_row():
    torch.manual_seed(0)
    model = DeepNADE(6, (8,), order="natural").double().eval()
    strong(model)
    masks = torch.stack([OBSERVED, ~OBSERVED])
    rows = torch.cat([VALUES, 1 - VALUES])
    given = model.sample_given(rows, masks, n=4000)
    assert given.method == "exact" and (given.ess == 4000).all()
    for i, mask in enumerate(masks):
        first = torch.cat([mask.nonzero(), (~mask).nonzero()]).squeeze(-1)
        fn = Autoregressive(model.network.reordered(first), BITS)
        x, p, log_evidence = exact(fn, mask, rows[i : i + 1])
        torch.testing.assert_close(given.log_evidence[i], log_evidence)
        assert_law(given.draws[:, i], x, p)
    assert model.sample_given(rows, masks, method="importance").method == "importance"


def test_a_mixture_of_bernoullis_is_exact():
    torch.manual_seed(0)
    model = MixtureOfBernoullis(6, 3).double()
    strong(model, 2.0)
    x, p, log_evidence = exact(model.dist())
    given = model.sample_given(VALUES, OBSERVED, n=4000)
    torch.testing.assert_close(given.log_evidence[0], log_evidence)
    assert_law(given.draws[:, 0], x, p)


def test_with_a_context_each_row_has_its_own_conditional():
    torch.manual_seed(0)
    model = MADE(6, (20,), context=2, direct=True).double()
    strong(model, 0.7)
    contexts = torch.tensor([[1.0, -1.0], [-2.0, 0.5]], dtype=torch.float64)
    rows = torch.cat([VALUES.expand(2, -1), contexts], 1)
    given = model.sample_given(rows, OBSERVED, n=1, particles=50_000)
    for i, context in enumerate(contexts):
        _, _, log_evidence = exact(model.dist(context))
        # 50,000 weights in [0, 1]: five standard errors of the log of their mean
        error = (given.log_evidence[i].exp() / given.ess[i]).sqrt() if given.ess[i] < 1 else 1 / given.ess[i].sqrt()
        assert abs(given.log_evidence[i] - log_evidence) < 5 * error


def test_real_variables_are_resampled_too():
    torch.manual_seed(0)
    fn = joint("made-real")
    observed = torch.tensor([True, False, False, True])
    given = fn.sample_given(torch.zeros(2, 4, dtype=torch.float64), observed, n=3)
    assert given.draws.shape == (3, 2, 4) and (given.draws[..., observed] == 0).all()
    with pytest.raises(SettingsError, match="real variables"):
        fn.sample_given(torch.zeros(2, 4, dtype=torch.float64), observed, method="gibbs")


def test_a_mask_or_a_method_that_cannot_be_is_refused_in_words():
    fn = natural()
    for mask in (torch.ones(5, dtype=torch.bool), torch.ones(2, 6, dtype=torch.bool), torch.ones(1, dtype=torch.bool)):
        with pytest.raises(ShapeError, match="mask of shape"):
            fn.sample_given(VALUES, mask)
    with pytest.raises(DtypeError, match=r"torch\.bool"):
        fn.sample_given(VALUES, torch.ones(6))
    with pytest.raises(ShapeError, match="x of shape"):
        fn.sample_given(VALUES[0], OBSERVED)
    with pytest.raises(SupportError):
        fn.sample_given(VALUES + 0.5, OBSERVED)
    with pytest.raises(SettingsError, match="after missing ones"):
        fn.sample_given(VALUES, OBSERVED, method="exact")
    with pytest.raises(SettingsError, match="'clamp'"):
        fn.sample_given(VALUES, OBSERVED, method="clamp")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match="sweeps = 1"):
        fn.sample_given(VALUES, OBSERVED, method="gibbs", sweeps=1)
    filler = torch.where(OBSERVED, VALUES, float("nan"))
    assert fn.sample_given(filler, OBSERVED).draws.isfinite().all()
