"""Flows as models of rows: exact densities of reals, on the sphere and on the torus; bounds for grey levels."""

from pyrogen.models.flows.architectures import MAF, NICE, NSF, RealNVP
from pyrogen.models.flows.base import FlowModel
from pyrogen.models.flows.dequantized import DequantizedFlow
from pyrogen.models.flows.glow import glow
from pyrogen.models.flows.kernel_density import KernelDensity
from pyrogen.models.flows.manifold import ManifoldFlow
from pyrogen.models.flows.sphere_flow import SphereFlow
from pyrogen.models.flows.torus_flow import TorusFlow

__all__ = [
    "MAF",
    "NICE",
    "NSF",
    "DequantizedFlow",
    "FlowModel",
    "KernelDensity",
    "ManifoldFlow",
    "RealNVP",
    "SphereFlow",
    "TorusFlow",
    "glow",
]
