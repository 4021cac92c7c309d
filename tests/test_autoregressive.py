"""Every autoregressive joint, by enumeration: it sums to one, depends on what it must, and draws what it scores."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.autograd.functional import jacobian
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pyrogen.distributions import Autoregressive
from pyrogen.errors import SettingsError, ShapeError, SupportError
from pyrogen.inference.checkpoint import load_weights, save_weights
from pyrogen.models import MADE
from pyrogen.nn.autoregressive import MaskedMLP, Members, make_orders, raster_orders
from tests.autoregressive import BITS, DISCRETE, NETWORKS, joint, made, states, strong
from tests.statistics import assert_frequencies, assert_mean

MEMBERS = ({}, {"n_orders": 2, "members": 2})


class Calls(TorchDispatchMode):
    """How often torch computes or makes a view."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += 1
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("name", DISCRETE)
def test_it_sums_to_one_over_all_states(name):
    fn = joint(name)
    values = len(fn.conditional.values(torch.zeros(())))
    x = states(fn)
    assert x.shape == (values ** fn.event_shape[0], fn.event_shape[0]) and len(x.unique(dim=0)) == len(x)
    log_p = fn.log_prob(x)
    torch.testing.assert_close(log_p.exp().sum(), torch.tensor(1.0, dtype=torch.float64))
    assert log_p.std() > 0.5 or len(x) == 2, "nothing was perturbed"


@pytest.mark.parametrize("name", ["made-real", "nade-real"])
def test_conditionals_of_reals_integrate_to_one_and_their_product_is_the_joint(name):
    fn = joint(name)
    order = fn.network.orders[0]
    x = torch.randn(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    # along the last variable of the order, the joint is the density of the others times a density
    grid = torch.linspace(-60, 60, 60001, dtype=torch.float64)
    rows = x.repeat(len(grid), 1)
    rows[:, order[-1]] = grid
    parameters = fn.network(x)
    others = fn.conditional.log_prob(parameters, x)[0, order[:-1]].sum()
    total = (fn.log_prob(rows) - others).exp().sum() * (grid[1] - grid[0])
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "made-one"])
def test_an_output_depends_on_all_variables_before_it_and_on_no_other(name):
    fn = joint(name)
    network = fn.network
    width, inputs, source = network.width, network.inputs, torch.Generator().manual_seed(0)
    context = None if fn.context is None else fn.context[None]
    for which in range(network.n_orders):
        # at many real inputs, far from each other: at a few of them a relu could hide a dependency
        points = 5 * torch.randn(20, 1, width * inputs, dtype=torch.float64, generator=source)
        jacobians = [jacobian(lambda e, w=which: network(e, context, w)[0], at) for at in points]
        J = torch.stack([j.reshape(width, -1, width, inputs).abs().amax((1, 3)) for j in jacobians]).amax(0)
        order = network.orders[which]
        J = J[order][:, order]
        assert (J.triu() == 0).all(), "a variable sees itself or a later one"
        assert int((J.tril(-1) != 0).sum()) == expected_dependencies(network, which)


def expected_dependencies(network, which: int) -> int:
    """D (D - 1) / 2, but for a MADE what its degrees let through."""
    complete = network.width * (network.width - 1) // 2
    if not isinstance(network, MaskedMLP) or network.direct is not None or not network.hidden:
        return complete
    degrees = [table[which] for table in (network.get_buffer(f"degrees{i}") for i in range(len(network.hidden)))]
    seen = 0
    for k in range(2, network.width + 1):  # place of the output
        for j in range(1, k):  # of the input
            reach = {int(m) for m in degrees[0] if m >= j}
            for table in degrees[1:]:
                reach = {int(m) for m in table if any(m >= r for r in reach)}
            seen += any(m < k for m in reach)
    return seen


def test_even_degrees_let_everything_through_when_the_layers_are_as_wide_as_the_input():
    network, _ = made(7, (30, 20))
    assert expected_dependencies(network, 0) == 21
    several, _ = made(6, (20, 15), n=4, degrees="even", order=raster_orders((1, 2, 3), 4))
    assert [expected_dependencies(several, which) for which in range(4)] == [15] * 4
    narrow, _ = made(8, (3, 2))
    assert expected_dependencies(narrow, 0) < 28  # so that the count of what there is means something


def test_raster_scans_start_in_a_corner_each_and_are_followed_by_the_same_backwards():
    scans = raster_orders((1, 2, 3))
    assert scans.tolist() == [
        *([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]),  # along the rows
        *([0, 3, 1, 4, 2, 5], [5, 2, 4, 1, 3, 0]),  # along the columns
        *([2, 1, 0, 5, 4, 3], [3, 4, 5, 0, 1, 2]),  # and from the end of the first row
        *([2, 5, 1, 4, 0, 3], [3, 0, 4, 1, 5, 2]),
    ]
    # variable d = (c H + i) W + j, the two channels of a pixel one after the other
    assert raster_orders((2, 1, 3), 1).tolist() == [[0, 3, 1, 4, 2, 5]]
    with pytest.raises(SettingsError, match="9 raster scans"):
        raster_orders((1, 2, 3), 9)
    with pytest.raises(SettingsError, match="number of scans"):
        raster_orders((1, 2, 3), 0)
    with pytest.raises(ShapeError, match=r"\(784,\)"):
        raster_orders((784,))


def test_a_scan_and_the_same_backwards_share_hardly_a_weight():
    network, _ = made(12, (36, 24), n=3, degrees="even", direct=True, order=raster_orders((1, 3, 4), 3))
    forward, backward, across = (network.masks(which) for which in range(3))
    for there, back, along in zip(forward, backward, across, strict=True):
        assert float((there * back).mean()) <= 2 / 12  # a unit and its own place, and the last two places
        assert 0.4 < float(there.mean()) < 0.6 and float((there * along).mean()) > 0.3


def test_a_member_answers_under_its_own_orders_and_learns_from_them_alone():
    x = torch.bernoulli(torch.full((5, 6), 0.5))
    scans = raster_orders((1, 2, 3), 4)
    model = MADE(6, (9,), order=scans, n_orders=4, degrees="even", members=2, direct=True)
    both, first = model.network, model.network.networks[0]
    strong(both)
    assert torch.equal(both.orders, scans) and torch.equal(first.orders, scans[:2])
    assert torch.equal(both(x, None, 1), first(x, None, 1))
    model.dist(which=torch.tensor(3)).log_prob(x).sum().backward()
    assert all(p.grad is None for p in first.parameters())
    assert all(p.grad is not None for p in both.networks[1].parameters())
    for wrong in (torch.tensor(-1), torch.tensor(4)):
        with pytest.raises(SettingsError, match=f"order {int(wrong)}"):
            model.dist(which=wrong).log_prob(x)
    with pytest.raises(TypeError):
        both(x, None, torch.tensor(1.7))
    with pytest.raises(SettingsError, match="4 orders for 3 members"):
        MADE(6, order=scans, n_orders=4, members=3)
    with pytest.raises(SettingsError, match="number of members"):
        MADE(6, members=0)
    with pytest.raises(SettingsError, match="the same widths"):
        Members([made(6, (9,))[0], made(7, (9,))[0]])


@pytest.mark.parametrize("name", DISCRETE)
def test_draws_have_the_frequencies_that_the_density_says(name):
    fn = joint(name)
    x = states(fn)
    p = fn.log_prob(x).exp().detach()
    torch.manual_seed(0)
    n = 20_000
    drawn = fn.sample((n,))
    assert drawn.shape == (n, *fn.batch_shape, fn.event_shape[0]) and fn.support.check(drawn).all()
    values = fn.conditional.values(x)
    base = len(values) ** torch.arange(x.shape[1] - 1, -1, -1)

    def number(rows):
        return ((rows.unsqueeze(-1) - values).abs().argmin(-1) * base).sum(-1)

    found = torch.bincount(number(drawn).flatten(), minlength=len(x))
    assert_frequencies(found[number(x)], p)


@pytest.mark.parametrize("name", NETWORKS)
def test_cached_draws_are_the_naive_ones_for_the_same_uniforms(name):
    fn = joint(name)
    uniforms = torch.rand(50, *fn.batch_shape, *fn.event_shape, dtype=torch.float64)
    for which in range(fn.network.n_orders):
        one = fn.under(which)
        cached, naive = one.sample((50,), uniforms=uniforms), one.sample((50,), uniforms=uniforms, naive=True)
        if name in DISCRETE:
            assert torch.equal(cached, naive)
        else:  # the order of additions differs, so the last bits do
            torch.testing.assert_close(cached, naive)
        assert len(cached.unique(dim=0)) > 1


@pytest.mark.parametrize("name", ["made-orders", "orderless", "nade", "fvbn-levels"])
def test_the_mean_log_density_of_draws_is_minus_the_entropy(name):
    fn = joint(name)
    log_p = fn.log_prob(states(fn)).detach()
    torch.manual_seed(1)
    assert_mean(fn.log_prob(fn.sample((4000,))).detach(), (log_p.exp() * log_p).sum())


@pytest.mark.parametrize("name", ["made-orders", "orderless-orders"])
def test_a_mixture_of_orders_averages_densities_and_averaged_logits_are_no_density(name):
    fn = joint(name)
    x = states(fn)
    fn.network.requires_grad_(False)
    parts = torch.stack([fn.under(i).log_prob(x) for i in range(fn.network.n_orders)])
    torch.testing.assert_close(parts.exp().sum(1), torch.ones(len(parts), dtype=torch.float64))
    torch.testing.assert_close(fn.log_prob(x), parts.exp().mean(0).log())
    logits = torch.stack([fn.network(x, None, i) for i in range(fn.network.n_orders)]).mean(0)
    wrong = fn.conditional.log_prob(logits, x).sum(-1)
    assert abs(float(wrong.exp().sum()) - 1) > 1e-3


def test_masks_drawn_a_hundred_times_leave_the_weights_as_they_are():
    network, conditional = made(7, (20, 20), n=16, degrees="random", direct=True)
    strong(network)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x = torch.bernoulli(torch.full((5, 7), 0.5))
    for i in range(100):
        Autoregressive(network, conditional, which=torch.tensor(i % 16)).log_prob(x).sum().backward()
        network.zero_grad()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert (network.layers[1].weight != 0).all()


def test_a_masked_weight_gets_no_gradient():
    network, conditional = made(7, (20,))
    Autoregressive(network, conditional).log_prob(torch.ones(3, 7)).sum().backward()
    masked = network.masks()[0] == 0
    assert masked.any() and (network.layers[0].weight.grad[masked] == 0).all()


def test_an_order_given_as_a_tensor_is_the_order_given_as_a_number():
    fn = joint("made-orders")
    x = states(fn)
    for i in range(3):
        assert torch.equal(fn.under(torch.tensor(i)).log_prob(x), fn.under(i).log_prob(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_orders_masks_and_weights_survive_state_dict_and_pickle(name):
    fn = joint(name)
    other, _ = NETWORKS[name]()
    other = other.double()
    other.load_state_dict(fn.network.state_dict())
    x = fn.sample((6,))
    expected = fn.log_prob(x)
    assert torch.equal(Autoregressive(other, fn.conditional, fn.context).log_prob(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(fn)).log_prob(x), expected)


def test_weights_from_a_file_bring_their_orders_and_masks(tmp_path):
    orders = [MADE(6, (9,), order="random", seed=seed, **members).eval() for members in MEMBERS for seed in (1, 2)]
    x = torch.bernoulli(torch.full((20, 6), 0.5))
    for a, b in zip(orders[::2], orders[1::2], strict=True):
        strong(a)
        assert repr(a.network) != repr(b.network)
        save_weights(a, tmp_path / "w")
        load_weights(b, tmp_path / "w")
        assert torch.equal(a.log_prob(x), b.log_prob(x)) and repr(a.network) == repr(b.network)


def test_the_repr_tells_networks_apart_that_differ_in_anything_but_weights():
    options = [{}, {"order": "random"}, {"degrees": "random"}, {"activation": "tanh"}, {"dropout": 0.5}]
    assert len({repr(MADE(6, (9,), **some)) for some in options}) == len(options)
    assert repr(MADE(6, (9,))) == repr(MADE(6, (9,)))
    assert "orders=" in repr(MADE(6, (9,)).to("meta"))


def test_orders_that_are_given_are_copied():
    scans = raster_orders((1, 2, 3), 2)
    a, b = (MADE(6, (24,), order=scans, n_orders=2, members=members) for members in (1, 2))
    a.load_state_dict(MADE(6, (24,), order="random", n_orders=2).state_dict())
    assert torch.equal(scans, raster_orders((1, 2, 3), 2)) and torch.equal(b.network.orders, scans)


def test_expanding_shares_one_pass_and_broadcasts_both_ways():
    fn = joint("made")
    x = states(fn)[:5]
    wide = fn.expand((3, 5))
    assert (wide.batch_shape, wide.event_shape) == ((3, 5), (8,))
    torch.testing.assert_close(wide.log_prob(x), fn.log_prob(x).expand(3, 5))
    assert wide.sample((2,)).shape == (2, 3, 5, 8)
    assert wide.enumerate_support().shape == (256, 3, 5, 8) and wide.enumerate_support(False).shape == (256, 1, 1, 8)


def test_a_context_is_broadcast_over_values_and_values_over_contexts():
    fn = joint("nade-context")
    network, context = fn.network, torch.randn(7, 2, dtype=torch.float64)
    x = states(fn)[:7]
    many = Autoregressive(network, BITS, context)
    assert many.batch_shape == (7,)
    one_by_one = torch.stack([Autoregressive(network, BITS, c).log_prob(x[0]) for c in context])
    torch.testing.assert_close(many.log_prob(x[0]), one_by_one)
    torch.testing.assert_close(many.log_prob(x[:, None]), torch.stack([many.log_prob(row) for row in x]))
    torch.testing.assert_close(many.expand((4, 7)).log_prob(x), many.log_prob(x).expand(4, 7))
    assert many.log_prob(x).std() > 0


def test_real_conditionals_draw_their_own_law():
    fn = joint("made-real")
    parameters = torch.tensor([[0.3, -0.5, 1.0, -2.0, 0.2, 1.5]], dtype=torch.float64)  # two components
    law = fn.conditional.distribution(parameters)
    grid = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    drawn = fn.conditional.draw(parameters.expand(len(grid), -1), grid[:, None]).squeeze(-1)
    torch.testing.assert_close(drawn.mean(), law.mean[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(drawn.var(), law.variance[0], atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(fn.conditional.log_prob(parameters.expand(5, -1), drawn[:5]), law.log_prob(drawn[:5]))


@pytest.mark.parametrize("name", ["made", "made-levels", "nade-relu-levels"])
def test_the_law_for_pyro_is_the_law_that_is_scored(name):
    fn = joint(name)
    x = states(fn)[:20]
    parameters = fn.network(fn.conditional.encode(x))
    torch.testing.assert_close(
        fn.conditional.distribution(parameters).log_prob(x), fn.conditional.log_prob(parameters, x)
    )


def test_extreme_uniforms_give_values_of_the_support():
    for name in ("made", "made-levels", "made-real"):
        fn = joint(name)
        width = fn.event_shape[0]
        ends = torch.stack([torch.zeros(width), torch.full((width,), 1 - 2.0**-53)]).double()
        x = fn.sample((2,), uniforms=ends)
        assert fn.support.check(x).all() and fn.log_prob(x).isfinite().all()


@pytest.mark.parametrize(
    ("order", "error", "words"),
    [
        ([0, 1, 1], SettingsError, "not a permutation"),
        ([1, 2, 3], SettingsError, "not a permutation"),
        ([0.0, 1.0, 2.0], SettingsError, "not a permutation"),
        ([0, 1], ShapeError, r"\(3,\)"),
        ("alphabetical", SettingsError, "'natural', 'random'"),
    ],
)
def test_an_order_that_is_none_is_refused(order, error, words):
    with pytest.raises(error, match=words):
        make_orders(torch.tensor(order) if isinstance(order, list) else order, 3)


def test_bad_values_contexts_and_uniforms_are_refused_in_words():
    plain, conditioned = joint("made"), joint("made-context")
    with pytest.raises(SupportError, match=r"0.5 .*binary"):
        plain.log_prob(torch.full((2, 8), 0.5, dtype=torch.float64))
    with pytest.raises(ShapeError, match=r"\(2, 7\).*\(\.\.\., 8\)"):
        plain.log_prob(torch.zeros(2, 7))
    with pytest.raises(ShapeError, match="no context"):
        Autoregressive(conditioned.network, BITS)
    with pytest.raises(ShapeError, match=r"context of shape \(4, 3\)"):
        Autoregressive(conditioned.network, BITS, torch.zeros(4, 3))
    with pytest.raises(ShapeError, match="takes none"):
        Autoregressive(plain.network, BITS, torch.zeros(2))
    with pytest.raises(ShapeError, match="broadcast"):
        Autoregressive(conditioned.network, BITS, torch.zeros(4, 2).double()).log_prob(torch.zeros(3, 6).double())
    with pytest.raises(ShapeError, match="uniforms"):
        plain.sample((3,), uniforms=torch.rand(3, 7))
    with pytest.raises(SettingsError, match="order 1"):
        plain.under(1)
    with pytest.raises(ShapeError, match="1 inputs and 1 outputs"):
        Autoregressive(plain.network, joint("made-levels").conditional)
    with pytest.raises(SettingsError, match="discrete"):
        joint("made-real").enumerate_support()
    wide, _ = made(40, (4,))
    assert not Autoregressive(wide, BITS).has_enumerate_support


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden": (0,)}, "hidden width"),
        ({"hidden": (4,), "activation": "swish"}, "activation 'swish'"),
        ({"hidden": (4,), "degrees": "odd"}, "degrees 'odd'"),
        ({"hidden": (4,), "dropout": 1.0}, "dropout"),
    ],
)
def test_a_network_that_cannot_be_is_refused(options, words):
    with pytest.raises(SettingsError, match=words):
        MaskedMLP(3, make_orders("natural", 3), **options)


def test_dropout_is_for_training_and_draws_ignore_it():
    network, conditional = made(8, (50,), dropout=0.5)
    strong(network)
    fn, x = Autoregressive(network, conditional), torch.ones(1, 8)
    assert not torch.equal(fn.log_prob(x), fn.log_prob(x))
    network.eval()
    assert torch.equal(fn.log_prob(x), fn.log_prob(x))
    uniforms = torch.rand(20, 8, dtype=torch.float64)
    assert torch.equal(fn.sample((20,), uniforms=uniforms), fn.sample((20,), uniforms=uniforms, naive=True))


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("hidden", [(), (60,), (90, 40)])
@pytest.mark.parametrize("options", [{}, {"degrees": "random", "sees_mask": True}])
def test_cached_draws_are_the_naive_ones_across_the_blocks_of_the_cache(hidden, direct, options):
    network, conditional = made(150, hidden, direct=direct, **options)
    network = network.double()
    strong(network, 0.3)
    fn = Autoregressive(network, conditional)
    uniforms = torch.rand(9, 150, dtype=torch.float64)
    assert torch.equal(fn.sample((9,), uniforms=uniforms), fn.sample((9,), uniforms=uniforms, naive=True))


def test_a_cached_draw_of_made_costs_a_few_calls_a_variable_and_the_products_of_one_pass():
    network, conditional = made(200, (120,), order="natural")
    fn = Autoregressive(network, conditional)
    uniforms = torch.rand(16, 200, dtype=torch.float64)
    with FlopCounterMode(display=False) as counter, Calls() as calls:
        fn.sample((16,), uniforms=uniforms)
    # inside its block of 64, a variable is added to sums that do not see it too
    assert counter.get_total_flops() <= 2 * 16 * 2 * 120 * 200
    assert calls.n <= 14 * 200
