"""The gated PixelCNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from pyrogen.distributions.autoregressive import BinaryConditional, Conditional
from pyrogen.models.autoregressive.base import AutoregressiveModel
from pyrogen.models.autoregressive.picture import pixel_conditional, take_family
from pyrogen.models.contracts import refuse_unknown
from pyrogen.nn.autoregressive import GatedPixels


class PixelCNN(AutoregressiveModel):
    """Pictures, pixel after pixel from the top left, by gated convolutions.

        p(x | c) = prod_ij prod_k p(x_ijk | pixels before (i, j), channels before k in (i, j), c)

    c is what a row brings along after its pixels, such as a class as one-hot.

    Shape: rows are (N, C H W), pictures (C, H, W) flattened, or (N, C H W + context).
    Source: van den Oord et al. 2016 (Conditional Image Generation with PixelCNN Decoders), arXiv:1606.05328.

    Args:
        shape: (C, H, W).
        conditional: the law of a pixel; bits unless given. Also LevelConditional(256), and
            LogisticMixtureConditional(256, 5) for the discretized mixture of PixelCNN++.
        channels: width of the network.
        layers: how many, without the first; each looks kernel // 2 further in all directions.
        kernel, first_kernel: odd.
        dropout: part of what a layer gives that is left out in training.
        context: width of c, 0 for none.
    """

    recipe = "pixelcnn"
    switches = ("one_hot",)

    def __init__(
        self,
        shape: Sequence[int],
        conditional: Conditional | None = None,
        *,
        channels: int = 32,
        layers: int = 6,
        kernel: int = 3,
        first_kernel: int = 7,
        dropout: float = 0.0,
        context: int = 0,
    ) -> None:
        conditional = conditional or BinaryConditional()
        network = GatedPixels(
            shape,
            channels,
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
        known = ("channels", "layers", "kernel", "first_kernel", "dropout", "components", "one_hot")
        refuse_unknown(cls.recipe, settings, dict.fromkeys(known))
        return cls(shape, pixel_conditional(support, **take_family(settings)), **settings)
