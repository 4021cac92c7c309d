"""Inference: bounds, their gradients, the loop that trains with them; kernels."""

from pyrogen.inference.callbacks import Callback, TensorBoard
from pyrogen.inference.fit import Fit, fit
from pyrogen.inference.kernels import BlockGibbs, Kernel, ParallelTempering
from pyrogen.inference.objectives import ELBO, IWAE, Objective
from pyrogen.inference.parallel import processes
from pyrogen.inference.schedules import Cosine, Warmup

__all__ = [
    "ELBO",
    "IWAE",
    "BlockGibbs",
    "Callback",
    "Cosine",
    "Fit",
    "Kernel",
    "Objective",
    "ParallelTempering",
    "TensorBoard",
    "Warmup",
    "fit",
    "processes",
]
