"""Six models of posteriordb as Pyro programs, with their data and the means of its reference draws.

Source: Magnusson et al. 2024, arXiv:2407.04967, https://github.com/stan-dev/posteriordb (BSD-3), read from
`$PYROGEN_DATA/posteriordb/<name>/{data.json, reference_draws.npz}`. A flat prior is an `ImproperUniform`.

A program takes rows, (N, ...), and may run on many draws of its latents at once, (K, 1) for a number, (K, 1, D) for a
vector. A series in time is one row, for rows are shuffled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

Sites = dict[str, Tensor]


class Posterior(NamedTuple):
    """A program, the rows that it is called with, and the reference's parameters from draws of its sites, (S, P)."""

    program: Callable[[Tensor], None]
    rows: Callable[[dict[str, Any]], Tensor]
    parameters: Callable[[Sites], Tensor]


def flat(event: int = 0) -> dist.TorchDistribution:
    return dist.ImproperUniform(constraints.real_vector if event else constraints.real, (), (event,) * (event > 0))


def positive() -> dist.TorchDistribution:
    return dist.ImproperUniform(constraints.positive, (), ())


def autoregression(rows: Tensor) -> None:
    """y_t ~ Normal(alpha + sum_k beta_k y_(t-k), sigma); rows (T - K, 1 + K), y_t and what came before it."""
    zero = rows.new_zeros(())
    alpha = pyro.sample("alpha", dist.Normal(zero, zero + 10))
    beta = pyro.sample("beta", dist.Normal(zero.expand(rows.shape[1] - 1), zero + 10).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(zero + 2.5))
    with pyro.plate("rows", len(rows)):
        pyro.sample("y", dist.Normal(alpha + (beta * rows[:, 1:]).sum(-1), sigma), obs=rows[:, 0])


def schools(rows: Tensor) -> None:
    """theta = mu + tau e, y ~ Normal(theta, s); one row (1, 16), y and then s."""
    zero = rows.new_zeros(())
    y, s = rows.chunk(2, -1)
    e = pyro.sample("e", dist.Normal(zero.expand(y.shape[1]), zero + 1).to_event(1))
    mu = pyro.sample("mu", dist.Normal(zero, zero + 5))
    tau = pyro.sample("tau", dist.HalfCauchy(zero + 5))
    with pyro.plate("rows", len(rows)):
        pyro.sample("y", dist.Normal(mu.unsqueeze(-1) + tau.unsqueeze(-1) * e, s).to_event(1), obs=y)


def garch(rows: Tensor) -> None:
    """s_t^2 = a0 + a1 (y_(t-1) - mu)^2 + b1 s_(t-1)^2, flat priors, a1 + b1 < 1; one row (1, 1 + T), s_1 and then y.

    Unrolled, s_t^2 = b1^(t-1) s_1^2 + sum_k b1^k (a0 + a1 (y_(t-1-k) - mu)^2), a convolution with the powers of b1.
    """
    zero = rows.new_zeros(())
    first, y = rows[:, :1], rows[:, 1:]
    mu = pyro.sample("mu", flat()).unsqueeze(-1)
    a0 = pyro.sample("alpha0", positive()).unsqueeze(-1)
    a1 = pyro.sample("alpha1", dist.Uniform(zero, zero + 1))
    share = pyro.sample("share", dist.Uniform(zero, zero + 1))
    pyro.factor("beta1 is flat below 1 - alpha1", torch.log1p(-a1))
    b1, a1 = (share * (1 - a1)).unsqueeze(-1), a1.unsqueeze(-1)
    t = torch.arange(y.shape[1], device=rows.device)
    news = a0 + a1 * (y[:, :-1] - mu) ** 2  # (..., 1, T - 1)
    powers = b1 ** t[:-1]
    sums = torch.fft.irfft(torch.fft.rfft(news, 2 * len(t)) * torch.fft.rfft(powers, 2 * len(t)), 2 * len(t))
    later = sums[..., : len(t) - 1] + powers * b1 * first**2
    variance = torch.cat([(first**2).expand(*later.shape[:-1], 1), later], -1)
    with pyro.plate("rows", len(rows)):
        pyro.sample("y", dist.Normal(mu, variance.sqrt()).to_event(1), obs=y)


def gaussian_process(rows: Tensor) -> None:
    """y ~ MultivariateNormal(0, alpha^2 exp(-(x - x')^2 / 2 rho^2) + sigma I); one row (1, 2 N), x and then y."""
    zero = rows.new_zeros(())
    x, y = rows.chunk(2, -1)
    rho = pyro.sample("rho", dist.Gamma(zero + 25, zero + 4))[..., None, None]
    alpha = pyro.sample("alpha", dist.HalfNormal(zero + 2))[..., None, None]
    sigma = pyro.sample("sigma", dist.HalfNormal(zero + 1))[..., None, None]
    apart = (x[0, :, None] - x[0]).square()
    covariance = alpha**2 * torch.exp(-apart / (2 * rho**2)) + sigma * torch.eye(y.shape[1], dtype=y.dtype)
    with pyro.plate("rows", len(rows)):
        pyro.sample("y", dist.MultivariateNormal(y.new_zeros(y.shape[1]), covariance), obs=y)


def regression(rows: Tensor) -> None:
    """y ~ Normal(beta.x, sigma), beta flat; rows (N, 1 + P), y and then x with its ones."""
    beta = pyro.sample("beta", flat(rows.shape[1] - 1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(rows.new_tensor(2.5)))
    with pyro.plate("rows", len(rows)):
        pyro.sample("y", dist.Normal((beta * rows[:, 1:]).sum(-1), sigma), obs=rows[:, 0])


def two_gaussians(rows: Tensor) -> None:
    """y ~ theta Normal(mu_1, s_1) + (1 - theta) Normal(mu_2, s_2), mu_1 < mu_2; rows (N, 1)."""
    zero = rows.new_zeros(())
    mu = pyro.sample("mu", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
    pyro.factor("mu is normal", dist.Normal(zero, zero + 2).log_prob(mu).sum(-1))
    sigma = pyro.sample("sigma", dist.HalfNormal((zero + 2).expand(2)).to_event(1))
    theta = pyro.sample("theta", dist.Beta(zero + 5, zero + 5))
    which = dist.Categorical(torch.stack([theta, 1 - theta], -1))
    with pyro.plate("rows", len(rows)):
        pyro.sample("y", dist.MixtureSameFamily(which, dist.Normal(mu, sigma)), obs=rows[:, 0])


def _lagged(data: dict[str, Any]) -> Tensor:
    y, k = torch.tensor(data["y"], dtype=torch.float64), data["K"]
    return torch.stack([y[k - i : len(y) - i] for i in range(k + 1)], -1)


def _joined(*names: str) -> Callable[[dict[str, Any]], Tensor]:
    def one_row(data: dict[str, Any]) -> Tensor:
        parts = [torch.as_tensor(data[name], dtype=torch.float64).reshape(-1) for name in names]
        return torch.cat(parts)[None]

    return one_row


def _columns(*names: str, ones: bool = False) -> Callable[[dict[str, Any]], Tensor]:
    def rows(data: dict[str, Any]) -> Tensor:
        parts = [torch.tensor(data[name], dtype=torch.float64) for name in names]
        return torch.stack([parts[0], *([torch.ones_like(parts[0])] if ones else []), *parts[1:]], -1)

    return rows


def _in_order(*names: str) -> Callable[[Sites], Tensor]:
    return lambda z: torch.cat([z[name].reshape(len(z[name]), -1) for name in names], -1)


def _of_schools(z: Sites) -> Tensor:
    mu, tau = z["mu"].reshape(-1, 1), z["tau"].reshape(-1, 1)
    return torch.cat([mu + tau * z["e"], mu, tau], -1)


def _of_garch(z: Sites) -> Tensor:
    return torch.stack([z["mu"], z["alpha0"], z["alpha1"], z["share"] * (1 - z["alpha1"])], -1)


POSTERIORS: dict[str, Posterior] = {
    "arK-arK": Posterior(autoregression, _lagged, _in_order("alpha", "beta", "sigma")),
    "eight_schools-eight_schools_noncentered": Posterior(schools, _joined("y", "sigma"), _of_schools),
    "garch-garch11": Posterior(garch, _joined("sigma1", "y"), _of_garch),
    "gp_pois_regr-gp_regr": Posterior(gaussian_process, _joined("x", "y"), _in_order("rho", "alpha", "sigma")),
    "kidiq-kidscore_momhsiq": Posterior(
        regression, _columns("kid_score", "mom_hs", "mom_iq", ones=True), _in_order("beta", "sigma")
    ),
    "low_dim_gauss_mix-low_dim_gauss_mix": Posterior(two_gaussians, _columns("y"), _in_order("mu", "sigma", "theta")),
}


def read(name: str) -> tuple[Tensor, Tensor, list[str]]:
    """The rows of a posterior, the reference draws (chains, draws, P), and the names of the P parameters."""
    folder = Path(os.environ["PYROGEN_DATA"]) / "posteriordb" / name
    with np.load(folder / "reference_draws.npz") as file:
        draws, names = torch.from_numpy(file["draws"]).double(), [str(one) for one in file["names"]]
    return POSTERIORS[name].rows(json.loads((folder / "data.json").read_text())), draws, names
