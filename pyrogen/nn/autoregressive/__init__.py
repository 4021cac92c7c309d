"""Networks whose output d sees only the variables before d: all conditionals of a joint in one pass."""

from pyrogen.nn.autoregressive.made import MaskedMLP
from pyrogen.nn.autoregressive.nade import NADENetwork
from pyrogen.nn.autoregressive.network import NaiveStepper, Network, Stepper, check_orders, make_orders
from pyrogen.nn.autoregressive.orderless import OrderlessNetwork

__all__ = [
    "MaskedMLP",
    "NADENetwork",
    "NaiveStepper",
    "Network",
    "OrderlessNetwork",
    "Stepper",
    "check_orders",
    "make_orders",
]
