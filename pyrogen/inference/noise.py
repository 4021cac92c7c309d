"""Random draws in a trace: a graph cannot go back in the random state as a program can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map_only

State = tuple[bytes, ...]


class NoiseError(Exception):
    """A program does with the random state what no graph can do."""


class _Draw(NamedTuple):
    func: Any
    shapes: Any
    value: Any
    after: State


class Noise(TorchDispatchMode):
    """Lets a trace draw from torch's random state, forwards only.

    A path derivative runs the guide again in the same noise, by going back to an earlier random state.
    Such draws become the earlier draws themselves; whatever else a program does to the state is refused.

    Raises:
        NoiseError: at such a draw, or in `close`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.draws: dict[State, _Draw] = {}
        self.front = _state()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        before = _state()
        if before == self.front:
            return self._draw(func, args, kwargs)
        draw = self.draws.get(before)
        if draw is None or (draw.func, draw.shapes) != (func, _shapes(args)):
            raise NoiseError("a program sets the random state, or goes back in it to draw something else")
        _set(draw.after)
        if func._schema.is_mutable:
            return args[0].copy_(draw.value)
        return _copy(draw.value)

    def _draw(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        before = self.front
        out = func(*args, **kwargs)
        self.front = _state()
        if self.front != before:
            # a copy, as the program may write into what it drew; one that nobody needs leaves the graph
            self.draws[before] = _Draw(func, _shapes(args), _copy(out), self.front)
        return out

    def close(self) -> None:
        """Refuse a step that leaves the random state elsewhere than after its last draw."""
        if _state() != self.front:
            raise NoiseError("a program puts back the random state after drawing from it")


def _copy(value: Any) -> Any:
    return tree_map_only(Tensor, torch.clone, value)


def _shapes(args: Any) -> Any:
    return tree_map_only(Tensor, lambda t: (t.shape, t.dtype), args)


def _state() -> State:
    with _disable_current_modes():  # reading the state is no part of the program
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return tuple(state.numpy().tobytes() for state in [torch.get_rng_state(), *cuda])


def _set(state: State) -> None:
    with _disable_current_modes():
        cpu, *cuda = (torch.frombuffer(bytearray(s), dtype=torch.uint8) for s in state)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
