"""What Pyro users do with a pair, and what goes wrong without a word in plain Pyro when they do it."""

from __future__ import annotations

import copy
import pickle

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam
from torch import nn
from torch.testing import assert_close

from pyrogen.evaluate import log_likelihood
from pyrogen.inference import ELBO, IWAE, fit
from pyrogen.inference.terms import run
from pyrogen.models import PPCA, VAE, BernoulliPixels, GaussianPixels, StandardNormal, TwoLayerVAE, VampPrior
from pyrogen.nn import MLP
from tests.oracles import Forced
from tests.statistics import assert_mean, assert_same_mean

D, L = 6, 2


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


def small_vae():
    return VAE(MLP(D, 5, 2 * L), MLP(L, 5, D), BernoulliPixels(D), StandardNormal(L))


PAIRS = {
    "vae": small_vae,
    "two layers, vamp prior": lambda: TwoLayerVAE(
        MLP(D, 2 * L),
        MLP(2 * L, 2 * L),
        MLP(L, 2 * L),
        MLP(L, D),
        BernoulliPixels(D),
        VampPrior(L, torch.rand(3, D)),
        L,
    ),
    "gaussian": lambda: VAE(nn.Linear(D, 2 * L), nn.Linear(L, D), GaussianPixels(D), StandardNormal(L)),
    "ppca": lambda: PPCA(D, L),
}
pairs = pytest.mark.parametrize("make", PAIRS.values(), ids=PAIRS)


def rows(n=12):
    return torch.bernoulli(torch.full((n, D), 0.4))


def weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def moved(module, before):
    return {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}


def svi(pair, loss=None, lr=0.01):
    return SVI(pair.model, pair.guide, Adam({"lr": lr}), loss or Trace_ELBO())


# --- plain SVI ------------------------------------------------------------------------------------------------------


@pairs
@pytest.mark.parametrize("loss", [Trace_ELBO, TraceMeanField_ELBO])
def test_plain_svi_trains_every_parameter(make, loss):
    pair, x = make(), rows()
    if isinstance(pair, PPCA) and loss is TraceMeanField_ELBO:
        pair.solve(torch.randn(50, D))
    steps, before = svi(pair, loss(num_particles=20, vectorize_particles=True, max_plate_nesting=1)), weights(pair)
    losses = [steps.step(x) for _ in range(60)]
    assert moved(pair, before) == set(before)
    assert sum(losses[-10:]) < sum(losses[:10])


@pairs
def test_a_second_instance_trains_too_and_leaves_the_first_alone(make):
    x = rows()
    first = make()
    svi(first).step(x)
    kept = weights(first)
    second = make()
    for other in (second, copy.deepcopy(first), pickle.loads(pickle.dumps(second))):
        before = weights(other)
        svi(other).step(x)
        assert moved(other, before) == set(before)
        assert moved(first, kept) == set()
        kept = weights(first)


@pairs
def test_plain_svis_gradient_is_ours_on_average(make):
    pair = make()
    x = rows(3).repeat(40, 1)
    if isinstance(pair, VAE) and pair.support == "real":
        x = torch.randn(3, D).repeat(40, 1)

    def gradients(loss):
        out = []
        for _ in range(80):
            pair.zero_grad()
            loss().backward()
            out.append(torch.cat([p.grad.flatten() for p in pair.parameters()]))
        return torch.stack(out)

    stock = Trace_ELBO()
    theirs = gradients(lambda: stock.differentiable_loss(pair.model, pair.guide, x) / len(x))
    assert_same_mean(theirs, gradients(lambda: ELBO()(pair.model, pair.guide, x).loss))
    assert_same_mean(theirs, gradients(lambda: ELBO(gradient="stl")(pair.model, pair.guide, x).loss))


@pairs
@pytest.mark.parametrize("size", [None, 12, 1000])
def test_the_loss_of_plain_svi_is_our_bound_times_the_size_of_the_data(make, size):
    pair, x = make(), rows()
    torch.manual_seed(5)
    theirs = Trace_ELBO().loss(pair.model, pair.guide, x, size)
    torch.manual_seed(5)
    ours = ELBO(gradient="stl")(pair.model, pair.guide, x, size)  # samples log q, as Trace_ELBO does
    assert theirs == pytest.approx(-float(ours.bound) * (size or len(x)), rel=1e-5)
    assert_close(-ours.loss, ours.bound)


@pairs
def test_every_site_is_scaled_by_how_many_rows_each_row_stands_for(make):
    pair, x = make(), rows()
    guide = poutine.trace(pair.guide).get_trace(x, 60)
    model = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(x, 60)
    for trace in (guide, model):
        sites = [s for s in trace.nodes.values() if s["type"] == "sample" and not poutine.util.site_is_subsample(s)]
        assert sites and all(site["scale"] == 5 for site in sites)


# --- rows -----------------------------------------------------------------------------------------------------------


@pairs
def test_any_number_of_rows_works_after_training(make):
    """Pyro's autoguides keep giving the codes of the first batch; a decaying baseline crashes on the last one."""
    pair, x = make(), rows(17)
    fit(pair, x, epochs=1, batch_size=5, progress=False)  # batches of 5, 5, 5 and 2
    steps = svi(pair)
    for n in (1, 3, 17, 2):
        assert pair.guide(x[:n]) is not None
        trace = poutine.trace(pair.guide).get_trace(x[:n])
        assert {s["value"].shape[0] for name, s in trace.nodes.items() if name.startswith("z")} == {n}
        assert pair.model(x[:n]).shape == (n, D)
        assert steps.step(x[:n]) > 0
        assert log_likelihood(pair, x[:n], particles=3).rows.shape == (n,)
        for objective in (ELBO(2), IWAE(2, gradient="dreg")):
            assert objective(pair.model, pair.guide, x[:n]).bound.isfinite()


@pairs
def test_a_row_has_the_same_number_whichever_batch_it_is_in(make):
    pair, x = make().double(), rows(9).double()
    codes = {n: s["value"] for n, s in poutine.trace(pair.guide).get_trace(x).nodes.items() if n.startswith("z")}

    def log_w(chosen):
        with Forced({name: z[chosen] for name, z in codes.items()}):
            return run(pair.model, pair.guide, x[chosen]).log_w[0]

    whole = log_w(torch.arange(9))
    for chosen in (torch.tensor([4]), torch.tensor([8, 0, 3])):
        assert_close(log_w(chosen), whole[chosen])


# --- Predictive and poutine -----------------------------------------------------------------------------------------


@pairs
@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_draws_codes_from_the_guide_and_rows_from_the_decoder(make, parallel):
    pair, x = make(), rows(4)
    model = poutine.uncondition(pair.model)
    draws = Predictive(model, guide=pair.guide, num_samples=400, parallel=parallel)(x)
    codes = "z1" if "z1" in draws else "z"
    assert draws["x"].shape == (400, 4, D) and draws[codes].shape == (400, 4, L)
    with torch.no_grad():
        guide = poutine.trace(pair.guide).get_trace(x).nodes
        if codes == "z":
            assert_mean(draws["z"].reshape(400, -1), guide["z"]["fn"].mean.flatten())
        # the rows around their own decoded means: nothing is left over
        residual = draws["x"] - pair.decode(draws[codes]).mean
    assert_mean(residual.reshape(400, -1), 0.0)


@pairs
def test_predictive_of_the_model_alone_draws_from_the_prior(make):
    pair = make()
    draws = Predictive(poutine.uncondition(pair.model), num_samples=300)(torch.zeros(5, D))
    assert draws["x"].shape == (300, 5, D)
    assert_same_mean(draws["x"].reshape(1500, D), pair.sample(1500))


@pairs
def test_conditioning_on_the_codes_scores_them_under_the_prior_and_the_rows_under_the_decoder(make):
    pair, x = make(), rows(4)
    codes = {n: s["value"] for n, s in poutine.trace(pair.guide).get_trace(x).nodes.items() if n.startswith("z")}
    trace = poutine.trace(poutine.condition(pair.model, data=codes)).get_trace(x)
    trace.compute_log_prob()
    last = codes.get("z1", codes.get("z"))
    assert_close(trace.nodes["x"]["log_prob"], pair.decode(last).log_prob(x))
    assert all(trace.nodes[name]["is_observed"] for name in codes)
    if "z" in codes:
        zero = torch.zeros(L)
        standard = torch.distributions.Normal(zero, 1.0).log_prob(codes["z"]).sum(-1)
        assert_close(trace.nodes["z"]["log_prob"], standard)


@pairs
def test_unconditioning_ignores_the_rows_but_for_their_number(make):
    pair = make()
    model = poutine.uncondition(pair.model)
    torch.manual_seed(3)
    a = model(torch.zeros(5, D))
    torch.manual_seed(3)
    b = model(torch.ones(5, D))
    assert torch.equal(a, b) and a.shape == (5, D)


# --- the parameter store --------------------------------------------------------------------------------------------


def test_training_goes_on_from_a_store_that_was_loaded_from_a_file(tmp_path):
    """In plain Pyro the loaded tensors are stepped, and the module, which computes everything, never moves."""
    pair, x = small_vae(), rows()
    svi(pair).step(x)
    saved = weights(pair)
    pyro.get_param_store().save(str(tmp_path / "store"))
    for _ in range(5):
        svi(pair).step(x)
    assert moved(pair, saved) == set(saved)

    pyro.clear_param_store()
    pyro.get_param_store().load(str(tmp_path / "store"))
    pair.guide(x)
    assert moved(pair, saved) == set(), "the module must hold the loaded weights"
    svi(pair).step(x)
    assert moved(pair, saved) == set(saved), "and they are what is trained"
    saved = weights(pair)
    fit(pair, x, epochs=1, progress=False)
    assert moved(pair, saved) == set(saved)


def test_clearing_the_store_between_steps_does_no_harm():
    pair, x = small_vae(), rows()
    for step in (lambda: svi(pair).step(x), lambda: fit(pair, x, epochs=1, progress=False)):
        before = weights(pair)
        step()
        pyro.clear_param_store()
        assert moved(pair, before) == set(before)


class Convolution(nn.Module):
    """(batch, D) to (batch, 2L) through a picture of two channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(2, 4, 2), nn.Linear(8, 2 * L)

    def forward(self, x):
        return self.out(self.conv(x.reshape(-1, 1, 2, 3).expand(-1, 2, -1, -1)).flatten(1))


def strided_vae():
    """A VAE with weights in channels_last and one that is a transpose."""
    encoder = Convolution().to(memory_format=torch.channels_last)
    encoder.out.weight = nn.Parameter(torch.randn(8, 2 * L).T)
    assert not encoder.conv.weight.is_contiguous() and not encoder.out.weight.is_contiguous()
    return VAE(encoder, MLP(L, D), BernoulliPixels(D), StandardNormal(L))


@pytest.mark.parametrize("how", ["svi", "fit"])
def test_weights_that_are_not_contiguous_are_trained(how):
    """Pyro's store keeps a contiguous copy and trains that."""
    pair, x = strided_vae(), rows()
    before = weights(pair)
    if how == "svi":
        svi(pair).step(x)
    else:
        fit(pair, x, epochs=1, progress=False)
    assert moved(pair, before) == set(before)


def test_an_optimiser_that_was_made_before_the_first_step_trains_weights_that_are_not_contiguous():
    pair, x = strided_vae(), rows()
    optimizer, before = torch.optim.Adam(pair.parameters(), 0.01), weights(pair)
    for _ in range(2):
        optimizer.zero_grad()
        ELBO()(pair.model, pair.guide, x).loss.backward()
        optimizer.step()
    assert moved(pair, before) == set(before)


@pytest.mark.parametrize("make", [strided_vae, small_vae])
def test_parameters_stay_the_modules_own_after_loading_a_store(make, tmp_path):
    """An optimiser that holds them must go on training them."""
    pair, x = make(), rows()
    own = list(pair.parameters())
    pair.model(x)
    pyro.get_param_store().save(str(tmp_path / "store"))
    pyro.clear_param_store()
    pyro.get_param_store().load(str(tmp_path / "store"))
    pair.model(x)
    assert all(a is b for a, b in zip(own, pair.parameters(), strict=True))


@pytest.mark.parametrize("how", ["module", "assign"])
def test_weights_that_were_put_into_a_used_pair_stay_in_it(how):
    """The store's tensors are the old ones; they must not come back."""
    pair, x = small_vae(), rows()
    svi(pair).step(x)
    other = small_vae()
    if how == "module":
        pair.decoder = other.decoder
    else:
        pair.load_state_dict(other.state_dict(), assign=True)
    wanted = weights(pair)
    pair.model(x), pair.guide(x)
    assert moved(pair, wanted) == set()
    svi(pair).step(x)
    assert moved(pair, wanted) == set(wanted)


@pairs
def test_a_trained_pair_can_be_pickled_and_the_copy_trains(make):
    pair, x = make(), rows()
    svi(pair).step(x)
    other = pickle.loads(pickle.dumps(pair))
    kept, before = weights(pair), weights(other)
    assert_close(before, kept)
    svi(other).step(x)
    assert moved(other, before) == set(before) and moved(pair, kept) == set()
    svi(pair).step(x)
    assert moved(pair, kept) == set(kept)
