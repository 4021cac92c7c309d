"""Linear layers: an LU-factorised matrix, and the affine map that starts somewhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrogen.distributions.transforms.base import Layer
from pyrogen.errors import ShapeError


class LULinear(Layer):
    """y = L U x + b, with L unit lower and U upper triangular, the diagonal of U positive.

        log |det| = sum_i log u_ii

    The inverse is two triangular solves. It starts at the identity. Over pictures with channels last this is the
    invertible 1x1 convolution, its log-determinants summed over the places.

    Source: Kingma and Dhariwal 2018, arXiv:1807.03039, section 3.2; Oliva et al. 2018, arXiv:1801.09819.

    Args:
        width: D.
        bias: whether there is a b.
    """

    below: Tensor

    def __init__(self, width: int, bias: bool = True) -> None:
        super().__init__(width)
        self.raw = nn.Parameter(torch.zeros(width, width))  # L below the diagonal, U above, log u_ii on it
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.register_buffer("below", torch.tril(torch.ones(width, width), diagonal=-1))

    def factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """L, U, and the logarithm of U's diagonal."""
        log_diagonal = self.raw.diagonal()
        lower = self.raw * self.below + torch.eye(len(self.raw), dtype=self.raw.dtype, device=self.raw.device)
        return lower, self.raw * self.below.mT + torch.diag(log_diagonal.exp()), log_diagonal

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        lower, upper, log_diagonal = self.factors()
        y = nn.functional.linear(x, lower @ upper, self.bias)
        return y, log_diagonal.sum().expand(y.shape[:-1])

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(y, context)
        lower, upper, log_diagonal = self.factors()
        x = (y if self.bias is None else y - self.bias).unsqueeze(-1)
        x = torch.linalg.solve_triangular(lower, x, upper=False, unitriangular=True)
        x = torch.linalg.solve_triangular(upper, x, upper=True).squeeze(-1)
        return x, -log_diagonal.sum().expand(x.shape[:-1])


class Affine(Layer):
    """y = L x + m, with L lower triangular and a positive diagonal: from N(0, I) to N(m, L L^T).

    Args:
        loc: m at the start, (D,).
        scale: the start: (D,), positive, for a diagonal L that stays diagonal; or (D, D), lower triangular.

    Raises:
        ShapeError: scale is neither (D,) nor (D, D).
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__(loc.shape[-1])
        width = loc.shape[-1]
        if scale.shape not in ((width,), (width, width)):
            raise ShapeError(
                got=f"a scale of shape {tuple(scale.shape)}", need=f"({width},) or ({width}, {width})", fix="ones"
            )
        diagonal = scale if scale.dim() == 1 else scale.diagonal()
        self.loc = nn.Parameter(loc.detach().clone())
        self.log_scale = nn.Parameter(diagonal.detach().log())
        # below the diagonal in units of the diagonal's column, which keeps the parameters of one size
        self.below = nn.Parameter(torch.tril(scale.detach() / diagonal.detach(), -1)) if scale.dim() == 2 else None

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        scaled = x * self.log_scale.exp()
        y = scaled + self.loc
        if self.below is not None:
            y = y + scaled @ torch.tril(self.below, -1).mT
        return y, self.log_scale.sum().expand(y.shape[:-1])

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(y, context)
        x = y - self.loc
        if self.below is not None:
            unit = torch.tril(self.below, -1)
            x = torch.linalg.solve_triangular(unit, x.unsqueeze(-1), upper=False, unitriangular=True).squeeze(-1)
        return x * (-self.log_scale).exp(), -self.log_scale.sum().expand(x.shape[:-1])
