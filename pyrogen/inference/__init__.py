"""Inference: bounds, their gradients, and the loop that trains with them."""

from pyrogen.inference.callbacks import Callback, TensorBoard
from pyrogen.inference.fit import Fit, fit
from pyrogen.inference.guides import FlowGuide
from pyrogen.inference.objectives import ELBO, IWAE, Objective
from pyrogen.inference.parallel import processes
from pyrogen.inference.schedules import Cosine, Warmup

__all__ = [
    "ELBO",
    "IWAE",
    "Callback",
    "Cosine",
    "Fit",
    "FlowGuide",
    "Objective",
    "TensorBoard",
    "Warmup",
    "fit",
    "processes",
]
