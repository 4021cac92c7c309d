"""The restricted Boltzmann machine over any two layers of units."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn

from pyrogen.distributions.boltzmann import (
    Layer,
    Machine,
    Particles,
    Persistent,
    RBMDistribution,
    Tempered,
    Units,
    can_enumerate,
)
from pyrogen.errors import ModelError
from pyrogen.models.contracts import Energy, Pair

LISTED = 2**12
"""log Z is summed at every step of a Pyro program where a layer has at most so many states: a millisecond."""


class RBM(Energy, Pair):
    """A restricted Boltzmann machine: two layers, each independent given the other.

        E(v, h) = -base(v) - base(h) - (v - mu) b - (h - lam) c - (v - mu) W (h - lam)
        p(v, h) = exp(-E(v, h)) / Z
        model   x ~ p(v),  h ~ p(h | x)
        guide   h ~ p(h | x), exact: the ELBO is log p(x), and its gradient has no noise but the particles'

    The offsets mu and lam do not change what the machine can say, only what a step of an optimiser does (Melchior,
    Fischer and Wiskott 2016, arXiv:1311.1354): mu is the mean of the training rows, set by `prepare`, and lam follows
    the mean of p(h | x), when `recentre` is called; `fit` does so after each epoch. They start at the means of inputs 0.

    The Pyro program knows log Z where the smaller layer has at most 2^12 states. For larger machines the value of
    the "x" site exists only while gradients are taken, and is an energy gap then; see `RBMDistribution`.

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
        self.particles.begin(self.machine())

    def machine(self) -> Machine:
        """The same model in natural parameters: b - W lam and c - mu W."""
        b, c = (self.b - self.W @ self.lam, self.c - self.mu @ self.W) if self.centred else (self.b, self.c)
        return Machine(self.visible, self.hidden, self.W, b, c)

    def distribution(self) -> RBMDistribution:
        """p(v)."""
        machine = self.machine()
        log_z = "exact" if can_enumerate(machine, LISTED) else None
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

    def encode(self, x: Tensor) -> Layer:
        """p(h | x)."""
        return self.hidden_given(x)

    @torch.no_grad()
    def prepare(self, train: Tensor) -> None:
        """Start from independent units with the means of the training rows, and centre on these means."""
        mean = train.mean(0).to(self.mu)
        old = self.machine()
        self.b.copy_(self.visible.bias_of(mean, len(train)))
        if self.centred:
            self.mu.copy_(mean)
        c = old.c + (self.mu @ self.W if self.centred else 0)
        self.c.copy_(c)
        if isinstance(self.particles, Tempered):
            self.particles.base = self.b.detach().clone()
        self._renew_particles()

    @torch.no_grad()
    def recentre(self) -> None:
        """Move lam to the recent mean of p(h | x), and b with it, so that the distribution stays the same."""
        if self.centred:
            self.shift_([self.W, self.b], self.h_mean - self.lam)
            self.lam.copy_(self.h_mean)

    def shift_(self, weights: list[Tensor], by: Tensor) -> None:
        """b += W by: what keeps the distribution when lam moves by that much; of any weights W and b, such as averages."""
        W, b = weights
        b += W @ by

    @torch.no_grad()
    def follow(self, x: Tensor, a: Tensor, decay: float = 0.99) -> None:
        """Let the recent mean of p(h | x) take in a batch with hidden inputs a, (N, H)."""
        self.h_mean.lerp_(self.hidden.mean(a).mean(0), 1 - decay)

    def energy(self, v: Tensor, h: Tensor) -> Tensor:
        return self.machine().energy(v, h)

    def free_energy(self, v: Tensor) -> Tensor:
        return self.machine().free_energy(v)

    def hidden_given(self, v: Tensor) -> Layer:
        return Layer(self.hidden, self.machine().hidden_input(v))

    def visible_given(self, h: Tensor) -> Layer:
        return Layer(self.visible, self.machine().visible_input(h))
