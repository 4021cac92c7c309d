"""The deep Boltzmann machine: layers of any units, each coupled to the next, trained on a mean-field bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    stacked,
)
from pyrogen.errors import ModelError, SettingsError
from pyrogen.models.contracts import Energy, Pair, refuse_unknown
from pyrogen.models.energy.doubled import Doubled, composed
from pyrogen.models.energy.mean_field import Field, bottom_up, settled
from pyrogen.models.energy.merging import Turned, apart, merged
from pyrogen.models.energy.normalized import Normalized
from pyrogen.models.energy.rbm import HIDDEN, RBM, chosen, visible_units


class DBM(Normalized, Energy, Pair):
    """Layers x = l_0, l_1, ..., l_L, each given its neighbours independent of the others.

        E = - sum_l base(l_l) - sum_l (l_l - m_l) b_l - sum_l (l_l - m_l) W_l (l_l+1 - m_l+1),   p = exp(-E) / Z

    The even layers s = (l_0, l_2, ...) are independent given the odd ones h = (l_1, l_3, ...), and the other way round:
    `machine` is that bipartite machine, so that Gibbs sampling, annealing and enumeration are those of an RBM.

        model   h ~ p(h),  x ~ p(x | h)                  (the other even layers are summed out)
        guide   h ~ q(h | x), mean field:   a = c + s W,  eta = b + mean(a) W',  s = (x, mean(eta)),  until it stands

        log p(x) >= base(x) + x b_x + cumulant(a) + mean(eta) (b - eta) + cumulant(eta) - log Z,    a = c + s W

    Each update maximises that bound over one side, so it never falls. Training takes the gradient of the bound, where
    log Z's is from particles. Offsets m_l as in `RBM`: with them, no pre-training is needed; `greedy` is there still.

    Shape: x is (N, D); s is (N, V), h is (N, H), for the merged layers. In `energy`, `hidden_given` and `visible_given`
        v is s; in `free_energy` it is x, and minus the bound above without log Z is returned.
    Source: Salakhutdinov and Hinton 2009; Montavon and Mueller 2012 (centring).

    Args:
        layers: from the visible one up, at least three.
        particles: how the negative phase is drawn; Persistent(k=5, chains=100) unless given.
        centred: False leaves the offsets at 0.
        scale: standard deviation of the weights at the start.
        sweeps: of Gibbs sampling when rows are drawn from a machine too large to draw exactly.
        updates: of the mean field, at most.
        tolerance: the mean field stands when no mean moves by more; looked at every five updates.

    Raises:
        ModelError: fewer than three layers, or neighbours that are both unbounded.
        SettingsError: no update of the mean field.
    """

    recipe = "dbm"
    switches = ("centred",)
    fit_defaults: ClassVar[dict[str, Any]] = RBM.fit_defaults
    free_energy_is_bound = True
    mu: Tensor
    lam: Tensor
    s_mean: Tensor
    h_mean: Tensor

    def __init__(
        self,
        layers: Sequence[Units],
        *,
        particles: Particles | None = None,
        centred: bool = True,
        scale: float = 0.01,
        sweeps: int = 1000,
        updates: int = 50,
        tolerance: float = 1e-5,
    ) -> None:
        if len(layers) < 3:
            raise ModelError(got=f"{len(layers)} layers", need="at least three", fix="RBM(visible, hidden) for two")
        super().__init__(layers[0].width, layers[0].support)
        for below, above in pairwise(layers):
            if not below.bounded and not above.bounded:
                raise ModelError(
                    got=f"{below} beside {above}", need="one of them bounded, or Z may be infinite", fix="Bernoulli"
                )
        if not isinstance(updates, int) or updates < 1:
            raise SettingsError(got=f"updates={updates!r}", need="at least one", fix="updates=50")
        self.layers = nn.ModuleList(layers)
        self.centred, self.scale, self.sweeps = centred, scale, sweeps
        self.updates, self.tolerance = updates, tolerance
        # a learned scale of hidden units says nothing that the weights do not
        for layer in layers[1:]:
            layer.requires_grad_(False)
        widths = [layer.width for layer in layers]
        self.W = nn.ParameterList(scale * torch.randn(n, m) for n, m in pairwise(widths))
        self.b = nn.ParameterList(torch.zeros(n) for n in widths)
        with torch.no_grad():
            mu, lam = (side.mean(torch.zeros(side.width)) for side in (self.even, self.odd))
        for name, mean in (("mu", mu), ("lam", lam)):
            self.register_buffer(name, mean if centred else torch.zeros_like(mean))
        self.register_buffer("s_mean", mu.clone())  # of the mean field, exponential averages
        self.register_buffer("h_mean", lam.clone())
        self.particles = Persistent(k=5) if particles is None else particles
        self.particles.begin(self.machine())

    def machine(self) -> Machine:
        """Even layers against odd ones, in natural parameters."""
        W, b, c = merged(dict(self.named_parameters()), len(self.b))
        if self.centred:
            b, c = b - W @ self.lam, c - self.mu @ W
        return Machine(self.even, self.odd, W, b, c)

    def extra_repr(self) -> str:
        return f"centred={self.centred}, updates={self.updates}, tolerance={self.tolerance}"

    @torch.no_grad()
    def mean_field(self, x: Tensor) -> Field:
        """The fixed point, from a bottom-up pass in which the input from below stands in for that from above too."""
        machine = self.machine()
        s, eta = self._settled(machine, x)
        return Field(s, eta, machine.hidden_input(s))

    @torch.no_grad()
    def filled(self, x: Tensor) -> Tensor:
        """The rows beside the mean-field means of the even hidden layers, (N, V)."""
        return self._settled(self.machine(), x)[0]

    def free_energy(self, v: Tensor) -> Tensor:
        """Of rows x, an upper bound on -log p(x) - log Z: differentiable in the weights, where q is at its optimum."""
        s, eta, _ = self.mean_field(v)
        machine, d = self.machine(), self.width
        rest = (s[..., d:] * (machine.b[d:] - eta)).sum(-1) + self._beside.cumulant(eta)
        seen = self._visible.base(v) + v @ machine.b[:d]
        return -(seen + rest + self.odd.cumulant(machine.hidden_input(s)))

    def clamped(self, x: Tensor) -> tuple[Machine, Tensor]:
        """For a row x, (D,): a machine of the hidden layers, whose log Z plus the number is log p(x) + log Z."""
        machine, d = self.machine(), self.width
        rest = Machine(
            self._beside,
            self.odd,
            machine.W[d:],
            machine.b[d:],
            machine.c + x @ machine.W[:d],
        )
        return rest, self._visible.base(x) + x @ machine.b[:d]

    def model(self, x: Tensor, size: int | None = None) -> Tensor:
        with self.rows(x, size):
            h = pyro.sample("h", self.distribution())
            return pyro.sample("x", self._visible_layer(h), obs=x)

    def guide(self, x: Tensor, size: int | None = None) -> Tensor:
        with self.rows(x, size):
            return pyro.sample("h", self.encode(x))

    def check(self, x: Tensor) -> None:
        super().check(x)
        if isinstance(self._visible, Stack):  # whose kinds no word for a support says
            check_values(self._visible, x)

    def distribution(self) -> RBMDistribution:
        """p(h) of the odd layers."""
        machine = self.machine()
        return RBMDistribution.of(
            machine.turned(), log_z=self._known(machine), particles=Turned(self.particles), sweeps=self.sweeps
        )

    def encode(self, x: Tensor) -> Layer:
        """q(h | x) of the odd layers."""
        return Layer(self.odd, self.mean_field(x).a)

    def energy(self, v: Tensor, h: Tensor) -> Tensor:
        return self.machine().energy(v, h)

    def hidden_given(self, v: Tensor) -> Layer:
        return Layer(self.odd, self.machine().hidden_input(v))

    def visible_given(self, h: Tensor) -> Layer:
        return Layer(self.even, self.machine().visible_input(h))

    @torch.no_grad()
    def prepare(self, train: Tensor) -> None:
        """Start from independent visible units with the means of the training rows, and centre on these means."""
        check_values(self._visible, train, "train")
        mean = train.to(self.mu).mean(0)
        self.b[0].copy_(self._visible.bias_of(mean, len(train)))
        if self.centred:
            self.mu[: self.width] = mean
        self.s_mean[: self.width] = mean

    @torch.no_grad()
    def follow(self, x: Tensor, a: Tensor, decay: float = 0.99) -> None:
        """Let the recent means take in a batch of filled rows, (N, V), with inputs a of the odd layers."""
        self.h_mean.lerp_(self.odd.mean(a).mean(0), 1 - decay)
        self.s_mean[self.width :].lerp_(x[:, self.width :].mean(0), 1 - decay)

    @torch.no_grad()
    def recentre(self, *others: dict[str, Tensor]) -> None:
        """Move the offsets of the hidden layers to their recent means; the distribution stays the same.

        Where a bias is frozen, all stay.
        """
        if not self.centred or not all(bias.requires_grad for bias in self.b):
            return
        up, down = self.s_mean - self.mu, self.h_mean - self.lam
        for weights in (dict(self.named_parameters()), *others):
            W, _, _ = merged(weights, len(self.b))
            self._add(weights, W @ down, up @ W)
        self.mu.copy_(self.s_mean)
        self.lam.copy_(self.h_mean)

    @torch.no_grad()
    def set_natural(self, W: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        """Take weights and biases, layer by layer, as those of a machine without offsets."""
        for own, new in zip((*self.W, *self.b), (*W, *biases), strict=True):
            own.copy_(new)
        weights = dict(self.named_parameters())
        joined, _, _ = merged(weights, len(self.b))
        self._add(weights, joined @ self.lam, self.mu @ joined)

    @property
    def even(self) -> Units:
        """Layers 0, 2, ... as one."""
        return stacked(list(self.layers)[0::2])  # pyright: ignore[reportArgumentType]

    @property
    def odd(self) -> Units:
        """Layers 1, 3, ... as one."""
        return stacked(list(self.layers)[1::2])  # pyright: ignore[reportArgumentType]

    @property
    def n_parts(self) -> int:
        """How many pairs of layers there are to pre-train."""
        return len(self.W)

    def part(self, level: int) -> Doubled:
        """The RBM that pre-trains W_level: at the bottom with its lower layer twice, at the top with its upper."""
        last = len(self.W) - 1
        copies = (2 if level == 0 else 1, 2 if level == last else 1)
        below, above = self.layers[level], self.layers[level + 1]
        return Doubled(below, above, copies=copies, centred=self.centred, scale=self.scale)  # type: ignore[arg-type]

    @torch.no_grad()
    def adopt(self, parts: Sequence[Doubled]) -> None:
        """Take the weights and biases that the parts make together."""
        self.set_natural(*composed(parts))

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        known = {
            "hidden": [64, 64],
            "hidden_units": "bernoulli",
            "k": 5,
            "chains": 100,
            "centred": True,
            "scale": 0.01,
            "sweeps": 1000,
            "updates": 50,
        }
        refuse_unknown(cls.recipe, settings, known)
        given = known | settings
        kind, hidden = chosen("hidden_units", given["hidden_units"], HIDDEN), given["hidden"]
        if not isinstance(hidden, list) or len(hidden) < 2:
            raise SettingsError(got=f"hidden = {hidden!r}", need="at least two layers", fix="hidden = [64, 64]")
        return cls(
            [visible_units(width, support), *(kind(n) for n in hidden)],
            particles=Persistent(given["k"], given["chains"]),
            centred=bool(given["centred"]),
            scale=given["scale"],
            sweeps=given["sweeps"],
            updates=given["updates"],
        )

    @property
    def _beside(self) -> Units:
        """The even layers that are hidden."""
        return stacked(list(self.layers)[2::2])  # pyright: ignore[reportArgumentType]

    @property
    def _visible(self) -> Units:
        return self.layers[0]  # pyright: ignore[reportReturnType]

    def _visible_layer(self, h: Tensor) -> Layer:
        machine, d = self.machine(), self.width
        return Layer(self._visible, machine.b[:d] + h @ machine.W[:d].T)

    def _settled(self, machine: Machine, x: Tensor) -> tuple[Tensor, Tensor]:
        offsets = apart(self.mu, self.lam, self.layers)
        start = bottom_up(x, list(self.W), list(self.b), offsets, list(self.layers))  # pyright: ignore[reportArgumentType]
        return settled(machine, self._beside, x, start, self.updates, self.tolerance)

    def _add(self, weights: Mapping[str, Tensor], even: Tensor, odd: Tensor) -> None:
        for level, change in enumerate(apart(even, odd, self.layers)):
            weights[f"b.{level}"].add_(change)
