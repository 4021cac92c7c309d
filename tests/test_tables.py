"""The table of a run."""

from __future__ import annotations

import pytest
import torch

from pyrogen.errors import SettingsError
from pyrogen.inference.tables import table


def test_numbers_are_those_of_the_draws():
    x = torch.arange(40, dtype=torch.float64).reshape(2, 20)
    lines = table({"energy": x}, {}, prob=0.5).splitlines()
    assert lines[0].split() == ["mean", "std", "median", "25.0%", "75.0%", "n_eff", "r_hat"]
    name, *numbers = lines[1].split()
    assert name == "energy" and [float(n) for n in numbers[:5]] == [19.5, 11.69, 19.5, 9.75, 29.25]


def test_few_entries_have_a_line_each_and_many_have_one():
    g = torch.Generator().manual_seed(0)
    bits = torch.rand(3, 50, 2, 2, generator=g) < 0.5
    bits[..., 0, 1] = True
    many = torch.rand(3, 50, 30, generator=g) < 0.5
    many[..., 4] = False
    lines = table({}, {"h": bits, "v": many}).splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["h[0,0]", "h[0,1]", "h[1,0]", "h[1,1]"]
    assert lines[2].split()[-2:] == ["nan", "nan"] and "nan" not in lines[3]
    assert "30 entries, 1 of them constant; worst n_eff" in lines[5] and len(lines) == 6
    assert "4 of them constant" not in table({}, {"v": torch.zeros(2, 8, 21)})


@pytest.mark.parametrize("prob", [0.0, 1.0, 90])
def test_an_interval_without_mass_is_refused(prob):
    with pytest.raises(SettingsError, match="between 0 and 1"):
        table({"e": torch.randn(2, 8)}, {}, prob)
