"""What the layers on the sphere share, and the ones without a shape of their own: rotations and Mobius maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pyrogen.distributions.constraints import sphere
from pyrogen.distributions.transforms.base import Layer
from pyrogen.errors import SettingsError, ShapeError, SupportError
from pyrogen.ops.spheres import one_less_cos, sinc


class SphereLayer(Layer):
    """A one-to-one map of S^d; log-determinants are with respect to the sphere's area.

    x stands for the direction in which it points: it is scaled to length 1 first, so rounding does not pile up in
    deep flows. What is no direction at all, the models refuse (`check`), and distributions with `validate_args`.

    Shape: x, y are (..., d + 1); log-determinants are (...).

    Args:
        width: n = d + 1, at least 2.

    Raises:
        SettingsError: a width below 2.
    """

    domain = sphere
    codomain = sphere

    def __init__(self, width: int, context: int = 0) -> None:
        super().__init__(width, context)
        if width < 2:
            raise SettingsError(got=f"vectors of {width} entries", need="2 or more", fix="width=3 for the globe")

    def direction(self, x: Tensor, context: Tensor | None) -> Tensor:
        """x with length 1, once its shape is right."""
        self.check(x, context)
        return normalize(x, dim=-1)


class Rotation(SphereLayer):
    """y = R x with R = exp(A), A skew-symmetric; areas stay as they are.

    Args:
        width: n = d + 1.
        spread: the standard deviation of A's entries at the start, radians; 0 for the identity.
    """

    def __init__(self, width: int, spread: float = 0.0) -> None:
        super().__init__(width)
        self.angles = nn.Parameter(spread * torch.randn(width * (width - 1) // 2))

    def matrix(self) -> Tensor:
        """R, (n, n)."""
        n = self.width or 0
        row, column = torch.triu_indices(n, n, 1, device=self.angles.device)
        half = self.angles.new_zeros(n, n).index_put((row, column), self.angles)
        skew = half - half.mT
        if n != 3:
            return torch.linalg.matrix_exp(skew)
        square, unit = self.angles.square().sum(), torch.eye(3, dtype=skew.dtype, device=skew.device)
        return unit + sinc(square) * skew + one_less_cos(square) * (skew @ skew)  # Rodrigues' formula

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self.direction(x, context) @ self.matrix().mT
        return y, y.new_zeros(y.shape[:-1])

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.direction(y, context) @ self.matrix()
        return x, x.new_zeros(x.shape[:-1])


class Mobius(SphereLayer):
    """Moves mass away from the direction of w, towards that of -w.

        y = (1 - |w|^2) / |x - w|^2 (x - w) - w,      log |det| = d log((1 - |w|^2) / |x - w|^2)

    It stretches alike in all directions, and its inverse is the same map with -w. The parameter is any vector v with
    w = v / (1 + |v|), so that |w| < 1 while it is trained.

    Source: Rezende et al. 2020, arXiv:2002.02428, section 2.1.1 and appendix; Kato and McCullagh 2020 for S^d.

    Args:
        w: the start, (d + 1,), |w| < 1; zeros are the identity.

    Raises:
        ShapeError: w is no vector.
        SupportError: |w| >= 1, where the map stops being one-to-one.
    """

    def __init__(self, w: Tensor) -> None:
        if w.dim() != 1:
            raise ShapeError(got=f"w of shape {tuple(w.shape)}", need="(d + 1,)", fix="torch.zeros(3) for the globe")
        super().__init__(len(w))
        length = w.detach().norm()
        if not bool(length < 1):
            raise SupportError(
                got=f"|w| of {length:.4g}",
                need="|w| < 1, where the map is one-to-one",
                fix="squashing it first, for example w * tanh(|w|) / |w|",
            )
        self.v = nn.Parameter(w.detach() / (1 - length))

    @property
    def w(self) -> Tensor:
        # the root of a square that is never 0 has a derivative everywhere
        return self.v / (1 + (self.v.square().sum() + 1e-24).sqrt())

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return _mobius(self.direction(x, context), self.w)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return _mobius(self.direction(y, context), -self.w)


def _mobius(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    away = x - w
    scale = (1 - w.square().sum()) / away.square().sum(-1)
    y = scale.unsqueeze(-1) * away - w
    return normalize(y, dim=-1), (x.shape[-1] - 1) * scale.log()
