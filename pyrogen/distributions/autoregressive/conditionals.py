"""What p(x_d | x_<d) is: how a network's outputs become the law of one variable, and how it is drawn from a uniform.

A draw is the inverse distribution function at a uniform u, so that two ways of computing the parameters, such as
cached and naive sampling, give the same draw for the same u.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from pyrogen.distributions.levels import LevelCategorical, Levels
from pyrogen.errors import SettingsError


class Conditional(ABC):
    """The family of one variable given those before it.

    Args:
        inputs: E, numbers by which the network reads a value.
        outputs: F, numbers by which it describes a law.
        support: what `pyrogen.ops.check_rows` calls the values.
        constraint: the same for torch.
    """

    inputs: int = 1
    outputs: int
    support: str
    constraint: constraints.Constraint

    def values(self, like: Tensor) -> Tensor | None:
        """All values, (V,), or None where they cannot be listed."""
        return None

    def encode(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D * E), as the network reads it."""
        return x

    @abstractmethod
    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log p(x_d | parameters_d) in nats: (..., F) and (...) to (...)."""

    def noise(self, uniforms: Tensor, dtype: torch.dtype) -> Tensor:
        """What `draw` wants instead of uniforms in [0, 1), which are float64; done once for all variables."""
        return uniforms

    @abstractmethod
    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """(n, F) and (n, 1) to values (n, 1)."""

    @abstractmethod
    def distribution(self, parameters: Tensor) -> dist.TorchDistribution:
        """The same law for Pyro: (..., F) to batch (...), event ()."""

    @abstractmethod
    def start(self, train: Tensor) -> Tensor:
        """Parameters (D, F) of the columns' own laws, to start a training from."""


class BinaryConditional(Conditional):
    """x_d in {0, 1}, p(x_d = 1) = sigmoid(f)."""

    outputs = 1
    support = "binary"
    constraint = constraints.boolean

    def values(self, like: Tensor) -> Tensor:
        return like.new_tensor([0.0, 1.0])

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        return -binary_cross_entropy_with_logits(parameters.squeeze(-1), x, reduction="none")

    def noise(self, uniforms: Tensor, dtype: torch.dtype) -> Tensor:
        # u < sigmoid(f) is log(u / (1 - u)) < f, which spares a sigmoid per variable
        return torch.logit(uniforms).to(dtype)

    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        # with `out` there is no bool to convert: of few rows, calls are what a draw costs
        return torch.gt(parameters, noise, out=torch.empty_like(parameters))

    def distribution(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=parameters.squeeze(-1))

    def start(self, train: Tensor) -> Tensor:
        return torch.logit((train.sum(0) + 1) / (len(train) + 2)).unsqueeze(-1)


class LevelConditional(Conditional):
    """x_d one of `bins` equally spaced levels in [0, 1], p(x_d = k / (bins - 1)) = softmax(f)_k.

    Args:
        bins: number of levels; K categories are the levels k / (K - 1).
        one_hot: read a value as one input for each level, which suits categories; otherwise as the number.
    """

    def __init__(self, bins: int, one_hot: bool = True) -> None:
        self.levels = Levels(bins=bins)
        self.constraint = self.levels
        self.outputs, self.inputs, self.one_hot = bins, bins if one_hot else 1, one_hot
        self.support = f"grey{bins}"

    def values(self, like: Tensor) -> Tensor:
        return self.levels.values(like)

    def encode(self, x: Tensor) -> Tensor:
        if not self.one_hot:
            return x
        # not torch's one_hot, which looks at the largest value first
        return self._hot(x).to(x.dtype).flatten(-2)

    def _hot(self, x: Tensor) -> Tensor:
        return self.levels.index(x).unsqueeze(-1) == torch.arange(self.outputs, device=x.device)

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        return LevelCategorical(parameters, validate_args=False).log_prob(x)

    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        below = parameters.double().softmax(-1).cumsum(-1)
        k = (below <= noise).sum(-1, keepdim=True).clamp(max=self.outputs - 1)
        return self.levels.at(k.to(parameters.dtype))

    def distribution(self, parameters: Tensor) -> dist.TorchDistribution:
        return LevelCategorical(parameters)

    def start(self, train: Tensor) -> Tensor:
        counts = self._hot(train).sum(0) + 1
        return (counts.to(train.dtype) / counts.sum(-1, keepdim=True)).log()


class ScaleMixtureConditional(Conditional):
    """A mixture of C shifted and scaled copies of one law.

        outputs are C logits of the weights w, C locations m and C numbers r, s = softplus(r) + 1e-3

    Args:
        components: C.
    """

    floor = 1e-3

    def __init__(self, components: int = 1) -> None:
        if not isinstance(components, int) or components < 1:
            raise SettingsError(got=f"components = {components!r}", need="a whole number, 1 or more", fix="1")
        self.components, self.outputs = components, 3 * components

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """The inverse distribution function of the law at m = 0, s = 1."""

    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        logits, mean, scale = self.parts(parameters)
        weights = logits.double().softmax(-1)
        edges = weights.cumsum(-1)
        c = (edges <= noise).sum(-1, keepdim=True).clamp(max=self.components - 1)
        # where u lies inside the component's share of [0, 1) is uniform again
        inside = (noise - edges.gather(-1, c)) / weights.gather(-1, c) + 1
        eps = torch.finfo(torch.float64).eps
        z = self.quantile(inside.clamp(eps, 1 - eps)).to(mean.dtype)
        return mean.gather(-1, c) + scale.gather(-1, c) * z

    def start(self, train: Tensor) -> Tensor:
        # the components side by side over the middle of each column: alike they would stay alike
        shares = (torch.arange(self.components, dtype=train.dtype, device=train.device) + 0.5) / self.components
        spread = train.std(0, correction=0).clamp(min=10 * self.floor).unsqueeze(-1)
        mean = train.mean(0).unsqueeze(-1) + spread * torch.special.ndtri(shares)
        scale = (spread / self.components**0.5).expand_as(mean) - self.floor
        return torch.cat([torch.zeros_like(mean), mean, scale + torch.log(-torch.expm1(-scale))], -1)

    def parts(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of w, m and s."""
        logits, mean, raw = parameters.chunk(3, -1)
        return logits, mean, softplus(raw) + self.floor


class NormalConditional(ScaleMixtureConditional):
    """x_d real, a mixture of C normals: p(x_d) = sum_c w_c Normal(x_d; m_c, s_c^2).

    Source: Uria et al. 2013 (RNADE), arXiv:1306.0186.

    Args:
        components: C.
    """

    support = "real"
    constraint = constraints.real

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        logits, mean, scale = self.parts(parameters)
        z = (x.unsqueeze(-1) - mean) / scale
        log_normal = -0.5 * z.square() - scale.log() - 0.5 * math.log(2 * math.pi)
        return (logits.log_softmax(-1) + log_normal).logsumexp(-1)

    def quantile(self, u: Tensor) -> Tensor:
        return torch.special.ndtri(u)

    def distribution(self, parameters: Tensor) -> dist.TorchDistribution:
        logits, mean, scale = self.parts(parameters)
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), dist.Normal(mean, scale))
