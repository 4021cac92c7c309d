"""Programs that do not mean the same under a plate of particles are noticed and run one by one."""

from __future__ import annotations

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrogen.diagnostics.particles import run
from pyrogen.diagnostics.programs import survey
from pyrogen.errors import ModelError

X = torch.tensor([[0.5, -1.0], [2.0, 0.3], [0.1, 0.2]])
W = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))


def regression(x, head):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", x.shape[0]):
        pyro.sample("y", dist.Normal(head(w, x), 1.0), obs=x.sum(-1))


def from_the_right(w, x):
    return (w * x).sum(-1)


def from_the_left(w, x):  # right for w of shape (2,); the first particle's numbers for all under a plate
    return w[0] * x[:, 0] + w[1] * x[:, 1] if w.dim() == 1 else w[0, 0, 0] * x[:, 0] + w[0, 0, 1] * x[:, 1]


def last_of_all(w, x):  # the last particle's numbers
    return (w.reshape(-1, 2)[-1] * x).sum(-1)


def by_matrix_product(w, x):  # fails under a plate: (n, 1, 2) is no vector
    return torch.mv(x, w)


def with_python_numbers(w, x):
    return x[:, 0] * w.sum().item()


def densities(head, **options):
    program = survey(regression, (X, head), {}, {"w": W[0]})
    return run(program, 6, draws={"w": W}, scores=["y"], **options)


def expected(head):
    means = torch.stack([head(w, X) for w in W])
    return dist.Normal(means, 1.0).log_prob(X.sum(-1))


@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_a_program_with_plates_runs_together(chunk):
    got = densities(from_the_right, chunk=chunk)
    assert got.together
    torch.testing.assert_close(got.log_prob["y"], expected(from_the_right))


@pytest.mark.parametrize("head", [from_the_left, last_of_all, by_matrix_product, with_python_numbers])
def test_a_program_that_does_not_vectorise_gives_the_reason_and_the_right_numbers(head):
    with pytest.warns(UserWarning, match="regression does not vectorise over draws, so its 6 draws run one by one: "):
        got = densities(head)
    assert not got.together
    torch.testing.assert_close(got.log_prob["y"], expected(head))


def test_one_by_one_can_be_asked_for():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = densities(by_matrix_product, together=False)
    torch.testing.assert_close(got.log_prob["y"], expected(by_matrix_product))


def test_sites_that_come_and_go_cannot_be_stacked():
    def model():
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        if w > 0:
            pyro.sample("y", dist.Normal(w, 1.0), obs=torch.tensor(0.0))

    program = survey(model, (), {}, {"w": torch.tensor(1.0)})
    with pytest.raises(ModelError, match="without site 'y'"):
        run(program, 2, draws={"w": torch.tensor([1.0, -1.0])}, scores=["y"], together=False)


def test_batch_dimensions_without_a_plate_do_not_collide_with_the_particles():
    def model():
        mu = pyro.sample("mu", dist.Normal(torch.zeros(3), 1.0))
        pyro.sample("y", dist.Normal(mu, 1.0), obs=torch.ones(3))

    mu = torch.randn(3, 3)
    got = run(survey(model, (), {}), 3, draws={"mu": mu}, scores=["mu", "y"])
    assert got.together
    torch.testing.assert_close(got.log_prob["mu"], dist.Normal(0.0, 1.0).log_prob(mu))
    torch.testing.assert_close(got.log_prob["y"], dist.Normal(mu, 1.0).log_prob(torch.ones(3)))


def test_masks_count_and_scales_do_not():
    mask = torch.tensor([True, False, True])

    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 3), pyro.poutine.scale(scale=7.0), pyro.poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(w, 1.0), obs=x)

    x, w = X[:, 0], torch.randn(4)
    got = run(survey(model, (x,), {}), 4, draws={"w": w}, scores=["y"]).log_prob["y"]
    torch.testing.assert_close(got, dist.Normal(w[:, None], 1.0).log_prob(x) * mask)


def test_fresh_data_keeps_deterministic_sites_at_their_shape():
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 3):
            mean = pyro.deterministic("mean", w * x)
            pyro.sample("y", dist.Normal(mean, 1e-4), obs=x)

    x, w = X[:, 0], torch.randn(5)
    got = run(survey(model, (x,), {}), 5, draws={"w": w}, values=["mean", "y"], fresh=True)
    assert got.together
    torch.testing.assert_close(got.values["mean"], w[:, None] * x)
    torch.testing.assert_close(got.values["y"], w[:, None] * x, atol=1e-3, rtol=0)


def test_an_improper_prior_needs_no_draw_of_its_own():
    def model():
        mu = pyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
        pyro.sample("y", dist.Normal(mu, 1.0), obs=torch.tensor(0.0))

    mu = torch.randn(3)
    got = run(survey(model, (), {}, {"mu": mu[0]}), 3, draws={"mu": mu}, scores=["y"])
    torch.testing.assert_close(got.log_prob["y"], dist.Normal(mu, 1.0).log_prob(torch.tensor(0.0)))
