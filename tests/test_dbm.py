"""The deep Boltzmann machine against listing all of its states."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from pyrogen.distributions.boltzmann import Bernoulli, Categorical, Exact, Gaussian, Spin, Units, log_partition
from pyrogen.errors import ModelError, SettingsError
from pyrogen.evaluate import log_likelihood, log_z
from pyrogen.inference import MaximumLikelihood, fit, greedy
from pyrogen.models import DBM, Doubled
from tests.oracles import bits
from tests.statistics import assert_mean


def small(*kinds, scale: float = 1.0, **settings) -> DBM:
    """float64; Bernoulli layers of the given sizes unless units are given; offsets are not where they start."""
    torch.manual_seed(0)
    layers = [Bernoulli(kind) if isinstance(kind, int) else kind for kind in kinds]
    model = DBM(layers, scale=scale, **settings).double()
    with torch.no_grad():
        for bias in model.b:
            bias.normal_()
        if model.centred:
            for buffer in (model.mu, model.lam):
                buffer.uniform_()
    return model


def layers_of(model: DBM) -> list[Units]:
    return list(model.layers)  # pyright: ignore[reportReturnType]


def states_of(model: DBM) -> list[Tensor]:
    like = model.b[0]
    return [layer.states(0, int(layer.count), like) for layer in layers_of(model)]


def minus_energy(model: DBM, values: list[Tensor]) -> Tensor:
    """Straight from the formula, layer by layer, of every combination of the layers' states: one axis each."""
    widths = [layer.width for layer in layers_of(model)]
    offsets: list[Tensor] = [model.mu] * len(widths)
    offsets[0::2], offsets[1::2] = model.mu.split(widths[0::2]), model.lam.split(widths[1::2])
    centred = [value - offset for value, offset in zip(values, offsets, strict=True)]
    n = len(values)
    total = torch.zeros([1] * n, dtype=torch.float64)
    for k in range(n):
        shape = [1] * n
        shape[k] = -1
        own = layers_of(model)[k].base(values[k]) + centred[k] @ model.b[k]
        total = total + own.view(shape)
        if k + 1 < n:
            shape[k + 1] = len(values[k + 1])
            shape[k] = len(values[k])
            total = total + (centred[k] @ model.W[k] @ centred[k + 1].T).view(shape)
    return total


def listed(model: DBM) -> Tensor:
    """log p(x) + log Z, up to the constant of the offsets, of every x."""
    f = minus_energy(model, states_of(model))
    return f.logsumexp(tuple(range(1, f.dim())))


SHAPES = {
    "three layers": (3, 2, 2),
    "four layers": (3, 2, 2, 2),
    "five layers": (2, 2, 3, 2, 2),
    "spins and categories": (Spin(2), Categorical(1, 3), Bernoulli(2)),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("centred", [True, False])
def test_the_merged_machine_is_the_deep_one(shape, centred):
    model = small(*shape, centred=centred)
    machine = model.machine()
    values = states_of(model)
    f = minus_energy(model, values)
    index = torch.tensor(list(itertools.product(*(range(len(v)) for v in values))))
    even = torch.cat([values[k][index[:, k]] for k in range(0, len(values), 2)], -1)
    odd = torch.cat([values[k][index[:, k]] for k in range(1, len(values), 2)], -1)
    off = -model.energy(even, odd) - f.flatten()
    torch.testing.assert_close(off, off[0].expand_as(off))
    torch.testing.assert_close(log_partition(machine) - f.flatten().logsumexp(0), off[0])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_bound_rises_with_every_update_and_stays_below(shape):
    model = small(*shape, scale=2.0, tolerance=0.0)
    x = states_of(model)[0]
    exact = listed(model).log_softmax(0)
    log_z = log_partition(model.machine())
    bounds = []
    for updates in range(1, 60):
        model.updates = updates
        bounds.append(-model.free_energy(x) - log_z)
    bounds = torch.stack(bounds).detach()
    assert bool((bounds.diff(dim=0) > -1e-10).all()) and float(bounds.diff(dim=0).max()) > 1e-4
    assert bool((bounds <= exact + 1e-10).all())
    assert 1e-3 < float((exact.detach() - bounds[-1]).mean()) < 2


def test_the_bound_is_the_expected_energy_and_the_entropy():
    """The formula of Salakhutdinov and Hinton, written out for two hidden layers of bits."""
    model = small(3, 4, 2)
    x, (s, eta, a) = bits(3), model.mean_field(bits(3))
    m1, m2 = a.sigmoid(), eta.sigmoid()
    machine = model.machine()
    entropy = sum(-(torch.xlogy(m, m) + torch.xlogy(1 - m, 1 - m)).sum(-1) for m in (m1, m2))
    expected = torch.cat([x, m2], -1) @ machine.b + m1 @ machine.c + ((s @ machine.W) * m1).sum(-1) + entropy
    torch.testing.assert_close(-model.free_energy(x), expected)
    torch.testing.assert_close(eta, machine.b[3:] + m1 @ machine.W[3:].T, rtol=1e-4, atol=1e-4)


def test_the_mean_field_is_exact_where_the_layers_above_are_not_coupled():
    model = small(3, 2, 2)
    with torch.no_grad():
        model.W[1].zero_()
    exact = listed(model).log_softmax(0)
    torch.testing.assert_close(-model.free_energy(bits(3)) - log_partition(model.machine()), exact)


def test_no_rows_have_a_mean_field_of_no_rows():
    model = small(3, 2, 2)
    assert [len(part) for part in model.mean_field(torch.empty(0, 3, dtype=torch.float64))] == [0, 0, 0]


def test_mean_field_stops_when_it_stands():
    model = small(3, 2, 2, scale=0.1, updates=1_000, tolerance=1e-9)
    calls = 0
    mean = Bernoulli.mean

    def counted(self, a):
        nonlocal calls
        calls += 1
        return mean(self, a)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bernoulli, "mean", counted)
        s = model.mean_field(bits(3)).s
    assert calls < 60
    model.updates, model.tolerance = 1_000, 0.0
    torch.testing.assert_close(s, model.mean_field(bits(3)).s, rtol=0, atol=1e-8)


def test_a_clamped_machine_gives_the_true_likelihood():
    model, x = small(3, 2, 2), bits(3)
    rows = []
    for row in x:
        rest, number = model.clamped(row)
        rows.append(log_partition(rest) + number - log_partition(model.machine()))
    torch.testing.assert_close(torch.stack(rows), listed(model).log_softmax(0))


@pytest.mark.parametrize("centred", [True, False])
def test_moving_the_offsets_leaves_the_distribution_alone(centred):
    model = small(3, 2, 2, 2, centred=centred)
    before = model.machine()
    kept = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.s_mean.uniform_()
    model.h_mean.uniform_()
    model.recentre(kept)
    after = model.machine()
    for one, two in ((before.W, after.W), (before.b, after.b), (before.c, after.c)):
        torch.testing.assert_close(one, two)
    for name, p in model.named_parameters():
        torch.testing.assert_close(kept[name], p.detach())


def test_the_gradient_of_the_objective_is_that_of_the_bound():
    """Particles replaced by all states: by hand against autograd of the bound minus exact log Z."""
    model = small(3, 2, 2, tolerance=0.0, updates=400)
    x = bits(3)[[0, 3, 5]]
    (model.free_energy(x).mean() + log_partition(model.machine())).backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    model.particles = Exact()
    value = MaximumLikelihood()(model.model, model.guide, x)
    value.loss.backward()
    assert len(expected) == 5
    for own, p in zip(expected, model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, own)
    # and the optimum of q moves no gradient: finite differences of the bound with q found anew
    W = model.W[1]
    with torch.no_grad():
        W[0, 1] += 1e-5
        up = model.free_energy(x).mean() + log_partition(model.machine())
        W[0, 1] -= 2e-5
        down = model.free_energy(x).mean() + log_partition(model.machine())
    assert float((up - down) / 2e-5) == pytest.approx(float(expected[1][0, 1]), abs=1e-6)


def test_the_pyro_program_is_the_same_model():
    """log p(h) + log p(x | h) summed over h is log p(x); its ELBO is below, and near the mean-field bound."""
    model = small(3, 2, 2)
    h = bits(2)
    prior = model.distribution().log_prob(h)
    joint = torch.stack([model._visible_layer(value).log_prob(bits(3)) for value in h]) + prior[:, None]
    exact = listed(model).log_softmax(0)
    torch.testing.assert_close(joint.logsumexp(0), exact)
    found = log_likelihood(model, bits(3), method="elbo", particles=4_000)
    bound = -model.free_energy(bits(3)) - log_partition(model.machine())
    assert bool((found.rows < exact.detach() + 0.05).all())
    assert abs(float(found.rows.mean() - bound.detach().mean())) < 0.5
    tight = log_likelihood(model, bits(3), method="iwae", particles=4_000)
    torch.testing.assert_close(tight.rows, exact.detach(), rtol=0, atol=0.1)


def test_draws_of_the_program_have_the_law_of_the_model():
    model = small(3, 2, 2)
    torch.manual_seed(0)
    x = model.double().sample(20_000).double()
    assert_mean((x[:, None] == bits(3)).all(-1).double(), listed(model).softmax(0))


def test_log_likelihood_says_that_it_is_a_bound():
    model, x = small(5, 4, 3, scale=0.5), bits(5)[::3]
    found = log_likelihood(model, x)
    assert found.kind == "lower bound" and found.method == "exact"
    annealed = log_likelihood(model, x, method="bracket", steps=300)
    assert annealed.kind == "estimate"
    assert abs(annealed.mean - found.mean) < 5 * annealed.mc_stderr
    assert abs(log_z(model, data=x, steps=300).value - log_z(model, "exact").value) < 0.1


def patterns() -> Tensor:
    """400 rows of eight bits: all 0 or all 1, then each flipped with probability 0.15; 4.07 nats of entropy."""
    g = torch.Generator().manual_seed(0)
    side = torch.randint(2, (400, 1), generator=g).float()
    return (side.expand(-1, 8) + torch.bernoulli(torch.full((400, 8), 0.15), generator=g)) % 2


def test_importance_sampling_of_a_machine_that_no_step_lists_takes_its_log_z():
    model = small(3, 14, 13, scale=0.3)
    x = bits(3)
    found = log_likelihood(model, x, method="iwae", particles=500)
    truth = [log_partition(rest) + number for rest, number in map(model.clamped, x)]
    exact = torch.stack(truth).detach() - log_z(model, "exact").value
    torch.testing.assert_close(found.rows, exact, rtol=0, atol=0.02)
    assert found.kind == "lower bound" and found.log_z is not None and model.log_z is None


def test_training_without_pretraining_comes_to_the_entropy_of_the_data():
    x = patterns()
    torch.manual_seed(0)
    model = DBM([Bernoulli(8), Bernoulli(6), Bernoulli(4)])
    model.prepare(x)
    assert log_likelihood(model, x).mean == pytest.approx(-5.52, abs=0.05)  # independent bits
    found = fit(model, x, epochs=30, batch_size=100, learning_rate=0.01, progress=False)
    assert log_likelihood(model, x).mean > -4.15
    assert found.history["train"][-1] == pytest.approx(log_likelihood(model, x).mean, abs=1e-4)
    assert "mean-field bound" in found.settings["history"]


def test_a_doubled_layer_stands_in_for_the_one_beyond():
    torch.manual_seed(0)
    for copies in ((2, 1), (1, 2)):
        part = Doubled(Bernoulli(3), Bernoulli(2), copies=copies, scale=1.0)
        part.mu.uniform_()
        part.lam.uniform_()
        machine, x, h = part.machine(), bits(3).float(), bits(2).float()
        a = machine.hidden_input(part.filled(x))[:, :2]
        torch.testing.assert_close(a, part.c - copies[0] * (part.mu @ part.W) + copies[0] * x @ part.W)
        b = machine.visible_input(h.repeat(1, copies[1]))[:, :3]
        torch.testing.assert_close(b, part.b - copies[1] * (part.W @ part.lam) + copies[1] * h @ part.W.T)
        part.h_mean.uniform_()
        part.recentre()
        for one, two in ((machine.b, part.machine().b), (machine.c, part.machine().c)):
            torch.testing.assert_close(one, two)


def test_weights_of_the_parts_are_put_together():
    """Four layers: the middle is halved, and a layer between two parts has the mean of its two biases."""
    model = small(3, 2, 2, 2).float()
    parts = [model.part(level) for level in range(model.n_parts)]
    assert [part.copies for part in parts] == [(2, 1), (1, 1), (1, 2)]
    for part in parts:
        part.b.data.normal_()
        part.c.data.normal_()
    model.adopt(parts)
    machine = model.machine()
    torch.testing.assert_close(machine.W[:3, :2], parts[0].W)
    torch.testing.assert_close(machine.W[3:, :2], parts[1].W.T / 2)
    torch.testing.assert_close(machine.W[3:, 2:], parts[2].W)
    own = [part.machine() for part in parts]
    torch.testing.assert_close(machine.b, torch.cat([own[0].b[:3], (own[1].c + own[2].b) / 2]))
    torch.testing.assert_close(machine.c, torch.cat([(own[0].c + own[1].b) / 2, own[2].c[:2]]))


def test_pretraining_starts_above_independent_units():
    x = patterns()
    torch.manual_seed(0)
    model = DBM([Bernoulli(8), Bernoulli(6), Bernoulli(4)])
    fits = greedy(model, x, epochs=15, batch_size=100, learning_rate=0.01, progress=False)
    assert len(fits) == 2
    assert log_likelihood(model, x).mean > -5.0


def test_wrong_layers_are_refused_in_words():
    with pytest.raises(ModelError, match="2 layers"):
        DBM([Bernoulli(3), Bernoulli(2)])
    with pytest.raises(ModelError, match="bounded"):
        DBM([Gaussian(3), Gaussian(2), Bernoulli(2)])
    with pytest.raises(SettingsError, match="two layers"):
        DBM.build(4, (1, 2, 2), "binary", hidden=[5])
    with pytest.raises(SettingsError, match="'hiden'"):
        DBM.build(4, (1, 2, 2), "binary", hiden=[5, 4])
    with pytest.raises(SettingsError, match="updates=0"):
        DBM([Bernoulli(3), Bernoulli(2), Bernoulli(2)], updates=0)
