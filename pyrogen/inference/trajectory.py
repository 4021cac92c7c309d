"""The machines that a training went through, to anneal along."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyrogen.distributions.boltzmann import Machine
from pyrogen.errors import ModelError, SettingsError
from pyrogen.inference.callbacks import Callback
from pyrogen.models.contracts import Energy

if TYPE_CHECKING:
    from pyrogen.inference.fit import Fit
    from pyrogen.inference.training import Training


class Trajectory(Callback):
    """Keeps the machine before the first epoch, after every so many epochs, and of the model as it is in the end.

        trajectory = Trajectory()
        fit(rbm, x, callbacks=[trajectory])
        log_z_along(trajectory.machines, data=x)

    A run that goes on begins with the machine that it went on with. Each is V x H numbers, on the model's device.

    Source: Bereux, Decelle, Furtlehner, Rosset and Seoane 2024, arXiv:2405.15376.

    Args:
        every: epochs between two machines.

    Raises:
        SettingsError: `every` is not a positive whole number.
    """

    def __init__(self, every: int = 1) -> None:
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise SettingsError(got=f"every = {every!r}", need="a positive whole number of epochs", fix="every=1")
        self.every, self.machines = every, []
        self._model: Energy | None = None

    def on_start(self, training: Training) -> None:
        self._model, self.machines = _energy(training.programs.pair), []
        self._keep(self._model)

    def on_epoch(self, epoch: int, numbers: dict[str, float]) -> None:
        if self._model is not None and epoch % self.every == 0:
            self._keep(self._model)

    def on_end(self, result: Fit) -> None:
        self._keep(_energy(result.model))
        self._model = None

    def _keep(self, model: Energy) -> None:
        machine = model.machine().detached()
        self.machines: list[Machine]
        self.machines.append(replace(machine, W=machine.W.clone(), b=machine.b.clone(), c=machine.c.clone()))


def _energy(model: Any) -> Energy:
    if not isinstance(model, Energy):
        raise ModelError(got=f"a Trajectory of {type(model).__name__}", need="an Energy model", fix="RBM(...)")
    return model
