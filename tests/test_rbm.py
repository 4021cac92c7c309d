from __future__ import annotations

import copy

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO

from pyrogen.data import load
from pyrogen.distributions.boltzmann import (
    Bernoulli,
    Categorical,
    Contrastive,
    Exact,
    Gaussian,
    Persistent,
    ReLU,
    Spin,
    Tempered,
    log_partition,
)
from pyrogen.errors import ModelError, NotNormalizedError, SettingsError
from pyrogen.inference import ELBO
from pyrogen.models import RBM
from tests.boltzmann import LAYERS, PAIRS, log_joint
from tests.oracles import bits


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


def rbm(visible=None, hidden=None, **settings) -> RBM:
    """A machine with offsets away from where they start."""
    model = RBM(visible or Bernoulli(4), hidden or Bernoulli(3), scale=0.6, **settings).double()
    with torch.no_grad():
        model.b.normal_()
        model.c.normal_()
        if model.centred:
            model.mu.uniform_(0.1, 0.9)
            model.lam.uniform_(0.1, 0.9)
    return model


NORMALISED = [(v, h) for v, h in PAIRS if LAYERS[v]().bounded or LAYERS[h]().bounded]


@pytest.mark.parametrize(("visible", "hidden"), NORMALISED)
def test_the_centred_energy_is_the_machines_up_to_a_constant(visible, hidden):
    model = rbm(LAYERS[visible](), LAYERS[hidden]())
    v, h, _ = log_joint(model.machine())
    v, h = v[:: max(1, len(v) // 12), None], h[:: max(1, len(h) // 12)]
    dv, dh = v - model.mu, h - model.lam
    centred = -(dv @ model.b) - dh @ model.c - torch.einsum("abv,vh,bh->ab", dv, model.W, dh)
    centred = centred - model.visible.base(v) - model.hidden.base(h)
    difference = (model.energy(v, h) - centred).detach()
    torch.testing.assert_close(difference, difference[:1, :1].expand_as(difference), atol=1e-8, rtol=1e-9)


def test_both_layers_unbounded_are_refused():
    for visible, hidden in ((Gaussian(2), Gaussian(2)), (ReLU(2), Gaussian(1))):
        with pytest.raises(ModelError, match="Z may be infinite"):
            RBM(visible, hidden)


def test_moving_the_offsets_leaves_the_distribution_where_it_is():
    model = rbm()
    before = -model.free_energy(bits(4)) - log_partition(model.machine())
    other = {"W": torch.randn(4, 3).double(), "b": torch.randn(4).double()}
    natural = other["b"] - other["W"] @ model.lam
    model.h_mean.uniform_(0, 1)
    lam = model.lam.clone()
    model.recentre(other)
    assert torch.equal(model.lam, model.h_mean) and not torch.equal(model.lam, lam)
    after = -model.free_energy(bits(4)) - log_partition(model.machine())
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(other["b"] - other["W"] @ model.lam, natural)


def test_the_centred_gradient_is_that_of_melchior_fischer_and_wiskott():
    # gW = <(v - mu)(h - lam)'>_d - <...>_m,  gb = <v>_d - <v>_m,  gc = <h>_d - <h>_m
    model = rbm(particles=Exact())
    x = bits(4)[[0, 3, 3, 9]]
    loss = model.free_energy(x).mean() + log_partition(model.machine())
    found = torch.autograd.grad(-loss, [model.W, model.b, model.c])
    v, h, log_f = log_joint(model.machine())
    p = log_f.flatten().softmax(0).reshape(log_f.shape)
    q = model.hidden_given(x).mean.detach()
    data = torch.einsum("ni,nj->ij", x - model.mu, q - model.lam) / 4
    expected = data - (v - model.mu).T @ p @ (h - model.lam), x.mean(0) - p.sum(1) @ v, q.mean(0) - p.sum(0) @ h
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def flipped(model: RBM) -> RBM:
    """The machine over 1 - v: W and b change sign, mu becomes 1 - mu, nothing else."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.W.neg_()
        other.b.neg_()
        other.mu.copy_(1 - model.mu)
    return other


def test_a_centred_step_does_not_depend_on_which_value_of_a_bit_is_called_one():
    model, x = rbm(particles=Exact()), bits(4)[[0, 3, 3, 9]]
    other = flipped(model)
    torch.testing.assert_close(
        other.free_energy(1 - bits(4)).neg().log_softmax(0), model.free_energy(bits(4)).neg().log_softmax(0)
    )
    for machine, rows in ((model, x), (other, 1 - x)):
        (machine.free_energy(rows).mean() + log_partition(machine.machine())).backward()
    torch.testing.assert_close(other.W.grad, -model.W.grad)
    torch.testing.assert_close(other.b.grad, -model.b.grad)
    torch.testing.assert_close(other.c.grad, model.c.grad)


def test_prepare_starts_from_the_rates_of_the_rows():
    model = RBM(Bernoulli(64), Bernoulli(8), scale=1e-9, particles=Tempered(1, 5, 3))
    x = load("digits")["train"]
    model.prepare(x)
    torch.testing.assert_close(model.mu, x.mean(0))
    rates = (1200 * x.mean(0) + 0.5) / 1201
    torch.testing.assert_close(model.visible_given(torch.ones(8)).mean.detach(), rates, atol=1e-5, rtol=0)
    assert torch.equal(model.particles.base, model.b)


@pytest.mark.parametrize("particles", [Exact(), Contrastive(1), Persistent(1, 20)])
def test_plain_svi_has_the_log_likelihood_and_its_gradient_without_score_noise(particles):
    model, x = rbm(particles=particles), bits(4)[[0, 3, 3, 9]]
    exact = (-model.free_energy(x) - log_partition(model.machine())).sum().detach()
    parameters, again = [model.W, model.b, model.c], copy.deepcopy(model)
    torch.manual_seed(1)
    loss = Trace_ELBO().differentiable_loss(model.model, model.guide, x)
    torch.testing.assert_close(-loss, exact)
    found = torch.autograd.grad(loss, parameters)
    # guide and particles draw in this order, and nothing else does
    torch.manual_seed(1)
    again.guide(x)
    gap = again.free_energy(x).sum() + again.particles.log_z(again.machine(), x).expand(4).sum()
    for one, expected in zip(found, torch.autograd.grad(gap, [again.W, again.b, again.c]), strict=True):
        torch.testing.assert_close(one, expected)


def test_svi_trains_it():
    model, x = rbm(particles=Persistent(1, 200)), bits(4)[[0, 0, 3, 3, 12, 15, 15, 15]]
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    with torch.no_grad():
        before = (-model.free_energy(x) - log_partition(model.machine())).mean()
    for _ in range(200):
        svi.step(x)
    with torch.no_grad():
        assert (-model.free_energy(x) - log_partition(model.machine())).mean() > before + 0.3


def test_weights_of_rows_by_poutine_scale_are_repeated_rows():
    model = rbm(particles=Exact())
    x, weight = bits(4)[[2, 7, 11]], torch.tensor([3.0, 1.0, 2.0]).double()
    weighted = poutine.scale(model.model, scale=weight), poutine.scale(model.guide, scale=weight)
    losses = [
        Trace_ELBO().differentiable_loss(*weighted, x),
        Trace_ELBO().differentiable_loss(model.model, model.guide, x.repeat_interleave(weight.long(), 0)),
    ]
    torch.testing.assert_close(*losses)
    found, expected = (torch.autograd.grad(loss, [model.W, model.b, model.c]) for loss in losses)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_large_machine_trains_by_svi_but_has_no_number():
    model = RBM(Bernoulli(40), Bernoulli(30), particles=Persistent(1, 10))
    x = torch.ones(6, 40)
    Trace_ELBO().differentiable_loss(model.model, model.guide, x).backward()
    assert model.W.grad.abs().sum() > 0
    with torch.no_grad(), pytest.raises(NotNormalizedError):
        ELBO()(model.model, model.guide, x)


@pytest.mark.parametrize(
    ("support", "kind"),
    [("binary", Bernoulli), ("spin", Spin), ("real", Gaussian), ("nonnegative", ReLU), ("one-hot-3", Categorical)],
)
def test_recipes_take_the_layer_from_the_data(support, kind):
    model = RBM.build(6, (1, 2, 3), support, hidden=4)
    assert type(model.visible) is kind and model.width == 6 and model.support == support


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"particle": "cd"}, "'particles'"),
        ({"particles": "gibbs"}, "particles = 'gibbs'"),
        ({"hidden_units": "bits"}, "hidden_units = 'bits'"),
        ({"hidden": 0}, "at least one unit"),
        ({"chains": 0}, "chains = 0"),
    ],
)
def test_recipes_with_settings_that_cannot_be_are_refused(settings, said):
    with pytest.raises(SettingsError, match=said):
        RBM.build(6, (1, 2, 3), "binary", **settings)


def test_grey_values_have_no_units():
    with pytest.raises(SettingsError, match="grey17"):
        RBM.build(6, (1, 2, 3), "grey17")
