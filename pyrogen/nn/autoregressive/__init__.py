"""Networks whose output d sees only the variables before d: all conditionals of a joint in one pass."""

from pyrogen.nn.autoregressive.gated import GatedPixels
from pyrogen.nn.autoregressive.made import MaskedMLP
from pyrogen.nn.autoregressive.members import Members
from pyrogen.nn.autoregressive.nade import NADENetwork
from pyrogen.nn.autoregressive.network import NaiveStepper, Network, Stepper
from pyrogen.nn.autoregressive.orderless import OrderlessNetwork
from pyrogen.nn.autoregressive.orders import check_count, check_orders, make_orders, raster_orders
from pyrogen.nn.autoregressive.picture import PictureNetwork
from pyrogen.nn.autoregressive.recurrent import RecurrentPixels

__all__ = [
    "GatedPixels",
    "MaskedMLP",
    "Members",
    "NADENetwork",
    "NaiveStepper",
    "Network",
    "OrderlessNetwork",
    "PictureNetwork",
    "RecurrentPixels",
    "Stepper",
    "check_count",
    "check_orders",
    "make_orders",
    "raster_orders",
]
