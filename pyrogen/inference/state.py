"""All that the next step of a training depends on, as tensors and as JSON, and back again to the bit.

Not in it: what a module keeps outside its parameters and buffers, and what a schedule or an optimiser keeps
outside `state_dict`. Python's and NumPy's random states are not either; noise is torch's here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import torch
from torch import Tensor

from pyrogen.errors import DataError, ModelError
from pyrogen.inference.checkpoint import derive
from pyrogen.inference.compiling import Compile

if TYPE_CHECKING:
    from pyrogen.inference.training import Training

_MODES = tuple(mode for mode in get_args(Compile) if mode != "auto")
_SCHEDULER = ("base_lrs", "_last_lr", "last_epoch", "_step_count")


class State(NamedTuple):
    """A training between two steps."""

    tensors: dict[str, Tensor]  # on the CPU, no two of them share memory
    meta: dict[str, Any]  # what JSON can hold


def take(training: Training) -> State:
    """A copy of the state; the training may go on. All processes take it together, and get the same.

    Raises:
        ModelError: the optimiser keeps something that is neither a tensor nor a number.
    """
    tensors = _places(training)
    tensors |= {f"best/{name}": value for name, value in zip(training.named, training.best, strict=False)}
    tensors |= {"permutation": training.permutation, "total": training.total, "rng/order": training.order.get_state()}
    noise = {"cpu": torch.get_rng_state()}
    if training.data.device.type == "cuda":
        noise["cuda"] = torch.cuda.get_rng_state(training.data.device)
    for rank, states in enumerate(training.ranks.gather(noise)):
        tensors |= {f"{_noise_of(rank)}/{device}": state for device, state in states.items()}
    optimizer = [
        {key: _packed(value, f"optimizer/{i}/{key}", tensors) for key, value in entries.items()}
        for i, entries in enumerate(training.optimizer.state.get(p, {}) for p in training.parameters)
    ]
    groups = [
        {key: _packed(value, f"group/{i}/{key}", tensors) for key, value in group.items() if key != "params"}
        for i, group in enumerate(training.optimizer.param_groups)
    ]
    scheduler = {key: getattr(training.scheduler, key) for key in _SCHEDULER} if training.scheduler else None
    meta = {
        "epoch": training.epoch,
        "step": training.step,
        "position": training.position,
        "seconds": training.seconds,
        "compile": training.mode,
        "history": {key: [_packed(v, "", {}) for v in values] for key, values in training.history.items()},
        "best_score": _packed(training.best_score, "", {}),
        "best_epoch": training.best_epoch,
        "optimizer": optimizer,
        "groups": groups,
        "scheduler": _packed(scheduler, "scheduler", tensors),
    }
    return State({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}, meta)


def put(training: Training, state: State) -> None:
    """Set a training that has not begun to a state: all of it, or nothing if it does not fit.

    Raises:
        DataError: the state is that of another model or optimiser, or its parts contradict each other.
    """
    tensors, meta = state
    places = _places(training)
    _check_tensors(training, places, tensors)
    _check_numbers(training, meta)
    _check_order(training, tensors.get("permutation"), meta["position"])
    before = {name: place.detach().clone() for name, place in places.items()}
    try:
        history = {key: [_unpacked(value, {}) for value in meta["history"][key]] for key in training.history}
        score = _unpacked(meta["best_score"], {})
        if not all(type(value) in (int, float) for values in [*history.values(), [score]] for value in values):
            raise TypeError("a history or a score that are no numbers")
        schedule = _schedule(training, meta["scheduler"], tensors)
        _put_optimizer(training, tensors, meta)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        _copy(before, places)
        raise _misfit(f"numbers or an optimiser's state that are not of this one ({error})") from error
    _copy(tensors, places)
    for module in training.programs.modules:
        derive(module)
    # the best of scores that cannot be compared is not kept, though an earlier release did
    training.best = _best(training, tensors) if training.objective.comparable(training.programs.model) else []
    training.permutation = tensors["permutation"].clone()
    training.total.copy_(tensors["total"])
    for name in ("epoch", "step", "position", "seconds", "best_epoch"):
        setattr(training, name, meta[name])
    training.mode = meta.get("compile")
    training.history, training.best_score = history, score
    for key, value in schedule.items():
        setattr(training.scheduler, key, value)
    training.order.set_state(tensors["rng/order"])
    own = _noise_of(training.ranks.rank)
    torch.set_rng_state(tensors[f"{own}/cpu"])  # last: whatever is above may have drawn
    if training.data.device.type == "cuda" and f"{own}/cuda" in tensors:
        torch.cuda.set_rng_state(tensors[f"{own}/cuda"], training.data.device)


def _noise_of(rank: int) -> str:
    """Where the random state of a process is."""
    return f"rng/{rank}" if rank else "rng"


def _places(training: Training) -> dict[str, Tensor]:
    """The tensors that a state is copied from and into: weights, their average, buffers, frozen parameters."""
    places = {f"weights/{name}": parameter for name, parameter in training.named.items()}
    places |= {f"average/{name}": value for name, value in zip(training.named, training.averaged, strict=False)}
    trained = {id(parameter) for parameter in training.parameters}
    for i, module in enumerate(training.programs.modules):
        places |= {f"buffers/{i}/{name}": buffer for name, buffer in module.named_buffers()}
        frozen = {name: p for name, p in module.named_parameters() if id(p) not in trained and not p.requires_grad}
        places |= {f"frozen/{i}/{name}": p for name, p in frozen.items()}
    return places


def _check_tensors(training: Training, places: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    expected = {name: (place.dtype, place.shape) for name, place in places.items()}
    expected |= {"total": (torch.float64, torch.Size())}
    noises = [f"{_noise_of(rank)}/cpu" for rank in range(training.ranks.world)]
    for name in (*noises, "rng/order"):
        expected[name] = (torch.uint8, training.order.get_state().shape)  # of both, a state of the CPU's generator
    if any(name.startswith("best/") for name in tensors):
        expected |= {f"best/{name}": (p.dtype, p.shape) for name, p in training.named.items()}
    for name, (dtype, shape) in expected.items():
        found = tensors.get(name)
        if found is None or found.dtype != dtype or found.shape != shape:
            what = "no such tensor" if found is None else f"{found.dtype} of shape {tuple(found.shape)}"
            raise _misfit(f"{name}: {what}, where this model has {dtype} of shape {tuple(shape)}")
    free = ("optimizer/", "group/", "scheduler", "permutation", *(name[:-3] + "cuda" for name in noises))
    extra = [name for name in tensors if name not in expected and not name.startswith(free)]
    if extra:
        raise _misfit(f"{extra[0]}, which this model does not have")
    try:
        for name in (*noises, "rng/order"):
            torch.Generator().set_state(tensors[name])
    except (RuntimeError, TypeError) as error:
        raise _misfit(f"{name}, which is no state of a generator") from error


def _check_numbers(training: Training, meta: dict[str, Any]) -> None:
    """The numbers are of their types and agree with each other and with the data."""
    counts = [meta.get(name) for name in ("epoch", "step", "position", "best_epoch")]
    if not all(type(n) is int and n >= 0 for n in counts):
        raise _misfit("an epoch, a step or a position that is no count")
    if type(meta.get("seconds")) is not float or type(meta.get("best_score")) not in (float, dict):
        raise _misfit("a time or a score that is no number")
    if meta.get("compile") not in (None, *_MODES):
        raise _misfit("a way to compile that there is not")
    history = meta.get("history")
    if not isinstance(history, dict) or history.keys() != training.history.keys():
        raise _misfit(f"a history that is not one of {', '.join(training.history)}")
    rows = [values for values in history.values() if isinstance(values, list) and len(values) == meta["epoch"]]
    if len(rows) != len(history) or not all(type(v) in (int, float, dict) for values in rows for v in values):
        raise _misfit(f"a history that is not one of {meta['epoch']} epochs")
    if not all(isinstance(meta.get(name), list) for name in ("optimizer", "groups")) or "scheduler" not in meta:
        raise _misfit("no state of an optimiser")


def _check_order(training: Training, order: Tensor | None, position: int) -> None:
    if order is None or order.dtype != torch.long or order.dim() != 1 or position > training.size:
        raise _misfit("a position in the data that is not in these rows")
    begun = order.numel() > 0 or position > 0
    if begun and not torch.equal(order.sort().values, torch.arange(training.size)):
        raise _misfit(f"an order that is not one of these {training.size} rows")


def _put_optimizer(training: Training, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Fill the optimiser. A step without gradient shows which tensors it keeps; `put` undoes what that did."""
    optimizer, parameters = training.optimizer, training.parameters
    groups = [{key: _unpacked(value, tensors) for key, value in group.items()} for group in meta["groups"]]
    for group, own in zip(groups, optimizer.param_groups, strict=True):
        _check_like(group, {key: value for key, value in own.items() if key != "params"}, "groups")
    saved = [{key: _unpacked(value, tensors) for key, value in entries.items()} for entries in meta["optimizer"]]
    if any(saved):
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    kept = [dict(optimizer.state.get(parameter, {})) for parameter in parameters]
    optimizer.state.clear()
    for own, entries in zip(kept, saved, strict=True):
        if entries:
            _check_like(entries, own, "state")
    for parameter, own, entries in zip(parameters, kept, saved, strict=True):
        if entries:
            optimizer.state[parameter] = {key: _into(own[key], value) for key, value in entries.items()}
    for group, own in zip(groups, optimizer.param_groups, strict=True):
        own.update({key: _into(own[key], value) for key, value in group.items()})


def _schedule(training: Training, saved: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What the scheduler is to hold."""
    if (training.scheduler is None) != (saved is None):
        raise ValueError("a schedule, or none")
    values = _unpacked(saved, tensors) if saved is not None else {}
    own = {key: getattr(training.scheduler, key) for key in _SCHEDULER} if training.scheduler else {}
    _check_like(values, own, "schedule")
    return values


def _check_like(found: dict[str, Any], own: dict[str, Any], what: str) -> None:
    """The same keys with values of the same types and shapes; a whole number may stand for another one."""
    if found.keys() != own.keys():
        raise ValueError(f"{what} with other keys")
    for key, value in own.items():
        if _kind(found[key]) != _kind(value):
            raise ValueError(f"{key} in {what} is {_kind(found[key])}, not {_kind(value)}")


def _kind(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape)
    if isinstance(value, list | tuple):
        return [_kind(entry) for entry in value]
    return "number" if type(value) in (int, float) else type(value).__name__


@torch.no_grad()
def _into(own: Any, value: Any) -> Any:
    """The value, in the tensor that the optimiser holds already, if it does."""
    return own.copy_(value) if isinstance(own, Tensor) else value


@torch.no_grad()
def _copy(tensors: dict[str, Tensor], places: dict[str, Tensor]) -> None:
    for name, place in places.items():
        value = tensors[name].to(place.device)
        if not torch.equal(place, value):  # a constant buffer may be a view that cannot be written
            place.copy_(value)


def _best(training: Training, tensors: dict[str, Tensor]) -> list[Tensor]:
    found = {name: tensors.get(f"best/{name}") for name in training.named}
    return [value.to(training.data.device, copy=True) for value in found.values() if value is not None]


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON: tensors go to `tensors`; what JSON lacks is an object with one key that says what it is."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": {key: _packed(entry, f"{name}/{key}", tensors) for key, entry in value.items()}}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_packed(entry, f"{name}/{i}", tensors) for i, entry in enumerate(value)]}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if value is None or isinstance(value, bool | int | str):
        return value
    raise ModelError(
        got=f"{name} of type {type(value).__name__} in the optimiser",
        need="tensors, numbers and words, since a checkpoint holds nothing else",
        fix="another optimizer, or fit without a folder",
    )


def _unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpacked(entry, tensors) for key, entry in content.items()}
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](_unpacked(entry, tensors) for entry in content)
    return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content]


def _misfit(got: str) -> DataError:
    return DataError(
        got=f"a checkpoint with {got}", need="one of the same model, data and settings", fix="another folder"
    )
