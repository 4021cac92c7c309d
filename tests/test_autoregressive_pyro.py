"""Autoregressive joints inside Pyro programs, and models of them under `fit` and SVI."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Importance, Predictive, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import nn

from pyrogen.distributions import Autoregressive, sites
from pyrogen.errors import ModelError, SettingsError, ShapeError
from pyrogen.evaluate import latent_report, log_likelihood
from pyrogen.inference import fit
from pyrogen.models import FVBN, MADE, NADE, VAE, DeepNADE, Likelihood, MixtureOfBernoullis, Prior, StandardNormal
from pyrogen.nn import MLP
from tests.autoregressive import BITS, NETWORKS, joint, states, strong
from tests.zoo import small


@pytest.fixture(autouse=True)
def fresh_store():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


@pytest.mark.parametrize("name", [n for n in NETWORKS if "orders" not in n])
def test_one_site_a_variable_is_the_same_density(name):
    fn = joint(name)
    x = fn.sample((4,))
    with pyro.plate("rows", 4):
        trace = poutine.trace(sites).get_trace(fn, value=x)
    assert torch.equal(trace.nodes["_RETURN"]["value"], x)
    trace.compute_log_prob()
    order = [f"x_{d}" for d in fn.network.orders[0].tolist()]
    assert [name for name in trace.nodes if name.startswith("x_")] == order
    total = sum(trace.nodes[site]["log_prob"] for site in order)
    torch.testing.assert_close(total, fn.log_prob(x))


def test_conditioned_sites_give_the_evidence_by_importance_and_exactly_by_enumeration():
    fn = joint("fvbn-levels")
    x = states(fn)
    observed = {"x_1": torch.tensor(0.5).double(), "x_3": torch.tensor(1.0).double()}
    agree = (x[:, 1] == 0.5) & (x[:, 3] == 1)
    exact = fn.log_prob(x)[agree].logsumexp(0).detach()
    conditioned = poutine.condition(lambda: sites(fn), data=observed)
    enumerated = config_enumerate(conditioned)
    elbo = TraceEnum_ELBO(max_plate_nesting=0)
    torch.testing.assert_close(torch.tensor(-elbo.loss(enumerated, lambda: None)), exact, check_dtype=False)
    found = Importance(conditioned, num_samples=150).run()
    weights = torch.stack([torch.as_tensor(w) for w in found.log_weights]).double()
    p = weights.exp()
    assert abs(float(p.mean() - exact.exp())) < 5 * float(p.std()) / 150**0.5


def test_a_latent_joint_is_summed_out_by_enumeration():
    fn = joint("made")
    y = torch.tensor(0.3, dtype=torch.float64)
    weight = torch.linspace(-1, 1, 8, dtype=torch.float64)

    @config_enumerate
    def model():
        x = pyro.sample("x", fn)
        pyro.sample("y", dist.Normal(x @ weight, 0.5), obs=y)

    x = states(fn)
    exact = (fn.log_prob(x) + dist.Normal(x @ weight, 0.5).log_prob(y)).logsumexp(0).detach()
    loss = TraceEnum_ELBO(max_plate_nesting=0).loss(model, lambda: None)
    torch.testing.assert_close(torch.tensor(-loss), exact, check_dtype=False)


def test_sites_of_a_mixture_of_orders_are_refused():
    with pytest.raises(SettingsError, match="mixture of 5 orders"):
        sites(joint("made-orders"))
    with pytest.raises(ShapeError, match=r"\(\.\.\., 8\)"):
        sites(joint("made"), value=torch.zeros(3, 7))


class Decoder(Likelihood):
    """p(x | z) by a MADE whose context is what the decoder says."""

    support = "binary"
    features = 1

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.made = MADE(width, (8,), context=width)

    def forward(self, outputs):
        return self.made.dist(outputs)


class Code(Prior):
    """p(z) by a MADE of reals."""

    def __init__(self, latent: int) -> None:
        super().__init__(latent)
        from pyrogen.distributions import NormalConditional

        self.made = MADE(latent, (8,), NormalConditional(2))

    def forward(self, encode):
        return self.made.dist()


@pytest.mark.parametrize("kind", ["decoder", "prior"])
def test_a_vae_with_an_autoregressive_part_trains(kind):
    x = torch.bernoulli(torch.full((40, 6), 0.3))
    likelihood, prior = Decoder(6), StandardNormal(2) if kind == "decoder" else Code(2)
    vae = VAE(MLP(6, 8, 4), MLP(2, 8, 6), likelihood, prior)
    part = vae.likelihood if kind == "decoder" else vae.prior
    before = copy.deepcopy(part.state_dict())
    result = fit(vae, x, epochs=30, batch_size=20, learning_rate=0.02, progress=False)
    assert result.history["train"][-1] > result.history["train"][0]
    assert any(not torch.equal(v, before[k]) for k, v in part.state_dict().items())
    assert log_likelihood(vae, x[:5], particles=20).rows.isfinite().all()
    assert Predictive(poutine.uncondition(vae.model), num_samples=2)(x[:3])["x"].shape == (2, 3, 6)


MODELS = ["fvbn", "made", "made-levels", "made-real", "nade", "nade-levels", "bernoulli-mixture"]


@pytest.mark.parametrize("name", MODELS)
def test_fit_maximises_the_likelihood_and_a_graph_gives_the_bits_of_eager(name):
    x = small(name).sample(60)
    trained = []
    for mode in ("eager", "graph"):
        model = small(name)
        model.prepare(x)
        with torch.no_grad():
            start = float(model.log_prob(x).mean())
        result = fit(model, x, epochs=20, batch_size=30, learning_rate=0.02, progress=False, compile=mode)
        assert result.settings["compile"] == mode
        trained.append(model)
    exact = log_likelihood(trained[0], x, method="exact")
    assert exact.kind == "exact" and exact.mean > start
    for a, b in zip(trained[0].parameters(), trained[1].parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "make", [lambda: MADE(4, (5, 5), order="random", n_orders=3, sees_mask=True), lambda: DeepNADE(4, (5,), n_orders=2)]
)
def test_training_on_random_orders_becomes_a_graph_with_the_bits_of_eager(make):
    x, trained = small("fvbn").sample(60), []
    for mode in ("eager", "graph"):
        torch.manual_seed(0)
        model = make()
        result = fit(model, x, epochs=4, batch_size=20, validation=x, progress=False, compile=mode)
        assert result.settings["compile"] == mode
        trained.append((model, result.history))
    for a, b in zip(trained[0][0].parameters(), trained[1][0].parameters(), strict=True):
        assert torch.equal(a, b)
    # validation is the density itself, of which training sees bounds
    with torch.no_grad():
        best = max(trained[0][1]["valid"])
        assert float(trained[0][0].log_prob(x).mean()) == pytest.approx(best, abs=1e-5)


def test_which_member_learns_is_chosen_in_python_and_a_graph_says_so():
    x, trained = small("fvbn").sample(60), []
    for mode, said in (("eager", nullcontext()), ("graph", pytest.warns(UserWarning, match="number.*in members.py"))):
        torch.manual_seed(0)
        model = MADE(4, (5,), order="random", n_orders=4, members=2, direct=True)
        before = copy.deepcopy(model)
        with said:
            fit(model, x, epochs=4, batch_size=20, progress=False, compile=mode)
        trained.append(model)
    for a, b, start in zip(*(m.parameters() for m in (*trained, before)), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, start)


@pytest.mark.parametrize("name", MODELS)
def test_the_elbo_of_the_empty_guide_is_log_p(name):
    model = small(name)
    x = model.sample(7)
    loss = Trace_ELBO().loss(model.model, model.guide, x)
    assert -loss == pytest.approx(float(model.log_prob(x).sum().detach()), rel=1e-5)


def test_svi_with_an_empty_guide_is_maximum_likelihood():
    x = small("fvbn").sample(500)
    model = FVBN(4)
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(300):
        svi.step(x)
    # a saturated chain of frequencies bounds any density of four bits from above
    counts = torch.unique(x, dim=0, return_counts=True)[1].double()
    best = float((counts * (counts / 500).log()).sum() / 500)
    found = float(model.log_prob(x).mean().detach())
    assert best - 0.05 < found <= best


def test_the_training_signal_of_orderless_nade_is_unbiased_for_the_mean_over_orders():
    import itertools

    from tests.statistics import assert_mean

    model = DeepNADE(4, (6,)).double()
    strong(model)
    x = torch.tensor([[1.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    every = torch.tensor(list(itertools.permutations(range(4))))
    fn = Autoregressive(model.network.reordered(every), BITS)
    exact = torch.stack([fn.under(i).log_prob(x) for i in range(24)]).mean().detach()
    trace = poutine.trace(model.model).get_trace(x.expand(20_000, -1))
    trace.compute_log_prob()
    assert_mean(trace.nodes["x"]["log_prob"].detach(), exact)
    # by Jensen the mixture of all orders is above their mean
    assert fn.log_prob(x) > exact


def test_the_signal_of_order_agnostic_made_is_one_of_its_orders_at_random():
    model = MADE(4, (6,), order="random", n_orders=3).double()
    strong(model)
    x = model.sample(5)
    parts = {round(float(model.dist(which=i).log_prob(x).sum().detach()), 9) for i in range(3)}
    seen = {round(-Trace_ELBO().loss(model.model, model.guide, x), 9) for _ in range(60)}
    assert seen == parts  # one of three is missed by sixty draws with probability 3 (2/3)^60 < 1e-9
    model.eval()
    assert -Trace_ELBO().loss(model.model, model.guide, x) == pytest.approx(float(model.log_prob(x).sum().detach()))


def test_a_conditional_model_trains_on_rows_that_carry_their_context():
    source = torch.Generator().manual_seed(0)
    context = torch.randn(400, 2, generator=source)
    x = torch.bernoulli((3 * context[:, :1]).sigmoid().expand(-1, 4), generator=source)
    rows = torch.cat([x, context], 1)
    model = MADE(4, (10,), context=2)
    fit(model, rows, epochs=30, batch_size=50, learning_rate=0.02, progress=False)
    plain = MADE(4, (10,))
    fit(plain, x, epochs=30, batch_size=50, learning_rate=0.02, progress=False)
    with torch.no_grad():
        assert model.log_prob(rows).mean() > plain.log_prob(x).mean() + 0.2
    assert model.sample(5, torch.tensor([3.0, 0.0])).mean() > 0.8
    with pytest.raises(ShapeError, match="and then a context of 2"):
        model.log_prob(x)


def test_start_at_the_columns_own_laws():
    x = torch.bernoulli(torch.tensor([0.1, 0.5, 0.9, 0.3]).expand(2000, -1))
    model = FVBN(4)
    model.prepare(x)
    with torch.no_grad():
        at_start = model.log_prob(x).mean()
    p = x.mean(0)
    independent = (p * p.log() + (1 - p) * (1 - p).log()).sum()
    torch.testing.assert_close(at_start, independent, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["made", "bernoulli-mixture"])
def test_a_guide_without_latents_has_no_latent_report(name):
    model = small(name)
    with pytest.raises(ModelError, match="without latent sites"):
        latent_report(model, model.sample(5))


def test_settings_of_recipes_are_refused_by_name():
    for model in (FVBN, MADE, NADE, DeepNADE, MixtureOfBernoullis):
        with pytest.raises(SettingsError, match="widht"):
            model.build(4, (1, 2, 2), "binary", widht=3)
    with pytest.raises(SettingsError, match="'components' for binary"):
        MADE.build(4, (1, 2, 2), "binary", components=3)
    assert MADE.build(4, (1, 2, 2), "grey17", hidden=[3]).conditional.outputs == 17
    scanning = MADE.build(6, (1, 2, 3), "binary", order="raster", n_orders=2, hidden=[8]).network
    assert scanning.orders.tolist() == [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]]
    assert scanning.get_buffer("degrees0").sum(0).tolist() == [6, 6, 7, 7, 7, 7, 7, 6]
    assert NADE.build(4, (1, 2, 2), "real", hidden=3, components=5).conditional.outputs == 15
    assert isinstance(DeepNADE.build(4, (1, 2, 2), "binary", hidden=[3]).network, nn.Module)
