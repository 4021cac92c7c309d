from __future__ import annotations

import pyro
import pytest
import torch

from pyrogen.distributions.boltzmann import Bernoulli, log_partition
from pyrogen.errors import SettingsError
from pyrogen.evaluate import log_z_along
from pyrogen.inference import Trajectory, fit
from pyrogen.models import DBM, PPCA, RBM


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


def rows(n=60):
    return (torch.rand(n, 6, generator=torch.Generator().manual_seed(1)) < 0.3).float()


def trained(model, trajectory, **settings):
    model.prepare(rows())
    return fit(model, rows(), callbacks=[trajectory], epochs=7, learning_rate=0.05, progress=False, **settings)


@pytest.mark.parametrize("average", [None, 0.9])
def test_it_has_the_machines_before_between_and_at_the_end(average):
    model, trajectory = RBM(Bernoulli(6), Bernoulli(4)), Trajectory(every=3)
    start = model.W.detach().clone()
    trained(model, trajectory, average=average)
    assert len(trajectory.machines) == 4  # before, after 3 and 6, at the end
    assert torch.equal(trajectory.machines[0].W, start)
    # the weights that the model ends with, averaged ones too
    assert torch.equal(trajectory.machines[-1].W, model.W.detach())
    assert not torch.equal(trajectory.machines[1].W, trajectory.machines[2].W)


@pytest.mark.parametrize("deep", [False, True])
def test_annealing_along_it_finds_log_z(deep):
    model = DBM([Bernoulli(6), Bernoulli(4), Bernoulli(3)]) if deep else RBM(Bernoulli(6), Bernoulli(4))
    trajectory = Trajectory()
    trained(model, trajectory)
    found = log_z_along(trajectory.machines, data=model.filled(rows()), steps=5, chains=4000)
    exact = float(log_partition(trajectory.machines[-1]))
    # a false alarm in 15,000
    assert abs(found.value - exact) < 4 * found.stderr + 1e-5
    assert found.settings["machines"] == 9 and found.kind == "lower bound"


def test_other_models_are_told_and_trained_all_the_same():
    with pytest.warns(UserWarning, match="a Trajectory of PPCA"):
        fit(PPCA(6, 2), rows(), callbacks=[Trajectory()], epochs=1, progress=False)


def test_what_cannot_be_is_refused():
    with pytest.raises(SettingsError, match="every = 0"):
        Trajectory(0)
    with pytest.raises(SettingsError, match="no machines"):
        log_z_along([], data=rows())
