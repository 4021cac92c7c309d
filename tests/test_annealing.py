"""Annealed importance sampling: its weights against all paths of small machines, listed."""

from __future__ import annotations

import itertools
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyrogen.distributions.boltzmann import (
    Bernoulli,
    Categorical,
    Gaussian,
    Machine,
    ReLU,
    Spin,
    Units,
    annealed,
    annealed_along,
    annealed_back,
    annealed_back_along,
    base_log_z,
    check_ladder,
    linear,
    log_partition,
    raised,
    stacked,
    three_piece,
)
from pyrogen.distributions.boltzmann.annealing import Path
from pyrogen.errors import DeviceError, NonFiniteError, SettingsError, ShapeError
from tests.oracles import bits
from tests.statistics import assert_mean

KINDS = {
    "bernoulli": lambda: Bernoulli(3),
    "spin": lambda: Spin(2),
    "categorical": lambda: Categorical(2, 3),
    "stack": lambda: stacked([Bernoulli(2), Spin(1)]),
    "gaussian": lambda: Gaussian(2),
    "relu": lambda: ReLU(2),
}
LADDER = [0.0, 0.3, 0.6, 0.8, 1.0]


def tiny(visible: Units, hidden: Units, scale: float = 1.0, seed: int = 0) -> Machine:
    """float64, with weights of that scale."""
    g = torch.Generator().manual_seed(seed)
    W, b, c = (
        scale * torch.randn(shape, generator=g, dtype=torch.float64)
        for shape in ((visible.width, hidden.width), (visible.width,), (hidden.width,))
    )
    return Machine(visible.double().requires_grad_(False), hidden.double().requires_grad_(False), W, b, c)


def kernel(machine: Machine, v: Tensor, h: Tensor) -> Tensor:
    """The transition matrix of v -> h -> v over all states, from energies alone."""
    joint = -machine.energy(v[:, None], h)
    return joint.softmax(1) @ joint.softmax(0).T


def log_z(machine: Machine) -> float:
    return float(log_partition(machine))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def binary() -> tuple[Machine, Tensor]:
    """3 x 2 units and a base that is not the machine's own bias."""
    return tiny(Bernoulli(3), Bernoulli(2)), torch.tensor([0.3, -0.7, 0.1], dtype=torch.float64)


def test_the_mean_of_all_paths_is_the_ratio_of_the_partition_functions(binary):
    """The sum over v_0, ..., v_K of what the recursion multiplies, without a random number: E[w] and E[w_back]."""
    machine, base = binary
    v, h = bits(3), bits(2)
    log_f = [-machine.tempered(beta, base).free_energy(v) for beta in LADDER]
    kernels = [kernel(machine.tempered(beta, base), v, h) for beta in LADDER]
    up = log_f[0].exp()
    for k in range(1, len(LADDER)):
        up = (up * (log_f[k] - log_f[k - 1]).exp()) @ kernels[k]
    down = log_f[-1].exp()
    for k in range(len(LADDER) - 1, 0, -1):
        down = (down @ kernels[k]) * (log_f[k - 1] - log_f[k]).exp()
    z, z_0 = math.exp(log_z(machine)), math.exp(float(base_log_z(machine, base)))
    assert float(up.sum()) == pytest.approx(z, rel=1e-12)
    assert float(down.sum()) == pytest.approx(z_0, rel=1e-12)


def test_the_log_weight_is_that_of_the_path_that_was_walked(binary):
    """Replays the draws of the recursion with the machine's own tempered sweeps and free energies."""
    machine, base = binary
    log_w, end = annealed(machine, base, LADDER, 7, generator(3))
    g = generator(3)
    v = machine.visible.sample(base.expand(7, -1), g)
    expected = torch.zeros(7, dtype=torch.float64)
    for low, high in pairwise(LADDER):
        expected += machine.tempered(low, base).free_energy(v) - machine.tempered(high, base).free_energy(v)
        v = machine.tempered(high, base).sweep(v, 1, g)
    torch.testing.assert_close(log_w, expected)
    torch.testing.assert_close(end, v)


def test_the_reverse_log_weight_is_that_of_the_path_that_was_walked(binary):
    machine, base = binary
    v = start = bits(3)
    log_w = annealed_back(machine, base, LADDER, start, generator(3), sweeps=2)
    g = generator(3)
    expected = torch.zeros(8, dtype=torch.float64)
    for high, low in pairwise(reversed(LADDER)):
        v = machine.tempered(high, base).sweep(v, 2, g)
        expected += machine.tempered(high, base).free_energy(v) - machine.tempered(low, base).free_energy(v)
    torch.testing.assert_close(log_w, expected)


@pytest.mark.parametrize(("visible", "hidden"), list(itertools.product(KINDS, KINDS)))
def test_weights_are_unbiased_for_any_units(visible: str, hidden: str):
    """20,000 chains against listing, or quadrature where both sides are continuous."""
    scale = 0.35 if {visible, hidden} & {"gaussian", "relu"} else 0.8
    machine = tiny(KINDS[visible](), KINDS[hidden](), scale)
    base = 0.3 * torch.ones_like(machine.b)
    truth = quadrature(machine)
    log_w, _ = annealed(machine, base, LADDER, 20_000, generator(1))
    assert_mean((log_w + base_log_z(machine, base) - truth).exp(), 1.0, exact_to=1e-6)


def quadrature(machine: Machine) -> float:
    """log Z by listing one side, or on a grid over a continuous visible side of two units."""
    if min(machine.visible.count, machine.hidden.count) < 1e3:
        return log_z(machine)
    low = 0.0 if isinstance(machine.visible, ReLU) else -12.0
    x = torch.linspace(low, 12, 1201, dtype=torch.float64)
    weight = torch.full_like(x, math.log(float(x[1] - x[0])))
    weight[0] = weight[-1] = weight[0] - math.log(2)  # the trapezoid rule, which matters at the edge of a ReLU
    grid, log_dx = torch.cartesian_prod(x, x), torch.cartesian_prod(weight, weight).sum(-1)
    return float((log_dx - machine.free_energy(grid)).logsumexp(0))


def test_reverse_weights_average_to_the_inverse_from_exact_starts(binary):
    machine, base = binary
    p = (-machine.free_energy(bits(3))).softmax(0)
    v = bits(3)[torch.multinomial(p, 20_000, True, generator=generator())]
    log_w = annealed_back(machine, base, LADDER, v, generator(1))
    truth = log_z(machine) - base_log_z(machine, base)
    assert_mean((log_w + truth).exp(), 1.0)
    # the mean of the inverted weights is not 1
    inverted = (-log_w - truth).exp()
    assert float(inverted.mean()) > 1 + 10 * float(inverted.std()) / math.sqrt(20_000)


def test_raise_averages_to_the_law_of_where_annealing_ends(binary):
    machine, base = binary
    v, h = bits(3), bits(2)
    p_ann = (-machine.tempered(0.0, base).free_energy(v)).softmax(0)
    for beta in LADDER[1:]:
        p_ann = p_ann @ kernel(machine.tempered(beta, base), v, h)
    log_w = raised(machine, base, LADDER, v, 5_000, generator(2), at_once=10_000)
    assert log_w.shape == (8, 5_000)
    assert_mean((log_w - p_ann.log()[:, None]).exp().T, torch.ones(8))
    _, end = annealed(machine, base, LADDER, 50_000, generator(4))
    visits = (end[:, None] == v).all(-1).double()
    assert_mean(visits, p_ann)


def test_a_trajectory_of_machines_is_unbiased_both_ways():
    machines = [tiny(Bernoulli(3), Bernoulli(2), scale, seed=5) for scale in (0.2, 0.5, 0.8, 1.1, 1.4)]
    base = torch.zeros(3, dtype=torch.float64)
    truth = log_z(machines[-1]) - base_log_z(machines[0], base)
    log_w, _ = annealed_along(machines, base, [0, 0.5, 1], 20_000, generator(1))
    assert_mean((log_w - truth).exp(), 1.0)
    p = (-machines[-1].free_energy(bits(3))).softmax(0)
    v = bits(3)[torch.multinomial(p, 20_000, True, generator=generator())]
    assert_mean((annealed_back_along(machines, base, [0, 0.5, 1], v, generator(2)) + truth).exp(), 1.0)


def test_float32_weights_are_those_of_float64():
    """784 x 500, the same walk in both precisions: 1,000 temperatures, where sums of softplus would lose 4e-3 nats."""
    g = generator()
    W, b, c = 0.05 * torch.randn(784, 500, generator=g), torch.randn(784, generator=g), torch.randn(500, generator=g)
    single = Machine(Bernoulli(784), Bernoulli(500), W, b, c)
    double = Machine(Bernoulli(784), Bernoulli(500), W.double(), b.double(), c.double())
    ladder = linear(200)
    base = torch.zeros(784)
    v = torch.bernoulli(torch.full((4, 784), 0.2), generator=g)
    low, high = Path(single, base, ladder), Path(double, base.double(), ladder)
    x, exact_x = low.input(v), high.input(v.double())
    off = [low.change(v, x, *step) - high.change(v.double(), exact_x, *step) for step in pairwise(ladder)]
    assert float(torch.stack(off).abs().sum(0).max()) < 1e-3


@pytest.mark.parametrize("step", [0.001, 0.05, 1.0])
def test_the_change_in_energy_is_right_however_large_the_inputs(step: float):
    """Where exp((low - high) x) would overflow, or 1 - p cancel."""
    machine = tiny(Bernoulli(3), Bernoulli(2), 300.0)
    single = Machine(Bernoulli(3), Bernoulli(2), machine.W.float(), machine.b.float(), machine.c.float())
    base, v = torch.zeros(3), bits(3).float()
    path = Path(single, base, [0, 1])
    for low, high in ((1 - step, 1.0), (0.0, step), (1.0, 1 - step)):
        expected = machine.tempered(low, base.double()).free_energy(v.double()) - machine.tempered(
            high, base.double()
        ).free_energy(v.double())
        torch.testing.assert_close(path.change(v, path.input(v), low, high), expected, rtol=2e-6, atol=2e-4)


class Counted(TorchDispatchMode):
    """Counts ATen calls by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def test_a_temperature_costs_two_products():
    machine = tiny(Bernoulli(6), Bernoulli(4), 0.3)
    calls = []
    for steps in (10, 30):
        with Counted() as counted:
            annealed(machine, torch.zeros_like(machine.b), linear(steps), 5)
        calls.append(counted.calls)
    products = [c.get("addmm", 0) + c.get("mm", 0) + c.get("bmm", 0) for c in calls]
    assert products[1] - products[0] == 2 * 20
    assert sum(calls[1].values()) - sum(calls[0].values()) <= 25 * 20
    assert calls[0].get("_local_scalar_dense", 0) == calls[1].get("_local_scalar_dense", 0)


def test_the_three_pieces_have_the_proportions_of_the_paper():
    betas = three_piece()
    assert len(betas) == 14_501 and betas[500] == 0.5 and betas[4_500] == 0.9 and betas[-1] == 1.0
    assert check_ladder(betas) == betas
    for steps in (3, 7, 29, 1_000):
        assert len(check_ladder(three_piece(steps))) == steps + 1
        assert len(check_ladder(linear(steps))) == steps + 1


@pytest.mark.parametrize(
    ("ladder", "words"),
    [
        ([0.1, 1.0], "start at the base"),
        ([0.0, 0.9], "end at the machine"),
        ([0.0, 0.5, 0.5, 1.0], "increasing"),
        ([0.0, 0.7, 0.6, 1.0], "0.7 at 1 before 0.6 at 2"),
        ([], "at least beta = 0"),
        ([0.0, math.nan, 1.0], "nan"),
    ],
)
def test_a_ladder_that_is_none_is_refused(binary, ladder, words):
    machine, base = binary
    with pytest.raises(SettingsError, match=words):
        annealed(machine, base, ladder, 3)


def test_bad_input_is_refused_in_words(binary):
    machine, base = binary
    with pytest.raises(SettingsError, match="0 chains"):
        annealed(machine, base, LADDER, 0)
    with pytest.raises(SettingsError, match="0 chains"):
        annealed_back(machine, base, LADDER, torch.zeros(0, 3))
    with pytest.raises(SettingsError, match="0 sweeps"):
        annealed(machine, base, LADDER, 3, sweeps=0)
    with pytest.raises(SettingsError, match="0 steps"):
        linear(0)
    with pytest.raises(SettingsError, match="2 steps"):
        three_piece(2)
    with pytest.raises(SettingsError, match="no machines"):
        annealed_along([], base, LADDER)
    with pytest.raises(ShapeError, match="shapes"):
        annealed_along([machine, tiny(Bernoulli(2), Bernoulli(2))], base, LADDER)
    with pytest.raises(ShapeError, match="base of shape"):
        annealed(machine, base[:2], LADDER, 3)
    with pytest.raises(ShapeError, match="v of shape"):
        annealed_back(machine, base, LADDER, torch.zeros(3))
    with pytest.raises(DeviceError, match="base on meta"):
        annealed(machine, base.to("meta"), LADDER, 3)
    with pytest.raises(NonFiniteError, match="1 entries of W"):
        W = machine.W.clone()
        W[1, 1] = math.nan
        annealed(Machine(Bernoulli(3), Bernoulli(2), W, machine.b, machine.c), base, LADDER, 3)
    with pytest.raises(NonFiniteError, match="base with NaN"):
        annealed(machine, base / 0, LADDER, 3)


def test_a_machine_that_no_normaliser_exists_for_is_refused():
    """Two Gaussian layers coupled so strongly that exp(-E) has no integral: the chains blow up."""
    machine = tiny(Gaussian(2), Gaussian(2), 0.1)
    wild = Machine(machine.visible, machine.hidden, 50 * torch.eye(2, dtype=torch.float64), machine.b, machine.c)
    with pytest.raises(NonFiniteError, match="log-weights"):
        annealed(wild, torch.zeros_like(machine.b), linear(300), 3, generator())
