"""Markov kernels on machines: pure steps for thousands of chains, and kernels of Pyro's MCMC."""

from pyrogen.inference.kernels.block_gibbs import BlockGibbs
from pyrogen.inference.kernels.kernel import HasMachine, Kernel, machine_of
from pyrogen.inference.kernels.tempering import ParallelTempering

__all__ = ["BlockGibbs", "HasMachine", "Kernel", "ParallelTempering", "machine_of"]
