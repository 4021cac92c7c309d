from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch

from pyrogen.distributions.boltzmann import (
    Bernoulli,
    Contrastive,
    Exact,
    FastPersistent,
    Machine,
    Persistent,
    Tempered,
    exact_draws,
    log_partition,
    moments,
)
from pyrogen.errors import SettingsError, ShapeError
from tests.boltzmann import COUNTABLE, PAIRS, log_joint, machine
from tests.statistics import assert_mean

MOVING = {
    "cd": lambda n: Contrastive(2),
    "pcd": lambda n: Persistent(2, n),
    "fpcd": lambda n: FastPersistent(2, n, rate=1e-9),
    "tempered": lambda n: Tempered(2, n, rungs=4),
}
DISCRETE = [(v, h) for v, h in PAIRS if v in COUNTABLE and h in COUNTABLE]


def bits_machine(strength=1.0):
    return machine(Bernoulli(4), Bernoulli(3), strength=strength)


def rows(model: Machine, n: int, seed: int = 0):
    return exact_draws(model, n, torch.Generator().manual_seed(seed))


def started_exactly(kind: str, model: Machine, n: int):
    """Particles that are draws of the model already: of each rung's own law, where there are rungs."""
    particles = MOVING[kind](n)
    particles.begin(model)
    if kind == "tempered":
        for r, beta in enumerate(particles.betas.tolist()):
            _, h, _ = log_joint(model)
            warm = model.tempered(beta, particles.base)
            v, _, _ = log_joint(model)
            log_f = -warm.energy(v[:, None], h)
            drawn = torch.multinomial(log_f.logsumexp(0).exp(), n, replacement=True)
            particles.h[r * n : (r + 1) * n] = h[drawn]
    elif kind != "cd":
        particles.h = model.up(rows(model, n, 1))
    return particles


@pytest.mark.parametrize(("visible", "hidden"), [p for p in PAIRS if p[0] in COUNTABLE])
def test_moments_are_the_gradient_of_the_energy_gap(visible, hidden):
    model = machine(visible, hidden)
    parameters = [tensor.requires_grad_() for tensor in (model.W, model.b, model.c)]
    v = model.visible.sample(torch.zeros(7, model.visible.width).double())
    with torch.no_grad():
        negative = Contrastive(3).negative(model, v[:4])
        by_hand = moments(model, v, model.hidden_input(v), negative)
    gap = model.free_energy(negative.v).mean() - model.free_energy(v).mean()
    for found, expected in zip(by_hand, torch.autograd.grad(gap, parameters), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


def test_moments_of_weighted_rows_are_those_of_repeated_rows():
    model = bits_machine()
    v = rows(model, 3)
    negative = Contrastive().negative(model, v)
    repeated = v[[0, 0, 0, 1, 2, 2]]
    expected = moments(model, repeated, model.hidden_input(repeated), negative)
    weight = torch.tensor([3.0, 1, 2]).double() / 6
    for found, other in zip(moments(model, v, model.hidden_input(v), negative, weight), expected, strict=True):
        torch.testing.assert_close(found, other)


@pytest.mark.parametrize("kind", MOVING)
def test_statistics_are_taken_at_the_last_v(kind):
    # p(h_t | v_t), not p(h_t | v_t-1)
    model = bits_machine()
    negative = MOVING[kind](10).negative(model, rows(model, 10))
    assert torch.equal(negative.a, model.hidden_input(negative.v)) and not negative.a.requires_grad


@pytest.mark.parametrize("k", [1, 3])
def test_contrastive_divergence_makes_k_sweeps_from_the_rows(k):
    model = bits_machine()
    v, _, log_f = log_joint(model)
    K = torch.linalg.matrix_power(log_f.softmax(1) @ log_f.T.softmax(1), k)
    torch.manual_seed(0)
    drawn = Contrastive(k).negative(model, v[5].expand(20_000, -1)).v
    assert_mean(drawn, K[5] @ v)


@pytest.mark.parametrize("kind", ["pcd", "fpcd", "tempered"])
def test_particles_that_start_as_draws_of_the_model_stay_so(kind):
    model, n = bits_machine(1.5), 20_000
    v, h, log_f = log_joint(model)
    p = log_f.flatten().softmax(0).reshape(log_f.shape)
    torch.manual_seed(0)
    particles = started_exactly(kind, model, n)
    for _ in range(3):
        negative = particles.negative(model, rows(model, 5))
    assert_mean(negative.v, p.sum(1) @ v)
    assert_mean(torch.einsum("ni,nj->nij", negative.v, negative.a.sigmoid()), v.T @ p @ h)


def test_every_rung_of_tempering_keeps_its_own_law():
    model, n = bits_machine(1.5), 20_000
    v, h, _ = log_joint(model)
    torch.manual_seed(0)
    particles = started_exactly("tempered", model, n)
    for _ in range(2):
        particles.negative(model, rows(model, 5))
    assert torch.equal(particles.rung.sort(0).values, torch.arange(4)[:, None].expand(4, n))
    assert (particles.rung != torch.arange(4)[:, None]).double().mean() > 0.2  # temperatures did move
    for r, beta in enumerate(particles.betas.tolist()):
        p = (-model.tempered(beta, particles.base).energy(v[:, None], h)).flatten().softmax(0).reshape(len(v), len(h))
        own = particles.h.view(4, n, -1)[particles.rung == r]
        # draws in one column are exchanged with each other, columns are independent
        assert_mean(own, p.sum(0) @ h)


def test_tempering_finds_the_other_mode_where_plain_chains_stay():
    # two modes, all off and all on, 20 nats of barrier apart
    W = torch.full((6, 4), 3.0).double()
    model = Machine(Bernoulli(6), Bernoulli(4), W, -W.sum(1) / 2, -W.sum(0) / 2)
    visited = {}
    for name, particles in {"pcd": Persistent(1, 200), "tempered": Tempered(1, 200, rungs=12)}.items():
        torch.manual_seed(0)
        particles.begin(model)
        particles.h.zero_()
        for _ in range(300):
            negative = particles.negative(model, torch.zeros(1, 6).double())
        visited[name] = float(negative.v.mean())
    # by symmetry half of the mass is in each: 200 draws of one coin, five standard errors
    assert visited["pcd"] < 0.1 and abs(visited["tempered"] - 0.5) < 5 * 0.5 / 200**0.5


@pytest.mark.parametrize("kind", ["pcd", "fpcd", "tempered"])
def test_chains_go_on_and_a_short_batch_neither_drops_nor_renews_them(kind):
    model = bits_machine()
    torch.manual_seed(0)
    particles = MOVING[kind](50)
    first = particles.negative(model, rows(model, 40))
    before = particles.h.clone()
    assert first.v.shape == (50, 4)
    calm = Machine(
        model.visible, model.hidden, model.W, torch.full((4,), 99.0).double(), torch.full((3,), -99.0).double()
    )
    # hidden states decide about v: in a machine that is all biases, the next v is all on whatever they are
    assert particles.negative(calm, rows(model, 3)).v.shape == (50, 4)
    assert particles.h.shape == before.shape and not torch.equal(particles.h, before)
    assert (particles.h == 0).all() or kind == "tempered"


def test_chains_move_at_every_call():
    model = bits_machine(0.1)
    particles = Persistent(1, 100)
    seen = [particles.negative(model, rows(model, 2)).v for _ in range(5)]
    assert all(not torch.equal(a, b) for a, b in pairwise(seen))


@pytest.mark.parametrize("kind", ["pcd", "fpcd", "tempered"])
def test_the_state_dict_brings_the_chains_back(kind):
    model = bits_machine()
    torch.manual_seed(0)
    particles, other = MOVING[kind](20), MOVING[kind](20)
    particles.begin(model)
    other.begin(model)
    particles.negative(model, rows(model, 6))
    other.load_state_dict(particles.state_dict())
    for again in (other, copy.deepcopy(particles)):
        assert again.state_dict().keys() == particles.state_dict().keys()
        state = torch.get_rng_state()
        expected = copy.deepcopy(particles).negative(model, rows(model, 6)).v
        torch.set_rng_state(state)
        assert torch.equal(again.negative(model, rows(model, 6)).v, expected)


def test_exact_is_log_z_and_its_gradient():
    model = bits_machine()
    model.W.requires_grad_()
    found = torch.autograd.grad(Exact().log_z(model, rows(model, 2)), model.W)
    torch.testing.assert_close(found, torch.autograd.grad(log_partition(model), model.W))


def test_the_gradient_of_many_particles_is_that_of_log_z():
    model = bits_machine()
    model.W.requires_grad_()
    torch.manual_seed(0)
    particles = started_exactly("pcd", model, 20_000)
    negative = particles.negative(model, rows(model, 2))
    each = torch.einsum("ni,nj->nij", negative.v, negative.a.sigmoid()).detach()
    (exact,) = torch.autograd.grad(log_partition(model), model.W)
    assert_mean(each, exact)
    (surrogate,) = torch.autograd.grad((-model.free_energy(negative.v)).mean(), model.W)
    torch.testing.assert_close(surrogate, each.mean(0))


def test_fast_weights_follow_the_gradient_and_fade():
    model = bits_machine()
    torch.manual_seed(0)
    particles, v = FastPersistent(1, 30, rate=0.5, decay=0.9), rows(model, 8)
    expected = [torch.zeros_like(t) for t in (model.W, model.b, model.c)]
    for _ in range(3):
        negative = particles.negative(model, v)
        step = moments(model, v, model.hidden_input(v), negative)
        expected = [0.9 * old + 0.5 * new for old, new in zip(expected, step, strict=True)]
    for found, other in zip((particles.fast_weights, particles.fast_b, particles.fast_c), expected, strict=True):
        torch.testing.assert_close(found, other)


def test_fast_weights_push_the_chains_and_not_the_machine():
    model, v = bits_machine(0.0), torch.ones(8, 4).double()
    torch.manual_seed(0)
    particles = FastPersistent(1, 500, rate=2.0)
    before = model.b.clone()
    for _ in range(10):
        negative = particles.negative(model, v)
    # the rows are all on, so the fast biases pull the particles there, which the machine's own would not
    assert negative.v.mean() > model.b.sigmoid().mean() + 0.2 and torch.equal(model.b, before)


@pytest.mark.parametrize("bad", [0, -1, 2.0, True])
def test_counts_that_are_none_are_refused(bad):
    for make in (Contrastive, Persistent, FastPersistent, Tempered):
        with pytest.raises(SettingsError, match=r"k = .*positive"):
            make(bad)
    with pytest.raises(SettingsError, match="chains"):
        Persistent(1, bad)
    with pytest.raises(SettingsError):
        Tempered(1, 10, bad)


def test_one_rung_is_no_ladder_and_fast_weights_must_fade():
    with pytest.raises(SettingsError, match="at least two"):
        Tempered(1, 10, rungs=1)
    with pytest.raises(SettingsError, match="decay"):
        FastPersistent(decay=1.0)


def test_particles_of_another_machine_are_refused():
    particles = Persistent(1, 5)
    particles.begin(bits_machine())
    with pytest.raises(ShapeError, match="particles of 3 hidden entries; need 2"):
        particles.negative(machine(Bernoulli(4), Bernoulli(2)), torch.zeros(1, 4).double())
