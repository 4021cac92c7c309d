"""Which rows to look at."""

from pyrogen.ops import evenly


def test_rows_are_spread_over_all_and_never_repeat():
    assert evenly(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert evenly(3, 5).tolist() == [0, 1, 2]
    assert evenly(7, 3).tolist() == [0, 2, 4]
    assert evenly(0, 3).tolist() == []
    assert len(set(evenly(1000, 999).tolist())) == 999
