"""Plain groups as ArviZ data, in either generation of ArviZ."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyrogen.diagnostics import to_arviz
from pyrogen.diagnostics.containers import arviz_generation
from pyrogen.errors import SettingsError, ShapeError

X = torch.tensor([0.5, -1.0, 2.0, 0.3])


def groups(idata):
    return set(idata.children) if hasattr(idata, "children") else set(idata.groups())


def test_the_container_is_the_one_that_the_installed_arviz_works_with():
    az = pytest.importorskip("arviz")
    idata = to_arviz({"posterior": {"mu": X[None]}})
    assert arviz_generation() == min(1, int(az.__version__[0]))
    assert type(idata).__name__ == ("DataTree" if az.__version__[0] == "1" else "InferenceData")


def test_a_dict_of_groups_with_more_chains_than_draws():
    v = torch.randn(50, 4, 2)
    idata = to_arviz(
        {"posterior": {"v": v}, "log_prior": {"v": v}, "observed_data": {"t": np.arange(3)}},
        dims={"v": ["unit"]}, coords={"unit": ["a", "b"]}, attrs={"algorithm": "block Gibbs"},
    )  # fmt: skip
    np.testing.assert_array_equal(idata.posterior["v"].values, v.numpy())
    assert groups(idata) == {"posterior", "log_prior", "observed_data"} and idata.observed_data["t"].shape == (3,)
    assert idata.posterior["v"].dims == ("chain", "draw", "unit") and idata.attrs["algorithm"] == "block Gibbs"


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: to_arviz({"mu": X}), SettingsError, "dict of groups"),
        (lambda: to_arviz({"posteriors": {"mu": X[None]}}), SettingsError, "'posteriors'"),
        (lambda: to_arviz({"posterior": {"mu": X}}), ShapeError, r"x\[None\]"),
        (lambda: to_arviz({"posterior": {"mu": X[None]}}, dims={"mu": ["a"]}), ShapeError, "0 names"),
        (lambda: to_arviz({"constant_data": {"t": X}}, dims={"t": ["a"]}, coords={"a": [1]}), ShapeError, "1 coords"),
    ],
)
def test_what_cannot_be_converted_is_said_in_words(call, error, words):
    with pytest.raises(error, match=words):
        call()
