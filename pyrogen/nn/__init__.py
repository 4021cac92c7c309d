"""Networks with no probability in them. Everything maps (batch, in) to (batch, out): rows stay flat."""

from pyrogen.nn.batched import batched
from pyrogen.nn.conditioner import Conditioner
from pyrogen.nn.conv import ConvDecoder, ConvEncoder
from pyrogen.nn.masked import MaskedMLP
from pyrogen.nn.mlp import MLP

__all__ = ["MLP", "Conditioner", "ConvDecoder", "ConvEncoder", "MaskedMLP", "batched"]
