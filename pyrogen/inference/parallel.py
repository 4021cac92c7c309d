"""More than one process: after backward the gradients are averaged by name, before they are clipped and stepped on.

    gradient = sum_r  n_r / n  gradient_r,     n_r of the n rows of a batch are with process r

Every process has all rows, takes the same batches, and of each its own part; so the average is the mean over the
batch, whatever the objective and however its gradient is computed. All start from the weights of the first
process, add the same numbers and stay equal to the bit. What must not differ otherwise, such as a score or the
moment to stop, the first process tells the others; it alone writes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np
import torch
import torch.distributed as td
from torch import Tensor

from pyrogen.errors import DeviceError, ModelError, ProcessError, PyrogenError, SettingsError
from pyrogen.ops.checks import resolve_device

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")

TIMEOUT = 600.0  # seconds without an answer after which a process is given up


class Ranks:
    """The processes that train together: here, one alone, with nobody to ask.

    `rank` is the number of this process, the first has 0; `world` is how many there are.
    """

    rank, world = 0, 1

    @staticmethod
    def here() -> Ranks:
        """Those of torch's process group, if there is one."""
        together = td.is_available() and td.is_initialized() and td.get_world_size() > 1
        return Group(td.get_rank(), td.get_world_size()) if together else Ranks()

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of the rows of a batch; none, if there are too few for all."""
        return batch

    def sow(self, seed: int) -> None:
        """Give torch's noise a seed of this process's own, if it is not the first."""

    def average_gradients(self, named: Mapping[str, Tensor], bound: Tensor, share: float) -> Tensor:
        """Replace each parameter's gradient by the mean over the batch; gives that of the bound.

        Args:
            named: the parameters; their gradients are those of this process's rows.
            bound: of this process's rows.
            share: of the batch's rows, how many are with this process.
        """
        return bound

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of the first process."""

    def at_first(self, do: Callable[[], T]) -> T | None:
        """Do something in the first process only; what it raises is raised in all."""
        return do()

    def told(self, value: T) -> T:
        """What the first process has."""
        return value

    def largest(self, *values: int) -> list[int]:
        """Each value's largest over the processes."""
        return list(values)

    def gather(self, value: T) -> list[T]:
        """What each process has, in their order."""
        return [value]

    def agree(self, found: Mapping[str, Any]) -> None:
        """Compare what all processes must have alike.

        Raises:
            ModelError: somebody has something else; in all processes.
        """
        everybody = self.gather(dict(found))
        for rank, theirs in enumerate(everybody):
            for key, value in everybody[0].items():
                if theirs.get(key) != value:
                    raise ModelError(
                        got=f"{key} = {_short(theirs.get(key))} in process {rank}, {_short(value)} in process 0",
                        need="the same model, data and settings in all processes",
                        fix="building them from the same seed, and giving all rows to each; fit shares them out",
                    )


class Group(Ranks):
    """The processes of torch's default process group.

    Each collective operation of torch is one method here, and a process that is gone an error in words.
    """

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        self._flags: dict[Any, Tensor] = {}

    def share(self, batch: Tensor) -> Tensor:
        return batch.tensor_split(self.world)[self.rank]

    def sow(self, seed: int) -> None:
        if self.rank:
            torch.manual_seed(int(np.random.SeedSequence((seed, self.rank)).generate_state(1, np.uint64)[0] >> 1))

    @torch.no_grad()
    def average_gradients(self, named: Mapping[str, Tensor], bound: Tensor, share: float) -> Tensor:
        parameters = [named[name] for name in sorted(named)]
        first = parameters[0]
        dtype = first.dtype if first.dtype in (torch.float32, torch.float64) else torch.float32
        mean = bound.detach().to(first.device, dtype)
        kinds: dict[Any, list[Tensor]] = {}
        for tensor in [*parameters, mean]:
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        for tensors in kinds.values():
            given = [mean if tensor is mean else tensor.grad for tensor in tensors]
            for tensor, value in zip(tensors, self._mean(tensors, given, share), strict=True):
                if tensor is mean:
                    mean = value if value is not None else mean
                else:
                    tensor.grad = value
        return mean

    def _mean(self, tensors: list[Tensor], given: list[Tensor | None], share: float) -> list[Tensor | None]:
        """The weighted sums of what is given for tensors of one kind; None for what no process has.

        All of it is one flat tensor, and at its end a flag for each, whether this process has it. They are looked at
        where it has not, which is rare: to look is to wait for the device.
        """
        parts = [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, given, strict=True)]
        there = tuple(g is not None for g in given)
        key = there, parts[0].dtype, parts[0].device
        if key not in self._flags:
            self._flags[key] = parts[0].new_tensor(there, dtype=parts[0].dtype)
        flat = torch.cat([*(part.reshape(-1) for part in parts), self._flags[key]]).mul_(share)
        self._sum(flat)
        *sums, flags = flat.split([*(t.numel() for t in tensors), len(tensors)])
        found: list[Tensor | None] = []
        for i, (tensor, value) in enumerate(zip(tensors, sums, strict=True)):
            if not there[i] and not bool(flags[i]):
                found.append(None)
            elif tensor.is_contiguous():
                found.append(value.view(tensor.shape))
            else:  # a fused optimiser walks both in the parameter's layout
                found.append(torch.empty_like(tensor).copy_(value.view(tensor.shape)))
        return found

    @torch.no_grad()
    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            kept = tensor.detach().clone(memory_format=torch.contiguous_format)
            with _together():  # as bytes: there is no dtype that cannot be sent so
                td.broadcast(kept.reshape(-1).view(torch.uint8), 0)
            if not torch.equal(kept, tensor):  # a constant buffer may be a view that cannot be written
                tensor.copy_(kept)

    def at_first(self, do: Callable[[], T]) -> T | None:
        result, refusal = None, None
        if self.rank == 0:
            try:
                result = do()
            except PyrogenError as error:
                refusal = error
        refused = self.told(refusal)
        if refusal is not None:
            raise refusal
        if refused is not None:
            raise refused
        return result

    def told(self, value: T) -> T:
        box = [value if self.rank == 0 else None]
        with _together():
            td.broadcast_object_list(box, 0)
        return box[0]  # pyright: ignore[reportReturnType]

    def largest(self, *values: int) -> list[int]:
        found = torch.tensor(values)
        with _together():
            td.all_reduce(found, td.ReduceOp.MAX)
        return found.tolist()

    def gather(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.world
        with _together():
            td.all_gather_object(found, value)
        return found

    def _sum(self, flat: Tensor) -> None:
        with _together():
            td.all_reduce(flat)


@contextmanager
def processes(device: str | torch.device = "auto", *, timeout: float = TIMEOUT) -> Iterator[Ranks]:
    """Inside, `fit` trains together with the processes that torchrun started; without torchrun, alone.

    Args:
        device: as for `fit`; of several GPUs each process takes its own.
        timeout: seconds after which a process that does not answer is given up.

    Raises:
        DeviceError: there are fewer GPUs here than processes.
        SettingsError: one GPU by its number, for several processes.
        ProcessError: the processes do not find each other.
    """
    started = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    if not started or os.environ["WORLD_SIZE"] == "1" or td.is_initialized():
        yield Ranks.here()
        return
    from torch.distributed.rendezvous import rendezvous  # not above: a torch may come without

    cuda = _take_device(device)
    # numbers and words for the host go through gloo, so that to ask for them is not to wait for a GPU
    backend, wait = "cpu:gloo,cuda:nccl" if cuda else "gloo", timedelta(seconds=timeout)
    with _together():
        store, rank, world = next(rendezvous("env://", timeout=wait))
        td.init_process_group(backend, store=_fresh(store), rank=rank, world_size=world, timeout=wait)
    try:
        yield Ranks.here()
    except BaseException:
        if not cuda:  # nccl would wait here for what will not come
            td.destroy_process_group()
        raise
    td.destroy_process_group()


def _fresh(store: Store) -> Store:
    """The store without what processes left there that torchrun has since started again, such as their addresses.

    It counts the starts of each machine by itself; so among several machines the number is not the same for all.
    """
    from torch.distributed.distributed_c10d import PrefixStore

    alike = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"start-{start}", store) if alike else store


def _take_device(device: str | torch.device) -> bool:
    """Make this process's GPU the current one; False without GPUs."""
    target = resolve_device(device)
    if target.type != "cuda":
        return False
    if device != "auto" and torch.device(device).index is not None:
        raise SettingsError(got=f"device {str(device)!r} for several processes", need="one each", fix="'cuda'")
    local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= there:
        raise DeviceError(
            got=f"process {local} of this machine and {there} GPUs",
            need="a GPU for each process",
            fix=f"torchrun --nproc-per-node={there}, or the CPU",
        )
    torch.cuda.set_device(local)
    return True


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except PyrogenError:
        raise
    except RuntimeError as error:
        raise ProcessError(
            got=f"no answer from another process: {(str(error).splitlines() or [''])[0]}",
            need="all processes of the group, alive and reachable",
            fix="looking for the first error of the others, then going on from the last checkpoint",
        ) from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def leave(code: int) -> NoReturn:
    """End a process that was one of several, at once, with an exit code; all that it wrote is to be closed by then.

    The threads of torch's process groups may outlive them, and std::terminate then takes the place of the exit code
    while Python is torn down: rarely, but a launcher starts all processes anew for it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
