"""Numbers about trained models, each with its kind and its error."""

from pyrogen.evaluate.csl import csl
from pyrogen.evaluate.latent import LatentReport, SiteReport, latent_report
from pyrogen.evaluate.log_likelihood import LogLikelihood, log_likelihood

__all__ = ["LatentReport", "LogLikelihood", "SiteReport", "csl", "latent_report", "log_likelihood"]
