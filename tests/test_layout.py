"""Which batch dimensions are particles and which are rows, read off hand-made models."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Bernoulli, Normal

from pyrogen.errors import ModelError
from pyrogen.inference.layout import PARTICLES, Layout
from pyrogen.inference.sites import latent_sites, observed_sites

ZERO = torch.zeros(())


def layout_of(model, particles=None, depth=0):
    """The layout of a model, and its sites."""

    def alone():
        if particles is None:
            return model()
        with pyro.plate(PARTICLES, particles, dim=-1 - depth):
            return model()

    trace = poutine.trace(alone).get_trace()
    observed, latents = observed_sites(trace), latent_sites(trace)
    return Layout.of(list(observed.values()), list(latents.values())), {**observed, **latents}


def observe(name, shape):
    return pyro.sample(name, Normal(ZERO, 1.0), obs=torch.arange(float(torch.Size(shape).numel())).reshape(shape))


def pictures():
    """3 rows of 4 pixels, the pixels in a plate of their own, and a label per row."""
    with pyro.plate("rows", 3, dim=-2):
        pyro.sample("z", Normal(ZERO, 1.0))
        observe("label", (3, 1))
        with pyro.plate("pixels", 4, dim=-1):
            observe("x", (3, 4))


def panel():
    """2 persons at 3 times, with a latent for each of the 6 and one for each person."""
    with pyro.plate("persons", 2, dim=-2):
        pyro.sample("person", Normal(ZERO, 1.0))
        with pyro.plate("times", 3, dim=-1):
            pyro.sample("z", Normal(ZERO, 1.0))
            observe("x", (2, 3))


def test_a_plate_that_one_observed_site_is_outside_of_holds_no_rows():
    layout, _ = layout_of(pictures)
    assert (layout.row_dims, layout.row_sizes, layout.n_rows, layout.particle_dim) == ((-2,), (3,), 3, None)


def test_a_plate_that_one_local_latent_is_outside_of_holds_no_rows():
    layout, sites = layout_of(panel)
    assert layout.row_dims == (-2,)
    assert not layout.is_global(sites["person"]) and not layout.is_global(sites["z"])


def test_two_plates_around_everything_are_both_rows():
    def model():
        with pyro.plate("a", 2, dim=-2), pyro.plate("b", 3, dim=-1):
            pyro.sample("z", Normal(ZERO, 1.0))
            observe("x", (2, 3))

    layout, sites = layout_of(model)
    assert (layout.row_dims, layout.n_rows) == ((-2, -1), 6)
    log_prob = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(layout.reduce(log_prob, sites["x"]), torch.arange(6.0).reshape(1, 6))


def test_the_outermost_plate_of_particles_is_never_a_row():
    layout, sites = layout_of(pictures, particles=5, depth=2)
    assert (layout.particle_dim, layout.particles, layout.row_dims) == (-3, 5, (-2,))
    log_prob = torch.arange(60.0).reshape(5, 3, 4)
    assert torch.equal(layout.reduce(log_prob, sites["x"]), log_prob.sum(-1))


def test_a_model_may_have_a_plate_called_particles():
    def model():
        with pyro.plate("particles", 3):
            pyro.sample("z", Normal(ZERO, 1.0))
            observe("x", (3,))

    layout, _ = layout_of(model)
    assert (layout.particle_dim, layout.particles, layout.n_rows) == (None, 1, 3)


def test_a_latent_outside_the_rows_is_global_and_has_one_term_per_particle():
    def model():
        pyro.sample("w", Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("units", 4):
            pyro.sample("u", Normal(ZERO, 1.0))
        with pyro.plate("rows", 3):
            observe("x", (3,))

    layout, sites = layout_of(model, particles=5, depth=1)
    assert layout.is_global(sites["w"]) and layout.is_global(sites["u"]) and layout.n_rows == 3
    log_prob = torch.arange(20.0).reshape(5, 4)
    assert torch.equal(layout.reduce(log_prob, sites["u"]), log_prob.sum(-1, keepdim=True))


def test_row_effects_and_column_effects_make_rows_of_one_and_a_global_of_the_other():
    def model():
        rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 3, dim=-1)
        with rows:
            pyro.sample("u", Normal(ZERO, 1.0))
        with columns:
            pyro.sample("v", Normal(ZERO, 1.0))
        with rows, columns:
            observe("x", (2, 3))

    layout, sites = layout_of(model)
    assert layout.n_rows == 2 and not layout.is_global(sites["u"]) and layout.is_global(sites["v"])
    assert layout.reduce(torch.ones(2, 3), sites["x"]).tolist() == [[3.0, 3.0]]
    assert layout.reduce(torch.ones(3), sites["v"]).tolist() == [[3.0]]


def test_a_model_without_plates_is_one_row_and_has_no_globals():
    def model():
        pyro.sample("z", Normal(ZERO, 1.0))
        pyro.sample("x", Normal(torch.zeros(3), 1.0).to_event(1), obs=torch.ones(3))

    layout, sites = layout_of(model)
    assert layout.n_rows == layout.full_size == 1 and not layout.is_global(sites["z"])


def test_the_steps_of_a_sequential_plate_are_summed():
    def model():
        with pyro.plate("rows", 3):
            pyro.sample("z", Normal(ZERO, 1.0))
            for t in pyro.plate("steps", 2):
                observe(f"x{t}", (3,))

    layout, sites = layout_of(model)
    assert layout.n_rows == 3 and layout.inner_scale(sites["x0"]) == 1


@pytest.mark.parametrize("sequential", [True, False])
def test_half_of_the_entries_of_a_row_count_twice(sequential):
    def model():
        with pyro.plate("rows", 3, dim=-2):
            pyro.sample("z", Normal(ZERO, 1.0))
            pixels = pyro.plate("pixels", 4, subsample=torch.tensor([0, 2]), **({} if sequential else {"dim": -1}))
            if sequential:
                for d in pixels:
                    observe(f"x{int(d)}", (3, 1))
            else:
                with pixels:
                    observe("x", (3, 2))

    layout, sites = layout_of(model)
    site, shape = (sites["x0"], (3, 1)) if sequential else (sites["x"], (3, 2))
    assert layout.inner_scale(site) == 2
    assert layout.reduce(torch.ones(shape), site).tolist() == [[2.0 * shape[1]] * 3]


def test_the_size_of_the_data_is_that_of_the_plate_and_not_of_the_minibatch():
    def model():
        with pyro.plate("rows", 20, subsample=torch.arange(5)):
            pyro.sample("z", Normal(ZERO, 1.0))
            observe("x", (5,))

    layout, sites = layout_of(model)
    assert (layout.n_rows, layout.full_size) == (5, 20)
    # the plate of rows is scaled for after the bound is formed, never inside
    assert layout.reduce(torch.ones(5), sites["x"]).tolist() == [[1.0] * 5]


def test_a_term_that_is_the_same_for_all_rows_is_repeated_not_spread_thin():
    layout, sites = layout_of(pictures)
    assert layout.reduce(torch.tensor(2.0), sites["x"]).tolist() == [[8.0] * 3]


def test_trailing_dimensions_are_kept():
    layout, sites = layout_of(pictures, particles=2, depth=2)
    per_dimension = torch.arange(30.0).reshape(2, 3, 1, 5)
    assert torch.equal(layout.reduce(per_dimension, sites["z"], trailing=1), per_dimension.squeeze(2))


@pytest.mark.parametrize("particles", [None, 5])
@pytest.mark.parametrize("model", [pictures, panel])
def test_weights_reach_the_particle_and_the_row_that_they_are_of(model, particles):
    layout, sites = layout_of(model, particles, depth=2)
    for name in ("z", "person"):
        if name not in sites:
            continue
        value = torch.zeros(sites[name]["fn"].batch_shape)
        w = torch.arange(1.0, layout.particles * layout.n_rows + 1).reshape(layout.particles, layout.n_rows)
        count = value.numel() / w.numel()  # entries per row, which reduce sums
        assert torch.equal(layout.reduce(layout.spread(w, value, event_dim=0), sites[name]), count * w)


def test_one_weight_for_everything_reaches_every_row():
    layout, _ = layout_of(pictures, particles=5, depth=2)
    w = torch.arange(5.0).reshape(5, 1)
    value = torch.zeros(5, 3, 1, 7)
    assert torch.equal(layout.spread(w, value, event_dim=1), w.reshape(5, 1, 1, 1).expand(5, 3, 1, 7))


def test_a_model_that_observes_nothing_is_refused():
    with pytest.raises(ModelError, match="observes nothing"):
        layout_of(lambda: pyro.sample("z", Normal(ZERO, 1.0)))


def test_a_record_of_pyro_deterministic_outside_the_plate_does_not_merge_the_rows():
    def model():
        pyro.deterministic("double", 2 * pyro.sample("w", Normal(ZERO, 1.0)))
        with pyro.plate("rows", 3):
            observe("x", (3,))

    layout, sites = layout_of(model)
    assert layout.n_rows == 3 and layout.is_global(sites["w"])


def test_pixels_that_are_neither_event_nor_plate_are_refused():
    """With as many pixels as rows, Pyro without validation takes the pixels for the rows."""

    def model():
        with pyro.plate("rows", 3):
            pyro.sample("x", Bernoulli(torch.full((3, 3), 0.5)), obs=torch.ones(3, 3))

    layout, sites = layout_of(model)
    with pytest.raises(ModelError, match=r"'x' with batch shape \(3, 3\).*to_event"):
        layout.reduce(sites["x"]["fn"].log_prob(sites["x"]["value"]), sites["x"])


def test_a_weight_that_varies_within_a_row_is_refused():
    layout, sites = layout_of(pictures)
    assert layout.per_row(torch.tensor([[1.0], [2.0], [3.0]]), sites["x"]).tolist() == [[1.0, 2.0, 3.0]]
    with pytest.raises(ModelError, match="varies within the rows of site 'x'"):
        layout.per_row(torch.ones(3, 4), sites["x"])
