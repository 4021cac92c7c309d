"""Inference: bounds, their gradients, and the loop that trains with them."""

from pyrogen.inference.callbacks import Callback, TensorBoard
from pyrogen.inference.conditional import Conditional
from pyrogen.inference.fit import Fit, fit
from pyrogen.inference.likelihood import MaximumLikelihood
from pyrogen.inference.objectives import ELBO, IWAE, Objective
from pyrogen.inference.parallel import processes
from pyrogen.inference.penalties import Sparsity, max_norm
from pyrogen.inference.pretraining import greedy
from pyrogen.inference.schedules import Cosine, Warmup
from pyrogen.inference.updown import UpDown

__all__ = [
    "ELBO",
    "IWAE",
    "Callback",
    "Conditional",
    "Cosine",
    "Fit",
    "MaximumLikelihood",
    "Objective",
    "Sparsity",
    "TensorBoard",
    "UpDown",
    "Warmup",
    "fit",
    "greedy",
    "max_norm",
    "processes",
]
