"""Pyro's transforms and zuko's flows as layers, and the defects of theirs that do not come along."""

from __future__ import annotations

import copy
import pickle

import pyro.distributions as dist
import pyro.distributions.transforms as T
import pytest
import torch

from pyrogen.distributions import FlowDistribution
from pyrogen.distributions.transforms import Flow, FromPyro, FromZuko, Planar
from pyrogen.errors import InverseError, SettingsError, ShapeError
from pyrogen.models import FlowModel

STOCK = {
    "planar": lambda: T.planar(3),
    "radial": lambda: T.radial(3),
    "sylvester": lambda: T.sylvester(3, 2),
    "householder": lambda: T.householder(3, 2),
    "affine-autoregressive": lambda: T.affine_autoregressive(3, [8]),
    "affine-coupling": lambda: T.affine_coupling(3, [8]),
    "spline": lambda: T.spline(3),
    "spline-coupling": lambda: T.spline_coupling(3, hidden_dims=[8]),
    "neural-autoregressive": lambda: T.neural_autoregressive(3, [8]),
    "block-autoregressive": lambda: T.block_autoregressive(3, hidden_factors=[8]),
    "matrix-exponential": lambda: T.matrix_exponential(3),
    "permute": lambda: T.permute(3),
    "tanh": lambda: T.TanhTransform(),
    "composed": lambda: T.ComposeTransformModule([T.affine_coupling(3, [8]), T.permute(3), T.planar(3)]),
    "inverse": lambda: T.affine_coupling(3, [8]).inv,
}
WITH_INVERSE = (
    "householder",
    "affine-autoregressive",
    "affine-coupling",
    "permute",
    "tanh",
    "inverse",
    "spline-coupling",
)


def layer(name: str) -> FromPyro:
    torch.manual_seed(0)
    return FromPyro(STOCK[name](), 3)


@pytest.mark.parametrize("name", STOCK)
def test_the_log_determinant_is_that_of_the_jacobian_also_after_other_calls(name):
    adapted, x = layer(name), torch.rand(4, 3) - 0.5
    adapted(torch.rand(6, 3))
    y, log_det = adapted.forward_and_log_det(x)
    assert log_det.shape == (4,)
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(adapted, x[i])
        torch.testing.assert_close(log_det[i], torch.linalg.slogdet(jacobian).logabsdet, atol=2e-4, rtol=1e-3)  # pyright: ignore
    # the values are asked for again, in another order: nothing is remembered
    torch.testing.assert_close(adapted.log_abs_det_jacobian(x, y), log_det)


@pytest.mark.parametrize("name", WITH_INVERSE)
def test_the_inverse_is_there_where_pyro_has_one(name):
    adapted, x = layer(name), torch.rand(4, 3) - 0.5
    y, log_det = adapted.forward_and_log_det(x)
    back, log_back = adapted.inverse_and_log_det(y)
    torch.testing.assert_close(back, x, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(log_back, -log_det, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["planar", "radial", "sylvester", "neural-autoregressive", "block-autoregressive"])
def test_what_cannot_be_inverted_says_so(name):
    with pytest.raises(InverseError, match=r"which has none"):
        layer(name).inverse(torch.zeros(2, 3))


@pytest.mark.parametrize("name", STOCK)
def test_a_copy_after_use_and_a_state_dict_are_the_same_function(name):
    adapted, x = layer(name), torch.rand(4, 3) - 0.5
    y = adapted(x.clone().requires_grad_())
    copies = [copy.deepcopy(adapted)]
    if name != "inverse":  # torch's own inverse holds a weak reference
        copies.append(pickle.loads(pickle.dumps(adapted)))
    torch.manual_seed(9)
    fresh = FromPyro(STOCK[name](), 3)
    fresh.load_state_dict(adapted.state_dict())
    for other in (*copies, fresh):
        assert torch.equal(other(x), y)


def test_the_density_follows_the_parameters_for_the_same_tensor():
    adapted, x = layer("affine-coupling"), torch.randn(5, 3)
    d = FlowDistribution(dist.Normal(torch.zeros(3), 1.0).to_event(1), adapted)
    before = d.log_prob(x)
    with torch.no_grad():
        for p in adapted.parameters():
            p.add_(0.3)
    after = d.log_prob(x)
    assert not torch.allclose(after, before)
    assert torch.equal(FlowDistribution(d.base, copy.deepcopy(adapted)).log_prob(x), after)


def test_stock_transforms_and_layers_make_one_flow_with_all_parameters():
    flow = Flow([layer("affine-coupling"), Planar(3)])
    assert len(list(flow.parameters())) == len(list(layer("affine-coupling").parameters())) + 1
    assert len({id(p) for p in flow.parameters()}) == len(list(flow.parameters()))
    x = torch.randn(4, 3)
    torch.testing.assert_close(flow.inverse(flow(x)), x, atol=1e-4, rtol=1e-4)


def test_what_would_be_silently_wrong_is_refused():
    with pytest.raises(SettingsError, match="ActNorm"):
        FromPyro(T.BatchNorm(3), 3)
    with pytest.raises(SettingsError, match="transform"):
        FromPyro(torch.nn.Linear(3, 3), 3)
    with pytest.raises(ShapeError, match="event dimensions"):
        FromPyro(T.generalized_channel_permute(channels=3), 3)
    with pytest.raises(SettingsError, match="zuko"):
        FromZuko(_Broken(), 3)


class _Broken(torch.nn.Module):
    transform = "none"


def test_zuko_flows_have_their_own_density():
    zuko = pytest.importorskip("zuko", reason="zuko, of the extra `flows`, is not installed")
    torch.manual_seed(0)
    flow = zuko.flows.NSF(3, transforms=2, hidden_features=(8,))
    x = torch.randn(5, 3)
    model = FlowModel(FromZuko(flow, 3))
    torch.testing.assert_close(model.log_prob(x), flow().log_prob(x), atol=1e-5, rtol=1e-5)
    assert {id(p) for p in model.parameters()} == {id(p) for p in flow.parameters()}
    conditional = zuko.flows.MAF(3, context=2, transforms=1, hidden_features=(8,))
    c = torch.randn(5, 2)
    z, log_det = FromZuko(conditional, 3, context=2).forward_and_log_det(x, c)
    expected = conditional(c).log_prob(x)
    normal = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    torch.testing.assert_close(normal.log_prob(z) + log_det, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(SettingsError, match="standard normal"):
        FromZuko(zuko.flows.NCSF(3, transforms=1), 3)
