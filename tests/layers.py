"""The smallest instance of every layer: one line here, and the tests of all layers run on it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pyrogen.distributions.transforms import (
    IAF,
    LOFT,
    MAF,
    ActNorm,
    AdditiveCoupling,
    Affine,
    AffineCoupling,
    Flow,
    Householder,
    Layer,
    LULinear,
    Permutation,
    Planar,
    Planars,
    Radial,
    SplineAutoregressive,
    SplineCoupling,
    Sylvester,
)

Make = Callable[[int], Layer]
MakeConditional = Callable[[int, int], Layer]

PLAIN: dict[str, Make] = {
    "planar": Planar,
    "planars": lambda d: Planars(d, layers=3),
    "radial": Radial,
    "sylvester": lambda d: Sylvester(d, planes=min(d, 3)),
    "householder": lambda d: Householder(d, reflections=3),
    "permutation": lambda d: Permutation.random(d, torch.Generator().manual_seed(d)),
    "lu": LULinear,
    "affine": lambda d: Affine(torch.randn(d), torch.rand(d) + 0.5),
    "affine-full": lambda d: Affine(torch.randn(d), torch.randn(d, d).tril(-1) + torch.diag(torch.rand(d) + 0.5)),
    "actnorm": ActNorm,
    "loft": lambda d: LOFT(d, threshold=1.0),
    "nice": lambda d: AdditiveCoupling(d, hidden=(8,)),
    "realnvp": lambda d: AffineCoupling(d, hidden=(8,), swap=True),
    "spline-coupling": lambda d: SplineCoupling(d, hidden=(8,), bins=5, bound=2.0),
    "iaf": lambda d: IAF(d, hidden=(8, 8), order=range(d - 1, -1, -1)),
    "maf": lambda d: MAF(d, hidden=(8, 8)),
    "spline-autoregressive": lambda d: SplineAutoregressive(d, hidden=(8,), bins=5, bound=2.0),
    "flow": lambda d: Flow([Planar(d), Permutation.reversal(d), IAF(d, hidden=(8,)), LULinear(d).inv]),
}
CONDITIONAL: dict[str, MakeConditional] = {
    "planar": lambda d, c: Planar(d, context=c),
    "planars": lambda d, c: Planars(d, layers=3, context=c),
    "radial": lambda d, c: Radial(d, context=c),
    "sylvester": lambda d, c: Sylvester(d, planes=min(d, 3), context=c),
    "householder": lambda d, c: Householder(d, reflections=2, context=c),
    "nice": lambda d, c: AdditiveCoupling(d, hidden=(8,), context=c),
    "realnvp": lambda d, c: AffineCoupling(d, hidden=(8, 8), context=c),
    "spline-coupling": lambda d, c: SplineCoupling(d, hidden=(8,), bins=4, bound=2.0, context=c, swap=True),
    "iaf": lambda d, c: IAF(d, hidden=(8,), context=c),
    "maf": lambda d, c: MAF(d, hidden=(8,), context=c),
    "spline-autoregressive": lambda d, c: SplineAutoregressive(d, hidden=(8,), bins=4, bound=2.0, context=c),
    "flow": lambda d, c: Flow([Planar(d, context=c), LULinear(d), IAF(d, hidden=(8,), context=c)]),
}
COUPLINGS = ("nice", "realnvp", "spline-coupling")  # which need two entries
IDENTITIES = ("lu", "actnorm", "nice", "realnvp", "spline-coupling", "iaf", "maf", "spline-autoregressive", "sylvester")


def stirred(layer: Layer, seed: int = 3, by: float = 0.4) -> Layer:
    """The layer in float64 with all its parameters moved at random, so that none is at a special value."""
    layer = layer.double()
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(by * torch.randn(p.shape, generator=source, dtype=p.dtype))
    return layer


def plain(name: str, width: int, seed: int = 3, by: float = 0.4) -> Layer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return stirred(PLAIN[name](width), seed, by)


def conditional(name: str, width: int, context: int, seed: int = 3) -> Layer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return stirred(CONDITIONAL[name](width, context), seed)


def cases(table: dict, widths: tuple[int, ...]) -> list[tuple[str, int]]:
    """Names with widths that they exist in."""
    return [(name, d) for name in table for d in widths if not (d == 1 and name in COUPLINGS)]
