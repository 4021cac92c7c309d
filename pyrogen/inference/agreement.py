"""Whether a guide's sites are those of the model: names, shapes, plates, masks, weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from torch import Tensor

from pyrogen.errors import ModelError
from pyrogen.inference.layout import Layout, Site, subsampling
from pyrogen.inference.sites import latent_sites

if TYPE_CHECKING:
    from pyrogen.inference.terms import Latent


def check_sites(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> None:
    in_model, in_guide = set(latent_sites(model_trace)), set(latent_sites(guide_trace))
    guide_only: dict[str, Site] = {name: guide_trace.nodes[name] for name in in_guide - in_model}
    in_guide -= {name for name, site in guide_only.items() if site["infer"].get("is_auxiliary")}
    if in_model != in_guide:
        raise ModelError(
            got=f"latent sites {sorted(in_model)} in the model and {sorted(in_guide)} in the guide",
            need="the same sites in both",
            fix="a pyro.sample in the guide for each of the model's latents, under the same name",
        )
    for name in in_guide:
        p: Site = model_trace.nodes[name]
        q: Site = guide_trace.nodes[name]
        # the guide's plates may have names of their own
        frames = {(f.dim, f.size): f for f in p["cond_indep_stack"] if f.vectorized}
        renamed = tuple(frames.get((f.dim, f.size), f) for f in q["cond_indep_stack"])
        # and declare another size: its subsampling must not be taken for a scale
        q["scale"] = q["scale"] * subsampling(renamed) / subsampling(q["cond_indep_stack"])
        q["cond_indep_stack"] = renamed
        expected, got = p["fn"].shape(), tuple(q["value"].shape)
        if not _contains(got, tuple(expected)):
            raise ModelError(
                got=f"site {name!r} of shape {got} from the guide",
                need=f"{tuple(expected)}, as in the model",
                fix="a guide whose plates follow the data it is called with",
            )
        if not _same_mask(p["mask"], q["mask"]):
            raise ModelError(
                got=f"site {name!r} with other entries masked in the model than in the guide",
                need="the same mask: an entry left out on one side stays in the bound as log p or log q alone",
                fix="poutine.mask with the same mask around the site in both",
            )


def check_plates(layout: Layout, p_site: Site, q_site: Site) -> None:
    in_model, in_guide = layout.rows_of(p_site), layout.rows_of(q_site)
    if in_model != in_guide or p_site["fn"].event_dim != q_site["fn"].event_dim:
        raise ModelError(
            got=f"site {p_site['name']!r} in plates of rows {in_guide} (dimension: size) and with "
            f"{q_site['fn'].event_dim} event dimensions in the guide",
            need=f"{in_model} and {p_site['fn'].event_dim}, as in the model",
            fix="the same pyro.plate and the same to_event in both programs",
        )


def check_auxiliary(latents: dict[str, Latent]) -> None:
    """A scale of one site cannot be told to the auxiliary site that it is drawn through."""
    scales = [site.scale for site in latents.values()]
    if any(site.is_auxiliary for site in latents.values()) and any(
        isinstance(scale, Tensor) or scale != scales[0] for scale in scales
    ):
        raise ModelError(
            got="poutine.scale on some latent sites, and a guide that draws them through auxiliary ones",
            need="one weight for all of their KL terms",
            fix="beta in the objective, or poutine.scale around both programs",
        )


def _contains(shape: tuple[int, ...], part: tuple[int, ...]) -> bool:
    """Whether a tensor of shape `part` broadcasts to `shape`."""
    try:
        return torch.broadcast_shapes(shape, part) == torch.Size(shape)
    except RuntimeError:
        return False


def _same_mask(p_mask: Any, q_mask: Any) -> bool:
    if not (isinstance(p_mask, Tensor) or isinstance(q_mask, Tensor)):
        return True  # a whole site may be masked in the model alone: a flat prior
    p_mask, q_mask = (torch.as_tensor(True if mask is None else mask) for mask in (p_mask, q_mask))
    return bool((p_mask.to(q_mask.device) == q_mask).all())
