"""The deep belief network against listing all of its states."""

from __future__ import annotations

from copy import deepcopy

import pyro
import pytest
import torch
from torch import Tensor

from pyrogen.distributions.boltzmann import Bernoulli, Contrastive, Exact, log_partition
from pyrogen.errors import ModelError, NotNormalizedError, SettingsError
from pyrogen.evaluate import Bracket, log_likelihood, log_z
from pyrogen.inference import UpDown, fit, greedy
from pyrogen.models import DBN, RBM
from tests.oracles import bits
from tests.statistics import assert_mean
from tests.test_dbm import patterns


def small(*sizes: int, **settings) -> DBN:
    torch.manual_seed(0)
    model = DBN([Bernoulli(n) for n in sizes], scale=1.0, **settings).double()
    with torch.no_grad():
        for bias in (*model.g, *model.r, model.top.b, model.top.c):
            bias.normal_()
    return model


def listed(model: DBN) -> Tensor:
    """log p of all x: the top by its free energy, each layer below by its conditional."""
    machine = model.machine()
    top = -machine.free_energy(bits(machine.visible.n))
    log_p = top - top.logsumexp(0)
    for k in reversed(range(model.levels)):
        above, below = bits(model._layer(k + 1).n), bits(model._layer(k).n)
        a = model.g[k] + above @ model.G[k].T
        given = (below[:, None] * a).sum(-1) - torch.nn.functional.softplus(a).sum(-1)
        log_p = (given + log_p).logsumexp(1)
    return log_p.detach()


def tied(rbm: RBM, top: int) -> DBN:
    """The RBM as a network: its weights up and down, and itself upside down on top with `top` units, those of x."""
    machine = rbm.machine()
    model = DBN([machine.visible, machine.hidden, Bernoulli(top)]).double()
    with torch.no_grad():
        for own, new in ((model.G, machine.W), (model.R, machine.W), (model.g, machine.b), (model.r, machine.c)):
            own[0].copy_(new)
        model.top.W.copy_(machine.W.T)
        model.top.mu.zero_()
        model.top.lam.zero_()
        model.top.b.copy_(machine.c)
        model.top.c.copy_(machine.b)
    return model


@pytest.mark.parametrize("sizes", [(3, 2, 2), (3, 2, 2, 2)])
def test_importance_sampling_comes_to_the_listed_likelihood(sizes):
    model = small(*sizes)
    exact = listed(model)
    assert float(exact.exp().sum()) == pytest.approx(1.0)
    found = log_likelihood(model, bits(3), method="iwae", particles=20_000)
    torch.testing.assert_close(found.rows, exact, rtol=0, atol=0.1)
    bound = log_likelihood(model, bits(3), method="elbo", particles=20_000)
    assert bool((bound.rows < exact).all()) and bound.kind == "lower bound"


def test_the_bound_is_tight_for_an_rbm_turned_upside_down_on_itself():
    torch.manual_seed(0)
    rbm = RBM(Bernoulli(4), Bernoulli(3), scale=1.0).double()
    model = tied(rbm, 4)
    exact = -rbm.free_energy(bits(4)) - log_partition(rbm.machine())
    torch.testing.assert_close(listed(model), exact.detach())
    # with a draw of q per row: where the bound is tight, every draw gives log p(x)
    found = log_likelihood(model, bits(4), method="elbo", particles=3)
    torch.testing.assert_close(found.rows, exact.detach())
    assert found.mc_stderr < 1e-9


def test_draws_have_the_law_of_the_model():
    model = small(3, 2, 2)
    torch.manual_seed(0)
    x = model.sample(20_000).double()
    assert_mean((x[:, None] == bits(3)).all(-1).double(), listed(model).exp())


def test_a_top_that_is_too_large_needs_its_log_z():
    model = DBN([Bernoulli(6), Bernoulli(26), Bernoulli(25)]).double()
    x = bits(6)[:5]
    with torch.no_grad(), pytest.raises(NotNormalizedError):
        pyro.poutine.trace(model.model).get_trace(x).compute_log_prob()
    found = log_likelihood(model, x, method="elbo", particles=50, steps=200, start_sweeps=5)
    assert isinstance(found.log_z, Bracket) and found.kind == "estimate"
    truth = -6 * 0.6931
    assert abs(found.mean - truth) < 0.1  # weights of 0.01: near independent fair bits
    assert model.log_z is None
    with model.normalized(3.0):
        assert model.distribution().log_z == 3.0


def test_the_gradient_of_wake_is_that_of_the_expected_joint_and_of_sleep_that_of_the_guide():
    """All particles replaced by listing; the mean over many steps against the listed gradients."""
    model = small(2, 2, 2, particles=Contrastive(1))
    model.top.particles = Exact()
    x = bits(2)[[1, 3]]
    h = bits(2)

    def wake() -> Tensor:
        log_q = torch.stack([model.given_below(1, x).log_prob(value) for value in h]).detach()
        log_p = torch.stack([model.given_above(0, value.expand(2, 2)).log_prob(x) for value in h])
        top = -model.machine().free_energy(h)
        return ((log_p + (top - top.logsumexp(0))[:, None]) * log_q.exp()).sum(0).mean()

    def sleep() -> Tensor:
        top = (-model.machine().free_energy(h)).log_softmax(0).exp().detach()
        down = torch.stack([model.given_above(0, h).log_prob(value.expand(4, 2)) for value in h]).exp().detach()
        up = torch.stack([model.given_below(1, value.expand(4, 2)).log_prob(h) for value in h])
        return (up * down * top).sum()

    named = dict(model.named_parameters())
    expected = dict(zip(named, torch.autograd.grad(wake() + sleep(), list(named.values())), strict=True))
    torch.manual_seed(0)
    many = x.repeat(2_000, 1)
    samples = []
    for _ in range(60):
        loss = UpDown()(model.model, model.guide, many).loss
        samples.append(torch.autograd.grad(-loss, list(named.values())))
    for k, name in enumerate(named):
        assert_mean(torch.stack([sample[k] for sample in samples]), expected[name])


def test_greedy_layers_then_up_and_down_come_near_the_data():
    x = patterns()
    torch.manual_seed(0)
    model = DBN([Bernoulli(8), Bernoulli(6), Bernoulli(5)])
    model.prepare(x)
    assert listed_mean(model, x) == pytest.approx(-5.52, abs=0.05)  # independent bits
    greedy(model, x, epochs=20, batch_size=100, learning_rate=0.01, progress=False)
    after = listed_mean(model, x)
    assert after > -4.3
    found = fit(model, x, objective=UpDown(), epochs=10, batch_size=100, learning_rate=0.003, progress=False)
    assert listed_mean(model, x) > after - 0.05
    bound = log_likelihood(model, x, method="elbo", particles=20)
    assert found.history["train"][-1] == pytest.approx(bound.mean, abs=0.2)
    assert bound.mean < listed_mean(model, x)


def test_greedy_layers_are_the_same_for_the_same_seed():
    x, first = patterns(), DBN([Bernoulli(8), Bernoulli(6), Bernoulli(5)])
    again, other, state = deepcopy(first), deepcopy(first), torch.get_rng_state()
    for model, seed in ((first, 4), (again, 4), (other, 5)):
        greedy(model, x, seed=seed, epochs=2, batch_size=100, progress=False)
        if model is first:
            assert torch.equal(torch.get_rng_state(), state)
        torch.rand(7)
    for name, weights in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], weights)
    assert not torch.equal(other.top.W, first.top.W)


def listed_mean(model: DBN, x: Tensor) -> float:
    exact = listed(deepcopy(model).double())
    index = (x.double() @ (2.0 ** torch.arange(x.shape[1] - 1, -1, -1, dtype=torch.float64))).long()
    return float(exact[index].mean())


def test_parts_are_taken_over_for_both_ways():
    model = small(3, 2, 4, 2)
    parts = [model.part(k).double() for k in range(model.n_parts)]
    model.adopt(parts)
    for k in range(2):
        machine = parts[k].machine()
        torch.testing.assert_close(model.G[k], machine.W)
        torch.testing.assert_close(model.R[k], machine.W)
        torch.testing.assert_close(model.g[k], machine.b)
        torch.testing.assert_close(model.r[k], machine.c)
    torch.testing.assert_close(model.machine().W, parts[2].machine().W)
    torch.testing.assert_close(model.machine().b, parts[2].machine().b)


def test_wrong_requests_are_refused_in_words():
    with pytest.raises(ModelError, match="2 layers"):
        DBN([Bernoulli(3), Bernoulli(2)])
    with pytest.raises(SettingsError, match="two layers"):
        DBN.build(4, (1, 2, 2), "binary", hidden=[5])
    with pytest.raises(ModelError, match="UpDown"):
        rbm = RBM(Bernoulli(3), Bernoulli(2))
        UpDown()(rbm.model, rbm.guide, bits(3).float())


def test_annealing_of_a_network_is_repeated_by_its_seed():
    model, x = DBN([Bernoulli(6), Bernoulli(30), Bernoulli(25)], scale=0.3), bits(6).float()
    found = []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        found.append(log_z(model, data=x, steps=20, chains=10, seed=3).value)
        found.append(log_likelihood(model, x, particles=5, steps=20, chains=10, seed=3).mean)
        assert torch.equal(before, torch.get_rng_state())
    assert found[:2] == found[2:]
