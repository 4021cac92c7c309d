"""Block Gibbs: exact transition matrices through the kernel's own code, exact starts, and what others get wrong."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from pyrogen.distributions.boltzmann import Bernoulli, Categorical, Gaussian, Machine, ReLU, Spin, Stack
from pyrogen.errors import ModelError, NonFiniteError, SettingsError, ShapeError, SupportError
from pyrogen.inference import BlockGibbs
from tests.machines import Scripted, joint, machine, number, states_of
from tests.statistics import assert_law, assert_mean


def matrix(m: Machine, clamp=None) -> torch.Tensor:
    """P(v', h' | v) of one step, (states of v, pairs of states), computed by the kernel."""
    v0, h1, v1 = (states_of(units) for units in (m.visible, m.hidden, m.visible))
    i, j, k = torch.meshgrid(*(torch.arange(len(x)) for x in (v0, h1, v1)), indexing="ij")
    up, down = Scripted(m.hidden.n), Scripted(m.visible.n)
    kernel = BlockGibbs(Machine(down, up, m.W, m.b, m.c), clamp=clamp)
    state = kernel.init(1, values={"v": v0[:1], "h": h1[:1]})
    up.script, down.script, up.log_p, down.log_p = [h1[j.flatten()]], [v1[k.flatten()]], 0.0, 0.0
    state, _ = kernel.step(state._replace(v=v0[i.flatten()]))
    p = (up.log_p + down.log_p).exp()
    to = number(state.h, m.hidden) + len(h1) * number(state.v, m.visible)
    K = torch.zeros(len(v0), len(v1) * len(h1), dtype=torch.float64)
    return K.index_put((i.flatten(), to), p, accumulate=True)


def laws(m: Machine) -> tuple[torch.Tensor, torch.Tensor]:
    """p(v), and p(v, h) as `matrix` numbers the pairs."""
    p = joint(m)[2]
    return p.reshape(int(m.visible.count), -1).sum(1), p


def test_a_step_leaves_the_joint_law_invariant_and_is_reversible_in_v():
    m = machine(3, 2)
    p_v, p = laws(m)
    K = matrix(m)
    assert_close(K.sum(1), torch.ones(8, dtype=torch.float64))
    assert_close(p_v @ K, p)
    in_v = K.reshape(8, 8, 4).sum(2)
    assert_close(p_v[:, None] * in_v, (p_v[:, None] * in_v).T)
    assert float((in_v - p_v).abs().max()) > 0.05  # a kernel that drew from p(v) outright would also pass the above


@pytest.mark.parametrize("sides", ["v", "h", "both"])
def test_a_clamped_step_leaves_the_exact_conditional_invariant(sides):
    m = machine(3, 2, seed=1)
    v, h, p = joint(m)
    clamp, free = {}, torch.ones(len(p), dtype=torch.bool)
    if sides != "h":
        clamp["v"] = torch.tensor([True, False, False]), torch.tensor([1.0, math.nan, math.nan])
        free &= v[:, 0] == 1
    if sides != "v":
        clamp["h"] = torch.tensor([False, True]), torch.tensor([0.0, 0.0])
        free &= h[:, 1] == 0
    law = torch.where(free, p, 0) / p[free].sum()
    assert_close(law.reshape(8, 4).sum(1) @ matrix(m, clamp), law)


SMALL = {
    "bernoulli, bernoulli": lambda: machine(4, 3),
    "spin, bernoulli": lambda: machine(Spin(3), 2),
    "bernoulli, spin": lambda: machine(3, Spin(3)),
    "categorical, bernoulli": lambda: machine(Categorical(2, 3), 2),
    "bernoulli, categorical": lambda: machine(3, Categorical(1, 4)),
    "stack, bernoulli": lambda: machine(Stack([Bernoulli(2), Spin(1)]), 2),
}


@pytest.mark.parametrize("make", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("sweeps", [1, 3])
def test_from_an_exact_start_the_draws_have_the_exact_joint_law(make, sweeps):
    m, g = make(), torch.Generator().manual_seed(3)
    v, _, p = joint(m)
    start = v[torch.multinomial(p, 100_000, replacement=True, generator=g)]
    kernel = BlockGibbs(m, sweeps=sweeps)
    state, info = kernel.step(kernel.init(100_000, values={"v": start}, generator=g), generator=g)
    index = number(state.v, m.visible) * int(m.hidden.count) + number(state.h, m.hidden)
    assert_law(index, p)
    assert_close(info.energy, m.energy(state.v, state.h))
    assert_close(info.flipped, (state.v != start).double().mean(-1))


def test_the_chi_square_sees_hidden_means_in_place_of_draws():
    """The classical mistake: v ~ p(v | E[h | v])."""
    m, g = machine(4, 3), torch.Generator().manual_seed(3)
    v, _, p = joint(m)
    start = v[torch.multinomial(p, 100_000, replacement=True, generator=g)]
    wrong = m.down(m.hidden.mean(m.hidden_input(start)), g)
    with pytest.raises(AssertionError, match="chi-square"):
        assert_law(number(wrong, m.visible), p.reshape(16, 8).sum(1))


def test_gaussian_visible_units_are_drawn_with_their_noise():
    """One standard deviation a unit, given h: chains that take the mean instead have none of it."""
    m, g = machine(Gaussian(3), 2, scale=0.5), torch.Generator().manual_seed(0)
    with torch.no_grad():
        m.visible.log_scale.copy_(torch.tensor([0.3, 0.0, -0.4]))
    h = states_of(m.hidden)
    clamp = {"h": (torch.ones(2, dtype=torch.bool), h[2])}
    kernel = BlockGibbs(m, clamp=clamp)
    state, _ = kernel.step(kernel.init(20_000, generator=g), generator=g)
    scale = m.visible.log_scale.detach().exp()
    mean = scale**2 * m.visible_input(h[2])
    assert_mean(state.v, mean)
    assert_mean((state.v - mean).square(), scale**2)


def test_gaussian_and_bernoulli_layers_reach_the_exact_moments():
    """p(h) by listing, then E v and E v^2 of the mixture of normals; 40000 chains of 30 sweeps each."""
    m, g = machine(Gaussian(2), 3, scale=0.7), torch.Generator().manual_seed(1)
    h = states_of(m.hidden)
    p = (-m.turned().free_energy(h)).softmax(0).detach()
    mean = m.visible.mean(m.visible_input(h)).detach()
    kernel = BlockGibbs(m, sweeps=30)
    state, _ = kernel.step(kernel.init(40_000, generator=g), generator=g)
    assert_mean(state.v, p @ mean)
    assert_mean(state.v.square(), p @ (mean**2 + 1))
    assert_law(number(state.h, m.hidden), p)


def test_relu_hidden_units_leave_the_marginal_of_bits():
    m, g = machine(3, ReLU(2), scale=0.6), torch.Generator().manual_seed(1)
    v = states_of(m.visible)
    p = (-m.free_energy(v)).softmax(0)
    start = v[torch.multinomial(p, 100_000, replacement=True, generator=g)]
    kernel = BlockGibbs(m)
    state, _ = kernel.step(kernel.init(100_000, values={"v": start}, generator=g), generator=g)
    assert_law(number(state.v, m.visible), p)


def test_the_same_generator_gives_the_same_bits_and_the_global_one_is_left_alone():
    kernel, before = BlockGibbs(machine(5, 4), sweeps=2), torch.get_rng_state()

    def walk(steps, state=None, g=None):
        g = torch.Generator().manual_seed(7) if g is None else g
        state = kernel.init(6, generator=g) if state is None else state
        for _ in range(steps):
            state, _ = kernel.step(state, generator=g)
        return state, g

    whole, _ = walk(20)
    half, g = walk(10)
    kept = half.v.clone()
    resumed, _ = walk(10, half, g)
    assert torch.equal(whole.v, resumed.v) and torch.equal(whole.h, resumed.h)
    assert torch.equal(half.v, kept)  # a step does not write into the state that the caller still holds
    assert torch.equal(torch.get_rng_state(), before)


def test_chains_move_and_more_sweeps_are_so_many_steps():
    m = machine(6, 3, scale=0.3)
    one, three = BlockGibbs(m), BlockGibbs(m, sweeps=3)
    start = one.init(50, generator=torch.Generator().manual_seed(0))
    g, state = torch.Generator().manual_seed(1), start
    for _ in range(3):
        state, _ = one.step(state, generator=g)
    together, info = three.step(start, generator=torch.Generator().manual_seed(1))
    assert torch.equal(state.v, together.v) and float(info.flipped.mean()) > 0.2


class Model:
    def __init__(self, m):
        self.m = m

    def machine(self):
        return self.m


def test_a_model_that_trains_is_read_at_every_step():
    model = Model(machine(4, 2))
    kernel = BlockGibbs(model)
    state = kernel.init(5)
    model.m = Machine(Bernoulli(4), Bernoulli(2), model.m.W * 0, model.m.b * 0 + 50, model.m.c)
    state, _ = kernel.step(state)
    assert bool((state.v == 1).all())


def test_a_start_may_be_given_by_either_side():
    m = machine(4, 2)
    kernel = BlockGibbs(m)
    v, h = torch.ones(3, 4, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    assert torch.equal(kernel.init(3, values={"x": v}).v, v) and torch.equal(kernel.init(3, values={"h": h}).h, h)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: BlockGibbs(m, sweeps=0), SettingsError, "sweeps=0"),
        (lambda m: BlockGibbs(torch.nn.Linear(2, 2)), ModelError, "machine()"),
        (lambda m: BlockGibbs(m).init(0), SettingsError, "chains=0"),
        (lambda m: BlockGibbs(m).init(2, values={"v": torch.ones(3, 4)}), ShapeError, r"\(2, 4\)"),
        (lambda m: BlockGibbs(m).init(1, values={"v": torch.full((1, 4), 0.5)}), SupportError, "0.5"),
        (lambda m: BlockGibbs(m).init(1, values={"z": torch.ones(1, 4)}), SettingsError, "'z'"),
        (lambda m: BlockGibbs(Machine(m.visible, m.hidden, m.W * math.nan, m.b, m.c)).init(1), NonFiniteError, "NaN"),
    ],
)
def test_what_cannot_be_is_said_in_words(call, error, words):
    with pytest.raises(error, match=words):
        call(machine(4, 2))
