import os
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from flows.training import sharding

FITS = """
import sys, time, jax, jax.numpy as jnp, numpy as np, flows
from flax import nnx

if len(sys.argv) > 1:
    jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
OPTIONS = {"key": jax.random.key(0), "progress": False}
X = (np.random.default_rng(0).normal(size=(900, 3)) ** 3).astype(np.float32)

def fit(x=X, **options):
    flow = flows.maf(3, num_layers=2, hidden_sizes=(16, 16), rngs=nnx.Rngs(0))
    options = OPTIONS | {"max_epochs": 3, "batch_size": 80, "ema_decay": 0.9} | options
    result = flows.fit(flow, x, **options)
    return np.append(values(result.flow), result.history["validation"])

def streamed(delays):
    batches = ((time.sleep(delays.uniform(0, 0.05)), X[i : i + 80])[1] for i in range(0, 800, 80))
    return fit(batches, batch_size=None, steps_per_epoch=10, validation=None)

def posterior(**options):
    target = lambda theta: -0.5 * (theta**2).sum() - theta[0] ** 4
    return values(
        flows.fit_posterior(target, event_size=2, num_steps=30, **OPTIONS, **options).flow
    )

def values(flow):
    leaves = jax.tree.leaves(nnx.state(flow, nnx.Param))
    return np.concatenate([np.asarray(leaf).ravel() for leaf in leaves])

"""

EIGHT_DEVICES = (
    FITS
    + """
devices = np.array(jax.devices())
assert len(devices) == 8
one = jax.sharding.Mesh(devices[:1], ("data",))
mesh = jax.sharding.Mesh(devices.reshape(2, 4), ("data", "model"))
placed = flows.training.sharding.place({"w": jnp.ones((3, 8)), "b": jnp.ones(8)}, mesh)
shards = {name: array.addressable_shards[0].data.shape for name, array in placed.items()}
assert shards == {"w": (3, 2), "b": (8,)}
block = flows.training.sources.InMemory(jnp.ones((80, 3)), jax.random.key(0), 80, mesh)
batch = jax.jit(lambda block: block.batch(0))(block)
assert batch.addressable_shards[0].data.shape == (40, 3)
"""
)
OF_FITS = """
print("gap", abs(fit() - (alone := fit(mesh=one))).max())
print("gap", abs(fit(mesh=jax.make_mesh((2, 4), ("data", "model"))) - alone).max())
"""
OF_POSTERIORS = """
print("gap", abs(posterior() - posterior(mesh=one)).max())
"""

TWO_PROCESSES = (
    FITS
    + """
from flows.training import checkpoints

assert (jax.device_count(), jax.local_device_count()) == (2, 1)
checkpoints.SHARE = 1e9
in_memory = fit()
x = np.load(sys.argv[3], mmap_mode="r")
on_disk = fit(x, checkpoint_dir=sys.argv[4])
np.testing.assert_allclose(on_disk, in_memory, rtol=1e-4, atol=1e-6)
fail = lambda state: sys.exit("it ran again")
np.testing.assert_array_equal(fit(x, checkpoint_dir=sys.argv[4], callback=fail), on_disk)
print("values", *in_memory.tolist())
print("streamed", *streamed(np.random.default_rng(int(sys.argv[2]))).tolist())
"""
)


def python(script, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output(process):
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text
    return text


@pytest.mark.parametrize(
    ("gaps", "number"),
    [(OF_FITS, 2), pytest.param(OF_POSTERIORS, 1, marks=pytest.mark.slow)],
    ids=["fits", "posteriors"],
)
def test_eight_devices_give_what_one_gives(gaps, number):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    text = output(python(EIGHT_DEVICES + gaps, XLA_FLAGS=flags))
    found = re.findall(r"^gap (\S+)$", text, re.MULTILINE)
    assert len(found) == number, text
    assert max(map(float, found)) < 2e-4, text


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    x = (np.random.default_rng(0).normal(size=(900, 3)) ** 3).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [
        python(TWO_PROCESSES, address, i, tmp_path / "x.npy", tmp_path / "run") for i in range(2)
    ]
    texts = [output(process) for process in processes]
    alone = "print('values', *fit().tolist())\n"
    alone += "print('streamed', *streamed(np.random.default_rng(2)).tolist())"
    texts.append(output(python(FITS + alone)))
    for name in ("values", "streamed"):
        first, second, alone = (
            np.array(re.search(rf"^{name} (.*)$", text, re.MULTILINE)[1].split(), float)
            for text in texts
        )
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, alone, atol=2e-4)


def test_meshes_that_cannot_be_used_are_refused():
    mesh = jax.make_mesh((1,), ("batch",))
    with pytest.raises(ValueError, match='mesh must have an axis "data"'):
        sharding.resolve(mesh, 10)
    with pytest.raises(TypeError, match=r"mesh must be a jax.sharding.Mesh, got 8"):
        sharding.resolve(8, 10)
