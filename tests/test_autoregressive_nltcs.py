"""On real data of 16 bits, whose 65536 states can be listed: the density is one, and better than the baseline's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from pyrogen.data import load
from pyrogen.evaluate import log_likelihood
from pyrogen.inference import Cosine, fit
from pyrogen.models import MADE, NADE, MixtureOfBernoullis

FOLDER = os.environ.get("PYROGEN_DATA")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not FOLDER or not Path(FOLDER, "uci", "nltcs.npz").is_file(), reason="no uci/nltcs.npz in PYROGEN_DATA"
    ),
]


def trained(make, data, rate):
    torch.manual_seed(0)
    model = make()
    model.prepare(data["train"])
    steps = 20 * 81
    fit(
        model,
        data["train"],
        epochs=20,
        batch_size=200,
        learning_rate=rate,
        schedule=Cosine(steps),
        validation=data["valid"],
        progress=False,
    )
    return model


def test_made_and_nade_beat_the_mixture_of_bernoullis_and_all_sum_to_one():
    data = load("nltcs")
    models = {
        "mixture": trained(lambda: MixtureOfBernoullis(16, 50), data, 0.02),
        "made": trained(lambda: MADE(16, (100,)), data, 3e-3),
        "nade": trained(lambda: NADE(16, 50), data, 3e-3),
    }
    rows = {name: log_likelihood(model, data["test"], method="exact").rows for name, model in models.items()}
    for model in models.values():
        with torch.no_grad():
            states = model.dist().enumerate_support()
            total = sum(model.log_prob(part).double().exp().sum() for part in states.split(8192))
        assert abs(float(total) - 1) < 1e-4
    for name in ("made", "nade"):
        gain = rows[name] - rows["mixture"]
        # paired: five standard errors of the difference, row by row
        assert float(gain.mean()) > -5 * float(gain.std()) / len(gain) ** 0.5
    assert max(rows["made"].mean(), rows["nade"].mean()) > rows["mixture"].mean()
