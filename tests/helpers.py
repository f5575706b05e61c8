"""Shared by the tests: every bijector and flow, in one place, and a way off the identity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import flows
from flows import bijectors as fb
from flows import conditioners, supports

D, C = 4, 3  # event and context size of the contract tests
_rng = np.random.default_rng(9)


NETWORK = {
    "hidden_sizes": (16, 16),
    "features": conditioners.circle,
    "embed": functools.partial(conditioners.MLP, hidden_sizes=(8,)),
    "activation": jax.nn.softplus,
}


UNROLLED = functools.partial(conditioners.Unrolled, transformer=fb.Affine())


def _scale_tril():
    return jnp.array([[1.5, 0, 0, 0], [0.3, 0.5, 0, 0], [-0.7, 0.2, 2.0, 0], [0.1, -0.4, 0.6, 1.0]])


# A new bijector is one line here. Each maker takes rngs; those that end in "context" take context.
BIJECTORS = {
    "elementwise": lambda rngs: fb.Elementwise(D),
    "elementwise context": lambda rngs: fb.Elementwise(
        D, fb.RationalQuadraticSpline(4), context_size=C, hidden_sizes=(16,), rngs=rngs
    ),
    "triangular": lambda rngs: fb.TriangularAffine(jnp.arange(4.0), _scale_tril()),
    "lu": lambda rngs: fb.LULinear(D),
    "orthogonal": lambda rngs: fb.Orthogonal(D, rngs=rngs),
    "orthogonal D=1": lambda rngs: fb.Orthogonal(1, num_reflections=4, rngs=rngs),
    "reverse": lambda rngs: fb.Reverse(D),
    "permutation": lambda rngs: shuffle(rngs),
    "coupling": lambda rngs: fb.Coupling(D, hidden_sizes=(16,), rngs=rngs),
    "coupling residual": lambda rngs: fb.Coupling(
        D, hidden_sizes=(16, 16), residual=True, rngs=rngs
    ),
    "coupling context": lambda rngs: fb.Coupling(D, hidden_sizes=(16,), context_size=C, rngs=rngs),
    "coupling D=1 context": lambda rngs: fb.Coupling(
        1, hidden_sizes=(16,), context_size=C, rngs=rngs
    ),
    "autoregressive": lambda rngs: fb.MaskedAutoregressive(D, hidden_sizes=(16, 16), rngs=rngs),
    "autoregressive narrow": lambda rngs: fb.MaskedAutoregressive(D, hidden_sizes=(2,), rngs=rngs),
    "autoregressive residual": lambda rngs: fb.MaskedAutoregressive(
        D, hidden_sizes=(16, 16, 16), residual=True, rngs=rngs
    ),
    "autoregressive context": lambda rngs: fb.MaskedAutoregressive(
        D, hidden_sizes=(16,), context_size=C, rngs=rngs
    ),
    "autoregressive inverted": lambda rngs: fb.MaskedAutoregressive(
        D, hidden_sizes=(16,), transformer=fb.Inverted(fb.Affine()), rngs=rngs
    ),
    "autoregressive D=1 context": lambda rngs: fb.MaskedAutoregressive(
        1, hidden_sizes=(16,), context_size=C, rngs=rngs
    ),
    "autoregressive D=2": lambda rngs: fb.MaskedAutoregressive(2, hidden_sizes=(16,), rngs=rngs),
    "autoregressive groups": lambda rngs: fb.MaskedAutoregressive(
        11, hidden_sizes=(24, 13), rngs=rngs
    ),
    "autoregressive jacobi": lambda rngs: fb.MaskedAutoregressive(
        D, hidden_sizes=(16,), inverse="jacobi", rngs=rngs
    ),
    "autoregressive unrolled context": lambda rngs: fb.MaskedAutoregressive(
        D, context_size=C, conditioner=UNROLLED, hidden_sizes=(16,), rngs=rngs
    ),
    "autoregressive circle embed": lambda rngs: fb.MaskedAutoregressive(
        D, context_size=C, rngs=rngs, **NETWORK
    ),
    "coupling circle embed": lambda rngs: fb.Coupling(D, context_size=C, rngs=rngs, **NETWORK),
    **{
        f"{kind} {name}": lambda rngs, layer=layer, transformer=transformer: layer(
            D, hidden_sizes=(16,), transformer=transformer, context_size=C, rngs=rngs
        )
        for name, transformer in {
            "spline": fb.RationalQuadraticSpline(num_bins=4, bound=2.0),
            "circular": fb.CircularSpline(num_bins=4),
            "logistics": fb.MixtureOfLogistics(num_components=3),
            "composed": fb.Composed([fb.RationalQuadraticSpline(4, 2.0), fb.Affine()]),
        }.items()
        for kind, layer in {
            "coupling": fb.Coupling,
            "autoregressive": fb.MaskedAutoregressive,
        }.items()
    },
    "blocks context": lambda rngs: fb.Blocks(
        [2, 0],
        fb.Coupling(2, hidden_sizes=(16,), context_size=C, rngs=rngs),
        fb.MaskedAutoregressive(2, hidden_sizes=(16,), context_size=4 + C, rngs=rngs),
        conditioners.circle,
    ),
    "inverse": lambda rngs: fb.Inverse(fb.MaskedAutoregressive(D, hidden_sizes=(16,), rngs=rngs)),
    "chain context": lambda rngs: fb.Chain(
        [
            fb.Elementwise(D),
            fb.Coupling(D, hidden_sizes=(16,), context_size=C, rngs=rngs),
            fb.Reverse(D),
        ]
    ),
    "standardized context": lambda rngs: fb.StandardizedContext(
        fb.Coupling(D, hidden_sizes=(16,), context_size=C, rngs=rngs),
        jnp.arange(3.0),
        jnp.arange(1.0, 4.0),
    ),
    "stack context": lambda rngs: fb.Stack(
        lambda rngs: fb.Chain(
            [
                fb.Coupling(D, hidden_sizes=(16,), context_size=C, rngs=rngs),
                fb.Permutation(jax.random.permutation(rngs.params(), D)),
            ]
        ),
        3,
        rngs=rngs,
    ),
}

FLOWS = {
    f"{name} {variant}": (lambda rngs, make=make, options=options: make(rngs=rngs, **options))
    for name, make in [("maf", flows.maf), ("iaf", flows.iaf), ("real_nvp", flows.real_nvp)]
    for variant, options in {
        "plain": {"event_size": D, "num_layers": 3, "hidden_sizes": (16,)},
        "context": {"event_size": D, "num_layers": 3, "hidden_sizes": (16,), "context_size": C},
        "D=1 context": {
            "event_size": 1, "num_layers": 2, "hidden_sizes": (16,), "context_size": C,
        },
        "D=2 residual": {
            "event_size": 2, "num_layers": 2, "hidden_sizes": (16, 16), "residual": True,
        },
        "bells": {
            "event_size": D, "num_layers": 2, "hidden_sizes": (16,), "permutation": "random",
            "standardize_with": 5 + 2 * _rng.normal(size=(50, D)),
            "base": flows.StudentT(D), "transformer": fb.Affine(max_log_scale=2.0),
        },
    }.items()
} | {
    "iaf unrolled": lambda rngs: flows.iaf(
        D, num_layers=2, conditioner=UNROLLED, hidden_sizes=(16,), rngs=rngs
    ),
    "nsf": lambda rngs: flows.nsf(D, num_layers=2, hidden_sizes=(16,), rngs=rngs),
    "nsf autoregressive context": lambda rngs: flows.nsf(
        D, autoregressive=True, num_layers=2, hidden_sizes=(16,), context_size=C, rngs=rngs
    ),
    "gaussianization": lambda rngs: flows.gaussianization(D, num_layers=3, rngs=rngs),
    "gaussianization of data": lambda rngs: flows.gaussianization(
        D, num_layers=3, rngs=rngs, standardize_with=_rng.laplace(size=(50, D))
    ),
    "gaussianization context": lambda rngs: flows.gaussianization(
        3, num_layers=2, rngs=rngs, context_size=C, hidden_sizes=(16,),
        transformer=fb.Inverted(fb.MixtureOfLogistics(3)),
    ),
    "ncsf": lambda rngs: flows.ncsf(
        D, autoregressive=True, num_layers=2, hidden_sizes=(16,), rngs=rngs
    ),
    "ncsf beside numbers": lambda rngs: flows.ncsf(
        D, num_layers=2, hidden_sizes=(16,), rngs=rngs,
        support=[supports.circle(24), supports.real, supports.circle, supports.real],
    ),
    "ncsf context": lambda rngs: flows.ncsf(
        2, num_layers=2, hidden_sizes=(16,), context_size=C, rngs=rngs,
        standardize_with=(np.zeros((9, 2)), 3 + _rng.normal(size=(9, C))),
    ),
}  # fmt: skip


def perturbed(module, seed=7, scale=0.3):
    """The module with noise added to every parameter, so that it is far from the identity."""
    rng = np.random.default_rng(seed)
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    moved = lambda a: np.asarray(a) + scale * rng.normal(size=a.shape)
    noisy = lambda a: jax.device_put(moved(a).astype(a.dtype))  # no program for each shape
    return nnx.merge(graphdef, jax.tree.map(noisy, params), rest)


def shuffle(rngs):
    return fb.Permutation(jax.random.permutation(rngs.params(), D))


def make(maker):
    """A perturbed module from one of the makers above."""
    return perturbed(made(maker))


def made(maker):
    """The module as made, which is not to be changed: making it takes longer than most tests."""
    return _made(maker, jax.config.jax_enable_x64)


@functools.cache
def _made(maker, x64):
    return maker(nnx.Rngs(0))


def normals(seed, *shape):
    """Normal numbers, without a program for each shape."""
    numbers = np.random.default_rng(seed).normal(size=shape)
    return jax.device_put(numbers.astype(jnp.result_type(float)))


@functools.partial(jax.jit, static_argnums=0)
def jacobians(function, module, x, context=None):
    """dy_i / dx_j [n, D, D] of `function(module, x)` or of a method at each of the points."""
    if isinstance(function, str):
        return jax.vmap(jax.jacfwd(getattr(module, function)))(x, context)
    return jax.vmap(jax.jacfwd(lambda x: function(module, x)))(x)


def bound(flow, shape=()):
    """The flow, with a context bound where it waits for one."""
    if flow.context_size is None:
        return flow
    return flow.condition(normals(3, *shape, flow.context_size))


def naive_inverse(layer, y, context=None):
    """The inverse of an autoregressive layer by D network passes: slow, and plainly right."""

    def solve_next(x, i):
        params = layer.conditioner(x, context)[..., i, :]  # x_0 .. x_{i-1} are known
        x_i, log_det_i = layer.transformer.inverse_and_log_det(y[..., i], params)
        return x.at[..., i].set(x_i), log_det_i

    x, log_dets = jax.lax.scan(solve_next, jnp.zeros_like(y), jnp.arange(layer.event_size))
    return x, log_dets.sum(axis=0)


def skewed_data(n=4000):
    z = np.random.default_rng(0).normal(size=(n, 2))
    return np.stack([z[:, 0], 0.5 * z[:, 0] ** 2 + 0.3 * z[:, 1]], axis=1)


def chains(model, *args, num_samples=2000, num_chains=4, **kwargs):
    """A finished run of numpyro's NUTS."""
    from numpyro.infer import MCMC, NUTS

    made = MCMC(
        NUTS(model), num_warmup=500, num_samples=num_samples, num_chains=num_chains,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    made.run(jax.random.key(0), *args, **kwargs)
    return made
