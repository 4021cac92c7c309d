"""A guide whose sites are not the model's is refused, and says which."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Normal
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal

from pyrogen.errors import ModelError
from pyrogen.inference.terms import run
from tests.oracles import DOUBLE, ZERO
from tests.programs import vector_guide, vector_model, x_rows


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", [AutoNormal, AutoDelta, AutoMultivariateNormal])
@pytest.mark.parametrize(("first", "then"), [(6, 9), (6, 3), (1, 9), (6, 1)])
@pytest.mark.parametrize("particles", [1, 3])
def test_a_guide_that_kept_an_old_batch_size_is_refused(kind, first, then, particles):
    """From 6 rows to 1 everything broadcasts: without the check, a bound of one row at six stale codes came out."""
    guide = kind(vector_model)
    guide(x_rows(first))
    with pyro.validation_enabled(False):
        run(vector_model, guide, x_rows(first), particles=particles)
        with pytest.raises(ModelError, match=f"plate 'rows' of {first} rows in the guide; need {then}"):
            run(vector_model, guide, x_rows(then), particles=particles)


def test_missing_and_extra_sites_are_refused_by_name():
    def extra(x):
        vector_guide(x)
        pyro.sample("extra", Normal(ZERO, 1.0))

    for guide, sites in ((lambda x: None, r"\[\] in the guide"), (extra, r"\['extra', 'z'\] in the guide")):
        with pytest.raises(ModelError, match=r"latent sites \['z'\] in the model and " + sites):
            run(vector_model, guide, x_rows(3))


def test_a_model_that_observes_nothing_is_refused():
    with pytest.raises(ModelError, match="observes nothing"):
        run(poutine.block(vector_model, hide=["x"]), vector_guide, x_rows(3))


@pytest.mark.parametrize("event_dim", [1, 2])
def test_a_guide_that_samples_all_rows_outside_the_plate_is_refused(event_dim):
    """With to_event(2) its log q would be the sum over rows, taken off every row."""

    def guide(x):
        pyro.sample("z", Normal(torch.zeros(len(x), 2, **DOUBLE), 1.0).to_event(event_dim))

    with pytest.raises(ModelError, match="'z'"):
        run(vector_model, guide, x_rows(4))


def test_a_latent_that_the_model_forgot_to_put_in_the_plate_is_refused():
    def model(x):
        z = pyro.sample("z", Normal(torch.zeros(4, **DOUBLE), 1.0))
        with pyro.plate("rows", 4):
            pyro.sample("x", Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("z", Normal(x, 1.0))

    with pytest.raises(ModelError, match="in no plate"):
        run(model, guide, x_rows(4))


def test_a_guide_of_another_shape_is_refused():
    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", Normal(torch.zeros(1, **DOUBLE), 1.0).to_event(1))

    with pytest.raises((ModelError, ValueError), match=r"event|'z'"):
        run(vector_model, guide, x_rows(4))
