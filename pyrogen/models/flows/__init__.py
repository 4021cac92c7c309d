"""Flows as models of rows: exact densities of reals, bounds for grey levels."""

from pyrogen.models.flows.architectures import MAF, NICE, NSF, RealNVP
from pyrogen.models.flows.base import FlowModel
from pyrogen.models.flows.dequantized import DequantizedFlow

__all__ = ["MAF", "NICE", "NSF", "DequantizedFlow", "FlowModel", "RealNVP"]
