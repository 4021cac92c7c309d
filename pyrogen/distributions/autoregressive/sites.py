"""The same joint as a Pyro program with one site for each variable, for small D."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor

from pyrogen.distributions.autoregressive.joint import Autoregressive
from pyrogen.errors import SettingsError, ShapeError


def sites(fn: Autoregressive, name: str = "x", value: Tensor | None = None) -> Tensor:
    """Sample x_0, ..., x_(D-1) one after the other, in the order of the network; give them together.

        pyro.sample("x_d", p(x_d | x_<d))  for each d,     sum of their log_probs = fn.log_prob(x)

    So `pyro.condition` on some of them, `Importance`, enumeration and guides of single variables work. Each site
    costs a whole pass of the network; for the joint as a whole, `pyro.sample(name, fn)` costs one.

    Shape: every site has batch (...), of fn or of the plates around; gives (..., D).

    Args:
        name: variable d is the site f"{name}_{d}".
        value: (..., D) to observe at all of them.

    Raises:
        SettingsError: fn is a mixture of several orders, in which variables do not come one after the other.
        ShapeError: a value of another width.
    """
    if len(fn.orders) != 1:
        raise SettingsError(got=f"a mixture of {len(fn.orders)} orders", need="one order", fix="fn.under(0)")
    width = fn.network.width
    if value is not None and value.shape[-1:] != (width,):
        raise ShapeError(got=f"a value of shape {tuple(value.shape)}", need=f"(..., {width})", fix="x.flatten(1)")
    which = int(fn.orders[0])
    like = next(fn.network.parameters())
    columns = [like.new_zeros(fn.batch_shape)] * width
    for d in fn.network.orders[which].tolist():
        law = fn.conditional.distribution(_parameters(fn, columns, which)[..., d, :])
        columns[d] = pyro.sample(f"{name}_{d}", law, obs=None if value is None else value[..., d])
    return torch.stack(torch.broadcast_tensors(*columns), -1)


def _parameters(fn: Autoregressive, columns: list[Tensor], which: int) -> Tensor:
    """Of all variables, (..., D, F), given the columns so far and zeros for the others."""
    # columns may have the shape of a plate, or of an enumeration, that later ones do not have yet
    x = torch.stack(torch.broadcast_tensors(*columns), -1)
    encoded, context = fn.conditional.encode(x), fn.context
    if context is not None:
        shape = torch.broadcast_shapes(x.shape[:-1], context.shape[:-1])
        encoded = encoded.expand(*shape, encoded.shape[-1])
        context = context.expand(*shape, context.shape[-1]).reshape(-1, context.shape[-1])
    rows = encoded.reshape(-1, encoded.shape[-1])
    return fn.network(rows, context, which).reshape(*encoded.shape[:-1], fn.network.width, fn.network.outputs)
