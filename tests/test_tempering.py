"""Mass without a mode of its own: found by tempering, and added to the posterior."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flows
from flows.variational import lost, start, tempering
from flows.variational.laplace import LaplaceFits

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
    assert f"{region.share:.1%} around" in str(region)


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


def test_a_region_whose_particles_do_not_arrive_is_not_said_to_be_none(monkeypatch):
    monkeypatch.setattr(tempering, "MOST_TEMPERATURES", 1)
    assert (
        lost_regions(normal(0.0, 0.01, 2), shouldered(0.0, 0.01, 1.0), float(np.log(0.5))) is None
    )


def test_outliers_among_the_draws_are_no_matter():
    draws = np.asarray(jax.random.normal(KEY, (4096, 2)) * 0.1).copy()
    draws[0], draws[1] = 1e10, np.nan
    q = normal(0.0, 0.1, 2)
    (region,) = tempering.lost_regions(q, shouldered(0.0, 0.1, 3.0), draws, float(np.log(0.5)), KEY)
    assert region.share == pytest.approx(0.5, abs=0.1)


def test_a_constant_coordinate_of_the_draws_is_no_matter():
    draws = np.asarray(jax.random.normal(KEY, (4096, 2)) * 0.1).copy()
    draws[:, 1] = 0.5
    q = normal(0.0, 0.1, 2)
    target = shouldered(0.0, 0.1, 3.0)
    (region,) = tempering.lost_regions(q, target, draws, float(np.log(0.5)), KEY)
    assert region.share == pytest.approx(0.5, abs=0.1)


def test_beyond_a_support_nothing_is_looked_for():
    """There q has no mass, and the target may have some: q cannot learn it."""
    flow = flows.real_nvp(2, num_layers=2, support=flows.supports.positive, rngs=nnx.Rngs(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = flows.fit_posterior(
            lambda theta: -0.5 * ((theta - 2) ** 2).sum(), flow=flow,
            key=KEY, num_steps=1, progress=False,
        )  # fmt: skip
    assert posterior.diagnostics.lost_regions is None
    assert "lost region   not looked for" in str(posterior.diagnostics)


def test_what_was_lost_is_looked_at_again(monkeypatch):
    """A second start that drops it does not make it unknown."""
    target = jax.tree_util.Partial(
        lambda x: jnp.logaddexp(*(jax.scipy.stats.norm.logpdf(x, m).sum() for m in (0.0, 30.0)))
    )
    calls, search = [], lost.lost_modes

    def once(*arguments):
        """Finds what there is the first time, and later only what it is told of."""
        calls.append(arguments)
        found = search(*arguments)
        told = np.asarray(arguments[2].loc)
        near = lambda mode: (np.abs(told - mode.location).max(axis=1) < 1).any()
        return found if len(calls) == 1 else tuple(mode for mode in found if near(mode))

    monkeypatch.setattr(lost, "lost_modes", once)
    monkeypatch.setattr(start, "_mixture_of_modes", lambda *arguments: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = flows.fit_posterior(
            target, event_size=2, key=KEY, num_steps=1, learning_rate=1e-9, progress=False
        )
    assert len(calls) == 2
    assert posterior.diagnostics.lost_modes


def test_what_is_added_replaces_nothing_that_is_known():
    """A spike, a shoulder around it, and a mode elsewhere: the first and last are known."""
    locs, scales = np.array([[0.0, 0.0], [100.0, 0.0], [100.0, 0.0]]), np.array([1.0, 0.002, 1.0])
    shares = np.array([0.5, 0.2, 0.3])

    def density(x):
        each = jax.scipy.stats.norm.logpdf(x, jnp.array(locs), jnp.array(scales)[:, None])
        return jax.nn.logsumexp(each.sum(axis=1) + jnp.log(jnp.array(shares)))

    trils = scales[:, None, None] * np.eye(2)
    every = LaplaceFits(*(a.astype(np.float32) for a in (locs, trils, np.log(shares))))
    known, added = (LaplaceFits(*(part[i] for part in every)) for i in ([0, 1], [2]))
    mixture = start._mixture_of_modes(jax.tree_util.Partial(density), known, added, KEY)
    found = np.exp(np.asarray(mixture.log_share))
    np.testing.assert_allclose(np.sort(found), np.sort(shares), atol=0.03)
