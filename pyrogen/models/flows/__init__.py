"""Flows as models of rows, on the sphere and on the torus."""

from pyrogen.models.flows.manifold import ManifoldFlow
from pyrogen.models.flows.sphere_flow import SphereFlow
from pyrogen.models.flows.torus_flow import TorusFlow

__all__ = ["ManifoldFlow", "SphereFlow", "TorusFlow"]
