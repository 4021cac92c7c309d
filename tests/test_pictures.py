"""PixelCNN and PixelRNN, on pictures so small that all of them can be listed."""

from __future__ import annotations

import copy
import itertools

import pyro
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pyrogen.distributions import (
    Autoregressive,
    BinaryConditional,
    LevelConditional,
    LogisticMixtureConditional,
    NormalConditional,
)
from pyrogen.errors import PyrogenError, SettingsError, ShapeError, SupportError
from pyrogen.inference import fit
from pyrogen.models import PixelCNN, PixelRNN
from pyrogen.nn.autoregressive.lstm import DiagonalBiLSTM, skew, unskew
from tests.statistics import assert_frequencies, assert_mean

KINDS = {
    "pixelcnn": lambda shape, law, context: PixelCNN(shape, law, channels=4, layers=2, first_kernel=3, context=context),
    "pixelcnn-wide": lambda shape, law, context: PixelCNN(
        shape, law, channels=3, layers=1, kernel=5, first_kernel=7, context=context
    ),
    "pixelcnn-shallow": lambda shape, law, context: PixelCNN(
        shape, law, channels=3, layers=0, kernel=1, first_kernel=5, context=context
    ),
    "row": lambda shape, law, context: PixelRNN(
        shape, law, kind="row", units=3, layers=2, first_kernel=3, context=context
    ),
    "row-wide": lambda shape, law, context: PixelRNN(
        shape, law, kind="row", units=2, layers=1, kernel=5, first_kernel=5, context=context
    ),
    "diagonal": lambda shape, law, context: PixelRNN(shape, law, units=3, layers=2, first_kernel=3, context=context),
    "diagonal-one": lambda shape, law, context: PixelRNN(shape, law, units=3, layers=1, context=context),
}
LAWS = {
    "bits": BinaryConditional,
    "levels": lambda: LevelConditional(3),
    "grey": lambda: LevelConditional(3, one_hot=False),
    "logistic": lambda: LogisticMixtureConditional(3, 2),
}


def made(kind, shape, law="bits", context=0, spread=0.5):
    """A model with weights far from where they start, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = KINDS[kind](shape, LAWS[law]() if isinstance(law, str) else law, context).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=spread)
    return model


def dependencies(network, context=None):
    """(D, D) in the order: whether parameters k depend on input l, for some of a few networks of this structure."""
    order, e = network.orders[0], network.inputs
    seen = torch.zeros(network.width, network.width, dtype=torch.bool)
    network = copy.deepcopy(network)
    for seed in range(8):
        source = torch.Generator().manual_seed(seed)
        with torch.no_grad():  # a relu that is dead in one is not in all
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=source, dtype=parameter.dtype), alpha=0.5)
        point = torch.randn(network.width * e, dtype=torch.float64, generator=source)
        jacobian = torch.autograd.functional.jacobian(lambda z: network(z[None], context)[0], point, vectorize=True)
        seen |= (jacobian.unflatten(-1, (network.width, e)) != 0).any(-1).any(1)
    return seen[order][:, order]


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_probabilities_of_all_pictures_sum_to_one(kind, context, law):
    for shape in ((1, 2, 3), (2, 2, 1), (3, 1, 2)):
        model = made(kind, shape, law, context, spread=1.0)
        joint = model.dist(torch.randn(2, context).double() if context else None)
        log_p = joint.log_prob(joint.enumerate_support())
        torch.testing.assert_close(log_p.exp().sum(0), torch.ones(joint.batch_shape, dtype=torch.float64))


@pytest.mark.parametrize("law", ["bits", "levels"])
@pytest.mark.parametrize("shape", [(1, 3, 3), (2, 3, 3), (3, 2, 2), (2, 1, 4), (1, 4, 1)])
@pytest.mark.parametrize("kind", ["pixelcnn", "pixelcnn-wide", "row", "row-wide", "diagonal", "diagonal-one"])
def test_a_variable_sees_all_that_come_before_it_and_nothing_else(kind, shape, law):
    seen = dependencies(made(kind, shape, law, context=1).network, torch.ones(1, 1).double())
    below = torch.ones_like(seen).tril(-1)
    assert not (seen & ~below).any(), "it sees itself or what comes later"
    assert seen.sum() == below.sum() or kind.startswith("row")
    if kind.startswith("row"):
        network = made(kind, shape, law).network
        c = shape[0]
        expected = triangle(shape, network.first.reach, network.layers[0].reach, len(network.layers))
        expected = expected.repeat_interleave(c, 0).repeat_interleave(c, 1) | torch.block_diag(
            *[torch.ones(c, c).tril(-1).bool()] * (shape[1] * shape[2])
        )
        assert torch.equal(seen, expected)


def reached(shape, step):
    """(HW, HW): which pixels each one reaches by `step(i, j)`, applied over and over."""
    _, h, w = shape
    out = torch.zeros(h * w, h * w, dtype=torch.bool)
    for i, j in itertools.product(range(h), range(w)):
        for a, b in step(i, j):
            if 0 <= a < h and 0 <= b < w:
                out[i * w + j, a * w + b] = True
    return out


def triangle(shape, first, reach, layers):
    """What a pixel sees in a Row LSTM, found by following its arrows."""

    def composed(a, b):
        return (a.double() @ b.double()) > 0

    _, h, w = shape
    own = torch.eye(h * w, dtype=torch.bool)
    window = reached(
        shape,
        lambda i, j: (
            [(i - r, j + s) for r in range(1, first + 1) for s in range(-first, first + 1)]
            + [(i, j - s) for s in range(1, first + 1)]
        ),
    )
    along = reached(shape, lambda i, j: [(i, j - s) for s in range(reach + 1)])
    up = own | reached(shape, lambda i, j: [(i - 1, j + s) for s in range(-reach, reach + 1)])
    for _ in range(h):
        up = composed(up, up)
    out = window
    for _ in range(layers):
        out = out | composed(composed(up, along), out)
    return out


@pytest.mark.parametrize(("layers", "kernel", "first"), [(0, 3, 3), (1, 3, 5), (2, 3, 3), (9, 3, 3), (2, 5, 7)])
def test_pixelcnn_sees_a_rectangle_without_a_blind_spot(layers, kernel, first):
    shape = (1, 7, 7)
    torch.manual_seed(1)
    seen = dependencies(PixelCNN(shape, channels=4, layers=layers, kernel=kernel, first_kernel=first).double().network)
    p = first // 2 + layers * (kernel // 2)
    high = first // 2 + 1 + layers * (kernel // 2)
    # a step to the left is in h; from there v looks to both sides, and no further to the left than h and v together
    expected = reached(
        shape,
        lambda i, j: (
            [(i - r, j + s) for r in range(1, high + 1) for s in range(-p, p + 1)]
            + [(i, j - s) for s in range(1, high + 1)]
        ),
    )
    # and what else it sees, through a step to the left and from there up, is before it
    assert not (expected & ~seen).any() and not (seen & ~torch.ones_like(seen).tril(-1)).any()
    if layers == 9:
        assert seen.sum() == 49 * 48 // 2


@pytest.mark.parametrize("pixel", [True, False])
def test_the_right_lstm_sees_the_pixel_itself_so_that_the_end_of_the_row_above_is_seen(pixel):
    """Without that, (i, j) does not see (i - 1, W - 1), unless the first convolution reaches it."""
    h = w = 6
    torch.manual_seed(1)
    network = PixelRNN((1, h, w), units=6, layers=2, first_kernel=3).double().network
    with torch.no_grad():
        if not pixel:  # as in the paper
            network.layers[0] = DiagonalBiLSTM(12, 6, 0, 0).double()
    missing = torch.ones(h * w, h * w).tril(-1).bool() & ~dependencies(network)
    expected = {((i, j), (i - 1, w - 1)) for i in range(1, h) for j in range(w) if j + 1 < w - 1}
    found = {(divmod(int(a), w), divmod(int(b), w)) for a, b in missing.nonzero()}
    assert found == (set() if pixel else expected)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kind", KINDS)
def test_cached_and_naive_sampling_draw_the_same_pictures(kind, law):
    for shape, context in (((1, 4, 5), 0), ((2, 3, 3), 2), ((3, 1, 2), 0), ((1, 3, 1), 3)):
        model = made(kind, shape, law, context)
        joint = model.dist(torch.randn(9, context).double() if context else None).expand((9,))
        u = torch.rand(9, model.width, dtype=torch.float64)
        x = joint.sample(uniforms=u)
        assert torch.equal(x, joint.sample(uniforms=u, naive=True))
        assert x.unique(dim=0).shape[0] > 1
        model.check(x if not context else torch.cat([x, joint.context], -1))


@pytest.mark.parametrize("kind", ["pixelcnn", "row", "diagonal"])
def test_real_pixels_have_a_density_and_the_same_draws_either_way(kind):
    model = made(kind, (1, 2, 3), NormalConditional(2))
    u = torch.rand(50, 6, dtype=torch.float64)
    x = model.dist().sample((50,), uniforms=u)
    torch.testing.assert_close(x, model.dist().sample((50,), uniforms=u, naive=True))
    assert model.log_prob(x).isfinite().all()


@pytest.mark.parametrize("kind", ["pixelcnn", "row", "diagonal"])
def test_a_cached_draw_costs_one_pass(kind):
    n, shape = 3, (2, 7, 8)
    model = KINDS[kind](shape, BinaryConditional(), 2)
    c = torch.randn(n, 2)
    with FlopCounterMode(display=False) as whole:
        model.dist(c).log_prob(torch.zeros(n, model.width))
    with FlopCounterMode(display=False) as cached:
        model.dist(c).sample()
    # what is computed for the border is not counted alike
    assert 0.4 * whole.get_total_flops() < cached.get_total_flops() < 1.1 * whole.get_total_flops()


@pytest.mark.parametrize("law", ["bits", "levels", "logistic"])
@pytest.mark.parametrize("kind", ["pixelcnn", "row", "diagonal"])
def test_pictures_are_drawn_as_often_as_they_are_probable(kind, law):
    model = made(kind, (2, 1, 2) if law != "bits" else (2, 2, 1), law)
    states = model.dist().enumerate_support()
    log_p = model.log_prob(states).detach()
    x = model.sample(20_000)
    found = (x[:, None] == states).all(-1)
    assert (found.sum(1) == 1).all()
    assert_frequencies(found.sum(0), log_p.exp())
    # the mean of log p over draws is minus the entropy
    assert_mean(model.log_prob(x).detach(), float((log_p.exp() * log_p).sum()))


@pytest.mark.parametrize("method", ["exact", "importance", "gibbs"])
@pytest.mark.parametrize("kind", ["pixelcnn", "row", "diagonal"])
def test_inpainting_is_by_the_conditional_law(kind, method):
    model = made(kind, (1, 2, 2))
    # the rows above are first in the order, the last pixel is last
    observed = torch.tensor([True, True, False, False] if method == "exact" else [False, True, False, True])
    x = torch.tensor([[1.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    states = model.dist().enumerate_support()
    agree = (states == x)[:, observed].all(1)
    log_p = model.log_prob(states).detach().masked_fill(~agree, -torch.inf)
    given = model.sample_given(x, observed, 1000, method=method, particles=50_000, sweeps=8)
    draws = given.draws[:, 0]
    assert torch.equal(draws[:, observed], x[:, observed].expand(len(draws), -1))
    assert_frequencies((draws[:, None] == states).all(-1).sum(0), log_p.softmax(0))
    if method != "gibbs":
        # exact for walks; the error of so many particles is below a percent
        assert given.log_evidence == pytest.approx(float(log_p.logsumexp(0)), abs=1e-9 if method == "exact" else 0.05)


@pytest.mark.parametrize("kind", ["pixelcnn", "row", "diagonal"])
def test_scoring_drawing_and_training_never_destroy_weights(kind):
    """There is nothing to mask but the channels of a pixel, and what is masked there stays as it was."""
    model = made(kind, (3, 2, 2))
    before = copy.deepcopy(model.state_dict())
    for _ in range(100):
        model.log_prob(model.sample(2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    x = model.sample(30)
    fit(model, x, epochs=2, batch_size=10, progress=False)
    inside, kept = model.network.inside, model.network.before
    assert torch.equal(inside[~kept], before["network.inside"][~kept])
    assert (inside[kept] != before["network.inside"][kept]).any()


@pytest.mark.parametrize("make", [PixelCNN, PixelRNN])
def test_dropout_is_for_training_alone(make):
    model = make((1, 3, 3), dropout=0.5).double()
    with torch.no_grad():
        model.network.out.weight.normal_()
    x = torch.rand(4, 9).double().round()
    assert not torch.equal(model.log_prob(x), model.log_prob(x))
    model.eval()
    assert torch.equal(model.log_prob(x), model.log_prob(x))
    u = torch.rand(20, 9, dtype=torch.float64)
    assert torch.equal(model.dist().sample((20,), uniforms=u), model.dist().sample((20,), uniforms=u, naive=True))


@pytest.mark.parametrize("kind", ["pixelcnn", "row", "diagonal"])
def test_every_weight_is_used(kind):
    model = made(kind, (2, 3, 3), context=2)
    model.log_prob(torch.rand(5, 20).double().round()).sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in model.parameters())


@pytest.mark.parametrize("kind", ["pixelcnn", "row", "diagonal"])
def test_training_starts_at_the_pixels_own_laws(kind):
    model = KINDS[kind]((1, 2, 3), BinaryConditional(), 0)
    x = (torch.rand(50, 6) < torch.linspace(0.05, 0.9, 6)).float()
    model.prepare(x)
    p = (x.sum(0) + 1) / 52
    expected = torch.distributions.Bernoulli(p).log_prob(x).sum(1)
    torch.testing.assert_close(model.log_prob(x), expected)


@pytest.mark.parametrize("kind", ["pixelcnn", "row", "diagonal"])
def test_a_class_makes_pictures_of_its_own(kind):
    """Two classes, one of stripes and one of their negative, with a little noise."""
    y = torch.arange(200) % 2
    stripes = torch.tensor([1.0, 0, 1, 0, 1, 0, 1, 0, 1])
    x = (stripes == y[:, None].logical_not()).float()
    x = torch.where(torch.rand(x.shape) < 0.05, 1 - x, x)
    classes = torch.eye(2)[y]
    torch.manual_seed(0)
    model = KINDS[kind]((1, 3, 3), BinaryConditional(), 2)
    rows = torch.cat([x, classes], 1)
    model.prepare(rows)
    fit(model, rows, epochs=40, batch_size=100, learning_rate=0.03, progress=False)
    for k in (0, 1):
        drawn = model.sample(200, torch.eye(2)[k])
        right = (drawn == (stripes == 1 - k).float()).float().mean()
        assert right > 0.8
    swapped = torch.cat([x, classes.flip(1)], 1)
    assert (model.log_prob(rows) - model.log_prob(swapped)).mean() > 3


@pytest.mark.parametrize("kind", ["pixelcnn", "row", "diagonal"])
def test_fit_by_graph_is_fit_by_eager(kind):
    trained = []
    for mode in ("eager", "graph"):
        torch.manual_seed(0)
        model = KINDS[kind]((1, 2, 2), BinaryConditional(), 0)
        x = (torch.rand(16, 4, generator=torch.Generator().manual_seed(1)) > 0.5).float()
        result = fit(model, x, epochs=3, batch_size=8, compile=mode, progress=False)
        assert result.settings["compile"] == mode
        trained.append(list(model.state_dict().values()))
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True))


@pytest.mark.parametrize(
    ("shape", "error"),
    [((28, 28), ShapeError), ((1, 0, 3), ShapeError), ((1, 2.0, 3), ShapeError), (784, ShapeError)],
)
@pytest.mark.parametrize("model", [PixelCNN, PixelRNN])
def test_a_shape_that_is_none_is_refused(model, shape, error):
    with pytest.raises(error, match=r"\(C, H, W\)"):
        model(shape)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: PixelCNN((1, 2, 2), kernel=2), "kernel = 2"),
        (lambda: PixelCNN((1, 2, 2), first_kernel=0), "first_kernel = 0"),
        (lambda: PixelCNN((1, 2, 2), layers=-1), "layers"),
        (lambda: PixelCNN((1, 2, 2), channels=0), "features"),
        (lambda: PixelCNN((1, 2, 2), dropout=1.0), "dropout = 1.0"),
        (lambda: PixelRNN((1, 2, 2), dropout=-0.1), "dropout = -0.1"),
        (lambda: PixelRNN((1, 2, 2), kind="column"), "column"),
        (lambda: PixelRNN((1, 2, 2), first_kernel=1), "first_kernel = 1"),
        (lambda: PixelRNN((1, 2, 2), units=0), "units"),
        (lambda: PixelRNN((1, 2, 2), layers=0), "layers"),
        (lambda: PixelCNN.build(4, (1, 2, 2), "unit"), "unit"),
        (lambda: PixelCNN.build(4, (1, 2, 2), "binary", components=3), "components"),
        (lambda: PixelCNN.build(4, (1, 2, 2), "binary", one_hot=True), "one_hot"),
        (lambda: PixelRNN.build(4, (1, 2, 2), "grey4", components=-1), "components"),
        (lambda: PixelRNN.build(4, (1, 2, 2), "binary", unit=3), "'units'"),
        (lambda: LogisticMixtureConditional(4, 0), "components"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, word):
    with pytest.raises(SettingsError, match=word):
        make()


@pytest.mark.parametrize("kind", ["pixelcnn", "row", "diagonal"])
def test_pictures_and_contexts_of_other_shapes_are_refused(kind):
    model = made(kind, (1, 2, 3), context=2)
    x, c = torch.zeros(4, 6).double(), torch.zeros(4, 2).double()
    for bad in (torch.zeros(4, 1, 2, 3), torch.zeros(4, 5)):
        with pytest.raises(ShapeError):
            model.dist(c).log_prob(bad.double())
        with pytest.raises(PyrogenError):
            model.check(bad.double())
    with pytest.raises(ShapeError, match="no context"):
        model.dist()
    with pytest.raises(ShapeError, match=r"a context of shape \(4, 3\)"):
        model.dist(torch.zeros(4, 3).double())
    with pytest.raises(ShapeError, match="broadcast"):
        model.dist(c[:3]).log_prob(x)
    with pytest.raises(ShapeError, match=r"need 6 and then a context of 2"):
        model.log_prob(x)
    with pytest.raises(SupportError):
        model.dist(c).log_prob(x + 0.5)
    with pytest.raises(ShapeError, match="as the network takes none"):
        made(kind, (1, 2, 3)).dist(c)
    with pytest.raises(SettingsError, match="no context"):
        model.network(x)


@pytest.mark.parametrize("support", ["binary", "grey3", "grey256", "real"])
@pytest.mark.parametrize("model", [PixelCNN, PixelRNN])
def test_recipes_build_for_every_kind_of_pixel(model, support):
    for settings in ({}, {"components": 2}, {"one_hot": True}):
        if (support in ("binary", "real") and settings.get("one_hot")) or (support == "binary" and settings):
            continue
        pictures = model.build(4, (1, 2, 2), support, **settings)
        assert pictures.support == support
        x = pictures.sample(6)
        pictures.check(x)
        pictures.prepare(x)
        assert pictures.log_prob(x).isfinite().all()


def test_skewing_and_back_is_exact():
    x = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    there = skew(x)
    assert there.shape == (2, 3, 7, 5) or there.shape == (2, 3, 6, 5)
    for i in range(3):
        assert torch.equal(there[:, i, i : i + 4], x[:, i])
    assert there.sum() == x.sum()
    assert torch.equal(unskew(there, 4), x)
    for rows, columns in ((1, 1), (1, 4), (4, 1), (5, 2)):
        x = torch.rand(rows, columns, 2)
        assert torch.equal(unskew(skew(x), columns), x)


def test_the_logistic_mixture_rounds_a_mixture_of_logistics():
    law = LogisticMixtureConditional(5, 2)
    f = torch.randn(30, 6, dtype=torch.float64)
    log_p = torch.stack([law.log_prob(f, v.expand(30)) for v in law.values(f)], -1)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(30, dtype=torch.float64))
    # the inverse distribution function, integrated over a fine grid of u
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    for row in range(3):
        drawn = law.draw(f[row].expand(20_000, 6), u[:, None])
        shares = torch.stack([(drawn == v).double().mean() for v in law.values(f)])
        torch.testing.assert_close(shares, log_p[row].exp(), atol=3e-4, rtol=0)
    pyro_law = law.distribution(f[:3])
    torch.testing.assert_close(pyro_law.log_prob(law.values(f)[2].expand(3)), log_p[:3, 2])


def test_a_pixelcnn_is_a_site_of_any_program():
    """A picture with a mean of its own in a program with a latent class, summed out."""
    model = made("pixelcnn", (1, 2, 2), context=2)

    def program(x):
        k = pyro.sample(
            "k", pyro.distributions.Categorical(torch.tensor([0.3, 0.7]).double()), infer={"enumerate": "parallel"}
        )
        with pyro.plate("rows", len(x)):
            context = torch.eye(2).double()[k]
            pyro.sample("x", Autoregressive(model.network, model.conditional, context), obs=x)

    x = model.sample(3, torch.eye(2).double()[0])
    elbo = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)
    found = -elbo.loss(program, pyro.infer.config_enumerate(lambda x: None), x)
    parts = torch.stack([model.dist(torch.eye(2).double()[k]).log_prob(x).sum() for k in range(2)])
    expected = (parts.detach() + torch.tensor([0.3, 0.7]).double().log()).logsumexp(0)
    assert found == pytest.approx(float(expected))
