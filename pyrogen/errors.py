"""Errors in words: what came, what is needed, what to try.

    raise ShapeError(got="x of shape (3, 5)", need="rows of width 4", fix="x[:, :4]")
    ShapeError: got x of shape (3, 5); need rows of width 4; try x[:, :4]

Each class is also the built-in error that a caller would catch without knowing pyrogen, and `PyrogenError` catches all.
"""

from __future__ import annotations


class PyrogenError(Exception):
    """Base of all errors that pyrogen raises on purpose.

    Args:
        got: what came.
        need: what was needed instead.
        fix: what to try.
        message: the three in one, from whoever builds the error anew with a longer text, as Pyro does with
            what is raised inside a traced program; given alone, it is the text.
    """

    def __init__(self, message: str = "", *, got: str = "", need: str = "", fix: str = "") -> None:
        if not message and not (got and need and fix):
            raise TypeError(f"{type(self).__name__} needs got=, need= and fix=")
        super().__init__(message or f"got {got}; need {need}; try {fix}")
        self.got, self.need, self.fix = got, need, fix

    def __reduce__(self):
        # keyword arguments do not survive the default, and worker processes pickle their errors
        return _rebuild, (type(self), str(self), self.got, self.need, self.fix)


def _rebuild(kind: type[PyrogenError], message: str, got: str, need: str, fix: str) -> PyrogenError:
    return kind(message, got=got, need=need, fix=fix)


class ShapeError(PyrogenError, ValueError):
    """A tensor has the wrong number of dimensions, rows or columns."""


class SupportError(PyrogenError, ValueError):
    """A value lies outside what the model can produce: grey where 0 or 1 is needed, NaN, infinity."""


class DtypeError(PyrogenError, TypeError):
    """Not a tensor, or one of a dtype that the model does not take."""


class DeviceError(PyrogenError, RuntimeError):
    """A device that this machine does not have."""


class DataError(PyrogenError, OSError):
    """A data set, its file, its checksum or one of its splits; names the file and the remedy."""


class RecipeError(PyrogenError, ValueError):
    """A recipe with an unknown key or an impossible value."""


class OutputError(PyrogenError, OSError):
    """An output folder that exists already or cannot be written."""


class SettingsError(PyrogenError, ValueError):
    """A setting or an option that does not exist, or out of range."""


class NotNormalizedError(PyrogenError, RuntimeError):
    """log p(x) was asked as a number while log Z is unknown."""


class InverseError(PyrogenError, NotImplementedError):
    """A transform that has no inverse was asked for it."""


class NonFiniteError(PyrogenError, FloatingPointError):
    """A loss, a gradient or a density became NaN or infinite."""


class ModelError(PyrogenError, ValueError):
    """A Pyro program breaks the contract that it claims."""


class ProcessError(PyrogenError, RuntimeError):
    """Another process of a training is gone, or does not answer."""


class ExtraError(PyrogenError, ImportError):
    """A package that only an extra of pyrogen brings is not installed."""


class Interrupted(PyrogenError, KeyboardInterrupt):  # noqa: N818, no more an error than KeyboardInterrupt is
    """SIGINT or SIGTERM came, and the run was saved; `signal` is its number, 0 when unknown."""

    def __init__(self, message: str = "", *, got: str = "", need: str = "", fix: str = "", signal: int = 0) -> None:
        super().__init__(message, got=got, need=need, fix=fix)
        self.signal = signal

    def __reduce__(self):
        return _interrupted, (str(self), self.got, self.need, self.fix, self.signal)


def _interrupted(message: str, got: str, need: str, fix: str, signal: int) -> Interrupted:
    return Interrupted(message, got=got, need=need, fix=fix, signal=signal)
