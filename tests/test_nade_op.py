"""NADE's blocked products against the loop over variables: values and all gradients."""

from __future__ import annotations

import pytest
import torch

from pyrogen.errors import SettingsError
from pyrogen.ops import nade


def loop(x, W, a, V, activation):
    """The definition, one variable at a time."""
    act = torch.sigmoid if activation == "sigmoid" else torch.relu
    D, E = V.shape[0], x.shape[1] // V.shape[0]
    out = []
    for d in range(D):
        out.append(act(a) @ V[d].T)
        a = a + x[:, d * E : (d + 1) * E] @ W[d * E : (d + 1) * E]
    return torch.stack(out, 1)


def arguments(D=7, E=1, F=1, H=4, B=3):
    source = torch.Generator().manual_seed(0)
    shapes = ((B, D * E), (D * E, H), (B, H), (D, F, H))
    return [torch.randn(s, generator=source, dtype=torch.float64).requires_grad_() for s in shapes]


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
@pytest.mark.parametrize("block", [1, 2, 3, 7, 50, None])
@pytest.mark.parametrize(("E", "F"), [(1, 1), (3, 2)])
def test_values_and_gradients_are_those_of_the_loop(activation, block, E, F):
    args = arguments(E=E, F=F)
    ours, theirs = nade(*args, activation, block), loop(*args, activation)
    torch.testing.assert_close(ours, theirs)
    # a loss that weighs every output differently, and its gradient with respect to x too
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad((ours.square() * weight).sum(), args),
        torch.autograd.grad((theirs.square() * weight).sum(), args),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("block", [1, 3, 7])
def test_gradcheck(block):
    assert torch.autograd.gradcheck(lambda *args: nade(*args, "sigmoid", block), arguments(D=4, E=2, F=2, H=3, B=2))


def test_a_constant_x_asks_for_no_gradient_and_changes_none():
    x, *rest = arguments()
    with_x = torch.autograd.grad(nade(x, *rest).sum(), rest)
    without = torch.autograd.grad(nade(x.detach(), *rest).sum(), rest)
    assert all(torch.equal(a, b) for a, b in zip(with_x, without, strict=True))


def test_another_activation_is_refused():
    with pytest.raises(SettingsError, match=r"'tanh'.*'sigmoid'"):
        nade(*arguments(), "tanh")
