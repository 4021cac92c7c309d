"""A flow as the guide of any Pyro model with global latents."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoContinuous
from pyro.infer.autoguide.initialization import init_to_median
from torch import Tensor, nn
from torch.distributions import biject_to

from pyrogen.distributions import FlowDistribution
from pyrogen.distributions.transforms import (
    IAF,
    LOFT,
    Affine,
    AffineCoupling,
    Flow,
    Layer,
    Planar,
    SplineAutoregressive,
    SplineCoupling,
)
from pyrogen.errors import ModelError, SettingsError, ShapeError
from pyrogen.inference.guides.start import Start, around, laplace, or_zero
from pyrogen.inference.terms import plate_nesting, run

_serial = itertools.count(1)
_SHARED = ("_model", "prototype_trace", "_prototype_frames", "_cond_indep_stacks", "plates", "master")


class FlowGuide(AutoContinuous):
    """All latents of a model as one flow of a Gaussian.

        e ~ Normal(0, I),    u = loc + scale F(e),    z = each site's own piece of u, mapped to its support

    loc and scale start at the mode and the curvature of the posterior (`start="laplace"`), and F as the identity, so
    that training starts from Laplace's approximation wherever in space the posterior is. Everything is trained.

    It is one of Pyro's autoguides: it works with `pyro.infer.SVI`, `Predictive`, `NeuTraReparam` and `fit`. Parameters
    are there as soon as the model has run once: with `args`, at construction, so that a saved guide can be loaded.
    Draws and their densities take one forward pass; the path derivative, `ELBO(gradient="stl")`, takes the inverse too.

    Sources: Rezende and Mohamed 2015, arXiv:1505.05770; Agrawal et al. 2020, arXiv:2006.10343, for the start and the
    path derivative; Hoffman et al. 2019, arXiv:1903.03704, for what NeuTra does with it.

    Args:
        model: a Pyro program. Its latents are continuous and outside of subsampled plates.
        args: what the model is called with; None to wait for the first call.
        flow: F: "affine" or "spline" couplings, "iaf", "planar", "gaussian" for none, or a function from L to a Layer.
        layers, hidden: of a flow that is named.
        start: "laplace", or "median" for prior medians and `scale`.
        scale: of each unconstrained latent, for "median" and where Laplace's approximation does not exist.
        init_loc_fn: where a site begins; one with an improper prior, which has no draws, begins at the image of zero.

    Raises:
        SettingsError: a flow or a start that does not exist.
        ModelError: a latent inside a subsampled plate, or one on a circle.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: Sequence[Any] | None = None,
        *,
        flow: str | Callable[[int], Layer] = "affine",
        layers: int = 4,
        hidden: Sequence[int] = (32, 32),
        start: Literal["laplace", "median"] = "laplace",
        scale: float = 0.1,
        init_loc_fn: Callable[..., Any] = init_to_median,
    ) -> None:
        if isinstance(flow, str) and flow not in FLOWS:
            raise SettingsError(got=f"flow={flow!r}", need=f"one of {sorted(FLOWS)} or a function", fix="flow='affine'")
        if start not in ("laplace", "median") or not scale > 0 or layers < 1:
            raise SettingsError(
                got=f"start={start!r}, scale={scale}, layers={layers}",
                need="'laplace' or 'median', a positive scale and a layer",
                fix="start='laplace'",
            )
        super().__init__(model, init_loc_fn=or_zero(init_loc_fn))
        # two guides of one name would share parameters in Pyro's store, and the second would never train
        self._pyro_name = f"{type(self).__name__}-{next(_serial)}"
        self._make, self._layers, self._hidden, self._start, self._scale = flow, layers, tuple(hidden), start, scale
        self.started = ""
        if args is not None:
            self.setup(*args)

    def setup(self, *args: Any, **kwargs: Any) -> FlowGuide:
        """Run the model once and make the parameters; the first call does it too."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        return self

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            super()._setup_prototype(*args, **kwargs)
        self._refuse()
        with poutine.block():
            self._create_plates(*args, **kwargs)  # NeuTraReparam looks for them in a guide that never ran
        start = self._begin(*args, **kwargs)
        self.started = start.how
        self.layer = Flow([*self._flow(), Affine(start.loc, start.scale)]).to(start.loc)
        self.register_buffer("origin", torch.zeros_like(start.loc), persistent=False)

    def _refuse(self) -> None:
        for name, site in self.prototype_trace.iter_stochastic_nodes():  # pyright: ignore[reportOptionalMemberAccess]
            for frame in site["cond_indep_stack"]:
                if frame.full_size is not None and frame.full_size != frame.size:
                    raise ModelError(
                        got=f"latent {name!r} inside the subsampled plate {frame.name!r}",
                        need="global latents: one value for all minibatches",
                        fix="a Pair with an encoder for the rows' own latents",
                    )
            if isinstance(_innermost(site["fn"]), dist.VonMises):
                raise ModelError(
                    got=f"latent {name!r}, an angle whose distribution says that its support is the real line",
                    need="a density on the circle",
                    fix="ProjectedNormal, or a guide on the circle for this site",
                )

    def _begin(self, *args: Any, **kwargs: Any) -> Start:
        at = self._init_loc()
        with torch.no_grad(), torch.random.fork_rng(), poutine.block():
            at = at.to(self.log_joint(at, *args, **kwargs).dtype)  # a flat prior has no dtype, but what is observed has
        if self._start == "median":
            return around(at, self._scale, "median")
        # the search draws nothing of its own, but a model may
        with torch.random.fork_rng(), torch.enable_grad(), poutine.block():
            return laplace(lambda u: -self.log_joint(u, *args, **kwargs), at, self._scale)

    def _flow(self) -> list[Layer]:
        width = self.latent_dim
        if not isinstance(self._make, str):
            layer = self._make(width)
            if not isinstance(layer, Layer) or layer.width not in (None, width) or layer.context:
                raise ShapeError(
                    got=f"a flow of width {getattr(layer, 'width', None)} for {width} latents",
                    need="a Layer of that width, without context",
                    fix="flow=lambda width: Flow([...])",
                )
            return [layer]
        name = "autoregressive spline" if width == 1 and self._make in ("affine", "spline", "iaf") else self._make
        make = FLOWS[name]
        return [] if make is None else [make(width, i, self._hidden) for i in range(self._layers)]

    # what AutoContinuous, Predictive and NeuTraReparam ask for

    def get_base_dist(self) -> dist.TorchDistribution:
        return dist.Normal(self.origin, torch.ones_like(self.origin), validate_args=False).to_event(1)  # pyright: ignore

    def get_transform(self, *args: Any, **kwargs: Any) -> Layer:
        return self.layer

    def get_posterior(self, *args: Any, **kwargs: Any) -> FlowDistribution:
        return FlowDistribution(self.get_base_dist(), self.layer)

    # densities

    def log_joint(self, u: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """log p(x, z) |dz/du| of one unconstrained vector u, (L,), as a number."""
        values, log_det = {}, u.new_zeros(())
        for site, piece in self._unpack_latent(u):
            to_support = biject_to(site["fn"].support)
            values[site["name"]] = to_support(piece)
            log_det = log_det + to_support.log_abs_det_jacobian(piece, values[site["name"]]).sum()
        trace = poutine.trace(poutine.condition(self.model, data=values)).get_trace(*args, **kwargs)
        return trace.log_prob_sum() + log_det

    def log_weights(self, draws: int, *args: Any, chunk: int = 1000) -> Tensor:
        """log p(x, z) - log q(z) at draws z of the guide, (draws,), for `pyrogen.diagnostics.khat`.

        The model runs on many draws at once: what it does with its latents must allow for dimensions on the left.
        """
        return self.weighted_draws(draws, *args, chunk=chunk)[1]

    @torch.no_grad()
    def weighted_draws(self, draws: int, *args: Any, chunk: int = 1000) -> tuple[dict[str, Tensor], Tensor]:
        """Draws z of the guide by site, (draws, ...), and their log_weights.

        Where k-hat is below 0.7, their weighted means are the posterior's with an error that the draws tell:

            z, log_w = guide.weighted_draws(4000, y)
            mean = (log_w.softmax(0) @ z["m"])
        """
        drawn: dict[str, list[Tensor]] = {}

        def kept(*args: Any) -> dict[str, Tensor]:
            values = self(*args)
            for name, value in values.items():
                event = self.prototype_trace.nodes[name]["value"].shape  # pyright: ignore[reportOptionalMemberAccess]
                drawn.setdefault(name, []).append(value.reshape(-1, *event))
            return values

        with pyro.validation_enabled(False):
            nesting = plate_nesting(self.model, self, *args)
            parts = []
            for begin in range(0, draws, chunk):
                terms = run(self.model, kept, *args, particles=max(2, min(chunk, draws - begin)), nesting=nesting)
                parts.append(terms.scale * terms.log_w.sum(1) + terms.global_log_w)
        return {name: torch.cat(values)[:draws] for name, values in drawn.items()}, torch.cat(parts)[:draws]

    # summaries, by draws: a flow has no formula for its quantiles

    @torch.no_grad()
    def quantiles(self, quantiles: Any, *args: Any, draws: int = 4000, **kwargs: Any) -> dict[str, Tensor]:
        """Quantiles of each site, entry by entry, (Q, ...), from draws."""
        self.setup(*args, **kwargs)
        u = self.get_posterior().sample((draws,))
        levels = torch.quantile(u, torch.as_tensor(quantiles).to(u).reshape(-1), dim=0)
        found: dict[str, list[Tensor]] = {}
        for level in levels:
            for site, piece in self._unpack_latent(level):
                found.setdefault(str(site["name"]), []).append(biject_to(site["fn"].support)(piece))
        return {name: torch.stack(values) for name, values in found.items()}

    @torch.no_grad()
    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Of each site, entry by entry, from draws."""
        return {name: values[0] for name, values in self.quantiles([0.5], *args, **kwargs).items()}

    # copies: Pyro's own __getstate__ takes the model away from the guide that is copied

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_model": None, "master": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> FlowGuide:
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        state = {k: v if k in _SHARED else copy.deepcopy(v, memo) for k, v in self.__dict__.items()}
        vars(new).update(state | {"_pyro_name": f"{type(self).__name__}-{next(_serial)}"})
        return new


def _innermost(fn: Any) -> Any:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def _affine(width: int, i: int, hidden: Sequence[int]) -> Layer:
    coupling = AffineCoupling(width, hidden, clip=1.0, swap=i % 2 == 1, activation=nn.SiLU)
    # a rare huge draw in one layer is a gradient that nothing survives
    return Flow([coupling, LOFT(width, threshold=30.0)])


def _order(width: int, i: int) -> range:
    return range(width) if i % 2 == 0 else range(width - 1, -1, -1)


FLOWS: dict[str, Callable[[int, int, Sequence[int]], Layer] | None] = {
    "affine": _affine,
    "spline": lambda width, i, hidden: SplineCoupling(width, hidden, swap=i % 2 == 1, activation=nn.SiLU),
    "iaf": lambda width, i, hidden: IAF(width, hidden, clip=1.0, order=_order(width, i), activation=nn.SiLU),
    "autoregressive spline": lambda width, i, hidden: SplineAutoregressive(
        width, hidden, order=_order(width, i), activation=nn.SiLU
    ),
    "planar": lambda width, i, hidden: Planar(width),
    "gaussian": None,
}
