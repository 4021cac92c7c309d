"""The state of a training run: all that its next step depends on, and the steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from pyrogen.errors import NonFiniteError, SettingsError
from pyrogen.inference.adam import FusedAdam
from pyrogen.inference.blame import check_finite
from pyrogen.inference.compiling import Lowered
from pyrogen.inference.guard import Guard
from pyrogen.inference.objectives import Objective
from pyrogen.inference.parallel import Ranks
from pyrogen.inference.placing import Rows
from pyrogen.inference.programs import Programs
from pyrogen.inference.schedules import Schedule
from pyrogen.inference.state import State, put, take
from pyrogen.ops import evenly

SCORED = 2000
"""Training rows, spread evenly, that an objective with a score of its own is asked about after an epoch."""
Optimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


class Training:
    """Weights, optimiser, average, random state, position in the data, history, best epoch.

    A pass over the data is `permutation` cut into batches; `position` rows of it are done and their
    bounds sum to `total`. So a run can stop after any step and go on as if it had not.

    In one of several processes, `x` is its part of a batch and its noise is its own; all else, the total too, is
    the same in all. Validation rows are scored by every process, in the same noise, and the first one's score counts.

    Args:
        programs: what is trained; on the device that `data` gives batches on.
        data: the rows.
        validation: rows to score after each epoch.
        average: decay of the exponential average of the weights.
    """

    def __init__(
        self,
        programs: Programs,
        data: Tensor | Rows,
        validation: Tensor | Rows | None,
        objective: Objective,
        *,
        batch_size: int,
        learning_rate: float,
        schedule: Schedule | None,
        optimizer: Optimizer | None,
        clip: float | None,
        average: float | None,
        seed: int,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.programs, self.objective = programs, objective
        self.data = data if isinstance(data, Rows) else Rows(data, data.device)
        self.validation = Rows(validation, validation.device) if isinstance(validation, Tensor) else validation
        self.batch_size, self.clip, self.average, self.seed = batch_size, clip, average, seed
        self._start()
        parameters = list(self.named.values())
        self.optimizer = optimizer(parameters) if optimizer else FusedAdam(parameters, learning_rate)
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            raise SettingsError(
                got=f"an optimizer that gives {self.optimizer!r}",
                need="a torch optimiser for the parameters",
                fix="optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1)",
            )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, schedule) if schedule else None
        self.guard = Guard(self.optimizer, data.device)
        self.averaged = [p.detach().clone() for p in parameters] if average else []
        self.order = torch.Generator().manual_seed(seed)
        self.permutation = torch.zeros(0, dtype=torch.long)
        self.position, self.total = 0, torch.zeros((), device=data.device, dtype=torch.float64)
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.history: dict[str, list[float]] = {"epoch": [], "step": [], "train": [], "seconds": []}
        if validation is not None:
            self.history["valid"] = []
        self.lowered: Lowered | None = None  # set when steps are not to run eagerly
        self.mode: str | None = None  # how steps run, once that is chosen; a run that goes on has it from before
        self.best_score, self.best_epoch = -math.inf, 0
        self.best: list[Tensor] = []

    def _start(self) -> None:
        """Everything about the programs that can fail, before the first step."""
        first, size = self.first, self.size
        self.named = self.programs.parameters(first, size)  # a lazy guide makes its parameters here
        self.ranks.agree({"parameters": [(name, tuple(p.shape), str(p.dtype)) for name, p in self.named.items()]})
        modules = self.programs.modules
        self.ranks.broadcast([*self.parameters, *(t for m in modules for t in (*m.parameters(), *m.buffers()))])
        self.nesting = self.programs.nesting(first, size)
        # two rows at least: with one, a model without a plate looks like one with it
        self.programs.rehearse(self.data[: max(2, len(first))], size, self.objective, self.nesting)
        last = size % self.batch_size
        if 0 < last < size and self.ranks.world == 1:
            self.programs.rehearse(self.data[:last], size, self.objective, self.nesting)

    @property
    def first(self) -> Tensor:
        """Rows of the shape of a step's."""
        return self.ranks.share(self.data[: self.batch_size])

    @property
    def size(self) -> int:
        return self.data.shape[0]

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.named.values())

    def batches(self) -> Iterator[Tensor]:
        """The rest of this pass over the data, or a new pass in a new order."""
        if self.position == 0:
            self.permutation = torch.randperm(self.size, generator=self.order)
            self.total.zero_()
        rows = self.permutation.to(self.data.home)
        while self.position < self.size:
            yield self.data[self.ranks.share(rows[self.position : self.position + self.batch_size])]

    def rows_of(self, step: int) -> Tensor | None:
        """This process's rows of a step that was done, the first is 1; None if it was not in this pass."""
        done = math.ceil(self.position / self.batch_size)
        start = (step - 1 - (self.step - done)) * self.batch_size
        if not 0 <= start < self.position:
            return None
        rows = self.permutation[start : start + self.batch_size].to(self.data.home)
        return self.data[self.ranks.share(rows)]

    def update(self, x: Tensor) -> None:
        """One step on a minibatch, of which x are this process's rows."""
        rows = len(x) if self.ranks.world == 1 else min(self.batch_size, self.size - self.position)
        self.guard.before(self.step + 1)
        bound = self.gradient(x) if len(x) else self._no_gradient()
        bound = self.ranks.average_gradients(self.named, bound, len(x) / rows)
        self.total.add_(bound, alpha=rows)
        self.guard.watch(self.total)
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        if self.scheduler:
            self.scheduler.step()
        if self.average:
            self._follow(self.average)
        self.step += 1
        self.position += rows

    def gradient(self, x: Tensor) -> Tensor:
        """Leave the gradient of the loss in the parameters; give the bound."""
        bound = self.lowered(x, self.step) if self.lowered else None
        return self.eager_gradient(x) if bound is None else bound

    def eager_gradient(self, x: Tensor) -> Tensor:
        value = self.programs.evaluate(self.objective, x, self.size, self.step, self.nesting)
        self.optimizer.zero_grad(set_to_none=True)
        value.loss.backward()
        return value.bound

    def _no_gradient(self) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        return torch.zeros((), device=self.data.device)

    def close_epoch(self) -> None:
        """Write the pass into the history; score the validation rows.

        Raises:
            NonFiniteError: a bound or the weights are not finite since a step of the pass.
        """
        check_finite(self, weights=True)
        train = float(self.total) / self.size
        # statistics of a batch, such as BatchNorm's, are those of the first process's rows
        self.ranks.broadcast(buffer for module in self.programs.modules for buffer in module.buffers())
        self.objective.after_epoch(self)
        train = self._train_score(train)
        self.epoch, self.position = self.epoch + 1, 0
        for key, value in {"epoch": self.epoch, "step": self.step, "train": train, "seconds": self.seconds}.items():
            self.history[key].append(value)
        if self.validation is not None:
            self._validate(self.validation)

    def _train_score(self, bound: float) -> float:
        """What the history says of the training rows: the mean bound of the pass, unless the objective knows better."""
        some = self.data[evenly(self.size, SCORED).to(self.data.home)]
        score = self.objective.score(self.programs, self.programs.rows(some), self.seed)
        return bound if score is None else self.ranks.told(float(score))

    def _validate(self, x: Rows) -> None:
        self._swap()
        score = self.ranks.told(self._score(x))
        if not math.isfinite(score):
            raise NonFiniteError(
                got=f"a bound of {score} on the validation rows after step {self.step}",
                need="a finite one",
                fix="validation rows that the model gives a positive density, or a smaller learning_rate",
            )
        self.history["valid"].append(score)
        if score > self.best_score:
            self.best_score, self.best_epoch = score, self.epoch
            if self.objective.comparable(self.programs.model):
                self.best = [p.detach().clone() for p in self.parameters]
        self._swap()

    @torch.no_grad()
    def _score(self, x: Rows) -> float:
        """The mean bound of rows, in the same noise at every call."""
        total = torch.zeros((), device=x.device, dtype=torch.float64)
        with self.programs.evaluating(), torch.random.fork_rng():
            torch.manual_seed(self.seed)
            score = self.objective.score(self.programs, self.programs.rows(x[:]), self.seed)
            if score is not None:
                return float(score)
            for batch in x.split(max(self.batch_size, 500)):
                value = self.programs.evaluate(self.objective, batch, x.shape[0], self.step, self.nesting)
                total += value.bound * len(batch)
        return float(total) / x.shape[0]

    @torch.no_grad()
    def _follow(self, average: float) -> None:
        # the decay grows from 0.1 as in Adam's bias correction, or the start would weigh for ever
        decay = min(average, (1 + self.step) / (10 + self.step))
        for averaged, parameter in zip(self.averaged, self.parameters, strict=True):
            averaged.lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchange the weights and their average, if there is one."""
        for parameter, averaged in zip(self.parameters, self.averaged, strict=False):
            kept = parameter.clone()
            parameter.copy_(averaged)
            averaged.copy_(kept)

    def state(self) -> State:
        """All that the next step depends on, copied; between any two steps."""
        return take(self)

    def restore(self, state: State) -> None:
        """Go on from a state of the same model, data and settings, to the bit on a CPU.

        Raises:
            DataError: the state does not fit; nothing is changed then.
        """
        put(self, state)

    @torch.no_grad()
    def finish(self) -> None:
        """Leave the best, or the averaged, weights in the model."""
        chosen = self.best or self.averaged
        for parameter, value in zip(self.parameters, chosen, strict=False):
            parameter.copy_(value)
