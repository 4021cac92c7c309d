"""Pure tensor functions: no parameters, no Pyro, no global state."""

from pyrogen.ops.checks import check_rows, levels_of, resolve_device

__all__ = ["check_rows", "levels_of", "resolve_device"]
