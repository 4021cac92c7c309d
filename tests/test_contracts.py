"""What every model of the zoo must do because of the contract that it keeps."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO

from pyrogen.errors import ModelError, PyrogenError, ShapeError, SupportError
from pyrogen.evaluate import log_likelihood
from pyrogen.inference import ELBO, IWAE, fit
from pyrogen.inference.terms import run
from pyrogen.models import MODELS, Density, DequantizedFlow, Explicit, Model, Pair
from tests.zoo import ZOO, all_of, small

MODEL_NAMES = list(ZOO)
PAIRS, EXPLICIT = all_of(Pair), all_of(Explicit)
WITH_LATENTS = [name for name in PAIRS if not isinstance(small(name), Density)]


def rows_of(model: Model, n: int) -> torch.Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return model.sample(n)


@pytest.fixture(autouse=True)
def fresh_store():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


def reparameterized(pair: Pair, x: torch.Tensor) -> bool:
    sites = poutine.trace(pair.guide).get_trace(x).nodes.values()
    return all(s["fn"].has_rsample for s in sites if s["type"] == "sample" and not poutine.util.site_is_subsample(s))


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_models_own_samples_pass_its_check(name):
    model = small(name)
    x = rows_of(model, 20)
    assert x.shape == (20, model.width)
    model.check(x)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_bad_rows_are_refused_in_words(name):
    model = small(name)
    x = rows_of(model, 3)
    nan, inf = x.clone(), x.clone()
    nan[1, 2], inf[0, 0] = float("nan"), float("inf")
    for bad in (x[:0], x[0], x[:, 1:], x.long(), x.half(), nan, inf, x.numpy(), None):
        with pytest.raises(PyrogenError, match=r"(?s)got .*need .*try "):
            model.check(bad)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_values_outside_the_support_are_refused(name):
    model = small(name)
    if model.support == "real":
        pytest.skip("every finite value is in the support")
    with pytest.raises(SupportError):
        model.check(torch.full((2, model.width), 4.567 if model.support == "torus" else 0.4567))


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_copies_have_names_of_their_own(name):
    model = small(name)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), small(name)]
    assert len({m.site_name for m in [model, *copies]}) == 4
    for other in copies[:2]:
        for (key, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
            assert torch.equal(a, b), key


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_weights_survive_the_state_dict(name):
    model, other = small(name), ZOO[name]()
    other.load_state_dict(model.state_dict())
    torch.manual_seed(0)
    a = model.sample(5)
    torch.manual_seed(0)
    assert torch.equal(other.sample(5), a)


@pytest.mark.parametrize("name", PAIRS)
def test_two_instances_train_in_one_process(name):
    first, second = small(name), small(name)
    x = rows_of(first, 8)
    for pair in (first, second):
        before = copy.deepcopy(pair.state_dict())
        svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        svi.step(x)
        moved = [key for key, value in pair.state_dict().items() if not torch.equal(value, before[key])]
        assert moved, "nothing was trained"


@pytest.mark.parametrize("name", PAIRS)
def test_pyro_and_our_elbo_agree_in_expectation(name):
    pair = small(name).double()
    x = rows_of(pair, 6).double()
    ours = run(pair.model, pair.guide, x, particles=4000).log_w.detach()
    theirs = torch.tensor(
        [-Trace_ELBO(num_particles=1).loss(pair.model, pair.guide, x) for _ in range(300)], dtype=torch.float64
    )
    ours_total = ours.sum(1)
    z = (ours_total.mean() - theirs.mean()) / (ours_total.var() / 4000 + theirs.var() / 300).sqrt().clamp(min=1e-9)
    # |z| < 5.5 fails a correct bound with probability 4e-8
    assert abs(float(z)) < 5.5 or abs(float(ours_total.mean() - theirs.mean())) < 1e-6


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("objective", [ELBO(), ELBO(particles=2, gradient="stl"), IWAE(3), IWAE(3, gradient="dreg")])
def test_fit_trains_and_leaves_the_global_random_state_alone(name, objective):
    pair = small(name)
    x = rows_of(pair, 9)
    if objective.stops_guide and not reparameterized(pair, x):
        with pytest.raises(ModelError, match="no rsample"):
            fit(pair, x, objective=objective, epochs=2, batch_size=4, progress=False)
        return
    before, state = copy.deepcopy(pair.state_dict()), torch.get_rng_state()
    result = fit(pair, x, objective=objective, epochs=2, batch_size=4, validation=x[:3], progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert result.history["step"] == [3, 6]
    assert any(not torch.equal(value, before[key]) for key, value in pair.state_dict().items())


@pytest.mark.parametrize("name", PAIRS)
def test_any_batch_size_works_after_training(name):
    pair = small(name)
    x = rows_of(pair, 9)
    fit(pair, x, epochs=1, batch_size=4, progress=False)
    for n in (1, 2, 9):
        trace = poutine.trace(pair.guide).get_trace(x[:n])
        latents = [s for s in trace.nodes.values() if s["type"] == "sample" and s["value"].is_floating_point()]
        assert bool(latents) == (name in WITH_LATENTS)
        assert all(site["value"].shape[0] == n for site in latents)
        assert torch.isfinite(run(pair.model, pair.guide, x[:n]).log_w).all()


@pytest.mark.parametrize("name", PAIRS)
def test_a_minibatch_is_scaled_to_the_size_that_it_stands_for(name):
    pair = small(name)
    x = rows_of(pair, 4)
    latents = poutine.trace(pair.guide).get_trace(x)

    def log_prob_sum(program, size):
        return poutine.trace(poutine.replay(program, trace=latents)).get_trace(x, size).log_prob_sum()

    for program in (pair.model, pair.guide):
        torch.testing.assert_close(log_prob_sum(program, 40), 10 * log_prob_sum(program, None))


@pytest.mark.parametrize("name", PAIRS)
def test_predictive_and_condition_work(name):
    pair = small(name)
    x = rows_of(pair, 3)
    draws = Predictive(poutine.uncondition(pair.model), guide=pair.guide, num_samples=5)(x)
    assert draws["x"].shape == (5, 3, pair.width)
    if not isinstance(pair, DequantizedFlow):  # a grey level with noise is that level
        assert not torch.equal(draws["x"][0], draws["x"][1])
    latent = next((n for n in draws if n != "x"), None)
    assert (latent is not None) == (name in WITH_LATENTS)
    if latent is None:  # the guide is empty, and nothing is left to condition on
        return
    fixed = poutine.condition(pair.model, data={latent: draws[latent][0]})
    assert torch.equal(poutine.trace(fixed).get_trace(x).nodes[latent]["value"], draws[latent][0])


@pytest.mark.parametrize("name", PAIRS)
def test_bounds_rise_with_particles(name):
    pair = small(name)
    x = rows_of(pair, 4)
    # the mean over many sets of K particles, from one large run: E[IWAE_K] is increasing in K
    log_w = run(pair.model, pair.guide, x, particles=6000).log_w.detach().double()
    bounds = [
        (log_w.unflatten(0, (-1, k)).logsumexp(1) - torch.tensor(float(k)).log()).mean() for k in (1, 2, 10, 100, 6000)
    ]
    assert all(low <= high + 1e-6 for low, high in pairwise(bounds)), bounds


@pytest.mark.parametrize("name", EXPLICIT)
def test_importance_sampling_agrees_with_the_exact_density(name):
    model = small(name)
    x = rows_of(model, 5)
    exact = log_likelihood(model, x, method="exact")
    bound = log_likelihood(model, x, method="iwae", particles=200)
    assert exact.kind == "exact" and bound.kind == "lower bound"
    # 6 standard errors below and above; the error is zero for an exact guide, hence the float32 margin
    assert abs(bound.mean - exact.mean) < 6 * bound.mc_stderr + 1e-3


def test_a_model_in_the_zoo_for_every_recipe_name():
    kinds = {type(small(name)) for name in ZOO}
    assert set(MODELS.values()) <= kinds


def test_wrong_width_names_both_widths():
    with pytest.raises(ShapeError, match=r"5.*4"):
        small("vae").check(torch.zeros(3, 5))
