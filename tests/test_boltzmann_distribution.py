from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta

from pyrogen.distributions.boltzmann import (
    Bernoulli,
    Exact,
    Layer,
    Persistent,
    RBMDistribution,
    Spin,
    distribution,
    exact_draws,
    log_partition,
)
from pyrogen.errors import ModelError, NonFiniteError, NotNormalizedError, SettingsError, ShapeError
from pyrogen.models import DBM, DBN, RBM
from tests.boltzmann import COUNTABLE, LAYERS, PAIRS, log_joint, machine, points
from tests.oracles import bits
from tests.statistics import assert_mean


def leaves(model):
    return [tensor.requires_grad_() for tensor in (model.W, model.b, model.c)]


@pytest.mark.parametrize(("visible", "hidden"), [p for p in PAIRS if p[0] in COUNTABLE or p[1] in COUNTABLE])
def test_p_v_sums_to_one(visible, hidden):
    model = machine(visible, hidden)
    v, log_w = points(model.visible)
    log_p = RBMDistribution.of(model, log_z="exact", validate_args=False).log_prob(v).detach()
    torch.testing.assert_close((log_p + log_w).logsumexp(0).exp(), torch.ones(()).double(), atol=1e-8, rtol=0)
    torch.testing.assert_close(log_p, log_joint(model)[2].logsumexp(1).log_softmax(0) - log_w, atol=1e-5, rtol=1e-5)


def test_the_layers_are_bits_unless_given():
    model = machine(Bernoulli(3), Bernoulli(2))
    plain = RBMDistribution(model.W, model.b, model.c, log_z="exact")
    torch.testing.assert_close(plain.log_prob(bits(3)), RBMDistribution.of(model, log_z="exact").log_prob(bits(3)))
    assert plain.event_shape == (3,) and plain.batch_shape == ()


def test_log_prob_without_a_normaliser_is_refused():
    model = machine("bernoulli", "bernoulli")
    with pytest.raises(NotNormalizedError, match="log Z is unknown"):
        RBMDistribution.of(model).log_prob(bits(3))
    leaves(model)
    with pytest.raises(NotNormalizedError), torch.no_grad():
        RBMDistribution.of(model, particles=Persistent(1, 5)).log_prob(bits(3))
    torch.testing.assert_close(RBMDistribution.of(model).unnormalized_log_prob(bits(3)), -model.free_energy(bits(3)))


def test_the_gradient_of_a_constant_log_z_is_refused_and_not_silently_dropped():
    model = machine("bernoulli", "bernoulli")
    log_z = float(log_partition(model))
    leaves(model)
    log_p = RBMDistribution.of(model, log_z=log_z).log_prob(bits(3))
    torch.testing.assert_close(log_p.detach().exp().sum(), torch.ones(()).double())
    with pytest.raises(ModelError, match="energies fall for ever"):
        log_p.sum().backward()


def test_the_exact_gradient_is_that_of_the_likelihood():
    model, v = machine("bernoulli", "stack"), bits(3)[[1, 1, 6]]
    parameters = leaves(model)
    expected = torch.autograd.grad((-model.free_energy(v)).sum() - 3 * log_partition(model), parameters)
    for settings in ({}, {"particles": Exact()}):
        log_p = RBMDistribution.of(model, log_z="exact", **settings).log_prob(v)
        for found, other in zip(torch.autograd.grad(log_p.sum(), parameters), expected, strict=True):
            torch.testing.assert_close(found, other)


def test_with_particles_the_value_is_exact_and_the_gradient_theirs():
    model, v = machine("bernoulli", "bernoulli"), bits(3)[[1, 6]]
    parameters = leaves(model)
    given = RBMDistribution.of(model, log_z="exact", particles=Persistent(1, 7))
    torch.manual_seed(0)
    log_p = given.log_prob(v)
    torch.testing.assert_close(log_p, -model.free_energy(v) - log_partition(model))
    torch.manual_seed(0)
    same = Persistent(1, 7).negative(model, v).v
    gap = (-model.free_energy(v)).sum() + 2 * model.free_energy(same).mean()
    found, expected = (torch.autograd.grad(total, parameters) for total in (log_p.sum(), gap))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    # without log Z the value is the gap itself
    torch.manual_seed(0)
    unknown = RBMDistribution.of(model, particles=Persistent(1, 7)).log_prob(v)
    torch.testing.assert_close(unknown.sum(), gap)


def test_particles_rest_while_no_gradient_is_taken():
    model, particles = machine("bernoulli", "bernoulli"), Persistent(1, 7)
    leaves(model)
    given = RBMDistribution.of(model, log_z="exact", particles=particles)
    given.log_prob(bits(3))
    before = particles.h
    with torch.no_grad():
        given.log_prob(bits(3))
    assert particles.h is before


@pytest.mark.parametrize("exact", [True, False])
def test_draws_have_the_law_of_the_density(exact, monkeypatch):
    if not exact:
        monkeypatch.setattr(distribution, "LISTED", 0)
    model = machine(Spin(3), Bernoulli(2), strength=0.7)
    v, _, log_f = log_joint(model)
    p = log_f.logsumexp(1).softmax(0)
    torch.manual_seed(0)
    drawn = RBMDistribution.of(model, sweeps=40).sample((100, 100)).flatten(0, 1)
    assert drawn.shape == (10_000, 3)
    assert_mean(drawn, p @ v)
    assert_mean(torch.einsum("ni,nj->nij", drawn, drawn), torch.einsum("s,si,sj->ij", p, v, v))


def test_batches_and_plates_expand_it():
    model = machine("bernoulli", "bernoulli")
    one = RBMDistribution.of(model, log_z="exact")
    many = one.expand((4, 2))
    assert many.batch_shape == (4, 2) and many.sample((5,)).shape == (5, 4, 2, 3)
    torch.testing.assert_close(many.log_prob(bits(3)[3]), one.log_prob(bits(3)[3]).expand(4, 2))
    with pyro.plate("rows", 6):
        assert pyro.sample("v", one).shape == (6, 3)


def test_values_outside_the_support_are_refused():
    given = RBMDistribution.of(machine("bernoulli", "bernoulli"), log_z="exact", validate_args=True)
    with pytest.raises(ValueError, match="support"):
        given.log_prob(torch.tensor([0.0, 0.5, 1.0]).double())
    spins = RBMDistribution.of(machine("spin", "bernoulli"), log_z="exact", validate_args=True)
    with pytest.raises(ValueError, match="support"):
        spins.log_prob(torch.tensor([0.0, 1.0, 1.0]).double())


def test_bad_arguments_are_refused_in_words():
    W, b, c = torch.zeros(3, 2), torch.zeros(3), torch.zeros(2)
    with pytest.raises(SettingsError, match="log_z = 'ais'"):
        RBMDistribution(W, b, c, log_z="ais")
    with pytest.raises(SettingsError, match="sweeps"):
        RBMDistribution(W, b, c, sweeps=0)
    with pytest.raises(ShapeError, match=r"b of shape \(2,\)"):
        RBMDistribution(W, c, b)
    with pytest.raises(ValueError, match="parameter W"):
        RBMDistribution(W + float("nan"), b, c, validate_args=True)


PRIOR = 2.0


def bayesian(x, particles=None, size=None):
    """Normal priors on all weights of a machine of 4 x 2 bits, rows in a plate that may be subsampled."""
    zero = torch.zeros(4, 2).double()
    W = pyro.sample("W", dist.Normal(zero, PRIOR).to_event(2))
    b = pyro.sample("b", dist.Normal(zero[:, 0], PRIOR).to_event(1))
    c = pyro.sample("c", dist.Normal(zero[0], PRIOR).to_event(1))
    with pyro.plate("rows", size or len(x), subsample=torch.arange(len(x))):
        pyro.sample("x", RBMDistribution(W, b, c, log_z="exact", particles=particles), obs=x)


@pytest.mark.parametrize("size", [None, 30])
def test_map_with_priors_takes_the_gradient_of_the_posterior(size):
    pyro.clear_param_store()
    x = bits(4)[[0, 3, 3, 12, 15]]
    guide = AutoDelta(bayesian, init_loc_fn=lambda site: 0.3 * torch.ones_like(site["fn"].mean))
    loss = Trace_ELBO().differentiable_loss(bayesian, guide, x, None, size)
    parameters = [guide.W, guide.b, guide.c]
    found = torch.autograd.grad(loss, parameters)
    model = machine(Bernoulli(4), Bernoulli(2))
    W, b, c = (p.detach().clone().requires_grad_() for p in parameters)
    model = type(model)(model.visible, model.hidden, W, b, c)
    log_prior = sum(dist.Normal(0.0, PRIOR).log_prob(t).sum() for t in (W, b, c))
    log_p = (-model.free_energy(x) - log_partition(model)).sum() * ((size or 5) / 5)
    for one, other in zip(found, torch.autograd.grad(-(log_p + log_prior), [W, b, c]), strict=True):
        torch.testing.assert_close(one, other)


def test_svi_with_persistent_particles_climbs_the_exact_likelihood():
    pyro.clear_param_store()
    torch.manual_seed(0)
    x = bits(4)[[0, 0, 3, 3, 12, 15, 15, 15]].repeat(20, 1)
    particles = Persistent(2, 500)
    guide = AutoDelta(bayesian, init_loc_fn=lambda site: 0.01 * torch.randn_like(site["fn"].mean))
    svi = SVI(bayesian, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(300):
        svi.step(x, particles)
    fitted = RBMDistribution(guide.W, guide.b, guide.c, log_z="exact")
    with torch.no_grad():
        reached = float(fitted.log_prob(x).mean())
    independent = dist.Bernoulli(x.mean(0)).log_prob(x).sum(1).mean()
    # the entropy of the rows is -1.21; bits by themselves reach -2.61
    assert reached > independent + 0.8


def test_uncondition_draws_from_it():
    program = poutine.uncondition(lambda x: pyro.sample("x", RBMDistribution.of(machine("spin", "spin")), obs=x))
    assert program(torch.ones(3).double()).abs().eq(1).all()


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_normalised_and_expands(name):
    units = LAYERS[name]()
    a = torch.linspace(-1, 1, units.width, dtype=torch.float64)
    layer = Layer(units, a)
    x, log_w = points(units)
    log_p = Layer(units, a, validate_args=False).log_prob(x)
    torch.testing.assert_close((log_p + log_w).logsumexp(0).detach().exp(), torch.ones(()).double(), atol=1e-8, rtol=0)
    assert layer.expand((5, 2)).sample((3,)).shape == (3, 5, 2, units.width)
    torch.testing.assert_close(layer.expand((5,)).log_prob(x[:5]), log_p[:5])
    torch.testing.assert_close(
        layer.mean.detach(), ((log_p + log_w).exp()[:, None] * x).sum(0).detach(), atol=1e-8, rtol=1e-8
    )


def test_exact_draws_and_draws_of_the_distribution_are_the_same_numbers():
    model = machine("bernoulli", "bernoulli")
    torch.manual_seed(3)
    drawn = RBMDistribution.of(model).sample((9,))
    torch.manual_seed(3)
    assert torch.equal(drawn, exact_draws(model, 9))


@pytest.mark.parametrize("make", [RBM, DBM, DBN])
@pytest.mark.parametrize("size", [3, 30])
def test_weights_that_are_no_numbers_draw_nothing(make, size):
    layers = [Bernoulli(size), Bernoulli(size), Bernoulli(2 * size)]
    model = RBM(*layers[:2]) if make is RBM else make(layers)
    for parameter in model.parameters():
        kept = parameter.detach().clone()
        parameter.data[0] = math.nan
        with pyro.validation_enabled(False), pytest.raises(NonFiniteError):
            model.sample(2)
        parameter.data.copy_(kept)
    with pytest.raises(NonFiniteError):
        RBMDistribution(torch.full((3, 2), math.nan), torch.zeros(3), torch.zeros(2), validate_args=False).sample()
    with pytest.raises(SettingsError, match="0 rows"):
        model.sample(0)
