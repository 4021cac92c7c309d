"""The adaptive ladder and annealing with resampling, against listing."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from pyrogen.distributions.boltzmann import (
    Bernoulli,
    Machine,
    adaptive,
    annealed,
    base_log_z,
    check_ladder,
    linear,
    sequential,
)
from pyrogen.errors import SettingsError
from tests.oracles import bits
from tests.statistics import assert_mean
from tests.test_annealing import LADDER, generator, log_z, tiny


def conditional_ess(machine: Machine, base: torch.Tensor, betas: list[float]) -> torch.Tensor:
    """E[w]^2 / E[w^2] of each step under the exact law of the step before, (K,)."""
    log_f = [-machine.tempered(beta, base).free_energy(bits(machine.visible.n)) for beta in betas]
    out = []
    for low, high in pairwise(log_f):
        p, log_w = low.log_softmax(0), high - low
        out.append((2 * (p + log_w).logsumexp(0) - (p + 2 * log_w).logsumexp(0)).exp())
    return torch.stack(out)


def test_each_step_of_the_adaptive_ladder_loses_about_the_same():
    machine, base = tiny(Bernoulli(6), Bernoulli(4), 1.5), torch.zeros(6, dtype=torch.float64)
    betas = adaptive(machine, base, 40, chains=2_000, pilot=100, generator=generator())
    assert check_ladder(betas) == betas and len(betas) == 41
    loss, even = 1 - conditional_ess(machine, base, betas), 1 - conditional_ess(machine, base, linear(40))
    assert float(loss.max() / loss.min()) < 1.4 < 3.5 < float(even.max() / even.min())
    assert float(loss.max()) < 0.65 * float(even.max())


def test_equal_steps_come_out_where_nothing_changes():
    machine = tiny(Bernoulli(3), Bernoulli(2), 0.0)
    betas = adaptive(machine, machine.b, 8, generator=generator())
    torch.testing.assert_close(torch.tensor(betas), torch.tensor(linear(8)))


def test_populations_are_unbiased_with_resampling_at_every_look():
    machine, base = tiny(Bernoulli(3), Bernoulli(2), 1.5), torch.zeros(3, dtype=torch.float64)
    truth = log_z(machine) - float(base_log_z(machine, base))
    log_w, v = sequential(machine, base, LADDER, 5, 4_000, generator(), below=0.9, every=1)
    assert log_w.shape == (4_000,) and v.shape == (4_000, 5, 3)
    assert_mean((log_w - truth).exp(), 1.0)


def test_resampled_chains_are_nearer_the_machine_than_those_that_only_moved():
    """Three temperatures: far too few to follow; the weights bring the chains to p(v)."""
    machine, base = tiny(Bernoulli(3), Bernoulli(2), 2.0), torch.zeros(3, dtype=torch.float64)
    p = (-machine.free_energy(bits(3))).softmax(0)
    betas = [0.0, 0.5, 1.0]
    _, moved = annealed(machine, base, betas, 50_000, generator())
    _, resampled = sequential(machine, base, betas, 500, 100, generator(), every=1)
    off = [
        (0.5 * ((v[:, None] == bits(3)).all(-1).double().mean(0) - p).abs().sum())
        for v in (moved, resampled.flatten(0, 1))
    ]
    assert float(off[1]) < 0.02 < float(off[0])


def test_a_pilot_of_one_chain_or_no_population_is_refused():
    machine = tiny(Bernoulli(3), Bernoulli(2))
    with pytest.raises(SettingsError, match="1 chains"):
        adaptive(machine, machine.b, 8, chains=1)
    with pytest.raises(SettingsError, match="0 steps"):
        adaptive(machine, machine.b, 0)
    with pytest.raises(SettingsError, match="0 chains"):
        sequential(machine, machine.b, LADDER, 5, 0)
