"""Many planar layers as one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrogen.distributions.transforms.base import Layer
from pyrogen.distributions.transforms.planar import Planar
from pyrogen.errors import SettingsError
from pyrogen.ops.planar import maps, planars
from pyrogen.ops.tanh_root import tanh_root


class Planars(Layer):
    """What Flow of K layers Planar is, with one tensor of parameters and one backward pass, several times faster.

        x_k = x_(k-1) + u'_k tanh(w_k.x_(k-1) + b_k),       k = 1 ... K

    Source: Rezende and Mohamed 2015, arXiv:1505.05770, equations 10 to 14.

    Args:
        width: D.
        layers: K.
        context: C, of which u, w and b are linear functions that start as constants.
        scale: of the start of u.

    Raises:
        SettingsError: fewer than one layer.
    """

    def __init__(self, width: int, layers: int, context: int = 0, scale: float = 1e-2) -> None:
        if not isinstance(layers, int) or layers < 1:
            raise SettingsError(got=f"layers={layers}", need="at least one", fix="layers=10")
        super().__init__(width, context)
        self.raw = nn.Parameter(torch.stack([Planar(width, scale=scale).raw.detach() for _ in range(layers)]))
        self.amortizer = nn.Linear(context, self.raw.numel(), bias=False) if context else None
        if self.amortizer is not None:
            nn.init.zeros_(self.amortizer.weight)

    def parts(self) -> list[Planar]:
        """Copies of the layers one by one."""
        size = self.raw.shape[1]
        layers = []
        for k, raw in enumerate(self.raw.detach()):
            layer = Planar(size // 2, self.context).to(raw)
            with torch.no_grad():
                layer.raw.copy_(raw)
                if self.amortizer is not None and layer.amortizer is not None:
                    layer.amortizer.weight.copy_(self.amortizer.weight[k * size : (k + 1) * size])
            layers.append(layer)
        return layers

    def raw_at(self, context: Tensor | None) -> Tensor:
        """u, w and b of every layer, (K, 2D + 1, ...), the context's rows last."""
        if self.amortizer is None or context is None:
            return self.raw
        rows = context.reshape(-1, self.context).mT
        raw = torch.addmm(self.raw.reshape(-1, 1), self.amortizer.weight, rows)
        return raw.view(*self.raw.shape, *context.shape[:-1])

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        y, log_det = planars(x.movedim(-1, 0), self.raw_at(context))
        return y.movedim(0, -1), log_det

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(y, context)
        made = maps(self.raw_at(context))
        total: Tensor | float = 0.0
        for k in reversed(range(len(self.raw))):
            (u, w), b, c = (part.movedim(0, -1) for part in (made.u[k], made.wb[k, :-1])), made.wb[k, -1], made.c[k]
            t = torch.tanh(tanh_root(c, (y * w).sum(-1) + b))
            y = y - u * t[..., None]
            total = total - torch.log1p(c * (1 - t) * (1 + t))
        return y, total  # pyright: ignore[reportReturnType]
