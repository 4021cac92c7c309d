import math
import subprocess
import sys

import pytest
import torch

from pyrogen.errors import DeviceError, DtypeError, SettingsError, ShapeError, SupportError
from pyrogen.ops import check_rows, levels_of, resolve_device

GOOD = {
    "binary": torch.tensor([[0.0, 1.0, 1.0]]),
    "unit": torch.tensor([[0.0, 0.3, 1.0]]),
    "grey256": torch.arange(256.0).reshape(-1, 2)[:, [0, 1, 1]] / 255,
    "spin": torch.tensor([[-1.0, 1.0, 1.0]]),
    "nonnegative": torch.tensor([[0.0, 0.3, 1e9]]),
    "one-hot-3": torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]),
    "real": torch.tensor([[-3.0, 0.3, 1e9]]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("support", GOOD)
def test_rows_inside_the_support_pass(support, dtype):
    check_rows(GOOD[support].to(dtype), width=3, support=support)


@pytest.mark.parametrize(
    ("support", "value"),
    [("binary", 0.5), ("binary", -1.0), ("unit", 1.001), ("unit", -1e-6), ("grey256", 0.5), ("grey256", 256 / 255)],
)
def test_one_value_outside_the_support_is_found_and_placed(support, value):
    x = torch.zeros(5, 3)
    x[4, 1] = value
    with pytest.raises(SupportError, match=r"row 4, column 1 of x \(1 such of 15 entries\); need .* in x; try "):
        check_rows(x, width=3, support=support)


@pytest.mark.parametrize("support", GOOD)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_refused_for_every_support_and_counted(support, value):
    x = torch.zeros(5, 3)
    x[2, 1] = x[3, 0] = value
    with pytest.raises(SupportError, match=r"row 2, column 1 of x \(2 such of 15 entries\); need finite"):
        check_rows(x, width=3, support=support)


def test_the_tolerance_of_grey_values_is_far_below_a_grey_step():
    k = torch.arange(256.0)[:, None] / 255
    for support_breaking in (k[1:-1] + 1e-4, k[1:-1] - 1e-4):
        with pytest.raises(SupportError, match="254 such of 254"):
            check_rows(support_breaking, width=1, support="grey256")


@pytest.mark.parametrize(("support", "value"), [("spin", 0.0), ("spin", -2.0), ("nonnegative", -1e-6)])
def test_one_value_outside_spins_or_nonnegative_numbers_is_found_and_placed(support, value):
    x = torch.ones(5, 3)
    x[4, 1] = value
    with pytest.raises(SupportError, match=r"row 4, column 1 of x \(1 such of 15 entries\); need .* in x; try "):
        check_rows(x, width=3, support=support)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ([0.0, 0.0, 0.0], "0 at row 2, column 3 of x .*one entry of 1 in each group of 3"),
        ([1.0, 1.0, 0.0], "1 at row 2, column 3 of x .*one entry of 1 in each group of 3"),
        ([0.5, 0.5, 0.0], "0.5 at row 2, column 3 of x .*every entry 0 or 1"),
        ([0.0, 2.0, 0.0], "2 at row 2, column 4 of x .*every entry 0 or 1"),
    ],
)
def test_a_group_that_is_not_one_hot_is_found_and_placed(group, said):
    x = torch.eye(3).repeat(2, 2)
    x[2, 3:] = torch.tensor(group)
    with pytest.raises(SupportError, match=f"{said}.*one_hot.*codes 0..2"):
        check_rows(x, width=6, support="one-hot-3")


def test_columns_that_are_no_whole_groups_are_refused():
    with pytest.raises(ShapeError, match="7 columns; need whole groups of 3"):
        check_rows(torch.zeros(2, 7), width=7, support="one-hot-3")


def test_bits_offered_as_spins_are_told_the_way():
    with pytest.raises(SupportError, match=r"try 2 \* x - 1"):
        check_rows(torch.tensor([[0.0, 1.0]]), width=2, support="spin")


@pytest.mark.parametrize(
    ("x", "remedy"),
    [
        (torch.full((2, 3), 0.4), "> 0.5"),
        (torch.full((2, 3), 200.0), "255"),
        (torch.full((2, 3), -4.0), "clamp"),
    ],
)
def test_the_remedy_depends_on_what_came(x, remedy):
    with pytest.raises(SupportError) as caught:
        check_rows(x, width=3, support="binary")
    assert remedy in caught.value.fix


@pytest.mark.parametrize(
    ("x", "remedy"),
    [
        (torch.zeros(2, 4), "3 entries"),
        (torch.zeros(3), r"unsqueeze\(0\)"),
        (torch.zeros(2, 1, 3), r"flatten\(1\)"),
        (torch.zeros(()), "3 entries"),
        (torch.zeros(0, 3), "another split"),
        (torch.zeros(0), "another split"),
    ],
)
def test_wrong_shapes_are_refused_with_the_shape_and_a_remedy(x, remedy):
    with pytest.raises(ShapeError, match=rf"got pixels of shape .*; need \(N, 3\) with N >= 1; try .*{remedy}"):
        check_rows(x, width=3, support="real", name="pixels")


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.uint8, torch.bool, torch.float16, torch.bfloat16, torch.complex64]
)
def test_only_float32_and_float64_pass(dtype):
    with pytest.raises(DtypeError, match=r"torch\.float32.*try x\.float\(\)"):
        check_rows(torch.ones(2, 3, dtype=dtype), width=3, support="binary")


def test_an_array_is_refused_with_the_way_to_a_tensor():
    with pytest.raises(DtypeError, match=r"got x of type ndarray.*torch\.as_tensor\(x, dtype=torch\.float32\)"):
        check_rows(torch.ones(2, 3).numpy(), width=3, support="binary")  # type: ignore[arg-type]


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_grey_values_are_multiples_of_one_over_the_levels_less_one(levels):
    k = torch.arange(float(levels))[:, None]
    check_rows(k / (levels - 1), width=1, support=f"grey{levels}")
    with pytest.raises(SupportError, match=rf"k/{levels} with k in 0..{levels} in x"):
        check_rows((k / (levels - 1))[:, [0, 0]] + 0.3 / levels, width=2, support=f"grey{levels + 1}")


@pytest.mark.parametrize(("support", "levels"), [("grey256", 256), ("grey2", 2), ("grey1", None), ("unit", None)])
def test_the_levels_of_a_support_are_in_its_name(support, levels):
    assert levels_of(support) == levels


@pytest.mark.parametrize("support", ["grey", "grey1", "grey0", "grey-2", "one-hot-1", "one-hot", "Binary", ""])
def test_an_unknown_support_is_a_setting_error(support):
    with pytest.raises(SettingsError, match="grey256"):
        check_rows(torch.ones(2, 3), width=3, support=support)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_the_sphere_have_length_one_up_to_rounding(dtype):
    x = torch.nn.functional.normalize(torch.randn(1000, 3, dtype=dtype), dim=-1)
    check_rows(x, width=3, support="sphere")
    off = x.clone()
    off[[7, 9]] *= 1 + 100 * torch.finfo(dtype).eps
    with pytest.raises(SupportError, match=r"length 1.* of row 7 of x \(2 such of 1000 rows\); need every row a unit"):
        check_rows(off, width=3, support="sphere")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_angles_are_from_minus_pi_to_below_pi(dtype):
    pi = torch.tensor(math.pi, dtype=dtype)
    check_rows(torch.stack([-pi, torch.nextafter(pi, 0 * pi), 0 * pi])[None], width=3, support="torus")
    for bad in (pi, torch.nextafter(-pi, 2 * -pi), pi + 1):
        with pytest.raises(SupportError, match=r"column 1 of x.*need every entry in \[-pi, pi\).*angles\.wrap\(x\)"):
            check_rows(torch.stack([0 * pi, bad])[None], width=2, support="torus")


def test_checks_hold_under_python_optimised():
    code = (
        "import torch; from pyrogen.ops import check_rows\n"
        "try: check_rows(torch.full((2, 3), 0.5), width=3, support='binary')\n"
        "except ValueError: print('refused')"
    )
    out = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "refused\n"


def pretend_gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


def test_auto_is_the_gpu_if_there_is_one_and_else_the_cpu(monkeypatch):
    pretend_gpus(monkeypatch, 0)
    assert resolve_device("auto") == torch.device("cpu")
    pretend_gpus(monkeypatch, 2)
    assert resolve_device("auto") == torch.device("cuda", 0)


def test_a_device_comes_back_with_its_index(monkeypatch):
    pretend_gpus(monkeypatch, 2)
    assert resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device(torch.device("cuda:1")) == torch.device("cuda", 1)
    assert resolve_device("cpu") == resolve_device("cpu:0") == torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "gpus", "remedy"),
    [("cuda", 0, "'cpu'"), ("cuda:2", 2, "'cuda:0'"), ("gpu", 2, "'auto'"), ("meta", 2, "'auto'"), (None, 2, "'auto'")],
)
def test_a_device_that_is_not_there_is_refused_in_words(monkeypatch, device, gpus, remedy):
    pretend_gpus(monkeypatch, gpus)
    with pytest.raises(DeviceError, match=f"try {remedy}"):
        resolve_device(device)
