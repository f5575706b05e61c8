"""Mass without a mode of its own: found by tempering, and added to the posterior."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flows
from flows.variational import tempering

KEY = jax.random.key(0)


def normal(loc, scale, size):
    """A flow that is a round normal."""
    base = flows.DiagonalNormal(size)
    base.loc[...] = jnp.full(size, loc)
    base.log_scale[...] = jnp.full(size, jnp.log(scale))
    return flows.Flow(base, flows.bijectors.Reverse(size))


def lost_regions(q, target, log_evidence):
    draws = np.asarray(q.sample(seed=jax.random.key(1), sample_shape=(4096,)))
    return tempering.lost_regions(q, target, draws, log_evidence, KEY)


def shouldered(loc, narrow, wide, share=0.5):
    """A narrow normal, on a wide one of this share around the same centre."""

    def target(x):
        peak, shoulder = (jax.scipy.stats.norm.logpdf(x, loc, s).sum() for s in (narrow, wide))
        return jnp.logaddexp(jnp.log1p(-share) + peak, jnp.log(share) + shoulder)

    return jax.tree_util.Partial(target)


@pytest.mark.parametrize(
    ("size", "loc", "narrow", "wide", "share"),
    [
        (1, 0.0, 0.01, 1.0, 0.5),
        (2, 0.0, 0.01, 1.0, 0.2),
        (5, 1000.0, 0.1, 10.0, 0.5),
        (10, 1e-4, 1e-6, 1e-4, 0.9),
        (30, 0.0, 0.2, 1.0, 0.5),
    ],
)
def test_a_shoulder_without_a_mode_is_found(size, loc, narrow, wide, share):
    target = shouldered(loc, narrow, wide, share)
    q = normal(loc, narrow, size)
    (region,) = lost_regions(q, target, float(np.log1p(-share)))
    assert region.share == pytest.approx(share, abs=0.1)
    np.testing.assert_allclose(region.location, loc, atol=0.4 * wide)  # a few hundred draws
    deviations = np.linalg.norm(region.scale_tril, axis=1)
    np.testing.assert_allclose(deviations, wide, rtol=0.3)
    assert f"{region.share:.0%} around" in str(region)


@pytest.mark.parametrize("size", [1, 2, 30])
@pytest.mark.parametrize("scale", [1.0, 1.2, 0.9])
def test_nothing_is_lacking_of_a_good_approximation(size, scale):
    scale = 1 + (scale - 1) / size**0.5
    target = jax.tree_util.Partial(lambda x: jax.scipy.stats.norm.logpdf(x, 50.0, 1e-3).sum())
    assert lost_regions(normal(50.0, 1e-3 * scale, size), target, 0.0) == ()


@pytest.mark.parametrize(
    "elsewhere", [-jnp.inf, jnp.nan, jnp.inf], ids=["no mass", "not a number", "infinite"]
)
def test_where_a_target_is_not_finite_there_is_no_region(elsewhere):
    def target(x):
        return jnp.where(jnp.all(x < 5), jax.scipy.stats.norm.logpdf(x).sum(), elsewhere)

    q = normal(0.0, 1.0, 2)
    assert lost_regions(q, jax.tree_util.Partial(target), 0.0) == ()
    nowhere = jax.tree_util.Partial(lambda x: jnp.where(jnp.all(x == x), elsewhere, 0.0))
    assert lost_regions(q, nowhere, 0.0) == ()


def test_an_unknown_evidence_is_no_region():
    target = jax.tree_util.Partial(lambda x: jax.scipy.stats.norm.logpdf(x).sum())
    for unknown in (float("nan"), float("inf")):
        assert lost_regions(normal(0.0, 1.0, 2), target, unknown) == ()


def test_the_verdict_names_a_region_that_a_flow_of_ones_own_lacks():
    with pytest.warns(UserWarning, match="the target has mass where q has none"):
        posterior = flows.fit_posterior(
            shouldered(0.0, 0.01, 1.0), flow=normal(0.0, 0.01, 2), start=None,
            key=KEY, num_steps=1, progress=False,
        )  # fmt: skip
    assert posterior.diagnostics.lost_modes == ()
    assert posterior.diagnostics.ess > 9900
    (region,) = posterior.diagnostics.lost_regions
    assert region.share == pytest.approx(0.5, abs=0.1)
    assert f"lost region   {region}" in str(posterior.diagnostics)


@pytest.mark.parametrize(
    ("size", "narrow", "wide"),
    [(2, 0.01, 1.0), pytest.param(10, 0.1, 1.0, marks=pytest.mark.slow)],
)
def test_a_shoulder_is_part_of_the_posterior(size, narrow, wide):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        posterior = flows.fit_posterior(
            shouldered(0.0, narrow, wide, 0.3), event_size=size,
            key=KEY, num_steps=20, progress=False,
        )  # fmt: skip
    assert abs(posterior.diagnostics.log_evidence.value) < 0.02
    x = posterior.sample(seed=KEY, sample_shape=(10_000,))
    far = np.abs(np.asarray(x)).max(axis=1) > 5 * narrow
    assert far.mean() == pytest.approx(0.3, abs=0.02)
    np.testing.assert_allclose(x[far].std(axis=0), wide, rtol=0.05)
