"""The path derivative: a second run of the guide whose parameters are constants, in the same noise, at the same draws.

Arguments of a distribution cannot simply be detached: with two layers those of q(z1 | z2) depend on z2, and that
path must stay.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrogen.inference.sites import latent_sites, parameter_leaves


def pass_through(trace: poutine.Trace) -> dict[str, Tensor]:
    """Give the replays z through an identity of its own, where a hook sees only what the model sends back."""
    entering = {}
    for name, site in latent_sites(trace).items():
        if site["value"].requires_grad:
            site["value"] = entering[name] = site["value"].view_as(site["value"])
    return entering


class RandomState:
    """Torch's random state as it is now, to run something in the same noise later."""

    def __init__(self) -> None:
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    @contextmanager
    def again(self) -> Iterator[None]:
        now = RandomState()
        try:
            self._set()
            yield
        finally:
            now._set()

    def _set(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)


class Redraw(Messenger):
    """Lets a program draw, then gives it a trace's draws instead.

    poutine.replay would not draw. Noise that is no site, such as dropout's, would then come from another
    place of the random stream, and the density would not be the one that z was drawn from.
    """

    def __init__(self, trace: poutine.Trace) -> None:
        super().__init__()
        self.trace = trace

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["value"] = self.trace.nodes[msg["name"]]["value"]


@contextmanager
def held(trace: poutine.Trace) -> Iterator[None]:
    """Treat the parameters that the trace used as constants, those of modules that Pyro was not told of too."""
    known = [*parameter_leaves(trace).values(), *_leaves(site["value"] for site in latent_sites(trace).values())]
    leaves = list({id(leaf): leaf for leaf in known if leaf.requires_grad}.values())
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not registered in the param store")
            for leaf in leaves:
                leaf.requires_grad_(False)
            yield
    finally:
        for leaf in leaves:
            leaf.requires_grad_(True)


def _leaves(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The leaves of autograd's graph that the tensors were computed from."""
    todo: list[Any] = [t.grad_fn for t in tensors]
    seen: set[Any] = {None}
    leaves = []
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += [parent for parent, _ in node.next_functions]
            if hasattr(node, "variable"):
                leaves.append(node.variable)
    return leaves
