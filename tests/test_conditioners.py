import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import jacobians, normals, perturbed

import flows
from flows.conditioners import MLP, MaskedMLP


@pytest.mark.parametrize(
    ("hidden_sizes", "residual"),
    [((1,), False), ((3,), False), ((7, 16), False), ((16, 16, 16), False), ((16, 16), True)],
)
@pytest.mark.parametrize("context_size", [None, 2])
@pytest.mark.parametrize("event_size", [1, 2, 5])
def test_output_i_sees_inputs_before_i_only(event_size, context_size, residual, hidden_sizes):
    net = MaskedMLP(
        event_size, 3, hidden_sizes, context_size=context_size, residual=residual,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    context = None if context_size is None else jnp.ones(context_size)
    jacobian = np.asarray(jax.jit(jax.jacobian(net))(jnp.ones(event_size), context))
    assert jacobian.shape == (event_size, 3, event_size)
    for i in range(event_size):
        assert not jacobian[i, :, i:].any()
        if min(hidden_sizes) >= event_size:  # wide enough for all dependence that is allowed
            assert (np.abs(jacobian[i, :, :i]) > 0).all()


def test_hidden_units_are_sorted_by_degree_so_masks_are_block_triangular():
    net = MaskedMLP(7, 2, (13, 5), rngs=nnx.Rngs(0))
    for degrees in net.degrees():
        assert (np.diff(degrees) >= 0).all()
    for mask in net.masks():
        assert (np.diff(mask.astype(int), axis=1) >= 0).all()
        assert (np.diff(mask.astype(int), axis=0) <= 0).all()


def test_all_outputs_see_the_context():
    net = MaskedMLP(4, 2, (16, 16), context_size=3, rngs=nnx.Rngs(0))
    jacobian = jax.jit(jax.jacobian(net, argnums=1))(jnp.ones(4), jnp.ones(3))
    assert (np.abs(jacobian) > 0).all()


def test_mlp_without_inputs_depends_on_the_context_alone():
    net = MLP(0, 2, (8,), context_size=3, rngs=nnx.Rngs(0))
    assert net(jnp.zeros((5, 0)), jnp.ones((5, 3))).shape == (5, 2)


class Lower(nnx.Module):
    """A conditioner of one's own: linear in the coordinates before, and in a context."""

    def __init__(self, event_size, num_params, *, context_size, rngs, scale=0.5):
        shape = event_size, event_size, num_params
        self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), shape))
        self.embed = MLP(context_size, event_size * num_params, rngs=rngs)

    def __call__(self, x, context):
        before = jnp.tril(jnp.ones(self.kernel.shape[:2]), -1)[..., None]
        out = jnp.einsum("...j,ijp->...ip", x, self.kernel[...] * before)
        return out + self.embed(context).reshape(*context.shape[:-1], *out.shape[-2:])


@pytest.mark.parametrize("architecture", [flows.maf, flows.iaf])
def test_a_conditioner_of_ones_own(architecture, tmp_path):
    options = {"num_layers": 2, "context_size": 2, "rngs": nnx.Rngs(0), "conditioner": Lower}
    with jax.enable_x64(True):
        flow = architecture(4, scale=0.3, **options)
        bound = flow.condition(normals(1, 2))
        x = normals(0, 20, 4)
        z, log_det = bound.bijector.inverse_and_log_det(x)
        assert np.abs(z - x).max() > 0.1
        np.testing.assert_allclose(bound.bijector.forward(z), x, atol=1e-8)
        jacobian = jacobians("inverse", bound.bijector, x)
        np.testing.assert_allclose(np.linalg.slogdet(jacobian)[1], log_det, atol=1e-8)
        flows.save(tmp_path / "a", flow)
        loaded = flows.load(tmp_path / "a").condition(jnp.ones(2))
        np.testing.assert_array_equal(loaded.log_prob(x), flow.condition(jnp.ones(2)).log_prob(x))
    with pytest.raises(ValueError, match=r'"blocked" needs .* got a Lower'):
        architecture(4, inverse="blocked", **options)


def test_bad_options_are_refused():
    for options, error, match in [
        ({"features": "sin"}, TypeError, "features must be a function"),
        ({"features": jnp.sin}, ValueError, r"features must map x \[...\] to \[..., F\]"),
        ({"activation": "swish"}, ValueError, "activation must be one of"),
        ({"hiden_sizes": (8,)}, TypeError, "hiden_sizes"),
        ({"hidden_sizes": (8, 4), "residual": True}, ValueError, "needs equal hidden_sizes"),
    ]:
        for architecture in (flows.maf, flows.iaf, flows.real_nvp):
            with pytest.raises(error, match=match):
                architecture(2, rngs=nnx.Rngs(0), **options)


def test_parameters_of_another_shape_are_refused_and_constants_broadcast():
    x = jnp.ones((3, 4))
    for size in (2, 6):
        wrong = lambda n, m, *, context_size, rngs, size=size: MLP(n, size, rngs=rngs)
        with pytest.raises(ValueError, match=r"conditioner must give parameters \[..., 4\]"):
            flows.bijectors.Coupling(4, conditioner=wrong, rngs=nnx.Rngs(0)).forward(x)
        with pytest.raises(ValueError, match=r"conditioner must give parameters \[..., 4, 2\]"):
            flows.bijectors.MaskedAutoregressive(4, conditioner=wrong, rngs=nnx.Rngs(0)).forward(x)
    for layer, shape in [
        (flows.bijectors.Coupling, lambda n, m: (m,)),
        (flows.bijectors.MaskedAutoregressive, lambda n, m: (n, m)),
    ]:

        class Constant(nnx.Module):
            def __init__(self, n, m, *, context_size, rngs, shape=shape):
                self.value = nnx.Param(jnp.full(shape(n, m), 0.5))

            def __call__(self, x, context):
                return self.value[...]

        bijector = layer(4, conditioner=Constant, rngs=nnx.Rngs(0))
        y, log_det = bijector.forward_and_log_det(x)
        back, inverse_log_det = bijector.inverse_and_log_det(y)
        assert log_det.shape == inverse_log_det.shape == (3,)
        np.testing.assert_allclose(back, x, atol=1e-6)


def test_a_maf_with_networks_of_its_own_is_not_copied():
    deeper = type("Mine", (MaskedMLP,), {})
    maf = flows.maf(2, num_layers=2, conditioner=deeper, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"with networks that are flows\.conditioners"):
        flows.iaf_like(maf, rngs=nnx.Rngs(1))


class Doubled(MaskedMLP):
    """Computes something else than substitution through its layers would."""

    def __call__(self, x, context=None):
        return 2 * super().__call__(x, context)


def test_networks_that_differ_from_the_usual_one_are_inverted_as_they_are():
    with jax.enable_x64(True):  # to tell the wrong inverse from rounding
        layer = flows.bijectors.MaskedAutoregressive(4, conditioner=Doubled, rngs=nnx.Rngs(0))
        layer = perturbed(layer)
        x = normals(0, 20, 4)
        y = layer.forward(x)
        assert np.abs(y - x).max() > 0.1
        np.testing.assert_allclose(layer.inverse(y), x, atol=1e-9)
