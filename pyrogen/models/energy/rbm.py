"""The restricted Boltzmann machine over any two layers of units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import pyro
import torch
from torch import Tensor, nn

from pyrogen.distributions.boltzmann import (
    Bernoulli,
    Categorical,
    Contrastive,
    Exact,
    FastPersistent,
    Gaussian,
    Layer,
    Machine,
    Particles,
    Persistent,
    RBMDistribution,
    ReLU,
    Spin,
    Stack,
    Tempered,
    Units,
    can_enumerate,
    check_values,
)
from pyrogen.errors import ModelError, SettingsError
from pyrogen.models.contracts import Energy, Pair, refuse_unknown
from pyrogen.ops.checks import group_of

LISTED, LISTED_WITHOUT_GRADIENTS = 2**12, 2**16
"""log Z is summed at every run of the Pyro program where a layer has at most so many states: 1 and 50 milliseconds."""


class RBM(Energy, Pair):
    """A restricted Boltzmann machine: two layers, each independent given the other.

        E(v, h) = -base(v) - base(h) - (v - mu) b - (h - lam) c - (v - mu) W (h - lam)
        p(v, h) = exp(-E(v, h)) / Z
        model   x ~ p(v),  h ~ p(h | x)
        guide   h ~ p(h | x), exact: the ELBO is log p(x), and its gradient has no noise but the particles'

    The offsets mu and lam do not change what the machine can say, only what a step of an optimiser does (Melchior,
    Fischer and Wiskott 2016, arXiv:1311.1354): mu is the mean of the training rows, set by `prepare`, and lam follows
    the mean of p(h | x) when `recentre` is called; `fit` does so after each epoch. They start at the means at input 0.

    The Pyro program knows log Z where the smaller layer has at most 2^12 states, 2^16 while no gradients are taken. For
    larger machines the value of "x" exists only while they are, and is an energy gap then; see `RBMDistribution`.

    Shape: x and v are (N, V), h is (N, H), where V and H are the widths of the layers.
    Source: Smolensky 1986; Hinton 2002; Welling, Rosen-Zvi and Hinton 2005 for units other than bits.

    Args:
        visible, hidden: the layers.
        particles: how the negative phase is drawn; Persistent(k=1, chains=100) unless given.
        centred: False leaves mu and lam at 0.
        scale: standard deviation of the weights at the start.
        sweeps: of Gibbs sampling when rows are drawn from a machine too large to draw exactly.

    Raises:
        ModelError: both layers are unbounded, so that most weights have no normaliser.
    """

    recipe = "rbm"
    switches = ("centred",)
    fit_defaults: ClassVar[dict[str, Any]] = {
        "epochs": 300,
        "learning_rate": 0.01,
        "schedule": "cosine",
        "average": 0.995,
    }
    h_mean: Tensor
    mu: Tensor
    lam: Tensor

    def __init__(
        self,
        visible: Units,
        hidden: Units,
        *,
        particles: Particles | None = None,
        centred: bool = True,
        scale: float = 0.01,
        sweeps: int = 1000,
    ) -> None:
        super().__init__(visible.width, visible.support)
        if not visible.bounded and not hidden.bounded:
            raise ModelError(
                got=f"{visible} and {hidden}", need="one layer of a bounded kind, or Z may be infinite", fix="Bernoulli"
            )
        self.visible, self.hidden, self.centred, self.sweeps = visible, hidden, centred, sweeps
        self.W = nn.Parameter(scale * torch.randn(visible.width, hidden.width))
        self.b, self.c = nn.Parameter(torch.zeros(visible.width)), nn.Parameter(torch.zeros(hidden.width))
        with torch.no_grad():
            mu, lam = visible.mean(self.b), hidden.mean(self.c)
        self.register_buffer("mu", mu if centred else torch.zeros_like(mu))
        self.register_buffer("lam", lam if centred else torch.zeros_like(lam))
        self.register_buffer("h_mean", lam.clone())  # of p(h | x), an exponential average
        self.particles = Persistent() if particles is None else particles
        self.to(self.W.dtype)  # layers may come in another one
        self.particles.begin(self.machine())

    def machine(self) -> Machine:
        """The same model in natural parameters: b - W lam and c - mu W."""
        b, c = (self.b - self.W @ self.lam, self.c - self.mu @ self.W) if self.centred else (self.b, self.c)
        return Machine(self.visible, self.hidden, self.W, b, c)

    def extra_repr(self) -> str:
        return f"centred={self.centred}"  # without offsets the same weights are another machine

    def check(self, x: Tensor) -> None:
        super().check(x)
        if isinstance(self.visible, Stack):  # whose kinds no word for a support says
            check_values(self.visible, x)

    def distribution(self) -> RBMDistribution:
        """p(v)."""
        machine = self.machine()
        most = LISTED if torch.is_grad_enabled() else LISTED_WITHOUT_GRADIENTS
        log_z = "exact" if can_enumerate(machine, most) else None
        return RBMDistribution.of(machine, log_z=log_z, particles=self.particles, sweeps=self.sweeps)

    def model(self, x: Tensor, size: int | None = None) -> Tensor:
        with self.rows(x, size):
            x = pyro.sample("x", self.distribution(), obs=x)
            pyro.sample("h", self._exact_hidden(x))
            return x

    def guide(self, x: Tensor, size: int | None = None) -> Tensor:
        with self.rows(x, size):
            return pyro.sample("h", self._exact_hidden(x))

    @torch.no_grad()
    def _exact_hidden(self, x: Tensor) -> Layer:
        # without gradients on both sides: log p(h | x) - log q(h | x) is 0 whatever the weights
        return self.hidden_given(x)

    @torch.no_grad()
    def fantasies(self, n: int) -> tuple[Tensor, Tensor]:
        """n rows of p(v), (n, V), and the E[v | h] that each is drawn around, (n, V)."""
        machine = self.machine()
        a = machine.visible_input(machine.up(self.distribution().sample((n,))))
        return self.visible.sample(a), self.visible.mean(a)

    def encode(self, x: Tensor) -> Layer:
        """p(h | x)."""
        return self.hidden_given(x)

    @torch.no_grad()
    def prepare(self, train: Tensor) -> None:
        """Start from independent units with the means of the training rows, and centre on these means."""
        check_values(self.visible, train, "train")
        mean = train.to(self.mu).mean(0)
        self.b.copy_(self.visible.bias_of(mean, len(train)))
        if self.centred:
            self.mu.copy_(mean)
        if isinstance(self.particles, Tempered):
            self.particles.base = self.b.detach().clone()

    @torch.no_grad()
    def recentre(self, *others: dict[str, Tensor]) -> None:
        """Move lam to the recent mean of p(h | x), and b by W times that, so that the distribution stays the same.

        Where b is frozen, lam stays too.

        Args:
            others: weights by name, besides the model's own, that are to stay the same distributions too.
        """
        if not self.centred or not self.b.requires_grad:
            return
        by = self.h_mean - self.lam
        for weights in (dict(self.named_parameters()), *others):
            weights["b"].add_(weights["W"] @ by)
        self.lam.copy_(self.h_mean)

    @torch.no_grad()
    def follow(self, x: Tensor, a: Tensor, decay: float = 0.99) -> None:
        """Let the recent mean of p(h | x) take in a batch with hidden inputs a, (N, H)."""
        if self.centred:
            self.h_mean.lerp_(self.hidden.mean(a).mean(0), 1 - decay)

    def energy(self, v: Tensor, h: Tensor) -> Tensor:
        return self.machine().energy(v, h)

    def free_energy(self, v: Tensor) -> Tensor:
        return self.machine().free_energy(v)

    def hidden_given(self, v: Tensor) -> Layer:
        return Layer(self.hidden, self.machine().hidden_input(v))

    def visible_given(self, h: Tensor) -> Layer:
        return Layer(self.visible, self.machine().visible_input(h))

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        known = {
            "hidden": 16,
            "hidden_units": "bernoulli",
            "particles": "pcd",
            "k": 1,
            "chains": 500,
            "rungs": 10,
            "fast_rate": 0.01,
            "centred": True,
            "scale": 0.01,
            "sweeps": 1000,
        }
        refuse_unknown(cls.recipe, settings, known)
        given = known | settings
        hidden = chosen("hidden_units", given["hidden_units"], HIDDEN)(given["hidden"])
        k, chains = given["k"], given["chains"]
        ways = {
            "cd": lambda: Contrastive(k),
            "pcd": lambda: Persistent(k, chains),
            "fpcd": lambda: FastPersistent(k, chains, rate=given["fast_rate"]),
            "tempered": lambda: Tempered(k, chains, given["rungs"]),
            "exact": Exact,
        }
        return cls(
            visible_units(width, support),
            hidden,
            particles=chosen("particles", given["particles"], ways)(),
            centred=bool(given["centred"]),
            scale=given["scale"],
            sweeps=given["sweeps"],
        )


HIDDEN: dict[str, Any] = {"bernoulli": Bernoulli, "spin": Spin, "gaussian": Gaussian, "relu": ReLU}


def visible_units(width: int, support: str) -> Units:
    """The layer that produces values of a support.

    Raises:
        SettingsError: there is none.
    """
    group = group_of(support)
    if group:
        return Categorical(width // group, group)
    kinds: dict[str, type[Units]] = {"binary": Bernoulli, "spin": Spin, "real": Gaussian, "nonnegative": ReLU}
    if support not in kinds:
        raise SettingsError(
            got=f"data with support {support!r}",
            need=f"one of {[*kinds, 'one-hot-3']}, for which there are units",
            fix="binarize = true in [data]",
        )
    return kinds[support](width)


def chosen(setting: str, word: Any, choices: Mapping[str, Any]) -> Any:
    if not isinstance(word, str) or word not in choices:
        raise SettingsError(
            got=f"{setting} = {word!r}", need=f"one of {sorted(choices)}", fix=repr(next(iter(choices)))
        )
    return choices[word]
