"""Runs of kernels as ArviZ data, in either generation of ArviZ."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray
from pyro.infer import NUTS

from pyrogen.diagnostics import to_arviz
from pyrogen.distributions.boltzmann import Bernoulli, Spin, Stack
from pyrogen.errors import SettingsError
from pyrogen.inference import MCMC, BlockGibbs, ParallelTempering
from tests.machines import machine


@pytest.fixture(scope="module")
def mcmc():
    m = machine(4, Spin(2))
    run = MCMC(ParallelTempering(m, rungs=3), 60, 20, num_chains=30, thinning=2, seed=3, disable_progbar=True)
    run.run()
    return run


def test_draws_statistics_and_settings_have_their_places(mcmc):
    with warnings.catch_warnings():  # nothing is missing that a machine could have
        warnings.simplefilter("error")
        idata = to_arviz(mcmc)
    posterior, stats, kept = idata.posterior, idata.sample_stats, mcmc.get_samples(group_by_chain=True)
    assert posterior["v"].dims == ("chain", "draw", "visible") and posterior["h"].dims == ("chain", "draw", "hidden")
    np.testing.assert_array_equal(posterior["v"].values, kept["v"])
    np.testing.assert_array_equal(posterior["h"].values, kept["h"])
    assert posterior["v"].dtype == np.int8 and set(np.unique(posterior["h"].values)) == {-1, 1}
    np.testing.assert_allclose(posterior["energy"].values, mcmc.kernel.machine.energy(kept["v"], kept["h"]))
    np.testing.assert_allclose(posterior["magnetisation"].values, posterior["v"].values.mean(-1))
    np.testing.assert_array_equal(stats["lp"].values, -stats["energy"].values)
    assert stats["accepted"].dims == ("chain", "draw", "pair") and stats["accepted"].shape == (30, 60, 2)
    assert float(stats["round_trips"].sum()) > 0 and set(stats.data_vars) >= {"flipped", "energy"}
    settings = json.loads(idata.attrs["settings"])
    assert idata.attrs["algorithm"] == "ParallelTempering" and idata.attrs["seed"] == 3
    assert settings["thinning"] == 2 and settings["rungs"] == 3 and settings["num_chains"] == 30


def test_arviz_judges_energy_and_magnetisation_where_a_pixel_is_constant():
    az = pytest.importorskip("arviz")
    m = machine(4, 2)
    held = {"v": (torch.tensor([True, False, False, False]), torch.ones(4))}
    run = MCMC(BlockGibbs(m, clamp=held), 50, 20, num_chains=8, seed=0, disable_progbar=True)
    run.run()
    idata, own = to_arviz(run), run.diagnostics()
    data = idata.posterior.dataset if hasattr(idata, "children") else idata.posterior
    judged = data[["energy", "magnetisation"]]
    for name in judged:
        assert 1.1 > float(az.rhat(judged)[name]) == pytest.approx(float(own[name]["r_hat"]), rel=1e-9)
        assert 50 < float(az.ess(judged)[name]) == pytest.approx(float(own[name]["n_eff"]), rel=1e-9)
    # bits are as good as numbers to ArviZ; it divides by 0 for the constant one, of which we say that nothing is known
    free = data[["v"]].isel(visible=slice(1, None))
    np.testing.assert_allclose(az.ess(free)["v"].values, own["v"]["n_eff"][1:], rtol=1e-9)
    assert bool(own["v"]["n_eff"][0].isnan()) and bool(own["v"]["r_hat"][0].isnan())


def test_it_is_written_and_read_again(mcmc, tmp_path):
    idata = to_arviz(mcmc)
    idata.to_netcdf(tmp_path / "chains.nc")
    again = xarray.load_dataset(tmp_path / "chains.nc", group="posterior")
    np.testing.assert_array_equal(again["v"].values, idata.posterior["v"].values)


def test_stacked_units_and_sites_that_were_not_saved():
    m = machine(Stack([Bernoulli(2), Spin(1)]), 2)
    run = MCMC(BlockGibbs(m), 10, 2, num_chains=3, save_params=["v"], disable_progbar=True)
    run.run()
    posterior = to_arviz(run, coords={"visible": ["a", "b", "c"]}).posterior
    assert set(posterior.data_vars) == {"v", "energy", "magnetisation"} and list(posterior["visible"].values) == list(
        "abc"
    )


def test_kernels_of_pyro_are_converted_as_ever():
    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    run = MCMC(NUTS(model), 10, 10, seed=0, disable_progbar=True)
    run.run(torch.randn(5))
    idata = to_arviz(run)
    assert idata.log_likelihood["x"].dims == ("chain", "draw", "rows") and idata.attrs["inference_library"] == "pyro"


def test_what_cannot_be_converted_is_said_in_words(mcmc):
    with pytest.raises(SettingsError, match="thinning, or a larger max_gb"):
        to_arviz(mcmc, max_gb=1e-7)
    with pytest.raises(SettingsError, match=r"mcmc\.run"):
        to_arviz(MCMC(BlockGibbs(machine(3, 2)), 5))
