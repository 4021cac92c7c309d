"""Numbers about trained models, each with its kind and its error."""

from pyrogen.evaluate.along import log_z_along
from pyrogen.evaluate.csl import csl
from pyrogen.evaluate.gap import Gap, mean_field_gap
from pyrogen.evaluate.kernels import KernelCheck, check_kernel, exact_moments
from pyrogen.evaluate.latent import LatentReport, SiteReport, latent_report
from pyrogen.evaluate.log_likelihood import LogLikelihood, log_likelihood
from pyrogen.evaluate.partition import Bracket, LogZ, bracket, log_z
from pyrogen.evaluate.pseudo import pseudo_log_likelihood

__all__ = [
    "Bracket",
    "Gap",
    "KernelCheck",
    "LatentReport",
    "LogLikelihood",
    "LogZ",
    "SiteReport",
    "bracket",
    "check_kernel",
    "csl",
    "exact_moments",
    "latent_report",
    "log_likelihood",
    "log_z",
    "log_z_along",
    "mean_field_gap",
    "pseudo_log_likelihood",
]
