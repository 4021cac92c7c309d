"""Coins of many entries: the law of packed uniforms, exactly, and that of the draws they make."""

from __future__ import annotations

import pytest
import torch

from pyrogen.distributions.boltzmann.coins import coins, packed

MANY = 2**16


def every_part() -> torch.Tensor:
    """All 2^16 parts of 16 bits, four to a word."""
    return torch.arange(2**16).to(torch.int16).view(torch.int64)


def test_packed_uniforms_are_each_multiple_of_two_to_the_minus_24_once():
    words = every_part()
    seen = torch.stack([packed(words, low, MANY) for low in range(256)]).double() * 2**24
    torch.testing.assert_close(seen.flatten().sort().values, torch.arange(2**24).double(), rtol=0, atol=0)


def test_packed_takes_the_first_of_the_last_word():
    assert packed(every_part(), 3, 5).tolist() == packed(every_part(), 3, MANY)[:5].tolist()


@pytest.mark.parametrize("p", [0.0, 1.0])
@pytest.mark.parametrize("n", [10, MANY])
def test_what_is_certain_is_drawn_always(p, n):
    assert coins(torch.full((n,), p)).eq(p).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2**15 - 1, 2**15, 2**15 + 1, 2**15 + 2, 2**15 + 3])
def test_shape_and_type_of_draws(n, dtype):
    drawn = coins(torch.full((n, 1), 0.5, dtype=dtype))
    assert drawn.shape == (n, 1) and drawn.dtype == dtype and bool(((drawn == 0) | (drawn == 1)).all())


def test_rates_and_pairs_of_many_draws():
    """16 probabilities, 400 calls of 4096 entries each: z of the rates, and of neighbours; |z| < 5.5, 1e-6 in all."""
    noise = torch.Generator().manual_seed(0)
    p = torch.linspace(0.02, 0.98, 16).repeat(4096, 1)
    total, both = torch.zeros(16), torch.zeros(15)
    for _ in range(400):
        x = coins(p, noise)
        total += x.sum(0)
        both += (x[:, :-1] * x[:, 1:]).sum(0)
    n, q = 400 * 4096, p[0, :-1] * p[0, 1:]
    z = (total - n * p[0]) / (n * p[0] * (1 - p[0])).sqrt()
    w = (both - n * q) / (n * q * (1 - q)).sqrt()
    assert z.abs().max() < 5.5 and w.abs().max() < 5.5


def test_draws_are_their_generators_and_follow_it():
    p = torch.full((MANY,), 0.5)
    first, again, next_ = (coins(p, g) for g in [torch.Generator().manual_seed(3)] * 1 for _ in range(3))
    assert not torch.equal(first, again) and not torch.equal(again, next_)
    torch.testing.assert_close(coins(p, torch.Generator().manual_seed(3)), first, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rare_coins_in_half_precision_are_as_rare_as_asked(dtype):
    """2^20 coins of 1e-3 (rounded to the type): |z| < 6, 2e-9 each."""
    p = torch.full((2**20,), 1e-3, dtype=dtype)
    drawn = coins(p, torch.Generator().manual_seed(0))
    rate = float(p[0])
    assert drawn.dtype == dtype
    assert abs(float(drawn.float().mean()) - rate) < 6 * (rate / 2**20) ** 0.5


@pytest.mark.parametrize("n", [10, MANY])
def test_coins_are_where_the_probabilities_are_whatever_the_default_device(n):
    p = torch.full((n,), 0.5)
    with torch.device("meta"):  # a default that would show
        drawn = coins(p)
    assert drawn.device.type == "cpu" and bool(((drawn == 0) | (drawn == 1)).all())


def test_low_bits_stay_whatever_the_default_type():
    words, before = every_part(), torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        found = packed(words, 77, MANY)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(found, packed(words, 77, MANY)) and bool((found * 2**24 % 256 == 77).all())
