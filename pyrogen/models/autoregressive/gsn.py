"""The generative stochastic network: a denoiser as the transition of a Markov chain."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import pyro
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import softplus

from pyrogen.errors import SettingsError
from pyrogen.models.contracts import Chain, refuse_unknown
from pyrogen.nn import MLP

MOST_BITS = 12
"""Of a chain whose 2^D x 2^D transitions are listed."""


class State(NamedTuple):
    x: Tensor  # (chains, D)


class Info(NamedTuple):
    noisy: Tensor  # (chains, D), x~
    mean: Tensor  # (chains, D), p(x' = 1 | x~)
    flipped: Tensor  # (), part of the bits that changed; near 0 means stuck


class GSN(Chain):
    """Bits, as the law that corrupting and denoising in turn settle in.

        x~ ~ C(x~ | x)     each bit becomes a fair coin with probability `noise`
        x' ~ P(x' | x~) = prod_d Bernoulli(sigmoid(f(x~)_d))
        p = p T,           T(x, x') = sum_x~ C(x~ | x) P(x' | x~)

    All of T is positive, so that p is the only such law and every start leads to it. p has no formula: it is
    exact by enumeration for D <= 12 (`stationary`, `log_prob`), and bounded from below by `evaluate.csl`.

    Training is walkback: the chain runs `walkback` steps from a row, and each x~_k is to give the row back,

        maximise 1/K sum_k log P(x | x~_k),    x~_1 ~ C(. | x),  x~_(k+1) ~ C(. | x'_k),  x'_k ~ P(. | x~_k)

    in nats per row. So the chain is pulled back from where it goes astray. This is no bound on log p(x).

    Shape: x is (N, D).
    Source: Bengio, Yao, Alain and Vincent 2013, arXiv:1305.6663, algorithm 1; Bengio et al. 2014, arXiv:1306.1091.

    Args:
        network: f, (N, D) to the logits (N, D).
        width: D.
        noise: above 0, at most 1.
        walkback: K.
        burn_in: steps from fair coins to a row of `sample`, and to the first x~ of `noisy`.

    Raises:
        SettingsError: noise, walkback or burn_in are none.
    """

    recipe = "gsn"

    def __init__(
        self, network: nn.Module, width: int, noise: float = 0.4, walkback: int = 3, burn_in: int = 200
    ) -> None:
        super().__init__(width, "binary")
        if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 < noise <= 1:
            raise SettingsError(got=f"noise = {noise!r}", need="a number above 0 and at most 1", fix="noise=0.4")
        for name, value, least in (("walkback", walkback, 1), ("burn_in", burn_in, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise SettingsError(got=f"{name} = {value!r}", need=f"a whole number, {least} or more", fix=f"{least}")
        self.network, self.noise, self.walkback, self.burn_in = network, float(noise), walkback, burn_in

    def model(self, x: Tensor, size: int | None = None) -> Tensor:
        with self.rows(x, size):
            log_p = [self._log_given_own(x, noisy) for noisy in self._walk(x)]
            pyro.factor("x", torch.stack(log_p).mean(0))
        return x

    def guide(self, x: Tensor, size: int | None = None) -> None:
        with self.rows(x, size):
            pass

    def _walk(self, x: Tensor) -> list[Tensor]:
        """x~_1, ..., x~_K; how they came about carries no gradient."""
        with torch.no_grad():
            out = [self.corrupt(x)]
            for _ in range(self.walkback - 1):
                out.append(self.again(out[-1]))
        return out

    def _log_given_own(self, x: Tensor, noisy: Tensor) -> Tensor:
        logits = self.network(noisy)
        return (x * logits - softplus(logits)).sum(-1)

    def corrupt(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """A draw of C(. | x)."""
        u, coins = torch.rand((2, *x.shape), dtype=x.dtype, device=x.device, generator=generator)
        return torch.where(u < self.noise, (coins < 0.5).to(x.dtype), x)

    def init(self, chains: int, generator: Generator | None = None) -> State:
        """Fair coins."""
        like = next(self.network.parameters())
        u = torch.rand(chains, self.width, dtype=like.dtype, device=like.device, generator=generator)
        return State((u < 0.5).to(like.dtype))

    @torch.no_grad()
    def step(self, state: State, *, generator: Generator | None = None) -> tuple[State, Info]:
        """One transition of each chain. Leaves p invariant."""
        noisy = self.corrupt(state.x, generator)
        mean = self.network(noisy).sigmoid()
        u = torch.rand(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)
        x = (u < mean).to(mean.dtype)
        return State(x), Info(noisy, mean, (x != state.x).to(mean.dtype).mean())

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """n rows, each of a chain of its own after `burn_in` steps and one: of p, once that is enough."""
        state = self.init(n)
        for _ in range(self.burn_in + 1):
            state, _ = self.step(state)
        return state.x

    @torch.no_grad()
    def noisy(self, n: int) -> Tensor:
        state = self.init(n)
        for _ in range(self.burn_in):
            state, _ = self.step(state)
        return self.corrupt(state.x)

    @torch.no_grad()
    def again(self, noisy: Tensor) -> Tensor:
        mean = self.network(noisy).sigmoid()
        return self.corrupt((torch.rand_like(mean) < mean).to(mean.dtype))

    def log_given(self, x: Tensor, noisy: Tensor) -> Tensor:
        logits = self.network(noisy)
        return x @ logits.T - softplus(logits).sum(-1)

    @torch.no_grad()
    def transition(self) -> tuple[Tensor, Tensor]:
        """All states, (S, D), and T, (S, S) in float64, S = 2^D.

        Raises:
            SettingsError: D > 12.
        """
        if self.width > MOST_BITS:
            raise SettingsError(
                got=f"all transitions of {self.width} bits",
                need=f"at most {MOST_BITS}",
                fix="pyrogen.evaluate.csl, a lower bound",
            )
        like = next(self.network.parameters())
        coins = torch.tensor([0.0, 1.0], dtype=like.dtype, device=like.device)
        states = torch.cartesian_prod(*[coins] * self.width).reshape(-1, self.width)  # pyright: ignore[reportArgumentType]
        flips = self.width - (2 * states - 1).double() @ (2 * states - 1).double().T
        log_c = flips / 2 * math.log(self.noise / 2) + (self.width - flips / 2) * math.log1p(-self.noise / 2)
        # a chain that hardly moves has a law that its smallest transitions decide
        exact = copy.deepcopy(self).double().eval()
        denoised = exact.log_given(states.double(), states.double()).exp().T  # (x~, x')
        return states, log_c.exp() @ denoised

    @torch.no_grad()
    def stationary(self) -> tuple[Tensor, Tensor]:
        """All states, (S, D), and log p of them, (S,) in float64: exact, for D <= 12.

        Raises:
            SettingsError: D > 12.
        """
        states, transition = self.transition()
        # p (T - I) = 0 has one equation too many, and sum p = 1 takes its place
        system = transition.T - torch.eye(len(states), dtype=transition.dtype, device=transition.device)
        system[-1] = 1
        right = torch.zeros_like(system[0])
        right[-1] = 1
        p = torch.linalg.solve(system, right)
        return states, p.clamp(min=torch.finfo(p.dtype).tiny).log()

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """log p of rows, (N,) in float64: exact, for D <= 12.

        Raises:
            ShapeError, SupportError: rows that are not D bits.
            SettingsError: D > 12.
        """
        self.check(x)
        _, log_p = self.stationary()
        # the first bit of a state is the slowest, as in a binary number
        place = 2 ** torch.arange(self.width - 1, -1, -1, device=x.device)
        return log_p[(x.long() * place).sum(1)]

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        refuse_unknown(cls.recipe, settings, dict.fromkeys(("hidden", "noise", "walkback", "burn_in")))
        if support != "binary":
            raise SettingsError(got=f"{support} data", need="bits", fix="a data set that is binarized")
        hidden: Sequence[int] | int = settings.pop("hidden", [200])
        sizes = [hidden] if isinstance(hidden, int) else hidden
        return cls(MLP(width, *sizes, width, activation=nn.Tanh), width, **settings)
