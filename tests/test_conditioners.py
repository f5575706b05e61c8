import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

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
    jacobian = jax.jacobian(lambda x: net(x, context))(jnp.ones(event_size))
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
    jacobian = jax.jacobian(lambda c: net(jnp.ones(4), c))(jnp.ones(3))
    assert (np.abs(jacobian) > 0).all()


def test_mlp_without_inputs_depends_on_the_context_alone():
    net = MLP(0, 2, (8,), context_size=3, rngs=nnx.Rngs(0))
    assert net(jnp.zeros((5, 0)), jnp.ones((5, 3))).shape == (5, 2)
