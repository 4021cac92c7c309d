"""Inference: bounds, their gradients, and the loop that trains with them."""

from pyrogen.inference.fit import Fit, fit
from pyrogen.inference.objectives import ELBO, IWAE, Objective
from pyrogen.inference.schedules import Cosine, Warmup

__all__ = ["ELBO", "IWAE", "Cosine", "Fit", "Objective", "Warmup", "fit"]
