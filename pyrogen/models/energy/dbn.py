"""The deep belief network: directed layers below an RBM, with recognition weights as the guide."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Self

import pyro
import torch
from torch import Tensor, nn

from pyrogen.distributions.boltzmann import (
    Layer,
    Machine,
    Particles,
    Persistent,
    RBMDistribution,
    Stack,
    Units,
    check_values,
)
from pyrogen.errors import ModelError, SettingsError
from pyrogen.models.contracts import Pair, refuse_unknown
from pyrogen.models.energy.doubled import Doubled
from pyrogen.models.energy.normalized import Normalized
from pyrogen.models.energy.rbm import HIDDEN, RBM, chosen, visible_units


class DBN(Normalized, Pair):
    """Layers x = l_0, l_1, ..., l_L: the two on top are an RBM, and each below is drawn given the one above it.

        model   l_L-1 ~ p_RBM(l_L-1),   l_k ~ p(l_k | g_k + l_k+1 G_k'),   k = L-2, ..., 0
        guide   l_k+1 ~ q(l_k+1 | r_k + l_k R_k)

    Its log Z is that of the top RBM. While it is too large to list, log p(x) as a number needs an estimate of it, which
    `evaluate.log_likelihood` finds; see also `normalized`.

    With R = G, r the hidden bias of an RBM and that RBM turned upside down on top, the bound is tight and the model is
    that RBM; so each layer that `greedy` trains starts from the model before it. `UpDown` then trains all of them.

    Shape: x is (N, D); layer k is (N, n_k).
    Source: Hinton, Osindero and Teh 2006; Salakhutdinov and Murray 2008 (the bound).

    Args:
        layers: from the visible one up, at least three.
        particles: of the top RBM; Persistent(k=5, chains=100) unless given.
        scale: standard deviation of the weights at the start.
        sweeps: of the top RBM when rows are drawn and it is too large to draw exactly.

    Raises:
        ModelError: fewer than three layers.
    """

    recipe = "dbn"
    fit_defaults: ClassVar[dict[str, Any]] = RBM.fit_defaults

    def __init__(
        self,
        layers: Sequence[Units],
        *,
        particles: Particles | None = None,
        scale: float = 0.01,
        sweeps: int = 1000,
    ) -> None:
        if len(layers) < 3:
            raise ModelError(got=f"{len(layers)} layers", need="at least three", fix="RBM(visible, hidden) for two")
        super().__init__(layers[0].width, layers[0].support)
        self.layers, self.scale = nn.ModuleList(layers[:-2]), scale
        particles = Persistent(k=5) if particles is None else particles
        self.top = RBM(layers[-2], layers[-1], particles=particles, scale=scale, sweeps=sweeps)
        widths = [layer.width for layer in layers[:-1]]
        pairs = list(pairwise(widths))
        self.G = nn.ParameterList(scale * torch.randn(n, m) for n, m in pairs)
        self.g = nn.ParameterList(torch.zeros(n) for n, _ in pairs)
        self.R = nn.ParameterList(scale * torch.randn(n, m) for n, m in pairs)
        self.r = nn.ParameterList(torch.zeros(m) for _, m in pairs)

    def machine(self) -> Machine:
        """The RBM on top: the only part with a log Z."""
        return self.top.machine()

    def check(self, x: Tensor) -> None:
        super().check(x)
        if isinstance(self._layer(0), Stack):  # whose kinds no word for a support says
            check_values(self._layer(0), x)

    def distribution(self) -> RBMDistribution:
        """p(l_L-1)."""
        machine = self.machine()
        return RBMDistribution.of(
            machine, log_z=self._known(machine), particles=self.top.particles, sweeps=self.top.sweeps
        )

    def model(self, x: Tensor, size: int | None = None) -> Tensor:
        with self.rows(x, size):
            above = pyro.sample(f"h{self.levels}", self.distribution())
            for k in reversed(range(1, self.levels)):
                above = pyro.sample(f"h{k}", self.given_above(k, above))
            return pyro.sample("x", self.given_above(0, above), obs=x)

    def guide(self, x: Tensor, size: int | None = None) -> Tensor:
        with self.rows(x, size):
            below = x
            for k in range(self.levels):
                below = pyro.sample(f"h{k + 1}", self.given_below(k + 1, below))
            return below

    def given_above(self, k: int, above: Tensor) -> Layer:
        """p(l_k | l_k+1)."""
        return Layer(self._layer(k), self.g[k] + above @ self.G[k].T)

    def given_below(self, k: int, below: Tensor) -> Layer:
        """q(l_k | l_k-1)."""
        return Layer(self._layer(k), self.r[k - 1] + below @ self.R[k - 1])

    @torch.no_grad()
    def recognise(self, x: Tensor) -> list[Tensor]:
        """x and draws of the layers above it up to the visible one of the top, each given the one below."""
        rows = [x]
        for k in range(1, self.levels + 1):
            rows.append(self.given_below(k, rows[-1]).sample())
        return rows

    @torch.no_grad()
    def dream(self, top: Tensor) -> list[Tensor]:
        """Draws of all layers down from rows of l_L-1; x first."""
        rows = [top]
        for k in reversed(range(self.levels)):
            rows.append(self.given_above(k, rows[-1]).sample())
        return rows[::-1]

    def filled(self, x: Tensor) -> Tensor:
        """Rows of the top machine's visible side: recognised from x."""
        return self.recognise(x)[-1]

    @torch.no_grad()
    def prepare(self, train: Tensor) -> None:
        """Start from independent visible units with the means of the training rows."""
        check_values(self._layer(0), train, "train")
        self.g[0].copy_(self._layer(0).bias_of(train.to(self.g[0]).mean(0), len(train)))

    @property
    def levels(self) -> int:
        """L - 1: how many layers there are above x up to the visible one of the top."""
        return len(self.G)

    @property
    def n_parts(self) -> int:
        """Pairs of neighbouring layers."""
        return self.levels + 1

    def part(self, level: int) -> Doubled:
        """The RBM that pre-trains layers `level` and `level` + 1; the last is the top."""
        if level == self.levels:
            return Doubled(
                self.top.visible, self.top.hidden, copies=(1, 1), particles=self.top.particles, scale=self.scale
            )
        return Doubled(self._layer(level), self._layer(level + 1), copies=(1, 1), scale=self.scale)

    @torch.no_grad()
    def adopt(self, parts: Sequence[Doubled]) -> None:
        """Take each part's weights, for the way down and for the way up; the last part is the top."""
        for k, part in enumerate(parts[:-1]):
            machine = part.machine()
            for own, new in ((self.G, machine.W), (self.R, machine.W), (self.g, machine.b), (self.r, machine.c)):
                own[k].copy_(new)
        self.top.load_state_dict(parts[-1].state_dict())

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        known = {"hidden": [64, 64], "hidden_units": "bernoulli", "k": 5, "chains": 100, "scale": 0.01, "sweeps": 1000}
        refuse_unknown(cls.recipe, settings, known)
        given = known | settings
        kind, hidden = chosen("hidden_units", given["hidden_units"], HIDDEN), given["hidden"]
        if not isinstance(hidden, list) or len(hidden) < 2:
            raise SettingsError(got=f"hidden = {hidden!r}", need="at least two layers", fix="hidden = [64, 64]")
        return cls(
            [visible_units(width, support), *(kind(n) for n in hidden)],
            particles=Persistent(given["k"], given["chains"]),
            scale=given["scale"],
            sweeps=given["sweeps"],
        )

    def _layer(self, k: int) -> Units:
        return self.layers[k] if k < len(self.layers) else self.top.visible  # pyright: ignore[reportReturnType]
