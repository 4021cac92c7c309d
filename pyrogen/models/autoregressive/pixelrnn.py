"""PixelRNN, by Row LSTMs or Diagonal BiLSTMs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from pyrogen.distributions.autoregressive import BinaryConditional, Conditional
from pyrogen.models.autoregressive.base import AutoregressiveModel
from pyrogen.models.autoregressive.picture import pixel_conditional, take_family
from pyrogen.models.contracts import refuse_unknown
from pyrogen.nn.autoregressive import RecurrentPixels


class PixelRNN(AutoregressiveModel):
    """Pictures, pixel after pixel from the top left, by LSTMs that go through the picture.

        p(x | c) = prod_ij prod_k p(x_ijk | pixels before (i, j), channels before k in (i, j), c)

    "diagonal" sees all pixels before; "row" sees a triangle above, and is faster.

    Shape: rows are (N, C H W), pictures (C, H, W) flattened, or (N, C H W + context).
    Source: van den Oord et al. 2016 (Pixel Recurrent Neural Networks), arXiv:1601.06759.

    Args:
        shape: (C, H, W).
        conditional: the law of a pixel; bits unless given.
        kind: "diagonal" or "row".
        units: width of an LSTM; the network is twice as wide.
        layers: how many LSTMs.
        kernel: of the Row LSTM, odd.
        first_kernel: of the convolution before them, odd, 3 or more.
        dropout: part of what a layer gives that is left out in training.
        context: width of c, what a row brings along after its pixels; 0 for none.
    """

    recipe = "pixelrnn"
    switches = ("one_hot",)

    def __init__(
        self,
        shape: Sequence[int],
        conditional: Conditional | None = None,
        *,
        kind: str = "diagonal",
        units: int = 16,
        layers: int = 2,
        kernel: int = 3,
        first_kernel: int = 7,
        dropout: float = 0.0,
        context: int = 0,
    ) -> None:
        conditional = conditional or BinaryConditional()
        network = RecurrentPixels(
            shape,
            kind,
            units,
            layers,
            kernel,
            first_kernel,
            dropout,
            inputs=conditional.inputs,
            outputs=conditional.outputs,
            context=context,
        )
        super().__init__(network, conditional)

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        known = ("kind", "units", "layers", "kernel", "first_kernel", "dropout", "components", "one_hot")
        refuse_unknown(cls.recipe, settings, dict.fromkeys(known))
        return cls(shape, pixel_conditional(support, **take_family(settings)), **settings)
