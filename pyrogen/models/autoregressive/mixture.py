"""The mixture of Bernoullis: what every other model of bits has to beat."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from pyrogen.distributions import BernoulliMixture
from pyrogen.distributions.autoregressive import Given
from pyrogen.distributions.autoregressive.given import check_mask
from pyrogen.models.contracts import refuse_unknown
from pyrogen.models.density import Density


class MixtureOfBernoullis(Density):
    """Bits that are independent given one of K classes, which is summed out.

        model   x ~ sum_k w_k prod_d Bernoulli(sigmoid(l_kd))
        guide   nothing, so that the ELBO is log p(x)

    Shape: x is (N, D); l is (K, D).
    Source: McLachlan and Peel 2000, Finite Mixture Models.

    Args:
        width: D.
        components: K.
    """

    recipe = "bernoulli-mixture"

    def __init__(self, width: int, components: int = 50) -> None:
        super().__init__(width, "binary")
        self.weights = nn.Parameter(torch.zeros(components))
        self.logits = nn.Parameter(torch.randn(components, width))

    def dist(self, context: Tensor | None = None) -> BernoulliMixture:
        return BernoulliMixture(self.weights, self.logits)

    @torch.no_grad()
    def sample_given(self, x: Tensor, observed: Tensor, n: int = 1) -> Given:
        """n draws for each row of what is not observed, exact: the class given the observed entries, then the rest."""
        observed = check_mask(x, observed, self.width)
        joint = self.dist().joint(torch.where(observed, x, 0), observed)  # (N, K)
        k = torch.distributions.Categorical(logits=joint).sample((n,))
        draws = torch.where(observed, x, torch.bernoulli(self.logits.sigmoid()[k]))
        evidence = joint.logsumexp(-1)
        return Given(draws, torch.full_like(evidence, n), evidence, "exact")

    @torch.no_grad()
    def prepare(self, train: Tensor) -> None:
        """Start each component between the mean and a training row of its own."""
        picked = torch.linspace(0, len(train) - 1, len(self.weights), device=train.device).long()
        mean = (train.sum(0) + 1) / (len(train) + 2)
        self.logits.copy_(torch.logit(0.7 * mean + 0.3 * (0.1 + 0.8 * train[picked])))

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        refuse_unknown(cls.recipe, settings, {"components": 50})
        return cls(width, **settings)
