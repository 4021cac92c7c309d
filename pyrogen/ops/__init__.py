"""Pure tensor functions: no parameters, no Pyro, no global state."""

from pyrogen.ops.checks import check_rows, levels_of, resolve_device
from pyrogen.ops.denormals import denormals_flushed
from pyrogen.ops.nade import nade
from pyrogen.ops.rows import evenly

__all__ = ["check_rows", "denormals_flushed", "evenly", "levels_of", "nade", "resolve_device"]
