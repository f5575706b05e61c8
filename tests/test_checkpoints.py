import _thread
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import flows
from flows.training import adam, train

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(600, 2)) ** 3 + [0.0, 1.0]


def fit(directory, x=X, flow=None, **options):
    options = {
        "key": KEY, "max_epochs": 8, "batch_size": 50, "ema_decay": 0.9, "progress": False,
    } | options  # fmt: skip
    flow = flow or flows.maf(2, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0))
    return flows.fit(flow, x, checkpoint_dir=directory, **options)


def identical(a, b):
    jax.tree.map(np.testing.assert_array_equal, nnx.state(a.flow), nnx.state(b.flow))
    jax.tree.map(np.testing.assert_array_equal, a.history, b.history)
    assert (a.stop_reason, a.num_skipped) == (b.stop_reason, b.num_skipped)


@pytest.fixture
def often(monkeypatch):
    """Checkpoints after every look of the host, which looks after every tenth step."""
    monkeypatch.setattr("flows.training.checkpoints.SHARE", 1e9)
    monkeypatch.setattr("flows.training.on_host.LOG_SIZE", 10)


def broken_off(directory, after, **options):
    """Begins a fit that fails after some steps, as far as its process can tell."""

    def fail(state):
        if state.step >= after:
            raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        fit(directory, callback=fail, **options)


def test_a_run_broken_off_ends_like_one_that_was_not(tmp_path, often):
    for after in (1, 30, 60):
        broken_off(tmp_path, after)
    steps = []
    identical(fit(tmp_path, callback=lambda state: steps.append(state.step)), fit(None))
    assert steps[0] > 30
    assert len(list(tmp_path.glob("[0-9]*"))) == 2


class Loader:
    """An iterable of batches that says nothing of itself."""

    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(np.split(self.x, 12))


def test_another_iterable_is_refused_by_its_first_batch(tmp_path):
    options = {"batch_size": None, "steps_per_epoch": 12, "max_epochs": 1, "validation": None}
    first = fit(tmp_path, x=Loader(X), **options)
    identical(fit(tmp_path, x=Loader(X), **options), first)
    with pytest.raises(ValueError, match="holds a run with another data"):
        fit(tmp_path, x=Loader(X + 100), **options)


def test_a_stream_that_has_ended_in_an_epoch_is_not_run_again(tmp_path):
    options = {"batch_size": None, "steps_per_epoch": 9, "max_epochs": 2, "validation": X}
    first = fit(tmp_path, x=iter(list(Loader(X))), **options)
    assert (first.stop_reason, len(first.history["validation"])) == ("exhausted", 2)
    identical(fit(tmp_path, x=iter(list(Loader(X))), **options), first)


class Weight(nnx.Module):
    def __init__(self):
        self.value = nnx.Param(jnp.zeros(1))


def test_another_objective_is_refused_by_what_it_computes(tmp_path):
    def make(factor, power=2):
        def objective(module, batch, key):
            return factor * (batch - module.value[...])[:, 0] ** power

        return objective

    def run(objective):
        return train(
            Weight(), objective, X[:, :1], key=KEY, optimizer=optax.sgd(0.01), num_steps=5,
            checkpoint_dir=tmp_path, progress=False,
        )  # fmt: skip

    first = run(make(1.0))
    np.testing.assert_array_equal(run(make(1.0)).losses, first.losses)
    for other in [make(100.0), make(1.0, power=4)]:
        with pytest.raises(ValueError, match="holds a run with another objective"):
            run(other)
    with pytest.raises(ValueError, match="holds a run with another"):
        run(make(jnp.ones(())))


def test_a_run_that_has_ended_is_not_run_again(tmp_path):
    first = fit(tmp_path)
    identical(fit(tmp_path, callback=lambda state: pytest.fail("it ran again")), first)


def test_a_run_is_lengthened(tmp_path, often):
    short = fit(tmp_path, max_epochs=4)
    shutil.copytree(tmp_path, tmp_path / "copy")
    long = fit(tmp_path / "copy")
    np.testing.assert_array_equal(long.losses[: len(short.losses)], short.losses)
    assert len(long.history["validation"]) == len(long.history["train"]) == 8
    assert not np.isin(long.losses[len(short.losses) :], short.losses).any()
    assert long.history["train"][-1] < short.history["train"][-1] - 0.02  # the rate rose again
    broken_off(tmp_path, 60)
    identical(fit(tmp_path), long)
    with pytest.raises(ValueError, match=r"planned for 80 steps, .* not shortened"):
        fit(tmp_path, max_epochs=4)


def test_a_run_with_one_rate_is_lengthened_to_what_a_longer_one_gives(tmp_path):
    options = {"optimizer": optax.adam(1e-2), "ema_decay": None}
    for epochs in (1, 4, 5):
        result = fit(tmp_path, max_epochs=epochs, **options)
    identical(result, fit(None, max_epochs=5, **options))


def test_a_schedule_of_ones_own_is_kept_as_it_is(tmp_path):
    options = {"optimizer": adam(1000, 1e-2), "ema_decay": None}
    for epochs in (2, 4):
        result = fit(tmp_path, max_epochs=epochs, **options)
    identical(result, fit(None, max_epochs=4, **options))
    with pytest.raises(ValueError, match="holds a run with another learning rate"):
        fit(tmp_path, max_epochs=4, **options | {"optimizer": adam(10, 1e-2)})


def test_a_run_that_ended_within_an_epoch_is_lengthened(tmp_path):
    def run(num_steps, directory=tmp_path, **options):
        options = {"optimizer": optax.sgd(1e-3)} | options
        return train(
            Weight(), lambda module, batch, key: (batch[:, 0] - module.value[...]) ** 2, X,
            validation=X, key=KEY, batch_size=50, num_steps=num_steps,
            checkpoint_dir=directory, progress=False, **options,
        )  # fmt: skip

    assert [len(run(n).history["validation"]) for n in (5, 15, 24)] == [1, 2, 2]
    np.testing.assert_array_equal(run(24).losses, run(24, None).losses)
    np.testing.assert_array_equal(run(24).module.value[...], run(24, None).module.value[...])
    worse = {"optimizer": optax.sgd(-1e-4), "patience": 3}
    for num_steps in (13, 14, 15, 60):  # what was validated within an epoch is no epoch
        result = run(num_steps, tmp_path / "worse", **worse)
    assert len(result.losses) == len(run(60, None, **worse).losses) == 36


def test_ctrl_c_saves(tmp_path, often):
    def press_after(step):
        return lambda state: _thread.interrupt_main() if state.step >= step else None

    first = fit(tmp_path, callback=press_after(15))
    second = fit(tmp_path, callback=press_after(35))
    assert first.stop_reason == second.stop_reason == "interrupted"
    assert 1 <= len(first.history["train"]) < len(second.history["train"]) < 8
    identical(fit(tmp_path), fit(None))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"flow": flows.maf(2, num_layers=3, hidden_sizes=(8,), rngs=nnx.Rngs(0))}, "flow"),
        ({"flow": flows.maf(2, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(1))}, "initial flow"),
        ({"x": X[:500]}, "shape of the data"),
        ({"x": X + 1}, "data"),
        ({"key": jax.random.key(1)}, "data"),  # another part is held out
        ({"optimizer": optax.adam(0.01)}, "optimizer"),
        ({"batch_size": 60}, "batch_size"),
        ({"patience": 3}, "rule for stopping"),
        ({"dequantize": 0.1}, "objective"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_checkpoint_of_another_run_is_refused(options, name, shared_run):
    with pytest.raises(ValueError, match=f"holds a run with another {name}"):
        fit(shared_run, **options)


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    fit(directory)
    return directory


def damage(directory, how):
    for path in directory.rglob("*"):
        if path.is_file() and path.stat().st_size > 50:
            content = bytearray(path.read_bytes())
            if how == "truncated":
                content = content[: len(content) // 2]
            else:
                content[len(content) // 2] ^= 255
            path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "changed"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, often, how):
    broken_off(tmp_path, 60)
    old, new = sorted(
        (p for p in tmp_path.iterdir() if p.name.isdigit()), key=lambda p: int(p.name)
    )
    damage(new, how)
    steps = []
    with pytest.warns(UserWarning, match=f"damaged checkpoint of step {new.name} was deleted"):
        result = fit(tmp_path, callback=lambda state: steps.append(state.step))
    assert int(old.name) < steps[0]
    identical(result, fit(None))
    for path in tmp_path.iterdir():
        damage(path, how)
    with pytest.raises(ValueError, match=r"no checkpoint that can be read: .* Delete it to start"):
        fit(tmp_path)


def test_a_full_disk_is_a_warning(tmp_path, often, monkeypatch):
    import orbax.checkpoint as ocp

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    with pytest.warns(UserWarning, match="No checkpoint of step .* No space left on device"):
        identical(fit(tmp_path), fit(None))


def test_a_directory_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="checkpoint_dir cannot be written to"):
        fit(tmp_path / "file" / "run")


def test_random_keys_and_bfloat16_in_the_optimizer(tmp_path, often):
    options = {
        "optimizer": optax.chain(
            optax.add_noise(1e-3, 0.5, key=jax.random.key(0)),
            optax.adam(1e-3, mu_dtype=jax.numpy.bfloat16),
        )
    }
    broken_off(tmp_path, 30, **options)
    identical(fit(tmp_path, **options), fit(None, **options))


@pytest.mark.slow
def test_posteriors_and_distillations_resume(tmp_path, often):
    def fail(state):
        if state.step > 20:
            raise RuntimeError("broken off")

    target = lambda theta: -((theta - 1) ** 4).sum()  # no start is exact
    teacher = flows.maf(2, num_layers=1, hidden_sizes=(8,), rngs=nnx.Rngs(0))
    options = {"key": KEY, "num_steps": 60, "progress": False}
    for name, run in {
        "posterior": lambda **o: flows.fit_posterior(target, event_size=2, **o, **options).flow,
        "student": lambda **o: flows.distill(teacher, **o, **options).student,
    }.items():
        with pytest.raises(RuntimeError, match="broken off"):
            run(checkpoint_dir=tmp_path / name, callback=fail)
        resumed, whole = run(checkpoint_dir=tmp_path / name), run()
        jax.tree.map(np.testing.assert_array_equal, nnx.state(resumed), nnx.state(whole))


SCRIPT = """
import sys, jax, numpy as np, flows
from flax import nnx
from flows.training import checkpoints, on_host

checkpoints.SHARE, on_host.SECONDS_PER_CHUNK = 0.5, 0.02
x = np.random.default_rng(0).normal(size=(600, 2)) ** 3
flow = flows.maf(2, num_layers=2, hidden_sizes=(8,), rngs=nnx.Rngs(0))
said = []

def say_once(state):
    if not said:
        said.append(print("steps", flush=True))

result = flows.fit(
    flow, x, key=jax.random.key(0), max_epochs=int(sys.argv[2]), patience=None, batch_size=50,
    checkpoint_dir=sys.argv[1], callback=say_once, progress=False,
)
flows.save(sys.argv[3], result.flow)
np.savez(sys.argv[3] + ".history", **result.history)
"""


def killed_and_resumed(tmp_path, num_kills, num_epochs):
    """Runs the script, killing it at random moments of its steps, and once undisturbed.

    Compares what the two leave, and returns the number of kills before it was done.
    """
    rng = random.Random(0)

    def start(directory, out):
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, tmp_path / directory, str(num_epochs), tmp_path / out],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    whole = start("whole", "whole.npz")
    whole.stdout.readline()
    clock = time.monotonic()
    assert whole.wait() == 0
    lasts = time.monotonic() - clock
    kills = 0
    while kills < num_kills:
        process = start("killed", "killed.npz")
        process.stdout.readline()
        try:
            process.wait(timeout=rng.uniform(0, 1.2 * lasts / num_kills))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        else:
            break
    assert start("killed", "killed.npz").wait() == 0
    for suffix in ("", ".history.npz"):
        a, b = (np.load(tmp_path / f"{name}.npz{suffix}") for name in ("whole", "killed"))
        assert set(a) == set(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    return kills


def test_killed_runs_end_bit_identical(tmp_path):
    assert killed_and_resumed(tmp_path, 3, 100) > 0


@pytest.mark.slow
def test_twenty_kills_end_bit_identical(tmp_path):
    assert killed_and_resumed(tmp_path, 20, 6000) == 20
