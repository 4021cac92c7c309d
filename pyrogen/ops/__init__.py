"""Pure tensor functions: no parameters, no Pyro, no global state."""

from pyrogen.ops.checks import Support, check_rows, resolve_device

__all__ = ["Support", "check_rows", "resolve_device"]
