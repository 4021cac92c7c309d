"""Diagnose: results as ArviZ data, Pareto k-hat, plots.

The only room that knows ArviZ and matplotlib; both are imported when a function first needs them.
"""

import pyrogen.diagnostics.chains  # noqa: F401, makes the runs of kernels convertible
from pyrogen.diagnostics.draws import Draws, draws_of
from pyrogen.diagnostics.globe import globe_maps, torus_maps
from pyrogen.diagnostics.khat import khat, khat_threshold
from pyrogen.diagnostics.machines import annealing_weights, chain_movie, filters, gibbs_frames, tempering_ladder
from pyrogen.diagnostics.plots import curves, image_grid, latent_map, reconstructions
from pyrogen.diagnostics.request import Request
from pyrogen.diagnostics.to_arviz import to_arviz

__all__ = [
    "Draws",
    "Request",
    "annealing_weights",
    "chain_movie",
    "curves",
    "draws_of",
    "filters",
    "gibbs_frames",
    "globe_maps",
    "image_grid",
    "khat",
    "khat_threshold",
    "latent_map",
    "reconstructions",
    "tempering_ladder",
    "to_arviz",
    "torus_maps",
]
