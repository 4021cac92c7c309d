"""Models with tractable densities: exact log p(x), exact draws, a guide with nothing to do."""

from pyrogen.models.autoregressive.base import AutoregressiveModel
from pyrogen.models.autoregressive.fvbn import FVBN
from pyrogen.models.autoregressive.gsn import GSN
from pyrogen.models.autoregressive.made import MADE
from pyrogen.models.autoregressive.mixture import MixtureOfBernoullis
from pyrogen.models.autoregressive.nade import NADE, DeepNADE
from pyrogen.models.autoregressive.pixelcnn import PixelCNN
from pyrogen.models.autoregressive.pixelrnn import PixelRNN

__all__ = [
    "FVBN",
    "GSN",
    "MADE",
    "NADE",
    "AutoregressiveModel",
    "DeepNADE",
    "MixtureOfBernoullis",
    "PixelCNN",
    "PixelRNN",
]
