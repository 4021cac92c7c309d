"""Numbers about trained models, each with its kind and its error."""

from pyrogen.evaluate.kernels import KernelCheck, check_kernel, exact_moments
from pyrogen.evaluate.latent import LatentReport, SiteReport, latent_report
from pyrogen.evaluate.log_likelihood import LogLikelihood, log_likelihood

__all__ = [
    "KernelCheck",
    "LatentReport",
    "LogLikelihood",
    "SiteReport",
    "check_kernel",
    "exact_moments",
    "latent_report",
    "log_likelihood",
]
