"""All that the next step of a training depends on, as tensors and as JSON, and back again to the bit.

Not in it: what a module keeps outside its parameters and buffers, and what a schedule or an optimiser keeps
outside `state_dict`. Python's and NumPy's random states are not either; noise is torch's here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pyrogen.errors import DataError, ModelError

if TYPE_CHECKING:
    from pyrogen.inference.training import Training

_SCHEDULER = ("base_lrs", "_last_lr", "last_epoch", "_step_count")


class State(NamedTuple):
    """A training between two steps."""

    tensors: dict[str, Tensor]  # on the CPU, no two of them share memory
    meta: dict[str, Any]  # what JSON can hold


def take(training: Training) -> State:
    """A copy of the state; the training may go on.

    Raises:
        ModelError: the optimiser keeps something that is neither a tensor nor a number.
    """
    tensors = {name: tensor for name, tensor in _places(training).items()}
    tensors |= {f"best/{name}": value for name, value in zip(training.named, training.best, strict=False)}
    tensors |= {"permutation": training.permutation, "total": training.total, "rng/order": training.order.get_state()}
    tensors["rng/cpu"] = torch.get_rng_state()
    if training.data.is_cuda:
        tensors["rng/cuda"] = torch.cuda.get_rng_state(training.data.device)
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
    before = {name: place.detach().clone() for name, place in places.items()}
    try:
        _put_optimizer(training, tensors, meta)
        _put_scheduler(training, meta["scheduler"], tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _copy(before, places)
        raise _misfit(f"an optimiser's state that is not of this one ({error})") from error
    _copy(tensors, places)
    training.best = _best(training, tensors)
    training.permutation, training.total = tensors["permutation"].clone(), tensors["total"].to(training.data.device)
    for name in ("epoch", "step", "position", "seconds", "best_epoch"):
        setattr(training, name, meta[name])
    training.best_score = _unpacked(meta["best_score"], {})
    training.history = {key: [_unpacked(v, {}) for v in meta["history"][key]] for key in training.history}
    training.order.set_state(tensors["rng/order"])
    torch.set_rng_state(tensors["rng/cpu"])  # last: whatever is above may have drawn
    if training.data.is_cuda and "rng/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng/cuda"], training.data.device)


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
    for name, rng in {"rng/cpu": torch.get_rng_state(), "rng/order": training.order.get_state()}.items():
        expected[name] = (rng.dtype, rng.shape)
    if any(name.startswith("best/") for name in tensors):
        expected |= {f"best/{name}": (p.dtype, p.shape) for name, p in training.named.items()}
    for name, (dtype, shape) in expected.items():
        found = tensors.get(name)
        if found is None or found.dtype != dtype or found.shape != shape:
            what = "no such tensor" if found is None else f"{found.dtype} of shape {tuple(found.shape)}"
            raise _misfit(f"{name}: {what}, where this model has {dtype} of shape {tuple(shape)}")
    free = ("optimizer/", "group/", "scheduler")
    extra = [n for n in tensors if n not in expected and n not in ("permutation", "rng/cuda") and not n.startswith(free)]
    if extra:
        raise _misfit(f"{extra[0]}, which this model does not have")
    try:
        for name in ("rng/cpu", "rng/order"):
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
    history = meta.get("history")
    if not isinstance(history, dict) or history.keys() != training.history.keys():
        raise _misfit(f"a history that is not one of {', '.join(training.history)}")
    rows = [values for values in history.values() if isinstance(values, list) and len(values) == meta["epoch"]]
    if len(rows) != len(history) or not all(type(v) in (int, float, dict) for values in rows for v in values):
        raise _misfit(f"a history that is not one of {meta['epoch']} epochs")
    if not all(isinstance(meta.get(name), list) for name in ("optimizer", "groups")) or "scheduler" not in meta:
        raise _misfit("no state of an optimiser")


def _check_order(training: Training, tensors: dict[str, Tensor], position: int) -> None:
    order = tensors.get("permutation")
    if order is None or order.dtype != torch.long or order.dim() != 1 or position > training.size:
        raise _misfit("a position in the data that is not in these rows")
    begun = order.numel() > 0 or position > 0
    if begun and not torch.equal(order.sort().values, torch.arange(training.size)):
        raise _misfit(f"an order that is not one of these {training.size} rows")


def _put_optimizer(training: Training, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Fill the optimiser. A step without gradient shows which tensors it keeps; `put` undoes what that did."""
    _check_order(training, tensors, meta["position"])
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


def _put_scheduler(training: Training, saved: Any, tensors: dict[str, Tensor]) -> None:
    if (training.scheduler is None) != (saved is None):
        raise ValueError("a schedule, or none")
    if training.scheduler is not None:
        values = _unpacked(saved, tensors)
        _check_like(values, {key: getattr(training.scheduler, key) for key in _SCHEDULER}, "schedule")
        for key in _SCHEDULER:
            setattr(training.scheduler, key, values[key])


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
        place.copy_(tensors[name])


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
        return {type(value).__name__: [_packed(entry, f"{name}/{i}", tensors) for i, entry in enumerate(value)]}
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
