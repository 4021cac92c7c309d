"""The masked multilayer perceptron of MADE; without hidden layers, the network of a fully visible belief net."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from pyrogen.errors import SettingsError
from pyrogen.nn.autoregressive.network import Network, Stepper, short_digest, there
from pyrogen.nn.autoregressive.orders import check_count

ACTIVATIONS = {"relu": torch.relu, "elu": functional.elu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


class MaskedLinear(nn.Module):
    """y = (W * M) h + b [+ (U * M) 1] [+ V c]: the mask comes with the call, the weights are never overwritten.

    Args:
        width_in, width_out: of h and y.
        context: width of c, 0 for none.
        sees_mask: whether there is a U, which tells a unit which of its inputs are masked and which are zero.
    """

    def __init__(self, width_in: int, width_out: int, context: int = 0, sees_mask: bool = False) -> None:
        super().__init__()
        bound = 1 / math.sqrt(max(1, width_in))
        self.weight = nn.Parameter(torch.empty(width_out, width_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width_out).uniform_(-bound, bound))
        self.mask_weight = nn.Parameter(torch.zeros(width_out, width_in)) if sees_mask else None
        self.context_weight = nn.Parameter(torch.empty(width_out, context)) if context else None
        if self.context_weight is not None:
            nn.init.uniform_(self.context_weight, -1 / math.sqrt(context), 1 / math.sqrt(context))

    def forward(self, h: Tensor, mask: Tensor, context: Tensor | None) -> Tensor:
        weight, bias = self.masked(mask)
        y = functional.linear(h, weight, bias)
        return y if self.context_weight is None else y + functional.linear(there(context), self.context_weight)

    def masked(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """W * M, and the bias with what the mask alone adds to it."""
        bias = self.bias if self.mask_weight is None else self.bias + (self.mask_weight * mask).sum(1)
        return self.weight * mask, bias


class MaskedMLP(Network):
    """A multilayer perceptron whose masks leave output d only paths from the variables before d.

        input of the variable at place k of the order, k = 1..D: degree k; hidden units: degrees m in 1..D-1
        h_1 = a((W_1 * [m_1 >= k]) x + b_1),     h_l = a((W_l * [m_l >= m_(l-1)]) h_(l-1) + b_l)
        output at place k = (V * [k > m_L]) h_L + c  [+ (A * [k > k']) x, the direct connections]

    Degrees are even over 1..D-1 (with several orders, over the variables: `make_degrees`), or random with at least the
    least degree of the layer before, and drawn for each order. A hidden layer may be narrower than the input.

    Source: Germain et al. 2015 (MADE), arXiv:1502.03509.

    Args:
        hidden: widths of the hidden layers; none of them makes logistic autoregression.
        direct: connect inputs and outputs directly too.
        sees_mask: give each layer weights on its mask, section 4.3 of the paper.
        degrees: "even" or "random".
        activation: "relu", "elu", "tanh" or "sigmoid".
        dropout: share of the hidden units that are left out at random in training mode; a row then has another
            set of connections at each step, and `forward` is random.
        seed: of random degrees.
    """

    def __init__(
        self,
        width: int,
        orders: Tensor,
        hidden: Sequence[int] = (),
        *,
        inputs: int = 1,
        outputs: int = 1,
        context: int = 0,
        direct: bool = False,
        sees_mask: bool = False,
        degrees: str = "even",
        activation: str = "relu",
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(width, inputs, outputs, context, orders)
        for size in hidden:
            check_count("a hidden width", size, 1)
        if activation not in ACTIVATIONS:
            raise SettingsError(got=f"activation {activation!r}", need=f"one of {sorted(ACTIVATIONS)}", fix="'relu'")
        if not 0 <= dropout < 1:
            raise SettingsError(got=f"dropout = {dropout!r}", need="a share in [0, 1)", fix="dropout=0.5")
        self.hidden, self.activation_name, self.dropout = tuple(hidden), activation, float(dropout)
        self.activation = ACTIVATIONS[activation]
        places = torch.empty_like(self.orders)
        places.scatter_(1, self.orders, torch.arange(1, width + 1).expand_as(places))
        self.places: Tensor
        self.register_buffer("places", places.int())
        for i, table in enumerate(make_degrees(places, self.hidden, degrees, seed)):
            self.register_buffer(f"degrees{i}", table.int())
        widths = [width * inputs, *hidden]
        self.layers = nn.ModuleList(
            MaskedLinear(a, b, context, sees_mask) for a, b in zip(widths, self.hidden, strict=False)
        )
        self.out = MaskedLinear(widths[-1], width * outputs, context, sees_mask)
        self.direct = nn.Parameter(torch.zeros(width * outputs, width * inputs)) if direct and hidden else None
        if not hidden:
            nn.init.zeros_(self.out.weight)
        self.kept: list[str] = []
        self.derive()
        self.register_load_state_dict_post_hook(_derive)

    def derive(self) -> None:
        """Make the masks again, which with one order are kept; to be called when orders or degrees were overwritten."""
        self.kept = []
        if self.n_orders > 1:
            return
        for i, mask in enumerate(self._masks(0)):
            self.register_buffer(f"mask{i}", mask, persistent=False)
            self.kept.append(f"mask{i}")

    def masks(self, which: int | Tensor = 0) -> list[Tensor]:
        """Zeros and ones for one order: of hidden layers, output and direct connections, each (out, in).

        As numbers: weights times truth values take five times as long on a CPU.
        """
        return [self.get_buffer(name) for name in self.kept] or self._masks(which)

    def _masks(self, which: int | Tensor) -> list[Tensor]:
        place = _pick(self.places, which)
        read, written = _each(place, self.inputs), _each(place, self.outputs)
        degrees = [read, *(_pick(self.get_buffer(f"degrees{i}"), which) for i in range(len(self.hidden)))]
        inside = [after[:, None] >= before for before, after in pairwise(degrees)]
        direct = [] if self.direct is None else [written[:, None] > read]
        return [mask.to(self.out.weight) for mask in (*inside, written[:, None] > degrees[-1], *direct)]

    def forward(self, encoded: Tensor, context: Tensor | None = None, which: int | Tensor = 0) -> Tensor:
        masks, h = self.masks(which), encoded
        for layer, mask in zip(self.layers, masks, strict=False):
            h = self.activation(layer(h, mask, context))
            if self.dropout and self.training:
                h = functional.dropout(h, self.dropout)
        y = self.out(h, masks[len(self.layers)], context)
        if self.direct is not None:
            y = y + functional.linear(encoded, self.direct * masks[-1])
        return y.reshape(*encoded.shape[:-1], self.width, self.outputs)

    def stepper(self, n: int, context: Tensor | None = None, which: int = 0) -> Stepper:
        from pyrogen.nn.autoregressive.masked_stepper import MaskedStepper  # which reads this network

        return MaskedStepper(self, n, context, which)

    @torch.no_grad()
    def start_at(self, parameters: Tensor) -> None:
        self.out.bias.copy_(parameters.flatten())

    def extra_repr(self) -> str:
        degrees = [self.get_buffer(f"degrees{i}") for i in range(len(self.hidden))]
        options = f"activation={self.activation_name}, dropout={self.dropout}, degrees={short_digest(*degrees)}"
        return f"{super().extra_repr()}, {options}"


def _derive(network: MaskedMLP, _: object) -> None:
    network.derive()


def make_degrees(places: Tensor, hidden: Sequence[int], kind: str, seed: int) -> list[Tensor]:
    """For each hidden layer, (M, H): how many variables, from the first of the order on, a unit may see.

    Even degrees give each unit a variable, evenly along the first order, and under every order the unit sees up to it
    and no further: what it reads of a picture stays in one place. Random ones are drawn for each order anew.

    Args:
        places: of the variables in each of the M orders, from 1, (M, D).
        kind: "even" or "random".

    Raises:
        SettingsError: another kind.
    """
    if kind not in ("even", "random"):
        raise SettingsError(got=f"degrees {kind!r}", need="'even' or 'random'", fix="'even'")
    n, width = places.shape
    last = width - 1
    if kind == "even":
        first, several = places[0].argsort(), width if n > 1 else last  # nothing sees the last one of a single order
        return [places[:, first[torch.arange(size) * several // size]].clamp(max=last) for size in hidden]
    source, tables = torch.Generator().manual_seed(seed), []
    least = torch.full((n, 1), min(1, last))
    for size in hidden:
        # a unit of a lower degree than all before it would see nothing
        table = least + (torch.rand(n, size, generator=source) * (last - least + 1)).floor().long()
        table = table.clamp(max=last)
        tables.append(table)
        least = table.min(1, keepdim=True).values
    return tables


def _pick(table: Tensor, which: int | Tensor) -> Tensor:
    """A row of a table. Picking with a tensor in brackets would read its value, and wait for the device."""
    return table.index_select(0, which.reshape(1))[0] if isinstance(which, Tensor) else table[which]


def _each(degrees: Tensor, times: int) -> Tensor:
    return degrees if times == 1 else degrees[:, None].expand(-1, times).reshape(-1)
