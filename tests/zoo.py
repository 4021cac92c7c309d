"""The smallest instance of every model: one line here, and the contract tests run on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pyrogen.distributions import LevelConditional, LogisticMixtureConditional, NormalConditional
from pyrogen.distributions.boltzmann import Bernoulli, Categorical, Exact, Gaussian, Persistent, Spin
from pyrogen.distributions.transforms import (
    IAF,
    ActNorm,
    AffineCoupling,
    CylinderSpline,
    Flow,
    Rotation,
    SplineCoupling,
    Sylvester,
)
from pyrogen.models import (
    DBM,
    DBN,
    FVBN,
    GSN,
    MADE,
    MAF,
    NADE,
    NICE,
    NSF,
    PPCA,
    RBM,
    VAE,
    BernoulliPixels,
    CategoricalPixels,
    ClassRBM,
    DeepNADE,
    DequantizedFlow,
    DiscretizedLogisticPixels,
    FlowVAE,
    GaussianPixels,
    KernelDensity,
    MixtureOfBernoullis,
    Model,
    PixelCNN,
    PixelRNN,
    PlanarVAE,
    RealNVP,
    SphereFlow,
    StandardNormal,
    TorusFlow,
    TwoLayerVAE,
    VampPrior,
    glow,
)
from pyrogen.nn import MLP, ConvDecoder, ConvEncoder

SMALL = {"latent": 2, "hidden": [5]}

ZOO: dict[str, Callable[[], Model]] = {
    "vae": lambda: VAE(MLP(4, 5, 4), MLP(2, 5, 4), BernoulliPixels(4), StandardNormal(2)),
    "vae-vamp": lambda: VAE(MLP(4, 5, 4), MLP(2, 5, 4), BernoulliPixels(4), VampPrior(2, torch.rand(3, 4))),
    "vae-gaussian": lambda: VAE(nn.Linear(4, 4), nn.Linear(2, 4), GaussianPixels(4), StandardNormal(2)),
    "vae-logistic": lambda: VAE(MLP(4, 5, 4), MLP(2, 5, 8), DiscretizedLogisticPixels(4), StandardNormal(2)),
    "vae-categorical": lambda: VAE(MLP(4, 5, 4), MLP(2, 5, 12), CategoricalPixels(4, bins=3), StandardNormal(2)),
    "vae-conv": lambda: VAE(
        ConvEncoder((1, 4, 4), 4, (2,), 5),
        ConvDecoder(2, (1, 4, 4), 1, (2,), 5),
        BernoulliPixels(16),
        StandardNormal(2),
    ),
    "vae-two-layer": lambda: TwoLayerVAE.build(
        4, (1, 2, 2), "binary", **SMALL, bridge=5, prior="vamp", pseudo_inputs=3
    ),
    "ppca": lambda: PPCA(4, 2),
    "rbm": lambda: RBM(Bernoulli(4), Bernoulli(3), particles=Persistent(1, 20), scale=0.3),
    "rbm-spin-gaussian": lambda: RBM(Spin(4), Gaussian(2), particles=Exact(), scale=0.3),
    "rbm-gaussian": lambda: RBM(Gaussian(4), Bernoulli(3), particles=Persistent(1, 20), scale=0.3),
    "class-rbm": lambda: ClassRBM(Bernoulli(3), 2, Bernoulli(3), particles=Persistent(1, 20), scale=0.3),
    "rbm-one-hot": lambda: RBM(Categorical(2, 3), Spin(2), particles=Persistent(1, 20), scale=0.3),
    "fvbn": lambda: FVBN(4, order="random", seed=3),
    "made": lambda: MADE(4, (5, 3), direct=True),
    "made-levels": lambda: MADE(4, (5,), LevelConditional(3)),
    "made-real": lambda: MADE(4, (5,), NormalConditional(2)),
    # evaluation mode: in training the program takes one order at a time, and is a bound
    "made-orders": lambda: MADE(4, (5, 5), order="random", n_orders=3, sees_mask=True).eval(),
    "pixelcnn": lambda: PixelCNN((1, 2, 2), channels=3, layers=1, first_kernel=3),
    "pixelcnn-levels": lambda: PixelCNN((2, 1, 2), LevelConditional(3), channels=3, layers=1, first_kernel=3),
    "pixelcnn-logistic": lambda: PixelCNN((1, 2, 2), LogisticMixtureConditional(4, 2), channels=3, layers=1),
    "pixelrnn-row": lambda: PixelRNN((1, 2, 2), kind="row", units=2, layers=1, first_kernel=3),
    "pixelrnn": lambda: PixelRNN((1, 2, 2), units=2, first_kernel=3),
    "nade": lambda: NADE(4, 5, order="random", seed=3),
    "nade-levels": lambda: NADE(4, 5, LevelConditional(3), activation="relu"),
    "deep-nade": lambda: DeepNADE(4, (5, 3), n_orders=2).eval(),
    "gsn": lambda: GSN(MLP(4, 5, 4), 4, walkback=2, burn_in=20),
    "bernoulli-mixture": lambda: MixtureOfBernoullis(4, 3),
    "vae-planar": lambda: PlanarVAE.build(4, (1, 2, 2), "binary", **SMALL, flows=2, context=3),
    "vae-iaf": lambda: FlowVAE(
        MLP(4, 5, 7), MLP(2, 5, 4), BernoulliPixels(4), StandardNormal(2), IAF(2, (5,), context=3)
    ),
    "vae-sylvester": lambda: FlowVAE(
        MLP(4, 5, 7),
        MLP(2, 5, 4),
        BernoulliPixels(4),
        StandardNormal(2),
        Flow([Sylvester(2, context=3), SplineCoupling(2, (5,), context=3)]),
    ),
    "nice": lambda: NICE(4, layers=2, hidden=(5,)),
    "realnvp": lambda: RealNVP(4, layers=2, hidden=(5,)),
    "maf": lambda: MAF(4, layers=2, hidden=(5,)),
    "nsf": lambda: NSF(4, layers=2, hidden=(5,), bins=4),
    "dequantized-flow": lambda: DequantizedFlow(Flow([ActNorm(4), AffineCoupling(4, (5,))]), levels=3),
    "glow": lambda: DequantizedFlow(glow((1, 4, 4), levels=2, steps=1, channels=3), levels=3),
    "sphere-flow": lambda: SphereFlow(Flow([Rotation(3, 1.0), CylinderSpline(4, (5,)), Rotation(3, 1.0)])),
    "sphere-flow-exponential": lambda: SphereFlow.build(4, (1, 1, 4), "sphere", kind="exponential", layers=2, bumps=2),
    # evaluation mode: in training each row is scored by the kernels of the others
    "kernel-density": lambda: KernelDensity(3, points=5, finest=0.3, scales=2).eval(),
    "torus-flow": lambda: TorusFlow.build(3, (1, 1, 3), "torus", layers=2, bins=4, hidden=[5]),
    "dbm": lambda: DBM([Bernoulli(4), Bernoulli(3), Bernoulli(2)], particles=Persistent(1, 20), scale=0.3),
    "dbm-mixed": lambda: DBM([Gaussian(4), Spin(2), Categorical(1, 3), Bernoulli(2)], particles=Exact(), scale=0.3),
    "dbn": lambda: DBN([Bernoulli(4), Bernoulli(3), Bernoulli(2)], particles=Persistent(1, 20), scale=0.3),
}


def small(name: str) -> Model:
    """A fresh instance with the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return ZOO[name]()


def all_of(kind: type) -> list[str]:
    """The names of the models that keep a contract."""
    return [name for name in ZOO if isinstance(small(name), kind)]
