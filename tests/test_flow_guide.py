"""FlowGuide: where it starts, what it is the density of, and that Pyro's tools take it."""

from __future__ import annotations

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, JitTrace_ELBO, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.infer.reparam import NeuTraReparam
from torch.distributions import biject_to

from pyrogen.diagnostics import khat
from pyrogen.distributions.transforms import IAF, Flow, Planar
from pyrogen.errors import ModelError, SettingsError, ShapeError
from pyrogen.inference import ELBO, FlowGuide, fit
from pyrogen.inference.guides.flow import FLOWS
from tests.statistics import assert_mean

Y = torch.tensor([1003.0, 1001.0, 998.5], dtype=torch.float64)


@pytest.fixture(autouse=True)
def fresh_store():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


def conjugate(y):
    """m ~ N(0, 100^2), y_i ~ N(m, 2^2): a posterior far from where the prior is."""
    zero = y.new_zeros(())
    m = pyro.sample("m", dist.Normal(zero, zero + 100))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(m, zero + 2), obs=y)


def log_evidence(y) -> torch.Tensor:
    n = len(y)
    covariance = 4 * torch.eye(n, dtype=y.dtype) + 100**2
    return dist.MultivariateNormal(y.new_zeros(n), covariance).log_prob(y)


def correlated(y):
    zero = y.new_zeros(2)
    z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))
    s = pyro.sample("s", dist.Gamma(y.new_tensor(2.0), y.new_tensor(3.0)))
    p = pyro.sample("p", dist.Dirichlet(y.new_ones(3)))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(z.sum(-1) + p[..., 0], s), obs=y)


@pytest.mark.parametrize("flow", FLOWS)
def test_a_gaussian_posterior_is_found_before_training(flow):
    guide = FlowGuide(conjugate, (Y,), flow=flow)
    assert guide.started == "laplace"
    log_w = guide.log_weights(50, Y)
    # the planar layer starts near the identity, the others at it
    tolerance = 0.2 if flow == "planar" else 1e-6
    torch.testing.assert_close(log_w, log_evidence(Y).expand(50), atol=tolerance, rtol=0)
    if flow == "gaussian":
        assert float(khat(log_w)) < 0.7


def test_the_mean_weight_of_any_flow_is_the_evidence():
    guide = FlowGuide(conjugate, (Y,), flow=lambda d: Flow([Planar(d, scale=1.0), IAF(d, (4,))]))
    ratio = (guide.log_weights(4000, Y) - log_evidence(Y)).exp()
    assert ratio.std() > 1e-3
    assert_mean(ratio, 1.0)


def test_each_site_gets_a_value_in_its_support_with_the_density_of_the_change_of_variables():
    y = torch.tensor([0.5, 1.5, 1.0], dtype=torch.float64)
    guide = FlowGuide(correlated, (y,), flow="spline", layers=2)
    trace = poutine.trace(guide).get_trace(y)
    values = {name: trace.nodes[name]["value"] for name in ("z", "s", "p")}
    assert values["s"] > 0 and torch.isclose(values["p"].sum(), values["p"].new_ones(()))
    u = trace.nodes[f"_{guide._pyro_name}_latent"]["value"]
    log_q = guide.get_posterior().log_prob(u)
    for name, support in (("s", dist.constraints.positive), ("p", dist.constraints.simplex)):
        to_support = biject_to(support)
        free = to_support.inv(values[name])
        log_q = log_q - to_support.log_abs_det_jacobian(free, values[name]).sum()
    torch.testing.assert_close(trace.log_prob_sum(), log_q, atol=1e-8, rtol=1e-8)
    model = poutine.trace(poutine.replay(correlated, trace)).get_trace(y)
    expected = guide.log_joint(u, y) - guide.get_posterior().log_prob(u)
    torch.testing.assert_close(model.log_prob_sum() - trace.log_prob_sum(), expected, atol=1e-8, rtol=1e-8)


def test_weights_of_many_draws_are_those_of_single_ones():
    y = torch.tensor([0.5, 1.5, 1.0], dtype=torch.float64)
    guide = FlowGuide(correlated, (y,), start="median", scale=1.0)
    many = guide.log_weights(3000, y)
    single = []
    with torch.no_grad():
        for _ in range(300):
            trace = poutine.trace(guide).get_trace(y)
            model = poutine.trace(poutine.replay(correlated, trace)).get_trace(y)
            single.append(model.log_prob_sum() - trace.log_prob_sum())
    z = (many.mean() - torch.stack(single).mean()) / (many.var() / 3000 + torch.stack(single).var() / 300).sqrt()
    assert abs(float(z)) < 5.5  # fails a right program with probability 4e-8


def test_the_path_derivative_vanishes_at_the_posterior():
    guide = FlowGuide(conjugate, (Y,), flow="gaussian")
    value = ELBO(particles=4, gradient="stl")(conjugate, guide, Y)
    gradients = torch.autograd.grad(value.loss, list(guide.parameters()))
    assert max(float(g.abs().max()) for g in gradients) < 1e-6
    torch.testing.assert_close(3 * value.bound, log_evidence(Y), atol=1e-5, rtol=0)


@pytest.mark.parametrize("gradient", ["auto", "stl"])
def test_fit_trains_it_and_the_graph_equals_eager_to_the_bit(gradient):
    y = torch.tensor([0.5, 1.5, 1.0, 4.0])
    state = []
    for mode in ("eager", "graph"):
        pyro.set_rng_seed(1)
        guide = FlowGuide(correlated, (y,), flow="affine", layers=1, hidden=(8,))
        objective = ELBO(particles=8, gradient=gradient)
        result = fit(
            correlated, y, guide=guide, objective=objective, epochs=6, batch_size=4, progress=False, compile=mode
        )
        assert result.settings["compile"] == mode
        assert len(result.history["train"]) == 6
        state.append(guide.state_dict())
    assert all(torch.equal(state[0][name], state[1][name]) for name in state[0])


@pytest.mark.parametrize("elbo", [Trace_ELBO, JitTrace_ELBO])
def test_svi_of_pyro_trains_two_guides_in_one_process(elbo):
    y = torch.tensor([0.5, 1.5, 1.0])
    for _ in range(2):
        guide = FlowGuide(correlated, (y,), layers=1, hidden=(8,))
        before = copy.deepcopy(guide.state_dict())
        settings = {"ignore_jit_warnings": True} if elbo is JitTrace_ELBO else {}
        svi = SVI(correlated, guide, pyro.optim.Adam({"lr": 0.01}), elbo(**settings))
        for _ in range(2):
            svi.step(y)
        assert sum(not torch.equal(before[k], v) for k, v in guide.state_dict().items()) > 3


def test_predictive_draws_and_quantiles_agree():
    guide = FlowGuide(conjugate, (Y,), flow="gaussian")
    draws = Predictive(conjugate, guide=guide, num_samples=2000)(Y)["m"].flatten()
    variance = 1 / (1 / 100**2 + 3 / 4)
    assert_mean(draws, variance * Y.sum() / 4)
    low, middle, high = guide.quantiles([0.1587, 0.5, 0.8413], Y)["m"]
    assert abs(float(guide.median(Y)["m"] - middle)) < 0.2
    assert abs(float(high - low) / 2 / variance**0.5 - 1) < 0.15


def test_the_neutra_density_is_that_of_the_model_through_the_flow():
    y = torch.tensor([0.5, 1.5, 1.0], dtype=torch.float64)
    guide = FlowGuide(correlated, (y,), flow="iaf", layers=2)
    neutra = NeuTraReparam(guide)
    program = poutine.reparam(correlated, config=lambda _: neutra)
    e = torch.randn(guide.latent_dim, dtype=torch.float64)
    first = next(iter(guide.prototype_trace.iter_stochastic_nodes()))[0]  # pyright: ignore[reportOptionalMemberAccess]
    trace = poutine.trace(poutine.condition(program, data={f"{first}_shared_latent": e})).get_trace(y)
    u, log_det = guide.layer.forward_and_log_det(e)
    torch.testing.assert_close(trace.log_prob_sum(), guide.log_joint(u, y) + log_det, atol=1e-8, rtol=1e-8)


def test_state_copies_and_pickles():
    y = torch.tensor([0.5, 1.5, 1.0])
    guide = FlowGuide(correlated, (y,), layers=1)
    SVI(correlated, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(y)
    fresh = FlowGuide(correlated, (y,), layers=1)
    fresh.load_state_dict(guide.state_dict())
    for other in (fresh, copy.deepcopy(guide)):
        assert other._pyro_name != guide._pyro_name
        torch.manual_seed(3)
        expected = guide(y)
        torch.manual_seed(3)
        assert all(torch.equal(value, expected[name]) for name, value in other(y).items())
    assert guide.model is not None  # a copy does not take it away
    with torch.no_grad():
        copy.deepcopy(guide).layer.layers[-1].loc.add_(1.0)
    torch.manual_seed(3)
    assert torch.equal(guide(y)["s"], expected["s"])


def test_without_a_mode_it_starts_at_the_prior_median_and_says_so():
    def funnel(y):
        log_scale = pyro.sample("v", dist.Normal(torch.zeros(()), 3.0))
        x = pyro.sample("x", dist.Normal(torch.zeros(9), log_scale.exp().unsqueeze(-1)).to_event(1))
        pyro.sample("y", dist.Normal(x.sum(-1), 100.0), obs=y)

    y = torch.tensor(0.0)
    guide = FlowGuide(funnel, (y,), scale=0.3)
    assert guide.started != "laplace"
    assert torch.allclose(guide.layer.layers[-1].log_scale.exp(), torch.tensor(0.3))
    assert guide.log_weights(30, y).isfinite().all()


def test_what_it_cannot_guide_is_refused():
    def subsampled(y):
        with pyro.plate("rows", 10, subsample_size=3):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y[:3])

    def circular():
        pyro.sample("angle", dist.VonMises(torch.zeros(()), 0.1))

    with pytest.raises(ModelError, match=r"subsampled plate 'rows'"):
        FlowGuide(subsampled, (torch.zeros(10),))
    with pytest.raises(ModelError, match=r"angle"):
        FlowGuide(circular, ())
    for settings in ({"flow": "glow"}, {"start": "mode"}, {"scale": 0.0}, {"layers": 0}):
        with pytest.raises(SettingsError):
            FlowGuide(conjugate, **settings)
    with pytest.raises(ShapeError):
        FlowGuide(conjugate, (Y,), flow=lambda d: IAF(d + 1, (4,)))


def test_against_pyros_mean_field_it_finds_the_correlation():
    """Two latents whose sum alone is seen: the posterior's correlation is -0.98, which a mean field cannot have."""

    def program(y):
        zero = y.new_zeros(2)
        z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(z.sum(-1), 0.2), obs=y)

    y = torch.tensor([0.5, 1.5, 1.0], dtype=torch.float64)
    ours, theirs = FlowGuide(program, (y,), flow="gaussian"), AutoNormal(program)
    theirs(y)
    assert ours.log_weights(100, y).std() < 1e-4
    u = ours.get_posterior().sample((2000,))
    assert torch.corrcoef(u.T)[0, 1] < -0.9


def test_a_flat_prior_begins_at_the_image_of_zero_and_ends_at_the_posterior():
    """Of a flat prior there is no draw, and Pyro's rules for where to begin all fall back on one."""

    def program(y):
        m = pyro.sample("m", dist.ImproperUniform(dist.constraints.real, (), ()))
        s = pyro.sample("s", dist.ImproperUniform(dist.constraints.positive, (), ()))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(m, s), obs=y)

    y = torch.linspace(-1, 1, 40, dtype=torch.float64) + 3
    guide = FlowGuide(program, (y,))
    assert guide.started == "laplace"
    assert abs(float(guide.median(y)["m"]) - 3) < 0.05
    # under flat priors s^2 is scaled inverse chi-square with n - 2 degrees of freedom, m Student's t around the mean
    z, log_w = guide.weighted_draws(4000, y)
    w = log_w.softmax(0)
    n, squares = len(y), float((y - y.mean()).square().sum())
    assert abs(float(w @ z["m"]) - 3) < 5 * (squares / n / (n - 4) / 2000) ** 0.5
    assert abs(float(w @ z["s"] ** 2) / (squares / (n - 4)) - 1) < 5 * (2 / (n - 6) / 2000) ** 0.5
    assert float(khat(log_w)) < 0.7


def test_weighted_means_of_a_bad_guide_are_those_of_the_posterior():
    guide = FlowGuide(conjugate, (Y,), flow="gaussian")
    variance = 1 / (1 / 100**2 + 3 / 4)
    mean = variance * float(Y.sum()) / 4
    with torch.no_grad():
        guide.layer.layers[-1].loc.add_(0.5 * variance**0.5)
        guide.layer.layers[-1].log_scale.add_(0.3)
    z, log_w = guide.weighted_draws(20_000, Y, chunk=3000)
    assert z["m"].shape == log_w.shape == (20_000,)
    w = log_w.softmax(0)
    error = float((w.square() @ (z["m"] - mean).square()).sqrt())
    assert abs(float(z["m"].mean()) - mean) > 20 * error
    assert abs(float(w @ z["m"]) - mean) < 5.5 * error  # fails a right program with probability 4e-8


def test_hmc_in_the_space_of_the_flow_finds_the_posterior():
    """NeuTra: NUTS moves e, and the guide maps its draws to the latents; from a posterior 500 deviations off."""
    guide = FlowGuide(conjugate, (Y,), layers=2)
    neutra = NeuTraReparam(guide)
    program = poutine.reparam(conjugate, config=lambda _: neutra)
    chain = MCMC(NUTS(program, jit_compile=False), num_samples=300, warmup_steps=50, disable_progbar=True)
    chain.run(Y)
    e = chain.get_samples()["m_shared_latent"]
    m = neutra.transform_sample(e)["m"].detach().flatten()
    variance = 1 / (1 / 100**2 + 3 / 4)
    # 5.5 standard errors for 60 effective draws of 300
    assert abs(float(m.mean() - variance * Y.sum() / 4)) < 5.5 * (variance / 60) ** 0.5
    assert 0.6 < float(m.var()) / variance < 1.6
