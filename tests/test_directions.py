"""Distributions of directions: densities by quadrature, moments, draws, gradients of draws, divergences, bad input."""

from __future__ import annotations

import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch.distributions import biject_to, kl_divergence
from torch.nn.functional import normalize

from pyrogen.distributions import (
    PowerSpherical,
    SphereUniform,
    StereographicTransform,
    VonMises,
    VonMisesFisher,
    circular,
    closed_form_kl,
    sphere,
    torus,
)
from pyrogen.errors import SettingsError, ShapeError
from pyrogen.ops.angles import latitude_longitude, unit_vectors, wrap
from pyrogen.ops.spheres import log_area
from tests.oracles import globe, log_integral
from tests.statistics import assert_mean

AROUND = [VonMisesFisher, PowerSpherical]


def direction(n: int, seed: int = 0) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(n, generator=source, dtype=torch.float64), dim=-1)


def at_cosine(t: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
    """Unit vectors x with x.mu = t."""
    other = normalize(direction(len(mu), 9) - (direction(len(mu), 9) @ mu) * mu, dim=-1)
    return t[:, None] * mu + (1 - t * t).clamp(min=0).sqrt()[:, None] * other


# constraints and angles


def test_the_circle_is_half_open_in_both_precisions():
    for dtype in (torch.float32, torch.float64):
        pi = torch.tensor(math.pi, dtype=dtype)
        below = torch.nextafter(pi, torch.zeros((), dtype=dtype))
        angles = torch.stack([-pi, below, pi, torch.nextafter(-pi, 2 * -pi), pi * math.nan, pi - pi])
        assert circular.check(angles).tolist() == [True, True, False, False, False, True]
        assert not torus.check(angles)
    assert torus.event_dim == 1 and circular.event_dim == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wrapping_ends_on_the_circle_keeps_what_is_there_and_has_slope_one(dtype):
    pi = torch.tensor(math.pi, dtype=dtype)
    edges = torch.stack([pi, -pi, torch.nextafter(-pi, 2 * -pi), 3 * pi, -3 * pi, 2 * pi, 1000 * pi])
    x = torch.cat([edges, 50 * torch.randn(5000, dtype=dtype)]).requires_grad_()
    y = wrap(x)
    assert circular.check(y).all()
    torch.testing.assert_close(torch.cos(y.double()), torch.cos(x.double()), rtol=0, atol=5e-4)
    torch.testing.assert_close(torch.sin(y.double()), torch.sin(x.double()), rtol=0, atol=5e-4)
    assert torch.autograd.grad(y.sum(), x)[0].eq(1).all()
    assert torch.equal(wrap(y), y)


def test_the_globe_in_degrees():
    lat, lon = torch.tensor([0.0, 0.0, 90.0, -30.0]), torch.tensor([0.0, 90.0, 17.0, 180.0])
    x = unit_vectors(lat, lon)
    expected = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-math.sqrt(0.75), 0, -0.5]])
    torch.testing.assert_close(x, expected, atol=1e-6, rtol=0)
    back = latitude_longitude(x.double())
    torch.testing.assert_close(back[0], lat.double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(back[1][[0, 1, 3]].abs(), lon[[0, 1, 3]].double(), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match=r"latitude 100, longitude 3.*swapping"):
        unit_vectors(torch.tensor([4.0, 100.0]), torch.tensor([100.0, 3.0]))
    with pytest.raises(ShapeError, match=r"\(\.\.\., 3\)"):
        latitude_longitude(torch.ones(4, 2))


@pytest.mark.parametrize("d", [1, 2, 5])
def test_stereographic_projection_inverts_and_has_the_areas_of_the_sphere(d):
    transform = biject_to(sphere)
    assert isinstance(transform, StereographicTransform)
    u = torch.randn(20, d, dtype=torch.float64) * torch.logspace(-8, 6, 20, dtype=torch.float64)[:, None]
    x = transform(u)
    assert sphere.check(x).all() and x.shape == (20, d + 1)
    torch.testing.assert_close(transform.inv(x), u, rtol=1e-4, atol=0)
    for i in range(0, 20, 3):
        jacobian = torch.autograd.functional.jacobian(transform, u[i])
        expected = 0.5 * torch.linalg.slogdet(jacobian.T @ jacobian)[1]
        # the rows of the Jacobian cancel far out, the formula does not
        torch.testing.assert_close(transform.log_abs_det_jacobian(u, x)[i], expected, rtol=1e-6, atol=1e-6)


def test_biject_to_the_circle_covers_it_and_inverts():
    transform = biject_to(circular)
    u = torch.linspace(-15, 15, 61, dtype=torch.float64)
    x = transform(u)
    assert circular.check(transform(torch.tensor([-1e9, 1e9]))).all()
    torch.testing.assert_close(transform.inv(x), u, rtol=1e-8, atol=1e-8)
    slope = torch.func.vmap(torch.func.grad(transform._call))(u)
    torch.testing.assert_close(transform.log_abs_det_jacobian(u, x), slope.log(), rtol=1e-8, atol=1e-8)
    assert biject_to(torus)(torch.zeros(4, 3)).shape == (4, 3)


# the uniform law


@pytest.mark.parametrize(
    ("d", "area"), [(1, 2 * math.pi), (2, 4 * math.pi), (3, 2 * math.pi**2), (4, 8 / 3 * math.pi**2)]
)
def test_areas_of_spheres(d, area):
    assert math.exp(log_area(d)) == pytest.approx(area)
    law = SphereUniform(d).expand((3,))
    x = law.sample((2,))
    assert x.shape == (2, 3, d + 1) and sphere.check(x).all()
    torch.testing.assert_close(law.log_prob(x), torch.full((2, 3), -math.log(area)))
    torch.testing.assert_close(law.entropy(), torch.full((3,), math.log(area)))


def test_uniform_directions_have_the_moments_of_the_sphere():
    pyro.set_rng_seed(0)
    x = SphereUniform(2, like=torch.zeros((), dtype=torch.float64)).sample((20_000,))
    assert x.dtype == torch.float64
    assert_mean(x, 0.0)
    assert_mean(x[:, :, None] * x[:, None], torch.eye(3) / 3)


# around a direction


@pytest.mark.parametrize("kind", AROUND)
@pytest.mark.parametrize("k", [0.0, 2.0, 30.0])
def test_density_on_the_globe_integrates_to_one_with_the_stated_mean_and_entropy(kind, k):
    x, weight = globe(120)
    law = kind(direction(3), k)
    p = law.log_prob(x).exp() * weight
    torch.testing.assert_close(p.sum(), torch.ones((), dtype=torch.float64), rtol=1e-10, atol=0)
    torch.testing.assert_close(p @ x, law.mean, rtol=1e-9, atol=1e-10)
    log_p = law.log_prob(x).clamp(min=-1e3)
    torch.testing.assert_close(-(p * log_p).sum(), law.entropy(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", AROUND)
@pytest.mark.parametrize("n", [4, 9])
@pytest.mark.parametrize("k", [0.3, 12.0, 400.0])
def test_density_integrates_to_one_in_any_dimension(kind, n, k):
    mu = direction(n)

    def log_p(angle):
        """Of the angle to mu: the ring at that angle is a sphere of radius sin(angle)."""
        ring = (n - 2) * angle.sin().log() + log_area(n - 2)
        return kind(mu, k).log_prob(at_cosine(angle.cos(), mu)) + ring

    assert abs(float(log_integral(log_p, 1e-9, math.pi - 1e-9))) < 1e-6


@pytest.mark.parametrize("kind", AROUND)
@pytest.mark.parametrize("k", [1.0, 12.0, 400.0])
def test_density_integrates_to_one_around_the_circle(kind, k):
    angle = torch.arange(4000, dtype=torch.float64) * math.pi / 2000
    log_p = kind(direction(2), k).log_prob(torch.stack([angle.cos(), angle.sin()], -1))
    assert abs(float(log_p.logsumexp(0)) + math.log(math.pi / 2000)) < 1e-10


@pytest.mark.parametrize("k", [1e3, 1e6, 1e9, 1e12])
def test_a_sharp_von_mises_fisher_is_the_normal_law_of_its_tangent_plane(k):
    for n in (2, 3, 7):
        mu = direction(n)
        step = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64) / math.sqrt(k)
        x = at_cosine(step.cos(), mu)
        log_p = VonMisesFisher(mu, k, validate_args=False).log_prob(x)
        normal = -k * step.square() / 2 + (n - 1) / 2 * math.log(k / (2 * math.pi))
        torch.testing.assert_close(log_p, normal, rtol=0, atol=20 / k + 2e-16 * k + 1e-7)


@pytest.mark.parametrize("kind", AROUND)
def test_float32_densities_keep_their_digits_near_the_mode(kind):
    mu = direction(3).float()
    mu = normalize(mu, dim=-1)
    for k in (1.0, 1e3, 1e6):
        law = kind(mu, torch.tensor(k))
        x = law.sample((200,))
        exact = kind(mu.double(), k, validate_args=False).log_prob(x.double())
        torch.testing.assert_close(law.log_prob(x).double(), exact, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("kind", AROUND)
@pytest.mark.parametrize(("n", "k"), [(2, 1.5), (3, 0.0), (3, 25.0), (5, 4.0), (12, 300.0)])
def test_draws_have_the_mean_and_the_entropy_of_the_density(kind, n, k):
    pyro.set_rng_seed(1)
    law = kind(direction(n), k)
    x = law.sample((20_000,))
    assert sphere.check(x).all() and x.dtype == torch.float64
    assert_mean(x, law.mean)
    assert_mean(-law.log_prob(x), law.entropy(), exact_to=1e-12)
    across = x - (x @ law.loc)[:, None] * law.loc
    # alike in all directions across the mean: E (I - mu mu^T) |across|^2 / (n - 1), one off-diagonal entry of it
    expected = -law.loc[0] * law.loc[1] * across.square().sum(-1) / (n - 1)
    assert_mean(across[:, 0] * across[:, 1] - expected, 0.0)


@pytest.mark.parametrize(("kind", "k"), [(VonMisesFisher, 1e7), (VonMisesFisher, 1e30), (PowerSpherical, 1e7)])
def test_draws_of_a_sharp_law_are_on_the_sphere_and_carry_finite_gradients_in_float32(kind, k):
    torch.manual_seed(0)
    mu, k = direction(3).float().requires_grad_(), torch.tensor(k, requires_grad=True)
    x = kind(normalize(mu, dim=-1), k).rsample((1000,))
    assert sphere.check(x).all()
    x.square().sum().backward()
    x = kind(mu.detach(), 0.0, validate_args=False).rsample((1000,))
    assert mu.grad.isfinite().all() and k.grad.isfinite().all() and x.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "n"), [(VonMisesFisher, 3), (PowerSpherical, 2), (PowerSpherical, 3), (PowerSpherical, 6)]
)
def test_gradients_of_draws_are_the_gradients_of_expectations(kind, n):
    pyro.set_rng_seed(2)
    a, rows = direction(n, 3), 40_000
    raw = direction(n).expand(rows, -1).clone().requires_grad_()
    k = torch.full((rows,), 2.5, dtype=torch.float64, requires_grad=True)
    x = kind(normalize(raw, dim=-1), k).rsample()
    by_raw, by_k = torch.autograd.grad((x @ a).sum(), (raw, k))
    # E a.x = A(k) a.mu in closed form, one more row each
    mu, one = direction(n).requires_grad_(), torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(kind(normalize(mu, dim=-1), one).mean @ a, (mu, one))
    assert_mean(by_raw, expected[0])
    assert_mean(by_k, expected[1], exact_to=1e-4)


def test_the_accepted_draw_of_a_rejection_sampler_has_no_gradient_and_says_so():
    law = VonMisesFisher(direction(5), 3.0)
    assert not law.has_rsample and VonMisesFisher(direction(3), 3.0).has_rsample
    with pytest.raises(NotImplementedError, match="try PowerSpherical"):
        law.rsample()


@pytest.mark.parametrize(("q_k", "p_k"), [(3.0, 8.0), (20.0, 0.0), (0.0, 5.0)])
def test_divergences_are_those_of_quadrature(q_k, p_k):
    x, weight = globe(120)
    uniform = SphereUniform(2, like=x)
    q, p = VonMisesFisher(direction(3), q_k), VonMisesFisher(direction(3, 1), p_k)
    power = PowerSpherical(direction(3), q_k + 1)
    for left, right in ((q, p), (q, uniform), (uniform, p), (power, uniform)):
        log_q = left.log_prob(x)
        expected = (weight * log_q.exp() * (log_q - right.log_prob(x))).sum()
        torch.testing.assert_close(kl_divergence(left, right), expected, rtol=1e-8, atol=1e-9)
        assert closed_form_kl(left.expand((4,)), right).shape == (4,)


def test_a_divergence_between_neighbours_keeps_its_digits():
    q, p = VonMisesFisher(direction(3), 1e8), VonMisesFisher(direction(3), 1.01e8)
    # E_q log q / p of two sharp laws: log(k_q / k_p) + k_p / k_q - 1
    assert kl_divergence(q, p).item() == pytest.approx(1.01 - 1 - math.log(1.01), rel=1e-4)


def test_on_the_circle_it_is_von_mises():
    k, loc = torch.tensor([1e-6, 0.7, 900.0], dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    angle = torch.linspace(-3.1, 3.1, 50, dtype=torch.float64)[:, None]
    mu, x = (torch.stack([a.cos(), a.sin()], -1) for a in (loc, angle))
    log_p = VonMises(loc, k).log_prob(angle)
    torch.testing.assert_close(VonMisesFisher(mu, k).log_prob(x), log_p, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(dist.VonMises(loc, k).log_prob(angle), log_p, rtol=1e-5, atol=1e-5)


# as Pyro sites


def evidence(law, steps: int) -> float:
    """The bound of AutoNormal on a model with one latent and no data: at most the log evidence, 0."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)

    def model():
        pyro.sample("x", law)

    guide = AutoNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO(num_particles=20, vectorize_particles=True))
    for _ in range(steps):
        svi.step()
    with torch.no_grad():
        return -Trace_ELBO(num_particles=2000, vectorize_particles=True).loss(model, guide)


def test_pyros_von_mises_calls_its_support_the_real_line_and_so_its_evidence_is_unbounded():
    stock = dist.VonMises(torch.tensor(0.0), torch.tensor(0.1))
    assert stock.support is dist.constraints.real
    assert evidence(stock, 300) > 1.0  # above the log evidence, which is 0
    ours = VonMises(torch.tensor(0.0), torch.tensor(0.1))
    assert ours.support is circular and ours.expand((2,)).support is circular
    assert -1.0 < evidence(ours, 300) < 0.05


def test_directional_sites_run_under_autonormal():
    mu = torch.tensor([0.0, 0.6, -0.8])
    assert -0.5 < evidence(VonMisesFisher(mu, 5.0), 300) < 0.05


def test_directional_sites_run_under_nuts():
    pyro.set_rng_seed(0)
    law = VonMisesFisher(torch.tensor([0.0, 0.6, -0.8]), 5.0)
    mcmc = MCMC(NUTS(lambda: pyro.sample("x", law)), num_samples=100, warmup_steps=50, disable_progbar=True)
    mcmc.run()
    x = mcmc.get_samples()["x"]
    # 0.2 is five standard errors of 100 draws with an entry's spread of 0.42
    assert sphere.check(x).all() and (x.mean(0) - law.mean).abs().max() < 0.2


def test_draws_of_von_mises_are_on_the_circle():
    pyro.set_rng_seed(0)
    x = VonMises(torch.tensor(10.0), torch.tensor(0.5)).sample((1000,))
    assert circular.check(x).all()


# what can go wrong


@pytest.mark.parametrize("kind", AROUND)
def test_what_is_no_direction_is_refused(kind):
    with pytest.raises(ValueError, match=r"loc.*Sphere"):
        kind(torch.ones(3), 1.0, validate_args=True)
    with pytest.raises(ValueError, match="concentration"):
        kind(direction(3), -1.0, validate_args=True)
    with pytest.raises(ShapeError, match="n of 2 or more"):
        kind(torch.ones(1), 1.0)
    law = kind(direction(3), 1.0, validate_args=True)
    for bad in (1.01 * direction(3), torch.zeros(3).double(), direction(3) * math.nan):
        with pytest.raises(ValueError, match="support"):
            law.log_prob(bad)
    with pytest.raises(ValueError):
        law.log_prob(direction(4))


def test_a_sphere_has_a_dimension():
    with pytest.raises(SettingsError, match="dimension 0"):
        SphereUniform(0)


@pytest.mark.parametrize("law", [SphereUniform(2), *(kind(direction(3), torch.ones(2)) for kind in AROUND)])
def test_batches_expand_and_copies_work(law):
    wide = law.expand((5, 2))
    assert wide.batch_shape == (5, 2) and wide.sample((3,)).shape == (3, 5, 2, 3)
    assert wide.log_prob(wide.sample((3,))).shape == (3, 5, 2)
    for other in (copy.deepcopy(law), pickle.loads(pickle.dumps(law))):
        torch.testing.assert_close(other.entropy(), law.entropy())
