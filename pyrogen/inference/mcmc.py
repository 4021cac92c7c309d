"""MCMC for thousands of chains in one process, under the name and with the methods of Pyro's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro.infer
import torch
from pyro import poutine
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from pyro.infer.mcmc.util import select_samples
from torch import Generator, Tensor

from pyrogen.errors import DeviceError, NonFiniteError, SettingsError, ShapeError
from pyrogen.inference.kernels.kernel import Kernel, whole
from pyrogen.inference.progress import Sampling
from pyrogen.inference.store import Store
from pyrogen.inference.tables import table
from pyrogen.ops import resolve_device
from pyrogen.ops.convergence import ess, rhat


class MCMC(pyro.infer.MCMC):
    """Runs a kernel for a warm-up and then for the draws that are kept, all chains at once.

        mcmc = MCMC(BlockGibbs(rbm), num_samples=1000, warmup_steps=500, num_chains=4096, thinning=10)
        mcmc.run()
        mcmc.get_samples(group_by_chain=True)["v"]     (4096, 1000, V)
        mcmc.stats["energy"]                           (4096, 1000)
        mcmc.summary()

    Draws are kept as bits where the units are, in buffers that are made once; every field of the kernel's Info is kept
    beside them in `stats`. With `state=earlier.last_state` a run goes on where an earlier one ended.

    A kernel of Pyro's own (HMC, NUTS, RandomWalkKernel) runs as `pyro.infer.MCMC` runs it, with num_chains processes,
    and differs in that its `save_params` may come in any order and that `summary` and `diagnostics` bear discrete and
    constant sites. Methods and attributes that ArviZ and Pyro read are there for both.

    Args:
        kernel: one of `pyrogen.inference.kernels`, or of Pyro's.
        num_samples: draws of each chain that are kept.
        warmup_steps: steps before them, in which the kernel may adapt; num_samples by default, as in Pyro.
        initial_params: {"v": (chains, V)}, where the chains start.
        num_chains: a dimension of the tensors, not processes.
        thinning: steps to a draw: of so many the last is kept. The sums of what Info counts lose nothing.
        storage: where draws are kept, such as "cpu" for chains on a GPU; by default where the chains are.
        seed: a number, or a torch.Generator on the kernel's device, which then goes on from run to run; by default
            from torch's global random state, so that `pyro.set_rng_seed` repeats a run.
        state: a State to go on from, instead of initial_params.
        save_params: the sites to keep, all by default.
        hook_fn: called as hook_fn(kernel, values, stage, i) after each step.
        stock: further arguments of `pyro.infer.MCMC`, for its kernels.

    Raises:
        SettingsError: a number out of range, an unknown site, or an option that this kernel does not have.
    """

    def __init__(
        self,
        kernel: MCMCKernel,
        num_samples: int,
        warmup_steps: int | None = None,
        initial_params: Mapping[str, Tensor] | None = None,
        num_chains: int = 1,
        *,
        thinning: int = 1,
        storage: str | torch.device | None = None,
        seed: int | Generator | None = None,
        state: Any = None,
        save_params: Sequence[str] | None = None,
        hook_fn: Callable[..., None] | None = None,
        disable_progbar: bool = False,
        **stock: Any,
    ) -> None:
        whole("num_samples", num_samples, 1)
        whole("num_chains", num_chains, 1)
        whole("warmup_steps", num_samples if warmup_steps is None else warmup_steps, 0)
        self.thinning = whole("thinning", thinning, 1)
        self.storage = None if storage is None else resolve_device(storage)
        self.seed, self.stats, self._state, self.last_state = seed, dict[str, Tensor](), state, state
        self.ours = isinstance(kernel, Kernel)
        if self.ours:
            _refuse(stock, {}, kernel)
            self._sites = _sites(kernel, save_params)  # pyright: ignore[reportArgumentType]
            if state is not None and initial_params is not None:
                raise SettingsError(got="state and initial_params", need="one of the two", fix="initial_params=None")
            self._initial, chains, starts = initial_params, 1, None
        else:
            if isinstance(seed, Generator):
                raise SettingsError(got="a Generator for a kernel of Pyro", need="a number", fix="seed=0")
            _refuse({"thinning": thinning, "storage": storage, "state": state}, {"thinning": 1}, kernel)
            # Pyro takes the sites apart in sorted order, whatever the order it was told
            stock["save_params"] = None if save_params is None else sorted(save_params)
            chains, starts = num_chains, None if initial_params is None else dict(initial_params)
        super().__init__(
            kernel,
            num_samples,
            warmup_steps,
            initial_params=starts,
            num_chains=chains,
            hook_fn=hook_fn,
            disable_progbar=disable_progbar,
            **stock,
        )
        self.num_chains, self._hook, self._shown = num_chains, hook_fn, not disable_progbar

    @poutine.block
    def run(self, *args: Any, **kwargs: Any) -> None:
        """Draw. The kernels of machines take no arguments; those of Pyro take the model's.

        Raises:
            NonFiniteError: an energy became NaN or infinite; a machine of two unbounded layers may have no law.
        """
        if not self.ours:
            return self._run_stock(*args, **kwargs)
        self._args, self._kwargs = args, kwargs
        self.kernel.refuse(args, kwargs)
        generator = self._generator(self.kernel.machine.W.device)
        with Sampling(self.warmup_steps, self.num_samples * self.thinning, self._shown) as progress:
            self._draw(self.kernel, generator, progress)
        bad = [name for name, x in self.stats.items() if not bool(x.isfinite().all())]
        if bad:
            raise NonFiniteError(
                got=f"{bad[0]} that is NaN or infinite in some draws",
                need="a machine with a law",
                fix="bounded units on one side, or smaller weights",
            )
        means = {name: x.to(torch.get_default_dtype()).mean((0, 1)) for name, x in self.stats.items()}
        self._report = self.kernel.report(self.last_state, means)

    def _run_stock(self, *args: Any, **kwargs: Any) -> None:
        if self.seed is None:
            return super().run(*args, **kwargs)
        devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed)  # pyright: ignore[reportArgumentType]
            return super().run(*args, **kwargs)

    def _draw(self, kernel: Kernel, generator: Generator, progress: Sampling) -> None:
        state = self._state
        if state is None:
            state = kernel.init(self.num_chains, values=self._initial, generator=generator)
        else:
            self._check_state(kernel, state)
        for i in range(self.warmup_steps):
            state, info = kernel.step(state, generator=generator)
            state = kernel.adapted(state, info, i, self.warmup_steps)
            self._after(kernel, state, "Warmup", i)
            progress.step(info.energy)
        compact = {name: kernel.stored_as(name) for name in self._sites}
        draws = Store(self.num_samples, dtypes=compact, device=self.storage)
        stats = Store(self.num_samples, device=self.storage, summed=kernel.summed)
        for i in range(self.num_samples * self.thinning):
            state, info = kernel.step(state, generator=generator)
            draw, passed = divmod(i + 1, self.thinning)
            if passed:
                stats.skip(info._asdict())
            else:
                values = kernel.values(state)
                draws.put(draw - 1, {name: values[name] for name in self._sites})
                stats.put(draw - 1, info._asdict())
            self._after(kernel, state, "Sample", i)
            progress.step(info.energy)
        self._samples, self.stats, self.last_state = draws.buffers, stats.buffers, state
        self._dtype = kernel.machine.W.dtype

    def _check_state(self, kernel: Kernel, state: Any) -> None:
        """Refuse the state of another kernel, machine or number of chains."""
        like = kernel.init(self.num_chains, generator=Generator(kernel.machine.W.device))
        if type(state) is not type(like):
            raise SettingsError(
                got=f"{type(state).__module__}.{type(state).__name__} as the state of {type(kernel).__name__}",
                need="a state of this kernel",
                fix="state=earlier.last_state",
            )
        for site, one in kernel.values(like).items():
            given = kernel.values(state)[site]
            if given.shape[1:] != one.shape[1:]:
                raise ShapeError(
                    got=f"a state with {site} of shape {tuple(given.shape)}",
                    need=f"{one.shape[1]} entries, as the machine",
                    fix="a state of this machine",
                )
            if len(given) != self.num_chains:
                raise SettingsError(
                    got=f"a state of {len(given)} chains",
                    need=f"{self.num_chains}",
                    fix=f"num_chains={len(given)}",
                )

    def get_samples(
        self, num_samples: int | None = None, group_by_chain: bool = False, *, compact: bool = False
    ) -> dict[str, Tensor]:
        """The draws by site, (chains * draws, ...), or (chains, draws, ...) by chain.

        Args:
            num_samples: so many of them, drawn with replacement.
            compact: as they are kept, bits as bool, instead of as floats.

        Raises:
            SettingsError: there are none yet.
        """
        chosen = select_samples(self._drawn(), num_samples, group_by_chain)
        return chosen if compact or not self.ours else {name: x.to(self._dtype) for name, x in chosen.items()}

    def diagnostics(self) -> dict[str, Any]:
        """{site or statistic: {"n_eff", "r_hat"}}, NaN for what is constant; divergences and the kernel's report.

        Raises:
            SettingsError, ShapeError: no draws yet, or fewer than 4.
        """
        found: dict[str, Any] = {}
        for name, x in (self._drawn() | self._series()).items():
            found[name] = {"n_eff": ess(x, rank=_ranked(x)), "r_hat": rhat(x, rank=_ranked(x))}
        if self.ours:
            return found | {"divergences": {f"chain {i}": [] for i in range(self.num_chains)}} | self._report
        by_chain: list[dict[str, Any]] = self._diagnostics  # pyright: ignore[reportAssignmentType]
        for key in by_chain[0] or {}:
            found[key] = {f"chain {i}": one[key] for i, one in enumerate(by_chain)}
        return found

    def summary(self, prob: float = 0.9) -> None:
        """Print mean, deviation, interval, n_eff and r_hat of the statistics and of sites with few entries; of other
        sites the worst."""
        print(table(self._series(), self._drawn(), prob))
        for name, value in (self._report if self.ours else {}).items():
            print(f"{name}: {_short(value)}")

    def settings(self) -> dict[str, Any]:
        """What repeats this run, besides the machine."""
        own = self.kernel.settings() if self.ours else {}
        run = {"warmup_steps": self.warmup_steps, "num_samples": self.num_samples, "thinning": self.thinning}
        return {"kernel": type(self.kernel).__name__} | own | run | {"num_chains": self.num_chains}

    def _series(self) -> dict[str, Tensor]:
        """The statistics with one number a draw."""
        return {name: x for name, x in self.stats.items() if x.dim() == 2}

    def _drawn(self) -> dict[str, Tensor]:
        if self._samples is None:
            raise SettingsError(got="an MCMC object without draws", need="a finished run", fix="mcmc.run() first")
        return self._samples

    def _after(self, kernel: Kernel, state: Any, stage: str, i: int) -> None:
        if self._hook:
            self._hook(kernel, kernel.values(state), stage, i)

    def _generator(self, device: torch.device) -> Generator:
        if isinstance(self.seed, Generator):
            if self.seed.device.type != device.type:
                raise DeviceError(
                    got=f"a generator on {self.seed.device}",
                    need=f"{device}, as the machine",
                    fix=f"Generator({device})",
                )
            return self.seed
        # from the global state, so that what repeats other runs of Pyro repeats this one
        seed = int(torch.randint(2**62, ())) if self.seed is None else self.seed
        return Generator(device).manual_seed(seed)


def _sites(kernel: Kernel, wanted: Sequence[str] | None) -> list[str]:
    for name in wanted or ():
        if name not in kernel.sites:
            raise SettingsError(got=f"site {name!r} in save_params", need=f"some of {kernel.sites}", fix="['v']")
    return sorted(kernel.sites if wanted is None else wanted)


def _refuse(options: Mapping[str, Any], usual: Mapping[str, Any], kernel: MCMCKernel) -> None:
    for name, value in options.items():
        if value is not None and value != usual.get(name):
            raise SettingsError(
                got=f"{name}={value!r} for {type(kernel).__name__}",
                need="an option that this kernel has",
                fix=f"leaving out {name}",
            )


def _short(value: Any) -> str:
    return " ".join(f"{one:.3g}" for one in (value if isinstance(value, list) else [value]))


def _ranked(x: Tensor) -> bool:
    """By ranks, unless there are so few values that ranks say the same."""
    return x.is_floating_point()
