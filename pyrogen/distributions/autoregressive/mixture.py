"""The discretized mixture of logistics of PixelCNN++, as the law of one variable."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrogen.distributions.autoregressive.conditionals import ScaleMixtureConditional
from pyrogen.distributions.discretized import DiscretizedLogistic
from pyrogen.distributions.levels import Levels


class LogisticMixtureConditional(ScaleMixtureConditional):
    """x_d one of `bins` levels in [0, 1], by a mixture of C logistics rounded to the nearest level.

        p(x_d = v_k) = sum_c w_c (sigmoid((v_k + h - m_c) / s_c) - sigmoid((v_k - h - m_c) / s_c)),  h half a bin

    and the outer levels take the tails. Parameters as in ScaleMixtureConditional: 3 C numbers whatever the number
    of levels, and neighbouring levels are alike.

    Source: Salimans et al. 2017 (PixelCNN++), arXiv:1701.05517, section 2.1. Channels of a pixel are conditioned
    on by the network and not by the linear shift of means there.

    Args:
        bins: number of levels.
        components: C.
    """

    def __init__(self, bins: int = 256, components: int = 5) -> None:
        super().__init__(components)
        self.levels = Levels(bins=bins)
        self.constraint, self.support = self.levels, f"grey{bins}"

    def values(self, like: Tensor) -> Tensor:
        return self.levels.values(like)

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        logits, mean, scale = self.parts(parameters)
        rounded = DiscretizedLogistic(mean, scale, bins=self.levels.bins, validate_args=False)
        return (logits.log_softmax(-1) + rounded.log_prob(x.unsqueeze(-1))).logsumexp(-1)

    def quantile(self, u: Tensor) -> Tensor:
        return torch.logit(u)

    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        return self.levels.at(self.levels.index(super().draw(parameters, noise)))

    def distribution(self, parameters: Tensor) -> dist.TorchDistribution:
        logits, mean, scale = self.parts(parameters)
        rounded = DiscretizedLogistic(mean, scale, bins=self.levels.bins)
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), rounded)
