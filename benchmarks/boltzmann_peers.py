"""The contestants of benchmarks/boltzmann.py, each behind the same two calls.

    epoch of CD-k or PCD-k   plain SGD on the rows, from the same weights; gives (W, b, c)
    log_z of a machine       annealing from independent visible units; gives the estimate

Each contestant is a function that imports its library when it is called, so that one that is missing is skipped. What
a library can do by its own public functions is timed, and what it cannot is refused with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from typing import Any, NamedTuple

Run = Callable[[], Any]


class UnsupportedError(Exception):
    """Why a library does not take part."""


class Task(NamedTuple):
    """CD-k or PCD-k on rows."""

    x: Any  # (N, V)
    W: Any  # (V, H), to start from
    k: int
    persistent: bool
    batch: int
    rate: float

    @property
    def word(self) -> str:
        return f"{'PCD' if self.persistent else 'CD'}-{self.k}"


class Annealing(NamedTuple):
    """log Z of a machine, from its own visible bias."""

    W: Any
    b: Any
    c: Any
    chains: int
    temperatures: int


def hand_written(task: Task) -> Run:
    """What one writes without a library: torch.bernoulli of a sigmoid, the gradient by hand, two products for it."""
    import torch

    x, k, batch, rate = task.x, task.k, task.batch, task.rate
    W, b, c = task.W.clone(), torch.zeros(x.shape[1]), torch.zeros(task.W.shape[1])
    chains = torch.bernoulli(torch.full((batch, x.shape[1]), 0.5))

    @torch.no_grad()
    def epoch() -> Any:
        nonlocal chains
        for picked in torch.randperm(len(x)).split(batch):
            rows = x[picked]
            mean = torch.addmm(c, rows, W).sigmoid()
            v = chains if task.persistent else rows
            p = torch.addmm(c, v, W).sigmoid() if task.persistent else mean
            for _ in range(k):
                v = torch.bernoulli(torch.addmm(b, torch.bernoulli(p), W.T).sigmoid())
                p = torch.addmm(c, v, W).sigmoid()
            if task.persistent:
                chains = v
            W.addmm_(rows.T, mean, alpha=rate / len(rows)).addmm_(v.T, p, alpha=-rate / len(v))
            b.add_(rows.mean(0) - v.mean(0), alpha=rate)
            c.add_(mean.mean(0) - p.mean(0), alpha=rate)
        return W, b, c

    return epoch


def rbms(task: Task) -> Run:
    """Its own chains, gradient and optimiser step; without the HDF5 file that its training loop appends to.

    Release 0.5.0 divides each gradient by its norm, so that its weights after an epoch are others.
    """
    import torch
    from rbms.bernoulli_bernoulli.classes import BBRBM
    from rbms.training.pcd import fit_batch_pcd

    machine = BBRBM(task.W.clone(), torch.zeros(task.x.shape[1]), torch.zeros(task.W.shape[1]))
    machine.init_grad()
    sgd = torch.optim.SGD(machine.parameters(), lr=task.rate, maximize=True)
    chains = machine.init_chains(num_samples=task.batch)
    ones = torch.ones(task.batch)

    @torch.no_grad()
    def epoch() -> Any:
        nonlocal chains
        for picked in torch.randperm(len(task.x)).split(task.batch):
            rows = task.x[picked]
            weights = ones[: len(rows)]
            sgd.zero_grad(set_to_none=False)
            start = chains if task.persistent else machine.init_chains(len(rows), weights=weights, start_v=rows)
            chains, _ = fit_batch_pcd(
                batch=(rows, weights),
                parallel_chains=start,
                params=machine,
                gibbs_steps=task.k,
                beta=1.0,
                centered=False,
            )
            sgd.step()
        return machine.weight_matrix, machine.vbias, machine.hbias

    return epoch


def ebmkit(task: Task) -> Run:
    """Its sampler and its contrastive divergence: autograd of the free energy."""
    import ebm
    import torch

    net = ebm.nets.RBM(task.x.shape[1], task.W.shape[1])
    with torch.no_grad():
        net.W.copy_(task.W.T)
        net.b.zero_()
        net.c.zero_()
    sgd, sampler, now = torch.optim.SGD(net.parameters(), lr=task.rate), ebm.GibbsSampler(steps=task.k), {}
    if task.persistent:
        fair = lambda shape: torch.bernoulli(torch.full(shape, 0.5))  # noqa: E731
        buffer = ebm.ReplayBuffer(task.batch, (task.x.shape[1],), reinit_prob=0.0, init_fn=fair)
        loss = ebm.ContrastiveDivergence(sampler, buffer=buffer)
    else:
        loss = ebm.ContrastiveDivergence(sampler, init_fn=lambda shape: now["rows"])

    def epoch() -> Any:
        for picked in torch.randperm(len(task.x)).split(task.batch):
            now["rows"] = task.x[picked]
            sgd.zero_grad()
            loss(net, now["rows"]).loss.backward()
            sgd.step()
        return net.W.detach().T, net.b.detach(), net.c.detach()

    return epoch


def learnergy(task: Task) -> Run:
    """Its fit, which reads single rows and takes a pseudo-likelihood at each batch."""
    if task.persistent:
        raise UnsupportedError("no persistent chains")
    import logging

    import torch
    from learnergy.models.bernoulli import RBM
    from torch.utils.data import TensorDataset

    logging.disable(logging.INFO)
    before = torch.get_default_dtype()
    machine = RBM(task.x.shape[1], task.W.shape[1], steps=task.k, learning_rate=task.rate, use_gpu=False)
    torch.set_default_dtype(before)
    with torch.no_grad():
        machine.W.copy_(task.W)
    data = TensorDataset(task.x, torch.zeros(len(task.x)))

    def epoch() -> Any:
        with redirect_stdout(StringIO()):
            machine.fit(data, batch_size=task.batch, epochs=1)
        return machine.W.detach(), machine.a.detach(), machine.b.detach()

    return epoch


def scikit_learn(task: Task) -> Run:
    """Its fit knows PCD-1 alone."""
    if not task.persistent or task.k != 1:
        raise UnsupportedError("fit is PCD-1")
    import numpy as np
    from sklearn.neural_network import BernoulliRBM

    x = task.x.numpy()
    machine = BernoulliRBM(task.W.shape[1], learning_rate=task.rate, batch_size=task.batch, n_iter=1, random_state=0)
    machine.partial_fit(x[: task.batch])
    machine.components_ = np.asarray(task.W.T.numpy(), order="F")
    machine.intercept_visible_[:], machine.intercept_hidden_[:] = 0, 0

    def epoch() -> Any:
        import torch

        for start in range(0, len(x), task.batch):
            machine.partial_fit(x[start : start + task.batch])
        parts = machine.components_.T, machine.intercept_visible_, machine.intercept_hidden_
        return tuple(torch.from_numpy(np.array(part)) for part in parts)

    return epoch


def hand_annealed(task: Annealing) -> Run:
    """What one writes without a library: one product serves both energies and the next draw of h."""
    import torch
    from torch.nn.functional import softplus

    W, b, c = task.W, task.b, task.c
    betas = torch.linspace(0, 1, task.temperatures).tolist()

    @torch.no_grad()
    def log_z() -> float:
        log_w = torch.zeros(task.chains, dtype=torch.float64)
        v = torch.bernoulli(b.sigmoid().expand(task.chains, -1))
        x = torch.addmm(c, v, W)
        for low, high in pairwise(betas):
            log_w += (softplus(x * high) - softplus(x * low)).sum(1).double()
            if high < 1:
                h = torch.bernoulli((x * high).sigmoid())
                v = torch.bernoulli(((1 - high) * b + high * torch.addmm(b, h, W.T)).sigmoid())
                x = torch.addmm(c, v, W)
        base = softplus(b.double()).sum() + len(c) * math.log(2.0)
        return float(base + log_w.logsumexp(0) - math.log(task.chains))

    return log_z


def rbms_annealed(task: Annealing) -> Run:
    """Its AIS, a float without weights or an error."""
    from rbms.bernoulli_bernoulli.classes import BBRBM
    from rbms.partition_function.ais import compute_partition_function_ais

    machine = BBRBM(task.W.clone(), task.b.clone(), task.c.clone())
    return lambda: float(compute_partition_function_ais(task.chains, task.temperatures, machine))


def ebmkit_annealed(task: Annealing) -> Run:
    raise UnsupportedError("its Gibbs sampler refuses the tempered machine; a flip of one bit is not the same work")


TRAINERS = {
    "hand_written": hand_written,
    "rbms": rbms,
    "ebmkit": ebmkit,
    "learnergy": learnergy,
    "scikit-learn": scikit_learn,
}
ANNEALERS = {
    "hand_written": hand_annealed,
    "rbms": rbms_annealed,
    "ebmkit": ebmkit_annealed,
}
