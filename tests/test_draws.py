"""MCMC runs, with any kernel, as ArviZ data."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, RandomWalkKernel, config_enumerate
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel

from pyrogen.diagnostics import to_arviz
from pyrogen.errors import SettingsError

X = torch.tensor([0.5, -1.0, 2.0, 0.3])
SAMPLED = ("posterior", "sample_stats", "log_likelihood", "posterior_predictive")


@pytest.fixture(autouse=True)
def _seeded():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


def normal_mean(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", x.shape[0]):
        pyro.sample("x", dist.Normal(mu, 2.0), obs=x)


def groups(idata):
    return set(idata.children) if hasattr(idata, "children") else set(idata.groups())


def sampled(kernel, *args, draws=20, warmup=20):
    mcmc = MCMC(kernel, draws, warmup, disable_progbar=True)
    mcmc.run(*args)
    return mcmc


class Toss(MCMCKernel):
    """Draws its state from scratch; discrete, no model, no divergences, vectorised over 3 coins."""

    transforms: dict = {}  # noqa: RUF012
    initial_params = {"v": torch.zeros(3, dtype=torch.int64)}  # noqa: RUF012

    def sample(self, params):
        return {"v": torch.randint(0, 2, (3,)) + 2**40}


def test_nuts_draws_densities_and_names():
    mcmc = sampled(NUTS(normal_mean), X)
    idata = to_arviz(mcmc)
    mu = mcmc.get_samples(group_by_chain=True)["mu"]
    np.testing.assert_array_equal(idata.posterior["mu"].values, mu.numpy())
    assert idata.posterior["mu"].dims == ("chain", "draw")
    assert idata.log_likelihood["x"].dims == ("chain", "draw", "rows")
    log_likelihood = dist.Normal(mu[..., None], 2.0).log_prob(X)
    np.testing.assert_allclose(idata.log_likelihood["x"].values, log_likelihood, rtol=1e-5)
    lp = dist.Normal(0.0, 1.0).log_prob(mu) + log_likelihood.sum(-1)
    np.testing.assert_allclose(idata.sample_stats["lp"].values, lp, rtol=1e-5)
    assert idata.sample_stats["diverging"].shape == (1, 20) and idata.sample_stats["diverging"].dtype == bool
    np.testing.assert_array_equal(idata.observed_data["x"].values, X.numpy())
    assert idata.observed_data["x"].dims == ("rows",)
    assert idata.posterior_predictive["x"].dims == ("chain", "draw", "rows")
    for place in (idata, *(idata[group] for group in SAMPLED)):
        assert place.attrs["inference_library"] == "pyro" and place.attrs["algorithm"] == "NUTS"
        assert place.attrs["inference_library_version"] == pyro.__version__ and place.attrs["created_at"]


def test_the_container_does_not_share_memory_with_the_draws():
    mcmc = sampled(NUTS(normal_mean), X)
    before = mcmc.get_samples()["mu"].clone()
    to_arviz(mcmc).posterior["mu"].values[:] = 7.0
    torch.testing.assert_close(mcmc.get_samples()["mu"], before)


def test_a_kernel_without_divergences():
    idata = to_arviz(sampled(RandomWalkKernel(normal_mean), X))
    assert list(idata.sample_stats) == ["lp"] and idata.posterior["mu"].shape == (1, 20)


def test_two_chains_stay_apart(monkeypatch):
    monkeypatch.setattr("pyro.infer.mcmc.api.mp.cpu_count", lambda: 2)  # chains one after the other, not in processes
    with pytest.warns(UserWarning, match="drawn sequentially"):
        mcmc = MCMC(RandomWalkKernel(normal_mean), 10, 5, num_chains=2, disable_progbar=True)
    mcmc.run(X)
    idata = to_arviz(mcmc, chunk=7)
    mu = mcmc.get_samples(group_by_chain=True)["mu"]
    np.testing.assert_array_equal(idata.posterior["mu"].values, mu.numpy())
    np.testing.assert_allclose(idata.log_likelihood["x"].values, dist.Normal(mu[..., None], 2.0).log_prob(X), rtol=1e-5)


def test_a_discrete_state_keeps_its_dtype_and_a_kernel_without_a_model_says_what_is_missing():
    mcmc = sampled(Toss(), draws=6, warmup=0)
    with pytest.warns(UserWarning, match=r"leaves out log_likelihood and posterior_predictive: Toss has no Pyro model"):
        idata = to_arviz(mcmc)
    assert idata.posterior["v"].dtype == np.int64 and int(idata.posterior["v"].min()) >= 2**40
    assert groups(idata) == {"posterior"}
    to_arviz(mcmc, log_likelihood=False, posterior_predictive=False)

    def coins():
        v = pyro.sample("v", dist.Poisson(torch.ones(3)).to_event(1))
        pyro.sample("y", dist.Normal(v.sum(-1).float(), 1.0), obs=torch.tensor(1.0))

    assert "log_likelihood" in groups(to_arviz(mcmc, model=coins))
    with pytest.warns(UserWarning, match=r"no site 'v' of shape \(3,\)"):
        to_arviz(mcmc, model=normal_mean, data=(X,))


def test_a_site_that_nuts_summed_out_leaves_out_what_depends_on_it():
    @config_enumerate
    def mixture(x):
        mu = pyro.sample("mu", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
        with pyro.plate("rows", x.shape[0]):
            k = pyro.sample("k", dist.Categorical(torch.ones(2)))
            pyro.sample("x", dist.Normal(mu[k], 1.0), obs=x)

    mcmc = sampled(NUTS(mixture, max_plate_nesting=1), X, draws=4, warmup=4)
    with pytest.warns(UserWarning, match="site 'k' of the model has no draws.*infer_discrete"):
        idata = to_arviz(mcmc)
    assert groups(idata) == {"posterior", "sample_stats", "observed_data"}


def test_a_model_that_does_not_run_on_the_draws_is_named_as_the_reason():
    def other(x):
        w = pyro.sample("mu", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal((torch.ones(2, 3) @ w), 1.0).to_event(1), obs=x[:2])

    with pytest.warns(UserWarning, match="leaves out .* the model does not run on the draws") as told:
        idata = to_arviz(sampled(NUTS(normal_mean), X), model=other)
    assert groups(idata) == {"posterior", "sample_stats"} and told[0].filename == __file__


def test_plates_that_are_named_as_arviz_names_its_own_dimensions():
    def model():
        with pyro.plate("chain", 3):
            pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.tensor(1.0))

    idata = to_arviz(sampled(NUTS(model)))
    assert idata.posterior["w"].dims == ("chain", "draw", "chain_plate")


def test_an_mcmc_that_has_not_run_is_refused():
    with pytest.raises(SettingsError, match="finished run"):
        to_arviz(MCMC(NUTS(normal_mean), 5))


def test_a_file_gives_back_what_was_written(tmp_path):
    az = pytest.importorskip("arviz")
    idata = to_arviz(sampled(NUTS(normal_mean), X), prior=5, attrs={"seed": 1})
    idata.to_netcdf(tmp_path / "run.nc", engine="h5netcdf")
    back = az.from_netcdf(tmp_path / "run.nc", engine="h5netcdf")
    assert groups(back) == groups(idata) >= {*SAMPLED, "observed_data", "prior", "prior_predictive"}
    for group in groups(idata):
        for name in idata[group].data_vars:
            np.testing.assert_array_equal(back[group][name].values, idata[group][name].values)
    assert back.attrs["seed"] == 1 and back["posterior"].attrs["algorithm"] == "NUTS"
