"""The command line: `pyrogen models`, `fit`, `run`, `sample`, `evaluate`, `check`."""

from pyrogen.cli.commands import app, main

__all__ = ["app", "main"]
