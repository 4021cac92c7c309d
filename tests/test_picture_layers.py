"""Layers of pictures: against autograd, against what they say of places and channels, and as a Glow."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import conv2d

from pyrogen.distributions.transforms import (
    ActNorm,
    AtEachPlace,
    ConvCoupling,
    Layer,
    LULinear,
    OnPart,
    Planar,
    squeeze,
)
from pyrogen.errors import SettingsError, ShapeError
from pyrogen.models import DequantizedFlow, FlowModel, glow
from tests.layers import stirred

SHAPE = (4, 2, 2)


def layers() -> dict[str, Layer]:
    torch.manual_seed(0)
    return {
        "squeeze": squeeze((2, 2, 4)),
        "at-each-place-lu": AtEachPlace(LULinear(4), SHAPE),
        "at-each-place-actnorm": AtEachPlace(ActNorm(4), SHAPE),
        "on-part": OnPart(Planar(5), 16),
        "coupling": ConvCoupling(SHAPE, 3),
        "coupling-odd": ConvCoupling((3, 2, 2), 3),
        "glow": glow((1, 4, 4), levels=2, steps=2, channels=3),
    }


@pytest.mark.parametrize("name", layers())
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_the_log_determinant_is_that_of_the_jacobian_and_the_inverse_undoes_it(name, batch):
    layer = stirred(layers()[name], by=0.2)
    x = torch.randn(*batch, layer.width or 0, dtype=torch.float64)
    y, log_det = layer.forward_and_log_det(x)
    assert log_det.shape == batch and y.shape == x.shape
    for row, value in zip(x.reshape(-1, x.shape[-1]), log_det.reshape(-1), strict=True):
        jacobian = torch.autograd.functional.jacobian(layer, row)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], value, atol=1e-9, rtol=1e-9)  # pyright: ignore
    back, log_det_back = layer.inverse_and_log_det(y)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(log_det_back, -log_det, atol=1e-9, rtol=1e-9)


def test_a_linear_layer_at_each_place_is_a_convolution_of_one_place():
    inner = LULinear(4)
    layer = stirred(AtEachPlace(inner, SHAPE))
    x = torch.randn(5, 16, dtype=torch.float64)
    lower, upper, _ = inner.factors()
    expected = conv2d(x.reshape(5, *SHAPE), (lower @ upper)[:, :, None, None], inner.bias)
    torch.testing.assert_close(layer(x), expected.flatten(1))


def test_a_squeeze_puts_squares_of_places_into_channels():
    x = torch.arange(16.0)
    y = squeeze((1, 4, 4))(x).reshape(4, 2, 2)
    assert y[:, 0, 0].tolist() == [0, 1, 4, 5] and y[:, 1, 1].tolist() == [10, 11, 14, 15]
    assert squeeze((2, 2, 2))(torch.arange(8.0)).reshape(8, 1, 1).flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_a_coupling_sees_the_neighbours_and_starts_as_the_identity():
    layer = ConvCoupling((2, 4, 4), 3)
    x = torch.randn(32)
    assert torch.equal(layer(x), x)
    moved = stirred(layer)
    jacobian = torch.autograd.functional.jacobian(moved, x.double()).reshape(2, 16, 2, 16)  # pyright: ignore
    assert torch.equal(jacobian[0, :, 1], torch.zeros(16, 16, dtype=torch.float64))
    sees = jacobian[1, 0, 0].reshape(4, 4) != 0  # the corner: a 5 x 5 field, by two convolutions of 3 x 3
    assert not sees[3].any() and not sees[:, 3].any() and sees[1, 1]


def test_a_glow_starts_at_the_data_mixes_all_pixels_and_keeps_its_orders_in_its_state():
    torch.manual_seed(1)
    x = 3 + 2 * torch.rand(200, 16)
    model = FlowModel(glow((1, 4, 4), levels=2, steps=2, channels=4))
    model.prepare(x)
    z = model.flow.layer.inv(x)
    assert z.mean().abs() < 0.2 and (z.std() - 1).abs() < 0.2
    moved = FlowModel(stirred(model.flow.layer.inv, by=0.3))
    jacobian = torch.autograd.functional.jacobian(moved.flow.layer.inv, x[0].double())
    assert (jacobian != 0).all(1).any()  # pyright: ignore[reportAttributeAccessIssue]
    torch.manual_seed(2)
    other = FlowModel(glow((1, 4, 4), levels=2, steps=2, channels=4)).double()
    assert not torch.equal(other.log_prob(x.double()), moved.log_prob(x.double()))
    other.load_state_dict(copy.deepcopy(moved.state_dict()))
    assert torch.equal(other.log_prob(x.double()), moved.log_prob(x.double()))


def test_what_is_no_picture_for_it_is_refused():
    with pytest.raises(SettingsError, match="levels=3"):
        glow((1, 4, 4), levels=3)
    with pytest.raises(ShapeError, match="even sides"):
        squeeze((1, 3, 4))
    with pytest.raises(SettingsError, match="two channels"):
        ConvCoupling((1, 4, 4))
    with pytest.raises(ShapeError, match="width 4"):
        AtEachPlace(LULinear(3), SHAPE)
    with pytest.raises(ShapeError, match="at most"):
        OnPart(LULinear(5), 4)
    with pytest.raises(SettingsError, match="'steps'"):
        DequantizedFlow.build(64, (1, 8, 8), "grey17", flow="glow", step=2)
    assert DequantizedFlow.build(64, (1, 8, 8), "grey17", flow="glow", steps=1, channels=4).levels == 17
