"""Inference: bounds, their gradients, the loop that trains with them; kernels, and the loop that draws with them."""

from pyrogen.inference.callbacks import Callback, TensorBoard
from pyrogen.inference.conditional import Filled, sample_given
from pyrogen.inference.discriminative import Conditional
from pyrogen.inference.fit import Fit, fit
from pyrogen.inference.guides import FlowGuide
from pyrogen.inference.kernels import BlockGibbs, Kernel, ParallelTempering
from pyrogen.inference.likelihood import MaximumLikelihood
from pyrogen.inference.mcmc import MCMC
from pyrogen.inference.objectives import ELBO, IWAE, Objective
from pyrogen.inference.parallel import processes
from pyrogen.inference.penalties import Sparsity, lasso, max_norm
from pyrogen.inference.pretraining import greedy
from pyrogen.inference.schedules import Cosine, Warmup
from pyrogen.inference.trajectory import Trajectory
from pyrogen.inference.updown import UpDown

__all__ = [
    "ELBO",
    "IWAE",
    "MCMC",
    "BlockGibbs",
    "Callback",
    "Conditional",
    "Cosine",
    "Filled",
    "Fit",
    "FlowGuide",
    "Kernel",
    "MaximumLikelihood",
    "Objective",
    "ParallelTempering",
    "Sparsity",
    "TensorBoard",
    "Trajectory",
    "UpDown",
    "Warmup",
    "fit",
    "greedy",
    "lasso",
    "max_norm",
    "processes",
    "sample_given",
]
