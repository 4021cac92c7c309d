"""Layers of flows: one-to-one maps with their inverses and log-determinants, in Pyro's `TransformModule` protocol."""

from pyrogen.distributions.transforms.actnorm import ActNorm
from pyrogen.distributions.transforms.adapters import FromPyro, FromZuko
from pyrogen.distributions.transforms.autoregressive import IAF, MAF, Autoregressive, SplineAutoregressive
from pyrogen.distributions.transforms.base import Conditioned, Inverse, Layer
from pyrogen.distributions.transforms.circular import CircularMobius, CircularSpline
from pyrogen.distributions.transforms.compose import Flow
from pyrogen.distributions.transforms.coupling import AdditiveCoupling, AffineCoupling, Coupling, SplineCoupling
from pyrogen.distributions.transforms.cylinder import CylinderSpline
from pyrogen.distributions.transforms.exponential_map import ExponentialMap
from pyrogen.distributions.transforms.families import Family, Shift, ShiftScale, Spline
from pyrogen.distributions.transforms.householder import Householder
from pyrogen.distributions.transforms.linear import Affine, LULinear
from pyrogen.distributions.transforms.loft import LOFT
from pyrogen.distributions.transforms.permutation import Permutation
from pyrogen.distributions.transforms.pictures import AtEachPlace, ConvCoupling, OnPart, Within, squeeze
from pyrogen.distributions.transforms.planar import Planar
from pyrogen.distributions.transforms.planars import Planars
from pyrogen.distributions.transforms.radial import Radial
from pyrogen.distributions.transforms.sphere import Mobius, Rotation, SphereLayer
from pyrogen.distributions.transforms.stereographic import Stereographic
from pyrogen.distributions.transforms.sylvester import Sylvester
from pyrogen.distributions.transforms.torus import TorusAutoregressive, TorusCoupling

__all__ = [
    "IAF",
    "LOFT",
    "MAF",
    "ActNorm",
    "AdditiveCoupling",
    "Affine",
    "AffineCoupling",
    "AtEachPlace",
    "Autoregressive",
    "CircularMobius",
    "CircularSpline",
    "Conditioned",
    "ConvCoupling",
    "Coupling",
    "CylinderSpline",
    "ExponentialMap",
    "Family",
    "Flow",
    "FromPyro",
    "FromZuko",
    "Householder",
    "Inverse",
    "LULinear",
    "Layer",
    "Mobius",
    "OnPart",
    "Permutation",
    "Planar",
    "Planars",
    "Radial",
    "Rotation",
    "Shift",
    "ShiftScale",
    "SphereLayer",
    "Spline",
    "SplineAutoregressive",
    "SplineCoupling",
    "Stereographic",
    "Sylvester",
    "TorusAutoregressive",
    "TorusCoupling",
    "Within",
    "squeeze",
]
