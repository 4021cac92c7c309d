"""Networks whose output d sees only the variables before d: all conditionals of a joint in one pass."""

from pyrogen.nn.autoregressive.made import MaskedMLP
from pyrogen.nn.autoregressive.network import NaiveStepper, Network, Stepper, check_orders, make_orders

__all__ = ["MaskedMLP", "NaiveStepper", "Network", "Stepper", "check_orders", "make_orders"]
