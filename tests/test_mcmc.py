"""The run of thousands of chains: exact laws, storage, thinning, resuming, and Pyro's own kernels."""

from __future__ import annotations

import copy
import io
import math
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import NUTS
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch.testing import assert_close

from pyrogen.distributions.boltzmann import Bernoulli, Categorical, Gaussian, Machine, Spin, Stack
from pyrogen.errors import DeviceError, ModelError, NonFiniteError, SettingsError, ShapeError
from pyrogen.inference import MCMC, BlockGibbs, ParallelTempering
from tests.machines import KERNELS, joint, machine, number
from tests.statistics import assert_law

kernels = pytest.mark.parametrize("make", KERNELS.values(), ids=KERNELS)


def run(kernel, draws=10, warmup=5, chains=4, **how):
    mcmc = MCMC(kernel, draws, warmup, num_chains=chains, disable_progbar=True, **{"seed": 0} | how)
    mcmc.run()
    return mcmc


@kernels
def test_thousands_of_chains_have_the_exact_law(make):
    """The last draws of 20000 independent chains, 40 steps after their starts."""
    m = machine(3, 2)
    mcmc = run(make(m), 2, 38, 20_000)
    last = {name: x[:, -1] for name, x in mcmc.get_samples(group_by_chain=True).items()}
    assert_law(number(last["v"], m.visible) * 4 + number(last["h"], m.hidden), joint(m)[2])
    assert_close(mcmc.stats["energy"][:, -1], m.energy(last["v"], last["h"]))
    assert_close(mcmc.stats["magnetisation"][:, -1], last["v"].mean(-1))


@kernels
def test_thinning_keeps_every_nth_draw_of_the_run_that_is_not_thinned(make):
    m = machine(4, 2)
    all_of_it, thinned = run(make(m), 30), run(make(m), 10, thinning=3)
    for name, x in thinned.get_samples(group_by_chain=True).items():
        assert torch.equal(x, all_of_it.get_samples(group_by_chain=True)[name][:, 2::3])
    assert torch.equal(thinned.stats["energy"], all_of_it.stats["energy"][:, 2::3])
    if "round_trips" in thinned.stats:
        assert torch.equal(thinned.stats["round_trips"], all_of_it.stats["round_trips"].unflatten(1, (10, 3)).sum(-1))
        assert float(thinned.stats["round_trips"].sum()) > 0


@kernels
def test_a_step_changes_neither_the_kernel_nor_the_state_that_it_is_given(make):
    kernel = make(machine(4, 2))
    state = kernel.init(6)
    for _ in range(4):
        kept, told = copy.deepcopy(state), dict(vars(kernel))
        after, info = kernel.step(state)
        kernel.adapted(after, info, 0, 10)
        assert all(torch.equal(a, b) for a, b in zip(flat(state), flat(kept), strict=True)) and vars(kernel) == told
        assert all(x.shape[0] == 6 for x in info) and not any(x.requires_grad for x in info)
        state = after


def flat(state):
    """The tensors of a state, and of the tuples in it."""
    parts = [flat(x) if isinstance(x, tuple) else [torch.as_tensor(x)] for x in state]
    return [x for part in parts for x in part]


@kernels
def test_a_seed_repeats_a_run_and_a_state_goes_on_with_it(make):
    kernel, g = make(machine(4, 2)), torch.Generator()
    before = torch.get_rng_state()
    whole, again = run(kernel, 20, 3), run(kernel, 20, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(whole.get_samples()["v"], again.get_samples()["v"])
    whole.run()  # a second run of one object is the first one again
    assert torch.equal(whole.get_samples()["v"], again.get_samples()["v"])
    half = run(kernel, 8, 3, seed=g.manual_seed(0))
    rest = run(kernel, 12, 0, seed=g, state=half.last_state)
    joined = torch.cat([x.get_samples(group_by_chain=True)["v"] for x in (half, rest)], 1)
    assert torch.equal(joined, whole.get_samples(group_by_chain=True)["v"])


def test_without_a_seed_pyro_s_seed_repeats_a_run():
    draws = []
    for _ in range(2):
        pyro.set_rng_seed(4)
        draws += [run(BlockGibbs(machine(4, 2)), seed=None).get_samples()["v"] for _ in range(2)]
    assert torch.equal(draws[0], draws[2]) and torch.equal(draws[1], draws[3]) and not torch.equal(draws[0], draws[1])


@pytest.mark.parametrize(
    ("units", "dtype"),
    [
        (Bernoulli(3), torch.bool),
        (Categorical(2, 3), torch.bool),
        (Spin(3), torch.int8),
        (Stack([Bernoulli(2), Spin(1)]), torch.int8),
        (Stack([Bernoulli(2), Categorical(1, 3)]), torch.bool),
        (Stack([Bernoulli(2), Gaussian(1)]), torch.float64),
        (Gaussian(3), torch.float64),
    ],
)
def test_draws_are_kept_small_and_come_out_as_numbers(units, dtype):
    m = machine(units, 2, scale=0.3)
    mcmc = run(BlockGibbs(m))
    kept, out = mcmc.get_samples(compact=True), mcmc.get_samples()
    assert kept["v"].dtype == dtype and kept["h"].dtype == torch.bool
    assert out["v"].dtype == torch.float64 and out["v"].shape == (40, units.width)
    assert_close(m.energy(out["v"], out["h"]), mcmc.stats["energy"].flatten())
    found = mcmc.diagnostics()  # Pyro's raises for bits
    assert found["v"]["r_hat"].shape == (units.width,) and found["energy"]["n_eff"].shape == ()


def test_the_mean_of_categories_is_of_their_numbers():
    m = machine(Categorical(2, 3), 2)
    mcmc = run(BlockGibbs(m))
    numbers = mcmc.get_samples(group_by_chain=True)["v"].unflatten(-1, (2, 3)).argmax(-1)
    assert_close(mcmc.stats["magnetisation"], numbers.double().mean(-1))


def test_only_the_sites_asked_for_are_kept_in_any_order():
    kernel = BlockGibbs(machine(4, 2))
    assert list(run(kernel, save_params=["v"]).get_samples()) == ["v"]
    both, usual = run(kernel, save_params=["v", "h"]).get_samples(), run(kernel).get_samples()
    assert all(torch.equal(both[name], usual[name]) for name in ("v", "h"))


def test_samples_can_be_drawn_again_from_the_draws():
    mcmc = run(BlockGibbs(machine(4, 2)))
    assert mcmc.get_samples(7)["v"].shape == (7, 4) and mcmc.get_samples(7, True)["v"].shape == (4, 7, 4)


def test_the_hook_is_called_after_each_step_as_pyro_does():
    told = []
    run(
        BlockGibbs(machine(4, 2)),
        3,
        2,
        thinning=2,
        hook_fn=lambda k, x, stage, i: told.append((stage, i, x["v"].shape)),
    )
    assert [one[:2] for one in told] == [("Warmup", 0), ("Warmup", 1), *(("Sample", i) for i in range(6))]
    assert {one[2] for one in told} == {(4, 4)}


def test_the_summary_is_printed_with_the_ladder(capsys):
    run(ParallelTempering(machine(4, 2), rungs=3)).summary()
    out = capsys.readouterr().out
    assert all(
        word in out for word in ("energy", "magnetisation", "round_trips", "v[3]", "h[1]", "betas", "swap_rates")
    )


def test_one_bar_shows_warm_up_and_draws_on_a_terminal_only(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    kernel = BlockGibbs(machine(4, 2))
    MCMC(kernel, 10, 5, num_chains=3, seed=0).run()
    assert "energy" in terminal.getvalue() and "steps/s" in terminal.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    MCMC(kernel, 10, 5, num_chains=3, seed=0).run()
    assert sys.stderr.getvalue() == ""


def test_draws_can_be_kept_elsewhere():
    assert run(BlockGibbs(machine(4, 2)), storage="cpu").get_samples(compact=True)["v"].device == torch.device("cpu")


# kernels of Pyro's own


def model():
    pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("b", dist.Normal(50.0, 1.0))


def test_nuts_runs_as_in_pyro_with_its_sites_in_any_order():
    pyro.set_rng_seed(0)
    before = torch.get_rng_state()
    mcmc = MCMC(NUTS(model), 30, 30, save_params=["b", "a"], seed=1, disable_progbar=True)
    mcmc.run()
    assert torch.equal(torch.get_rng_state(), before)
    again = MCMC(NUTS(model), 30, 30, seed=1, disable_progbar=True)
    again.run()
    draws = mcmc.get_samples()
    assert draws["a"].shape == (30, 2) and 45 < float(draws["b"].mean()) < 55 and float(draws["a"].abs().max()) < 10
    assert torch.equal(draws["a"], again.get_samples()["a"])
    found = mcmc.diagnostics()
    assert found["b"]["r_hat"].shape == () and found["divergences"] == {"chain 0": []}
    mcmc.summary()


class Toss(MCMCKernel):
    """A constant bit beside a fair one."""

    model, transforms = None, {}
    initial_params = {"x": torch.tensor([True, False])}  # noqa: RUF012

    def sample(self, params):
        return {"x": torch.stack([torch.tensor(True), torch.rand(()) < 0.5])}


def test_discrete_and_constant_sites_have_diagnostics_where_pyro_s_raise_or_spread_nan():
    mcmc = MCMC(Toss(), 60, 0, disable_progbar=True)
    mcmc.run()
    found = mcmc.diagnostics()["x"]
    assert found["n_eff"].isnan().tolist() == [True, False] and 20 < float(found["n_eff"][1]) < 200
    mcmc.summary()


# words


def elsewhere():
    return Machine(Bernoulli(1), Bernoulli(1), *(torch.zeros(shape, device="meta") for shape in ((1, 1), (1,), (1,))))


def mixed():
    return Machine(Bernoulli(1), Bernoulli(1), torch.zeros(1, 1), torch.zeros(1, device="meta"), torch.zeros(1))


def stuck():
    return BlockGibbs(Machine(Gaussian(1), Gaussian(1), torch.full((1, 1), 1e5), torch.ones(1), torch.ones(1)))


M = machine(4, 2)
START = {"v": torch.ones(4, 4)}


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: MCMC(BlockGibbs(M), 0), SettingsError, "num_samples=0"),
        (lambda: MCMC(BlockGibbs(M), 5, num_chains=0), SettingsError, "num_chains=0"),
        (lambda: MCMC(BlockGibbs(M), 5, -1), SettingsError, "warmup_steps=-1"),
        (lambda: MCMC(BlockGibbs(M), 5, thinning=0), SettingsError, "thinning=0"),
        (lambda: MCMC(BlockGibbs(M), 5.0), SettingsError, "num_samples=5.0"),  # pyright: ignore[reportArgumentType]
        (lambda: MCMC(BlockGibbs(M), 5, save_params=["w"]), SettingsError, "site 'w'"),
        (lambda: MCMC(BlockGibbs(M), 5, mp_context="spawn"), SettingsError, "mp_context"),
        (lambda: MCMC(NUTS(model), 5, thinning=2), SettingsError, "thinning=2 for NUTS"),
        (lambda: MCMC(NUTS(model), 5, seed=torch.Generator()), SettingsError, "Generator"),
        (lambda: MCMC(BlockGibbs(M), 5, storage="tape"), DeviceError, "tape"),
        (lambda: MCMC(BlockGibbs(elsewhere()), 5, seed=torch.Generator()).run(), DeviceError, "a generator on cpu"),
        (lambda: MCMC(BlockGibbs(mixed()), 5).run(), DeviceError, "W on cpu, b on meta"),
        (lambda: MCMC(BlockGibbs(M), 5).get_samples(), SettingsError, "without draws"),
        (lambda: MCMC(BlockGibbs(M), 5).diagnostics(), SettingsError, "without draws"),
        (lambda: MCMC(BlockGibbs(M), 5).run(torch.ones(3)), SettingsError, "clamp="),
        (lambda: run(BlockGibbs(M), chains=3, initial_params=START), ShapeError, r"\(3, 4\)"),
        (lambda: run(BlockGibbs(M), chains=3, state=BlockGibbs(M).init(2)), SettingsError, "a state of 2 chains"),
        (
            lambda: run(BlockGibbs(M), state=ParallelTempering(M).init(4)),
            SettingsError,
            "tempering.State as the state of",
        ),
        (
            lambda: run(ParallelTempering(M), state=BlockGibbs(M).init(4)),
            SettingsError,
            "block_gibbs.State as the state",
        ),
        (lambda: run(BlockGibbs(M), state=BlockGibbs(machine(2, 2)).init(4)), ShapeError, "as the machine"),
        (
            lambda: run(BlockGibbs(M), state=BlockGibbs(M).init(4), initial_params=START),
            SettingsError,
            "one of the two",
        ),
        (lambda: run(BlockGibbs(M), 3).diagnostics(), ShapeError, "4 draws"),
        (lambda: run(stuck(), 20), NonFiniteError, "bounded units"),
        (lambda: run(BlockGibbs("rbm")), ModelError, "Machine"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_what_cannot_be_is_said_in_words(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_clamp_for_as_many_chains_as_the_run_has():
    value = torch.tensor([[1.0, math.nan, 0, 0], [0.0, math.nan, 1, 1]]).repeat(2, 1)
    held = torch.tensor([True, False, True, True])
    v = run(BlockGibbs(M, clamp={"v": (held, value)})).get_samples(group_by_chain=True)["v"]
    assert torch.equal(v[..., held], value[:, None, held].expand(4, 10, 3).double())


def test_chains_that_are_held_each_at_its_own_values_go_on():
    clamp = {"v": (torch.ones(4, 4, dtype=torch.bool).tril(), torch.eye(4, dtype=torch.float64))}
    whole = run(BlockGibbs(M, clamp=clamp), 6, 0, seed=torch.Generator().manual_seed(1))
    g = torch.Generator().manual_seed(1)
    half = run(BlockGibbs(M, clamp=clamp), 3, 0, seed=g)
    rest = run(BlockGibbs(M, clamp=clamp), 3, 0, seed=g, state=half.last_state)
    assert torch.equal(whole.get_samples(group_by_chain=True)["v"][:, 3:], rest.get_samples(group_by_chain=True)["v"])
