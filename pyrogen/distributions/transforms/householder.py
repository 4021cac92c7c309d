"""Products of reflections: rotations and reflections of R^D."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrogen.distributions.transforms.base import Layer
from pyrogen.errors import SettingsError


def reflect(x: Tensor, v: Tensor, inverse: bool = False) -> Tensor:
    """Q x for the product Q = H_1 ... H_K of the reflections H_k = I - 2 v_k v_k^T / |v_k|^2; Q^T x with `inverse`.

        Q = I - V^T S V,      S^-1 = I / 2 + the part above the diagonal of V V^T,    V of unit rows

    One triangular solve instead of a loop over reflections.

    Shape: x is (..., D), v is (..., K, D).
    Source: Joffrain et al. 2006, ACM Transactions on Mathematical Software 32(2), the UT transform.
    """
    unit = v / torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp(min=1e-20)
    k = unit.shape[-2]
    s = torch.triu(unit @ unit.mT, diagonal=1) + 0.5 * torch.eye(k, dtype=v.dtype, device=v.device)
    along = unit @ x.unsqueeze(-1)
    solved = torch.linalg.solve_triangular(s.mT if inverse else s, along, upper=not inverse)
    return x - (unit.mT @ solved).squeeze(-1)


class Householder(Layer):
    """K reflections one after the other, y = H_1 ... H_K x; volumes stay as they are.

        H = I - 2 v v^T / |v|^2

    With a context the directions are v + A c.

    Source: Tomczak and Welling 2016, arXiv:1611.09630.

    Args:
        width: D.
        reflections: K, at most D of them make every rotation or reflection.
        context: C.

    Raises:
        SettingsError: no reflections.
    """

    def __init__(self, width: int, reflections: int = 1, context: int = 0) -> None:
        super().__init__(width, context)
        if reflections < 1:
            raise SettingsError(got=f"reflections={reflections}", need="at least 1", fix="reflections=1")
        self.v = nn.Parameter(torch.randn(reflections, width))
        self.amortizer = nn.Linear(context, reflections * width, bias=False) if context else None

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        return self._reflected(x, context, inverse=False)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(y, context)
        return self._reflected(y, context, inverse=True)

    def _reflected(self, x: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        v = self.v
        if self.amortizer is not None:
            v = v + self.amortizer(context).unflatten(-1, self.v.shape)
        out = reflect(x, v, inverse)
        return out, out.new_zeros(out.shape[:-1])
