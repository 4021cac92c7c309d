"""Parallel tempering: exact on the product space, crossing where Gibbs cannot, and counts that are right."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch.testing import assert_close

from pyrogen.distributions.boltzmann import Categorical, Gaussian, Machine, Spin
from pyrogen.errors import SettingsError, ShapeError
from pyrogen.inference import BlockGibbs, ParallelTempering
from pyrogen.inference.kernels.tempering import _swapped, _travelled
from tests.machines import Scripted, joint, machine, number, states_of, trap
from tests.statistics import assert_law, assert_mean

BETAS = torch.tensor([0.0, 0.4, 1.0])


def outcomes(*counts):
    """All combinations of outcome numbers, one flat index tensor each."""
    grids = torch.meshgrid(*(torch.arange(count) for count in counts), indexing="ij")
    return [grid.flatten() for grid in grids]


def product(laws):
    """Independent rungs: the probabilities of all tuples of states, the first rung the highest digit."""
    p = laws[0]
    for law in laws[1:]:
        p = (p[:, None] * law).flatten()
    return p


def after_one_step(m, base, turn, joint_swap, clamp=None):
    """The law of the visible states by rung after one step from the exact product law, by the kernel's own code."""
    up, down = Scripted(m.hidden.n), Scripted(m.visible.n)
    scripted = Machine(down, up, m.W, m.b, m.c)
    kernel = ParallelTempering(scripted, betas=BETAS, base=base, joint=joint_swap, clamp=clamp)
    v, h, rungs = states_of(m.visible), states_of(m.hidden), len(BETAS)
    *starts, swap, h0, h1, h2, v0, v1, v2 = outcomes(*[len(v)] * rungs, 2, *[len(h)] * rungs, *[len(v)] * rungs)
    down.script, up.script = [v[:1], v[:1].expand(1, rungs, -1)], [h[:1]]
    state = kernel.init(1)
    up.log_p = down.log_p = 0.0
    start = torch.stack([v[i] for i in starts], 1)
    state = state._replace(v=start, rung=state.rung.expand(len(swap), rungs), leg=state.leg.expand(len(swap), rungs))
    up.script, down.script = [torch.stack([h[h0], h[h1], h[h2]], 1)], [torch.stack([v[v0], v[v1], v[v2]], 1)]
    u = torch.where(swap == 1, 0.0, 1.0).double()[:, None].expand(-1, rungs - 1)
    with mock.patch("torch.rand", return_value=u):
        state, info = kernel.step(state._replace(turn=turn))
    p_swap = info.accepted[:, turn % 2]
    step = torch.where(swap == 1, p_swap, 1 - p_swap) * (up.log_p.sum(1) + down.log_p.sum(1)).exp()
    laws = [rung_law(m, base, beta, clamp) for beta in BETAS]
    weight = product(laws)[sum(i * len(v) ** (rungs - 1 - r) for r, i in enumerate(starts))] * step
    by_rung = state.v.gather(1, state.rung.argsort(1)[..., None].expand_as(state.v))
    to = number(by_rung, m.visible)
    index = sum(to[:, r] * len(v) ** (rungs - 1 - r) for r in range(rungs))
    end = torch.zeros(len(v) ** rungs, dtype=torch.float64).index_add(0, index, weight)
    return end, product(laws), info.accepted


def rung_law(m, base, beta, clamp=None):
    """p_beta(v) by listing v and h with the energies of the path; given what is held."""
    v, h, _ = joint(m)
    a = torch.zeros_like(m.b) if base is None else base
    log_f = v @ ((1 - beta) * a + beta * m.b) + beta * ((h * m.c).sum(-1) + torch.einsum("nv,vh,nh->n", v, m.W, h))
    for name, (held, value) in (clamp or {}).items():
        x = v if name == "v" else h
        log_f = torch.where((x[:, held] == value[held]).all(-1), log_f, -torch.inf)
    return log_f.double().softmax(0).reshape(int(m.visible.count), -1).sum(1)


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("joint_swap", [False, True])
@pytest.mark.parametrize("based", [False, True])
def test_a_step_leaves_the_product_of_the_tempered_laws_invariant(turn, joint_swap, based):
    m = machine(2, 1, scale=1.5)
    base = torch.tensor([0.7, -0.4], dtype=torch.float64) if based else None
    end, law, accepted = after_one_step(m, base, turn, joint_swap)
    assert_close(end, law)
    assert float(accepted.min()) < 0.8  # swaps that were always accepted would say little


@pytest.mark.parametrize("side", ["v", "h"])
def test_a_clamped_step_leaves_the_product_of_the_conditionals_invariant(side):
    m = machine(2, 1, scale=1.5, seed=3)
    held = torch.tensor([True, False] if side == "v" else [True])
    clamp = {side: (held, torch.ones(len(held), dtype=torch.float64))}
    for turn in (0, 1):
        end, law, _ = after_one_step(m, None, turn, False, clamp)
        assert_close(end, law)


def test_swaps_by_beta_times_the_free_energy_would_not_be():
    """What a peer does: its chains are tempered in the joint and swapped by beta F, so its laws are none of either."""
    m = machine(2, 1, scale=1.5)
    with mock.patch(
        "pyrogen.inference.kernels.tempering._marginal_log_accept",
        lambda m, betas, rung, slope, x: betas.diff() * -(slope + m.hidden.cumulant(x)).diff(dim=1),
    ):
        end, law, _ = after_one_step(m, None, 1, False)
    # one hidden unit and a sweep of all rungs leave little of it, which is still 10^9 times the rounding
    assert float((end - law).abs().sum()) > 1e-3


@pytest.mark.parametrize("joint_swap", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: machine(3, 3),
        lambda: machine(Spin(3), 2),
        lambda: machine(2, Spin(3)),
        lambda: machine(Categorical(2, 3), 2),
    ],
)
def test_from_an_exact_start_the_target_has_the_exact_joint_law(make, joint_swap):
    m, g, n = make(), torch.Generator().manual_seed(5), 50_000
    v = states_of(m.visible)
    kernel = ParallelTempering(m, rungs=4, joint=joint_swap)
    state = kernel.init(n, generator=g)
    start = [v[torch.multinomial(rung_law(m, None, b), n, True, generator=g)] for b in state.ladder.betas]
    state = state._replace(v=torch.stack(start, 1))
    for _ in range(3):
        state, info = kernel.step(state, generator=g)
    drawn = kernel.values(state)
    index = number(drawn["v"], m.visible) * int(m.hidden.count) + number(drawn["h"], m.hidden)
    assert_law(index, joint(m)[2])
    assert_close(info.energy, m.energy(drawn["v"], drawn["h"]))


def test_the_swap_probability_is_that_of_the_tempered_free_energies():
    """F of `Machine.tempered` at every replica and both temperatures, with a base and Gaussian visible units."""
    m = machine(Gaussian(3), 2, scale=0.7)
    base = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
    kernel = ParallelTempering(m, betas=torch.tensor([0.0, 0.3, 0.8, 1.0]), base=base)
    g = torch.Generator().manual_seed(0)
    state = kernel.init(40, generator=g)
    for _ in range(5):
        before = state
        state, info = kernel.step(state, generator=g)
    betas, by_rung = before.ladder.betas, before.rung.argsort(1)
    v = before.v.gather(1, by_rung[..., None].expand_as(before.v))
    F = lambda v, beta: m.tempered(beta, base).free_energy(v)  # noqa: E731
    for r in range(3):
        one, two, low, high = v[:, r], v[:, r + 1], betas[r], betas[r + 1]
        log_accept = F(one, low) + F(two, high) - F(one, high) - F(two, low)
        assert_close(info.accepted[:, r], log_accept.clamp(max=0).exp().detach())


def test_tempering_crosses_between_modes_where_gibbs_does_not():
    """200 chains, all in one of two equal modes: after 300 steps Gibbs is there still, and tempering in both."""
    m, g = trap(), torch.Generator().manual_seed(0)
    start = {"v": torch.ones(200, 10, dtype=torch.float64)}
    gibbs, tempering = BlockGibbs(m), ParallelTempering(m, rungs=8)
    stuck, free = gibbs.init(200, values=start), tempering.init(200, values=start)
    for i in range(300):
        stuck, _ = gibbs.step(stuck, generator=g)
        free, info = tempering.step(free, generator=g)
        if i < 62:
            free = tempering.adapted(free, info, i, 62)
    assert bool((stuck.v.mean(-1) > 0.5).all())
    assert_mean((tempering.values(free)["v"].mean(-1) > 0.5).double(), 0.5)


def test_the_ladder_adapts_to_equal_acceptance_and_is_frozen_after_the_warm_up():
    m, g = trap(8, 6.0), torch.Generator().manual_seed(0)
    kernel, plain = ParallelTempering(m, rungs=6), ParallelTempering(m, rungs=6, adapt=False)
    state, even = kernel.init(500, generator=g), plain.init(500, generator=g)
    for i in range(126):
        state, info = kernel.step(state, generator=g)
        state = kernel.adapted(state, info, i, 126)
        even, _ = plain.step(even, generator=g)
    frozen, rates, evenly = state.ladder.betas.clone(), [], []
    for _ in range(60):
        state, info = kernel.step(state, generator=g)
        even, other = plain.step(even, generator=g)
        rates.append(info.accepted.mean(0))
        evenly.append(other.accepted.mean(0))
    rates, evenly = torch.stack(rates).mean(0), torch.stack(evenly).mean(0)
    assert torch.equal(state.ladder.betas, frozen)
    assert float(rates.max() - rates.min()) < 0.05 < float(evenly.max() - evenly.min())


def test_swaps_move_neighbours_and_only_the_pairs_whose_turn_it_is():
    rung, sure = torch.tensor([[0, 1, 2, 3], [3, 1, 0, 2]]), torch.zeros(2, 3, dtype=torch.float64)
    assert _swapped(rung, sure, 0, None)[0].tolist() == [[1, 0, 3, 2], [2, 0, 1, 3]]
    assert _swapped(rung, sure, 1, None)[0].tolist() == [[0, 2, 1, 3], [3, 2, 0, 1]]
    assert torch.equal(_swapped(rung, sure - 1e9, 0, None)[0], rung)


def test_a_round_trip_is_from_the_base_to_the_target_and_back():
    """One replica on three rungs, step by step: only the way back that follows the way up counts, and counts once."""
    way = [1, 2, 1, 0, 0, 1, 0, 1, 2, 2, 1, 2, 1, 0]
    leg, counted = torch.tensor([[1, 0, 0]]), []
    for place in way:
        others = [r for r in range(3) if r != place]
        leg, returned = _travelled(leg, torch.tensor([[place, *others]]))
        counted.append(int(returned))
        leg[:, 1:] = 0  # the two others only fill the ladder
    assert [i for i, n in enumerate(counted) if n] == [3, 13] and sum(counted) == 2


def test_round_trips_are_those_that_the_rungs_show():
    """Counted again from the recorded rungs of every replica, by hand."""
    kernel, g = ParallelTempering(machine(4, 2), rungs=3, sweeps=1), torch.Generator().manual_seed(0)
    state, places, told = kernel.init(7, generator=g), [], torch.zeros(7, dtype=torch.float64)
    places.append(state.rung)
    for _ in range(80):
        state, info = kernel.step(state, generator=g)
        places.append(state.rung)
        told += info.round_trips
    expected = torch.zeros(7, dtype=torch.float64)
    for chain in range(7):
        for replica in range(3):
            ends = [int(p[chain, replica]) for p in places if int(p[chain, replica]) != 1]
            ends = [end for i, end in enumerate(ends) if i == 0 or end != ends[i - 1]]
            ends = ends[ends.index(0) :] if 0 in ends else []
            expected[chain] += max(0, (len(ends) - 1) // 2)
    assert torch.equal(told, expected) and float(told.sum()) > 20


def test_the_same_generator_gives_the_same_bits_and_a_state_resumes():
    kernel = ParallelTempering(machine(5, 4), rungs=4)

    def walk(steps, state=None, g=None):
        g = torch.Generator().manual_seed(7) if g is None else g
        state = kernel.init(6, generator=g) if state is None else state
        for i in range(steps):
            state, info = kernel.step(state, generator=g)
            state = kernel.adapted(state, info, i, steps)
        return state, g

    whole, _ = walk(20)
    again, _ = walk(20)
    assert all(torch.equal(a, b) for a, b in zip(whole[:4], again[:4], strict=True))
    kernel.adapt = False
    whole, _ = walk(20)
    half, g = walk(9)
    resumed, _ = walk(11, half, g)
    assert all(torch.equal(a, b) for a, b in zip(whole[:4], resumed[:4], strict=True))


def test_a_draw_that_is_put_in_is_the_one_that_comes_out():
    kernel = ParallelTempering(machine(5, 4), rungs=4)
    state = kernel.init(6)
    for _ in range(5):
        state, _ = kernel.step(state)
    new = {"v": torch.ones(6, 5, dtype=torch.float64), "h": torch.zeros(6, 4, dtype=torch.float64)}
    other = kernel.replaced(state, new)
    values = kernel.values(other)
    assert torch.equal(values["v"], new["v"]) and torch.equal(values["h"], new["h"])
    untouched = state.rung != 3
    assert torch.equal(other.v[untouched], state.v[untouched])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: ParallelTempering(m, betas=torch.tensor([0.1, 1.0])), SettingsError, "from 0, the base"),
        (lambda m: ParallelTempering(m, base=torch.zeros(3)), ShapeError, r"\(4,\)"),
        (lambda m: ParallelTempering(m, base=torch.full((4,), torch.inf)), SettingsError, "infinite"),
        (lambda m: ParallelTempering(m, sweeps=1.5), SettingsError, "sweeps=1.5"),
    ],
)
def test_what_cannot_be_is_said_in_words(call, error, words):
    with pytest.raises(error, match=words):
        call(machine(4, 2))
