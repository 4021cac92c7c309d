"""Kernels under the stock `pyro.infer.MCMC`, and each trap of it."""

from __future__ import annotations

import json
import pickle
from unittest import mock

import pyro
import pytest
import torch
from pyro.infer import MCMC
from torch.testing import assert_close

from pyrogen.distributions.boltzmann import Gaussian
from pyrogen.errors import SettingsError
from pyrogen.inference import BlockGibbs, ParallelTempering
from tests.machines import KERNELS, joint, machine, number, trap
from tests.statistics import assert_law, assert_mean

kernels = pytest.mark.parametrize("make", KERNELS.values(), ids=KERNELS)


@pytest.fixture(autouse=True)
def _seeded():
    pyro.set_rng_seed(0)


def stock(kernel, draws=20, warmup=5, **how):
    mcmc = MCMC(kernel, draws, warmup, disable_progbar=True, **how)
    mcmc.run()
    return mcmc


@kernels
def test_many_chains_in_one_state_have_the_exact_law(make):
    """initial_params (20000, V): 20000 chains as one state, whose last draws are independent."""
    m = machine(3, 2)
    mcmc = stock(make(m), 2, 20, initial_params={"v": torch.zeros(20_000, 3, dtype=torch.float64)})
    last = {name: x[-1] for name, x in mcmc.get_samples().items()}
    assert last["v"].shape == (20_000, 3) and last["h"].shape == (20_000, 2)
    assert_law(number(last["v"], m.visible) * 4 + number(last["h"], m.hidden), joint(m)[2])


@kernels
def test_one_chain_has_no_chain_dimension_and_stock_diagnostics_work(make):
    m = machine(3, 2, scale=0.3)
    mcmc = stock(make(m), 400)
    assert mcmc.get_samples(group_by_chain=True)["v"].shape == (1, 400, 3)
    found = mcmc.diagnostics()
    assert found["v"]["r_hat"].shape == (3,) and found["divergences"] == {"chain 0": []}
    mcmc.summary()
    v, _, p = joint(m)
    # thinned to every fourth draw, which is nearly independent at these weights
    assert_mean(mcmc.get_samples()["v"][::4], p @ v)


@kernels
def test_arviz_converts_the_stock_run(make):
    az = pytest.importorskip("arviz")
    mcmc = stock(make(machine(3, 2, scale=0.3)), 50)
    if not hasattr(az, "from_pyro"):  # gone in ArviZ 1.0, where to_arviz remains
        pytest.skip("ArviZ 1.x has no from_pyro")
    idata = az.from_pyro(mcmc)
    assert idata.posterior["v"].shape == (1, 50, 3) and not bool(idata.sample_stats["diverging"].any())


@kernels
def test_sites_in_any_order_are_not_mixed_up(make):
    """Pyro cuts its flat draws in sorted order, and fills them in the order of save_params."""
    m = machine(Gaussian(3), 2, scale=0.2)
    kernel = make(m, clamp={"h": (torch.tensor([True, True]), torch.tensor([1.0, 0.0]))})
    mcmc = stock(kernel, save_params=["v", "h"])
    assert kernel.save_params == ["h", "v"]
    assert bool((mcmc.get_samples()["h"] == torch.tensor([1.0, 0.0])).all()) and mcmc.get_samples()["v"].shape == (
        20,
        3,
    )
    assert list(stock(make(m), save_params=["v"]).get_samples()) == ["v"]


@kernels
def test_sequential_chains_start_afresh_and_at_the_starts_that_they_are_given(make):
    m = trap(6, 30.0)
    starts = torch.stack([torch.zeros(6), torch.ones(6), torch.zeros(6)]).double()
    kernel = make(m)
    # with one processor Pyro runs the chains one after the other, with the same kernel
    with (
        mock.patch("pyro.infer.mcmc.api.mp.cpu_count", return_value=1),
        pytest.warns(UserWarning, match="sequentially"),
    ):
        told = stock(kernel, 5, 0, num_chains=3, initial_params={"v": starts}).get_samples(group_by_chain=True)["v"]
    assert told.shape == (3, 5, 6)
    if isinstance(kernel, BlockGibbs):  # tempering may leave the mode that it was started in
        assert_close(told.mean((1, 2)), torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))


@kernels
def test_what_is_logged_is_json_and_diagnostics_are_dicts(make):
    kernel = make(machine(3, 2))
    assert kernel.transforms == {} and kernel.model is None
    kernel.setup(2)
    params = kernel.initial_params
    for _ in range(6):
        params = kernel.sample(params)
        json.dumps(kernel.logging())
    assert "energy" in kernel.logging() and kernel.diagnostics()["divergences"] == []
    kernel.cleanup()
    kernel.cleanup()
    assert kernel.initial_params is None


@kernels
def test_kernels_can_be_sent_to_other_processes(make):
    m = machine(3, 2)
    kernel = make(m, clamp={"v": (torch.tensor([True, False, False]), torch.ones(3))})
    other, draws = pickle.loads(pickle.dumps(kernel)), []
    for one in (kernel, other):
        pyro.set_rng_seed(1)
        draws.append(stock(one).get_samples()["v"])
    assert torch.equal(*draws)


def test_a_start_that_is_set_before_setup_is_kept():
    kernel = BlockGibbs(machine(3, 2))
    kernel.initial_params = {"v": torch.ones(3, dtype=torch.float64)}
    kernel.setup(0)
    assert kernel.initial_params["v"].tolist() == [1, 1, 1] and kernel.initial_params["h"].shape == (2,)


def test_the_ladder_adapts_in_the_warm_up_of_the_stock_loop_and_is_reported():
    kernel = ParallelTempering(trap(8, 6.0), rungs=5)
    start = {"v": torch.ones(200, 8, dtype=torch.float64)}
    report = stock(kernel, 30, 62, initial_params=start).diagnostics()
    betas, rates = (torch.tensor(report[name]["chain 0"]) for name in ("betas", "swap_rates"))
    assert float(rates.max() - rates.min()) < 0.1 and float((betas - torch.linspace(0, 1, 5)).abs().max()) > 0.05
    assert report["round_trips_per_draw"]["chain 0"] > 0


@kernels
def test_arguments_of_run_are_refused_in_words(make):
    with pytest.raises(SettingsError, match="clamp="):
        MCMC(make(machine(3, 2)), 5, 0, disable_progbar=True).run(torch.ones(3))
