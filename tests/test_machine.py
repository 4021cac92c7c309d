from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate

from pyrogen.distributions.boltzmann import Bernoulli, Gaussian, Machine, Spin, log_partition
from pyrogen.errors import DeviceError, ModelError, NonFiniteError, ShapeError
from tests.boltzmann import COUNTABLE, PAIRS, log_joint, machine, points
from tests.oracles import bits, finite_difference
from tests.statistics import assert_mean

pairs = pytest.mark.parametrize(("visible", "hidden"), PAIRS)
CLOSE = {"atol": 1e-8, "rtol": 1e-8}
HALF = torch.tensor(0.5, dtype=torch.float64)


@pairs
def test_the_energy_is_that_of_the_definition(visible, hidden):
    model = machine(visible, hidden)
    v, h, log_f = log_joint(model)
    (_, log_v), (_, log_h) = points(model.visible), points(model.hidden)
    some_v, some_h = slice(None, None, max(1, len(v) // 40)), slice(None, None, max(1, len(h) // 40))
    found = model.energy(v[some_v, None], h[some_h]).detach()
    expected = -(log_f - log_v[:, None] - log_h)[some_v, some_h]
    torch.testing.assert_close(found, expected, **CLOSE)


@pairs
def test_free_energies_of_both_sides_are_sums_over_the_other(visible, hidden):
    model = machine(visible, hidden)
    v, h, log_f = log_joint(model)
    (_, log_v), (_, log_h) = points(model.visible), points(model.hidden)
    # where nothing is left of the density, quadrature has no digits either
    f, f_h = model.free_energy(v).detach(), model.turned().free_energy(h).detach()
    near, near_h = f < f.min() + 6, f_h < f_h.min() + 6
    torch.testing.assert_close(-f[near], (log_f.logsumexp(1) - log_v)[near], atol=1e-6, rtol=1e-7)
    torch.testing.assert_close(-f_h[near_h], (log_f.logsumexp(0) - log_h)[near_h], atol=1e-6, rtol=1e-7)
    both = (-f + log_v).logsumexp(0), (-f_h + log_h).logsumexp(0)
    torch.testing.assert_close(*both, **CLOSE)


@pairs
def test_conditional_means_are_those_of_the_joint(visible, hidden):
    model = machine(visible, hidden)
    v, h, log_f = log_joint(model)
    at = divmod(int(log_f.argmax()), len(h))
    p_h, p_v = log_f[at[0]].softmax(0), log_f[:, at[1]].softmax(0)
    found = model.hidden.mean(model.hidden_input(v[at[0]])), model.visible.mean(model.visible_input(h[at[1]]))
    torch.testing.assert_close(found[0].detach(), p_h @ h, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(found[1].detach(), p_v @ v, atol=1e-7, rtol=1e-7)


@pairs
def test_draws_of_either_side_have_the_conditional_mean(visible, hidden):
    model = machine(visible, hidden)
    v, h, _ = log_joint(model)
    noise = torch.Generator().manual_seed(0)
    v0, h0 = v[len(v) // 3], h[len(h) // 3]
    assert_mean(model.up(v0.expand(4000, -1), noise).detach(), model.hidden.mean(model.hidden_input(v0)).detach())
    assert_mean(model.down(h0.expand(4000, -1), noise).detach(), model.visible.mean(model.visible_input(h0)).detach())


@pytest.mark.parametrize(("visible", "hidden"), [(v, h) for v, h in PAIRS if v in COUNTABLE and h in COUNTABLE])
def test_a_sweep_leaves_p_v_invariant(visible, hidden):
    # the exact transition matrix: sum_h p(h | v) p(v' | h), on all states
    model = machine(visible, hidden, strength=0.8)
    v, _, log_f = log_joint(model)
    up, down = log_f.softmax(1), log_f.T.softmax(1)
    p, K = log_f.logsumexp(1).softmax(0), up @ down
    torch.testing.assert_close(p @ K, p, atol=1e-12, rtol=0)
    torch.testing.assert_close(p[:, None] * K, (p[:, None] * K).T, atol=1e-12, rtol=0)  # detailed balance
    # and the sampler makes that transition: from one state, the mean of a sweep is the row's
    drawn = model.sweep(v[1].expand(20_000, -1), 1, torch.Generator().manual_seed(0))
    assert_mean(drawn, K[1] @ v)


def test_sweeps_forget_where_they_started():
    model = machine("bernoulli", "spin")
    v, _, log_f = log_joint(model)
    drawn = model.sweep(v[0].expand(20_000, -1), 30, torch.Generator().manual_seed(0))
    assert_mean(drawn, log_f.logsumexp(1).softmax(0) @ v)


def test_a_sweep_holds_no_graph():
    model = machine("bernoulli", "bernoulli")
    model.W.requires_grad_()
    assert not model.sweep(torch.zeros(3, 3, dtype=torch.float64)).requires_grad


@pairs
@pytest.mark.parametrize("beta", [0.0, 0.35, 1.0])
def test_tempering_is_the_path_that_it_says(visible, hidden, beta):
    model = machine(visible, hidden)
    base = torch.linspace(-0.5, 0.4, model.visible.width, dtype=torch.float64)
    warm = model.tempered(beta, base)
    v, h, _ = log_joint(model)
    (_, log_v), (_, log_h) = points(model.visible), points(model.hidden)
    linear = (1 - beta) * (v @ base) + beta * (v @ model.b)
    rest = beta * (h @ model.c + v @ model.W @ h.T)
    log_f = (model.visible.base(v) + linear)[:, None] + model.hidden.base(h) + rest
    log_f = log_f.detach()
    some = v[:: max(1, len(v) // 30)]
    torch.testing.assert_close(-warm.energy(some[:, None], h).detach(), log_f[:: max(1, len(v) // 30)], **CLOSE)
    free = warm.free_energy(v).detach()
    near = free < free.min() + 6
    torch.testing.assert_close(-free[near], (log_f + log_h).logsumexp(1)[near], atol=1e-6, rtol=1e-7)
    at = len(h) // 2
    p_v = (log_f + log_v[:, None])[:, at].softmax(0)
    torch.testing.assert_close(warm.visible.mean(warm.visible_input(h[at])).detach(), p_v @ v, atol=1e-7, rtol=1e-7)


def test_the_tempered_marginal_is_not_the_marginal_to_a_power():
    # a swap that used beta F(v) would have another target; total variation between the two laws is not small
    model = machine("bernoulli", "bernoulli", strength=2.0)
    v = bits(3)
    wrong, right = (-0.4 * model.free_energy(v)).softmax(0), (-model.tempered(0.4).free_energy(v)).softmax(0)
    assert 0.5 * (wrong - right).abs().sum() > 0.02


def test_temperatures_may_differ_from_row_to_row():
    model, beta = machine("bernoulli", "gaussian"), torch.tensor([0.2, 1.0, 0.0], dtype=torch.float64)
    v, h = bits(3)[[1, 5, 7]], torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).double()
    together = model.tempered(beta)
    for i, one in enumerate(beta.tolist()):
        alone = model.tempered(one)
        torch.testing.assert_close(together.energy(v, h)[i], alone.energy(v[i], h[i]))
        torch.testing.assert_close(together.free_energy(v)[i], alone.free_energy(v[i]))
        torch.testing.assert_close(together.visible_input(h)[i], alone.visible_input(h[i]))


def test_a_tempered_machine_has_its_base_on_one_side_only():
    with pytest.raises(ModelError, match="tempering last"):
        machine("bernoulli", "bernoulli").tempered(0.5).turned()


@pairs
def test_turning_exchanges_the_sides(visible, hidden):
    model = machine(visible, hidden)
    v, h, _ = log_joint(model)
    v, h = v[: len(h)][:50], h[: len(v)][:50]
    n = min(len(v), len(h))
    torch.testing.assert_close(model.turned().energy(h[:n], v[:n]), model.energy(v[:n], h[:n]))
    torch.testing.assert_close(model.turned().turned().free_energy(v), model.free_energy(v))


def test_the_gradient_of_minus_the_free_energy_is_the_clamped_moment():
    model = machine("categorical", "relu")
    for tensor in (model.W, model.b, model.c):
        tensor.requires_grad_()
    v = model.visible.states(4, 5, model.W)[0]
    gradients = torch.autograd.grad(-model.free_energy(v), [model.W, model.b, model.c])
    mean = model.hidden.mean(model.hidden_input(v)).detach()
    torch.testing.assert_close(gradients[0], v[:, None] * mean)
    torch.testing.assert_close(gradients[1], v)
    torch.testing.assert_close(gradients[2], mean)


@pytest.mark.parametrize(("visible", "hidden"), [(v, h) for v, h in PAIRS if v in COUNTABLE or h in COUNTABLE])
def test_the_gradient_of_log_p_agrees_with_finite_differences(visible, hidden):
    model = machine(visible, hidden)
    v = points(model.visible)[0][::7][:5]

    def log_p(W):
        other = Machine(model.visible, model.hidden, W, model.b, model.c)
        return (-other.free_energy(v)).mean() - log_partition(other)

    W = model.W.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(log_p(W), W)
    with torch.no_grad():
        torch.testing.assert_close(gradient, finite_difference(log_p, model.W), atol=1e-6, rtol=1e-5)


def test_a_spin_machine_is_a_bit_machine_with_other_weights():
    # v = 2 x - 1, h = 2 y - 1: W_xy = 4 W, b_x = 2 b - 2 W 1, c_y = 2 c - 2 W' 1, and the energies differ by a constant
    spins = machine(Spin(3), Spin(2), strength=1.0)
    W, b, c = spins.W, spins.b, spins.c
    as_bits = Machine(Bernoulli(3), Bernoulli(2), 4 * W, 2 * b - 2 * W.sum(1), 2 * c - 2 * W.sum(0))
    x, y = bits(3)[:, None], bits(2)
    difference = spins.energy(2 * x - 1, 2 * y - 1) - as_bits.energy(x, y)
    torch.testing.assert_close(difference, difference[0, 0].expand(8, 4))


def test_the_gauge_of_one_hot_units_moves_weights_and_biases_together():
    # W_iq - mean_q needs c + sum_i mean_q and b - mean_q, or the model is another one
    model = machine("categorical", "bernoulli")
    mean = model.W.unflatten(0, (2, 3)).mean(1)
    W = (model.W.unflatten(0, (2, 3)) - mean[:, None]).flatten(0, 1)
    b = (model.b.unflatten(0, (2, 3)) - model.b.unflatten(0, (2, 3)).mean(1, keepdim=True)).flatten()
    moved = Machine(model.visible, model.hidden, W, b, model.c + mean.sum(0))
    v = model.visible.states(0, 9, model.W)
    same, only_W = -moved.free_energy(v), -Machine(model.visible, model.hidden, W, model.b, model.c).free_energy(v)
    torch.testing.assert_close(same.softmax(0), (-model.free_energy(v)).softmax(0))
    assert (only_W.softmax(0) - same.softmax(0)).abs().max() > 1e-3


def test_a_gaussian_machine_samples_the_law_of_its_energy():
    # h | v has the variance that the energy says, whatever the number of units on the other side
    model = machine(Bernoulli(6), Gaussian(2).double())
    with torch.no_grad():
        model.hidden.log_scale.fill_(-0.9)
    h = model.up(bits(6)[17].expand(20_000, -1), torch.Generator().manual_seed(0)).detach()
    line = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    at = torch.stack([line, torch.zeros_like(line)], -1)
    p = (-model.energy(bits(6)[17], at)).softmax(0).detach()
    mean = p @ line
    assert_mean(h[:, 0], mean)
    assert_mean((h[:, 0] - mean).square(), p @ (line - mean).square())


def enumerated(model: Machine):
    """The same machine as a Pyro factor graph over single bits."""

    @config_enumerate
    def program(v=None):
        x = [pyro.sample(f"v{i}", dist.Bernoulli(HALF), obs=None if v is None else v[i]) for i in range(len(model.b))]
        h = [pyro.sample(f"h{j}", dist.Bernoulli(HALF)) for j in range(len(model.c))]
        total = sum(x_i * b for x_i, b in zip(x, model.b, strict=True))
        total = total + sum(h_j * c for h_j, c in zip(h, model.c, strict=True))
        for i, x_i in enumerate(x):
            for j, h_j in enumerate(h):
                total = total + x_i * model.W[i, j] * h_j
        pyro.factor("minus the energy", total)

    return program


def test_pyros_enumeration_agrees():
    model = machine(Bernoulli(4), Bernoulli(3), strength=1.0)
    program, elbo, half = enumerated(model), TraceEnum_ELBO(max_plate_nesting=0), HALF.log()
    log_z = torch.as_tensor(-elbo.loss(program, lambda v=None: None), dtype=HALF.dtype) - 7 * half
    torch.testing.assert_close(log_partition(model), log_z, atol=1e-12, rtol=0)
    for v in bits(4)[[0, 6, 15]]:
        free = torch.as_tensor(elbo.loss(program, lambda v=None: None, v), dtype=HALF.dtype) + 7 * half
        torch.testing.assert_close(model.free_energy(v), free, atol=1e-12, rtol=0)
        marginals = elbo.compute_marginals(program, lambda v=None: None, v)
        p = torch.stack([marginals[f"h{j}"].log_prob(torch.ones_like(HALF)).exp() for j in range(3)])
        torch.testing.assert_close(model.hidden.mean(model.hidden_input(v)), p, atol=1e-12, rtol=0)


def test_a_matrix_the_wrong_way_round_is_told():
    with pytest.raises(ShapeError, match=r"\(2, 3\).*\(3, 2\).*W\.T"):
        Machine(Bernoulli(3), Bernoulli(2), torch.zeros(2, 3), torch.zeros(3), torch.zeros(2))
    with pytest.raises(ShapeError, match=r"c of shape \(3,\)"):
        Machine(Bernoulli(3), Bernoulli(2), torch.zeros(3, 2), torch.zeros(3), torch.zeros(3))


def test_parameters_that_are_not_finite_are_refused_by_name():
    model = machine("bernoulli", "bernoulli")
    model.check()
    model.b[1] = float("nan")
    with pytest.raises(NonFiniteError, match="1 entries of b"):
        model.check()


def test_parameters_on_two_devices_are_refused():
    model = machine("bernoulli", "bernoulli")
    with pytest.raises(DeviceError, match="W on meta, b on cpu"):
        Machine(model.visible, model.hidden, model.W.to("meta"), model.b, model.c).check()
