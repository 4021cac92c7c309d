"""The contestants of benchmarks/flows.py that are not ours: each is a function of the task that imports its library.

All conditioners have two hidden layers of 64 with a ReLU, all splines 8 bins on [-5, 5], so that the numbers of
parameters are those of ours; what the libraries' own constructors would make otherwise is built from their classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

WIDTH, BATCH, RATE, HIDDEN, BINS, BOUND = 8, 256, 1e-3, (64, 64), 8, 5.0
EVERY_OTHER = [*range(0, WIDTH, 2), *range(1, WIDTH, 2)]
"""The order in which the first half is every other entry: where couplings split halves, this makes them as good."""
TASKS = ("realnvp-8", "nsf-c5", "nsf-ar5")


class Contestant:
    """A density with a training step: log p(x), draws, parameters."""

    module: Any = None
    mode = "eager"
    counts = True
    """Whether its operations can be counted."""

    def __init__(self, log_prob: Callable[[Any], Any], sample: Callable[[int], Any], parameters: list[Any]) -> None:
        import torch

        self.log_prob, self.sample, self.parameters = log_prob, sample, parameters
        self.adam = torch.optim.Adam(parameters, lr=RATE, fused=True)

    def step(self, x: Any) -> None:
        self.adam.zero_grad(set_to_none=True)
        (-self.log_prob(x).mean()).backward()
        self.adam.step()


def stock(task: str) -> Contestant:
    """Pyro's transforms. Those that its helpers cannot build, quadratic splines, are built from their classes."""
    import pyro.distributions as dist
    import torch
    from pyro.distributions import transforms as T
    from pyro.nn import AutoRegressiveNN, DenseNN

    torch.manual_seed(0)
    half, hidden = WIDTH // 2, list(HIDDEN)
    layers: list[Any] = [] if task == "nsf-ar5" else [T.Permute(torch.tensor(EVERY_OTHER))]
    for i in range(8 if task == "realnvp-8" else 5):
        if task == "realnvp-8":
            layers.append(T.affine_coupling(WIDTH, hidden))
        elif task == "nsf-c5":
            network = DenseNN(half, hidden, param_dims=[half * BINS, half * BINS, half * (BINS - 1)])
            layer = T.SplineCoupling(WIDTH, half, network, BINS, BOUND, order="quadratic", identity=True)
            layer.lower_spline.requires_grad_(False)
            layers.append(layer)
        else:
            order: Any = torch.arange(WIDTH) if i % 2 == 0 else torch.arange(WIDTH).flip(0)
            network = AutoRegressiveNN(WIDTH, hidden, param_dims=[BINS, BINS, BINS - 1], permutation=order)
            layers.append(T.SplineAutoregressive(WIDTH, network, count_bins=BINS, bound=BOUND, order="quadratic"))
        if task != "nsf-ar5":
            layers.append(T.Permute(torch.arange(WIDTH - 1, -1, -1)))
    base = dist.Normal(torch.zeros(WIDTH), 1.0).to_event(1)
    density = dist.TransformedDistribution(base, [layer.inv for layer in reversed(layers)])

    def log_prob(x: Any) -> Any:
        out = density.log_prob(x)
        density.clear_cache()
        return out

    def sample(n: int) -> Any:
        out = density.sample((n,))
        density.clear_cache()
        return out

    modules = [layer for layer in layers if isinstance(layer, torch.nn.Module)]
    return Contestant(log_prob, sample, [p for m in modules for p in m.parameters() if p.requires_grad])


def zuko_flow(task: str) -> Contestant:
    """zuko's layers: its own RealNVP and NSF, and couplings of its splines."""
    import torch
    from zuko.distributions import DiagNormal
    from zuko.flows import NSF, Flow, RealNVP, UnconditionalDistribution
    from zuko.flows.coupling import GeneralCouplingTransform
    from zuko.transforms import MonotonicRQSTransform

    torch.manual_seed(0)

    def coupling(i: int) -> Any:
        mask = torch.arange(WIDTH) % 2 == i % 2
        spline = partial(MonotonicRQSTransform, bound=BOUND, slope=1e-3)
        shapes = [(BINS,), (BINS,), (BINS - 1,)]
        return GeneralCouplingTransform(WIDTH, mask=mask, univariate=spline, shapes=shapes, hidden_features=HIDDEN)

    if task == "nsf-c5":
        base = UnconditionalDistribution(DiagNormal, torch.zeros(WIDTH), torch.ones(WIDTH), buffer=True)
        flow = Flow([coupling(i) for i in range(5)], base)
    elif task == "realnvp-8":
        flow = RealNVP(WIDTH, transforms=8, hidden_features=HIDDEN)
    else:
        flow = NSF(WIDTH, bins=BINS, transforms=5, hidden_features=HIDDEN)
    return Contestant(lambda x: flow().log_prob(x), lambda n: flow().sample((n,)), list(flow.parameters()))


def network(inputs: int, outputs: int) -> Any:
    """The conditioner of a coupling, as nflows and normflows call it: with a context, here None."""
    import torch

    class Network(torch.nn.Sequential):
        def forward(self, x: Any, context: Any = None) -> Any:
            return super().forward(x)

    widths = [inputs, *HIDDEN, outputs]
    layers: list[Any] = []
    for a, b in pairwise(widths):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    return Network(*layers[:-1])


def nflows(task: str) -> Contestant:
    """nflows: its couplings with our conditioners, its masked networks without residual blocks."""
    import torch
    from nflows import distributions, flows, transforms

    torch.manual_seed(0)
    spline = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
    layers: list[Any] = []
    for i in range(8 if task == "realnvp-8" else 5):
        mask = (torch.arange(WIDTH) + i) % 2
        if task == "realnvp-8":
            layers.append(transforms.AffineCouplingTransform(mask, network))
        elif task == "nsf-c5":
            layers.append(transforms.PiecewiseRationalQuadraticCouplingTransform(mask, network, **spline))
        else:
            kind = transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform
            layers.append(kind(WIDTH, HIDDEN[0], num_blocks=1, use_residual_blocks=False, **spline))
            layers.append(transforms.ReversePermutation(WIDTH))
    flow = flows.Flow(transforms.CompositeTransform(layers), distributions.StandardNormal([WIDTH]))
    return Contestant(flow.log_prob, flow.sample, list(flow.parameters()))


def normflows(task: str) -> Contestant:
    """normflows: its couplings with our conditioners; its autoregressive splines have a residual block of their own."""
    import normflows as nf
    import torch
    from normflows.flows.neural_spline.coupling import PiecewiseRationalQuadraticCoupling

    torch.manual_seed(0)
    layers: list[Any] = []
    for i in range(8 if task == "realnvp-8" else 5):
        if task == "realnvp-8":
            layers.append(nf.flows.AffineCouplingBlock(network(WIDTH // 2, WIDTH)))
            layers.append(nf.flows.Permute(WIDTH, mode="swap"))
        elif task == "nsf-c5":
            mask = (torch.arange(WIDTH) + i) % 2
            kind = partial(PiecewiseRationalQuadraticCoupling, num_bins=BINS, tails="linear", tail_bound=BOUND)
            layers.append(kind(mask, network))
        else:
            kind = nf.flows.AutoregressiveRationalQuadraticSpline
            layers.append(kind(WIDTH, 1, HIDDEN[0], num_bins=BINS, tail_bound=int(BOUND)))
            layers.append(nf.flows.Permute(WIDTH, mode="shuffle"))
    flow = nf.NormalizingFlow(nf.distributions.base.DiagGaussian(WIDTH, trainable=False), layers)
    parameters = [p for p in flow.parameters() if p.requires_grad]
    if task != "realnvp-8":
        return Contestant(flow.log_prob, lambda n: flow.sample(n)[0], parameters)
    there = torch.tensor(EVERY_OTHER)
    back = there.argsort()
    return Contestant(lambda x: flow.log_prob(x[:, there]), lambda n: flow.sample(n)[0][:, back], parameters)


def flowjax(task: str) -> Contestant:
    from flows_jax import flowjax

    return flowjax(task)


PEERS: dict[str, Callable[[str], Contestant]] = {
    "pyro": stock,
    "zuko": zuko_flow,
    "nflows": nflows,
    "normflows": normflows,
    "flowjax": flowjax,
}
