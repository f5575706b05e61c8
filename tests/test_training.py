import _thread
import itertools
import signal
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy import stats

from flows.training import (
    Batches,
    NonFiniteError,
    OnDisk,
    adam,
    clip_by_running_median,
    on_device,
    shuffled,
    trace,
    train,
)
from flows.training.interrupts import deferred_interrupt
from flows.training.plateau import Plateau
from flows.training.sources.stream import ahead

KEY = jax.random.key(0)


class Mean(nnx.Module):
    """Its maximum-likelihood fit is the mean of the data."""

    def __init__(self, size=2):
        self.loc = nnx.Param(jnp.zeros(size))


def squares(module, batch, key):
    return 0.5 * ((batch - module.loc[...]) ** 2).sum(-1)


def run(data, **options):
    options = {
        "key": KEY, "optimizer": optax.sgd(0.1), "batch_size": 10, "num_steps": 50,
        "progress": False,
    } | options  # fmt: skip
    return train(Mean(), options.pop("objective", squares), data, **options)


def same(a, b):
    assert np.abs(a.module.loc[...]).max() > 0  # both were trained
    jax.tree.map(np.testing.assert_array_equal, nnx.state(a.module), nnx.state(b.module))
    jax.tree.map(np.testing.assert_array_equal, (a.history, a.losses), (b.history, b.losses))


DATA = np.random.default_rng(0).normal(size=(95, 2)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 1000, 12_345])
def test_shuffled_is_a_permutation_of_which_any_part_can_be_had(n):
    whole = np.asarray(shuffled(KEY, n, jnp.arange(n)))
    assert sorted(whole) == list(range(n))
    some = jnp.arange(0, n, 3)
    np.testing.assert_array_equal(shuffled(KEY, n, some), whole[::3])


def test_shuffled_is_uniform():
    keys = jax.random.split(KEY, 24_000)
    orders = np.asarray(jax.vmap(lambda key: shuffled(key, 4, jnp.arange(4)))(keys))
    counts = [np.sum((orders == p).all(1)) for p in itertools.permutations(range(4))]
    assert stats.chisquare(counts).pvalue > 1e-3
    orders = np.asarray(jax.vmap(lambda key: shuffled(key, 50, jnp.arange(50)))(keys[:5000]))
    for column in (0, 17, 49):
        assert stats.chisquare(np.bincount(orders[:, column], minlength=50)).pvalue > 1e-3
    steps = (orders[:, 1:] - orders[:, :-1]) % 50  # of neighbours: 1 .. 49 alike
    assert stats.chisquare(np.bincount(steps.ravel(), minlength=50)[1:]).pvalue > 1e-3


def test_every_epoch_visits_every_row_once_in_an_order_of_its_own():
    seen = lambda module, batch, key: batch[:, 0] + 0 * module.loc[...].sum()
    rows = np.arange(90.0)[:, None]
    result = run(rows, objective=seen, batch_size=1, num_steps=180)
    first, second = result.losses.reshape(2, 90).astype(int)
    assert sorted(first) == sorted(second) == list(range(90))
    assert (first != second).any()


def test_programs_compare_by_what_they_compute():
    program = lambda rate, data: trace(lambda x: rate * x + data.sum(), 1.0)
    a = program(0.1, jnp.ones(3))
    assert jax.tree.structure(a) == jax.tree.structure(program(0.1, jnp.zeros(3)))
    assert jax.tree.structure(a) != jax.tree.structure(program(0.2, jnp.ones(3)))
    assert jax.tree.structure(a) != jax.tree.structure(program(0.1, jnp.ones(4)))
    inner = lambda data: trace(lambda x: jax.jit(lambda y: y * data.sum())(x), 1.0)
    same, other = inner(jnp.ones(3)), inner(jnp.zeros(3))  # what an inner jit closes over is hidden
    assert jax.tree.structure(same) == jax.tree.structure(inner(jnp.ones(3)))
    assert (same.operations == other.operations) == (len(same.constants) == 1)
    assert jax.jit(lambda p, x: p(x))(other, 2.0) == 0.0
    assert jax.jit(lambda p, x: p(x))(a, 2.0) == pytest.approx(3.2)
    assert jax.grad(a)(2.0) == pytest.approx(0.1)


def test_what_is_equal_does_not_compile_again():
    run(DATA, optimizer=optax.adam(0.1))
    before = on_device.run._cache_size()
    run(DATA + 1, optimizer=optax.adam(0.1), key=jax.random.key(1))
    run(DATA, optimizer=optax.adam(0.1), num_steps=70, stop_at_plateau=True)
    assert on_device.run._cache_size() == before
    run(DATA, optimizer=optax.adam(0.2))
    assert on_device.run._cache_size() == before + 1
    run(DATA, optimizer=adam(50, 0.1))
    run(DATA, optimizer=adam(60, 0.2), num_steps=60)
    assert on_device.run._cache_size() == before + 2


def test_the_default_schedule_is_a_warm_up_and_a_cosine():
    params = {"w": jnp.ones(())}
    ours, plain = adam(500, 0.1), optax.scale_by_adam()
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 50, 500)
    state, plain_state = ours.init(params), plain.init(params)
    for step in range(500):
        updates, state = ours.update(params, state, params)
        direction, plain_state = plain.update(params, plain_state)
        expected = -schedule(step) * direction["w"]
        np.testing.assert_allclose(updates["w"], expected, rtol=1e-4, atol=1e-7)


def test_gradients_are_clipped_to_five_times_the_median_and_dropped_beyond_fifty():
    clip = clip_by_running_median()
    state = clip.init(None)
    lengths = []
    for norm in [1.0, 1.1, 0.9, 1.0, 1.0, 8.0, 80.0, 1.0]:
        updates, state = clip.update({"a": jnp.array([0.6, 0.8]) * norm}, state)
        lengths.append(float(jnp.linalg.norm(updates["a"])))
    np.testing.assert_allclose(lengths, [1.0, 1.1, 0.9, 1.0, 1.0, 5.0, 0.0, 1.0], rtol=1e-6)


def test_a_plateau_is_found_and_a_noisy_descent_is_not_taken_for_one():
    rng = np.random.default_rng(0)
    find = jax.jit(jax.vmap(lambda losses: jax.lax.scan(
        lambda state, loss: (new := state.update(loss), new.reached), Plateau.start(), losses
    )[1]))  # fmt: skip
    steps = np.arange(3000)
    noises = {"normal": rng.normal(size=(100, 3000)), "heavy": rng.standard_t(3, (100, 3000))}
    for noise in noises.values():
        falling = np.asarray(find(-0.01 * steps + noise))
        assert falling.any(axis=1).mean() < 0.05
        bent = np.asarray(find(np.maximum(20.0 - 0.02 * steps, 0.0) + noise))  # flat from 1000 on
        assert bent[:, :1000].any(axis=1).mean() < 0.05
        delay = bent.argmax(axis=1) - 1000
        assert bent[:, -1].all()
        assert 80 <= np.median(delay) < 1300


def test_which_falls_are_taken_for_a_plateau_is_as_documented():
    rng = np.random.default_rng(0)
    find = jax.jit(jax.vmap(lambda losses: jax.lax.scan(
        lambda state, loss: (new := state.update(loss), new.reached), Plateau.start(), losses
    )[1].any()))  # fmt: skip
    for noise in (rng.normal(size=(100, 10_000)), rng.standard_t(3, (100, 10_000))):
        stopped = {
            fall: float(find(noise - fall * noise.std() * np.arange(10_000)).mean())
            for fall in (0.0, 0.001, 0.0015, 0.002, 0.005)
        }
        assert stopped[0.0] == 1
        assert stopped[0.001] >= 0.97
        assert 0.03 < stopped[0.0015] < 0.35
        assert stopped[0.002] <= 0.1
        assert stopped[0.005] == 0


def test_a_run_stops_at_a_plateau():
    def noisy(module, batch, key):
        return ((module.loc[...] - 1.0) ** 2).sum()[None] + 0.1 * jax.random.normal(key, (1,))

    result = run(None, objective=noisy, num_steps=20_000, stop_at_plateau=True)
    assert result.stop_reason == "plateau"
    assert 400 < len(result.losses) < 4000
    np.testing.assert_allclose(result.module.loc[...], 1.0, atol=1e-3)


def test_the_average_is_kept_and_the_better_is_returned():
    options = {"optimizer": optax.sgd(0.5), "num_steps": 400, "batch_size": 2}
    keys = jax.random.split(KEY, 8)
    centre = DATA.mean(0)

    def error(**more):
        results = [run(DATA, key=key, **options, **more).module.loc[...] - centre for key in keys]
        return np.sqrt(np.mean(np.square(results)))

    assert error(ema_decay=0.99) < error() / 3
    both = run(DATA, ema_decay=0.99, validation=DATA, **options)
    alone = run(DATA, validation=DATA, **options)
    assert (both.history["validation"] <= alone.history["validation"] + 1e-6).all()
    assert both.history["validation"].min() < alone.history["validation"].min()
    with pytest.raises(ValueError, match=r"ema_decay must lie .* got 1\.5"):
        run(DATA, ema_decay=1.5)


def test_gradients_of_zero_do_not_stop_the_clipping():
    clip = clip_by_running_median()
    state = clip.init(None)
    for norm in [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]:
        updates, state = clip.update({"a": jnp.array(norm)}, state)
        assert updates["a"] == norm


def test_an_iterable_gives_no_more_than_is_needed():
    def batches():
        yield from [DATA[:10]] * 70
        pytest.fail("one batch too many was asked for")

    assert len(run(Batches(batches(), 70), num_steps=70).losses) == 70

    class Once:
        """Its iterators share one stream."""

        def __init__(self):
            self.stream = iter([DATA[:10]] * 12)

        def __iter__(self):
            return self.stream

    assert run(Batches(Once(), 10)).stop_reason == "exhausted"


def test_ctrl_c_while_waiting_for_data():
    over = threading.Event()

    def batches():
        yield from [DATA[:10]] * 64
        over.wait(60)

    def press_soon(state):
        if state.step == 64:
            threading.Timer(0.5, _thread.interrupt_main).start()

    result = run(Batches(batches(), 10), num_steps=100, callback=press_soon)
    over.set()
    assert (result.stop_reason, len(result.losses)) == ("interrupted", 64)


def test_the_first_ctrl_c_is_put_off_and_the_second_is_not():
    def press():
        _thread.interrupt_main()
        for _ in range(100):  # the handler runs between two of these
            pass

    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as interrupted:
        assert not interrupted()
        press()
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            press()
    assert signal.getsignal(signal.SIGINT) is before


def test_what_was_learnt_before_the_first_epoch_ended_is_kept():
    batches = (DATA[i : i + 10] for i in range(0, 90, 10))
    result = run(Batches(batches, 40), validation=DATA)
    assert result.stop_reason == "exhausted"
    assert np.abs(result.module.loc[...]).max() > 0


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((0, 0.1), ValueError, "num_steps must be at least 1, got 0"),
        ((1.5, 0.1), TypeError, "num_steps must be an int"),
        ((10, -0.1), ValueError, r"learning_rate must be positive and finite, got -0\.1"),
        ((10, "fast"), TypeError, "learning_rate must be a number, got 'fast'"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        adam(*arguments)


def test_more_rows_in_a_batch_than_there_are_is_refused():
    with pytest.raises(ValueError, match="batch_size is 96, more than the 95 rows"):
        run(DATA, batch_size=96)


def test_the_average_follows_its_recursion():
    result = run(DATA, ema_decay=0.9, num_steps=30, batch_size=95, optimizer=optax.sgd(0.1))
    params = average = np.zeros(2)
    for step in range(30):
        params = params + 0.1 * (DATA.mean(0) - params)
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * params
    np.testing.assert_allclose(result.module.loc[...], average, rtol=1e-4)


def test_data_on_disk_train_as_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.training.sources.base.BLOCK_BATCHES", 4)  # an epoch is 9 batches
    np.save(tmp_path / "x.npy", DATA.astype(np.float64))
    on_disk = OnDisk(np.load(tmp_path / "x.npy", mmap_mode="r"), len(DATA))
    same(run(DATA, validation=DATA[:20]), run(on_disk, validation=DATA[:20]))
    with jax.enable_x64(True):
        x = DATA.astype(np.float64)
        same(run(x, validation=x[:20]), run(on_disk, validation=x[:20]))


def test_batches_of_an_iterable_train_in_their_order():
    batches = [DATA[i : i + 10] for i in range(0, 90, 10)]
    result = run(Batches(batches, 9), num_steps=20, validation=DATA)
    params, losses = np.zeros(2), []
    for batch in itertools.islice(itertools.cycle(batches), 20):
        losses.append(0.5 * ((batch - params) ** 2).sum(-1).mean())
        params = params + 0.1 * (batch.mean(0) - params)
    np.testing.assert_allclose(result.losses, losses, rtol=1e-5)
    assert len(result.history["validation"]) == 3


def test_a_slow_iterable_does_not_stall_the_start():
    seen = threading.Event()

    def batches():
        yield from [DATA[:10]] * 2
        assert seen.wait(60)  # until the first two were trained on
        yield from [DATA[:10]] * 2

    result = run(Batches(batches(), 4), num_steps=4, callback=lambda state: seen.set())
    assert result.stop_reason == "finished"


def test_items_made_ahead_come_in_their_order_and_once():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            found = ahead((i for i in range(300)), 20)
            assert list(itertools.chain.from_iterable(found)) == list(range(300))
    finally:
        sys.setswitchinterval(interval)


def test_an_error_before_the_first_batch_from_disk_is_that_error(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", DATA)
    on_disk = OnDisk(np.load(tmp_path / "x.npy", mmap_mode="r"), len(DATA))

    def fail(*args):
        raise OSError("the disk is gone")

    monkeypatch.setattr("flows.training.sources.disk.take", fail)
    with pytest.raises(OSError, match="the disk is gone") as info:
        run(on_disk, validation=DATA)
    np.testing.assert_array_equal(info.value.module.loc[...], 0)


@pytest.mark.parametrize("end", ["exhausted", "interrupted"])
def test_steps_after_the_last_whole_epoch_count(end, monkeypatch):
    batches = [DATA[i : i + 10] for i in range(0, 90, 10)]

    def press(state):
        if end == "interrupted" and state.step == 9:
            _thread.interrupt_main()

    monkeypatch.setattr("flows.training.on_host.LOG_SIZE", 1)
    data = batches * 2 if end == "interrupted" else iter(batches)
    broken_off = run(Batches(data, 8), validation=DATA, callback=press)
    assert broken_off.stop_reason == end
    same(broken_off, run(Batches(batches, 8), validation=DATA, num_steps=9))
    assert len(broken_off.history["train"]) == 2


def test_batches_of_other_shapes_are_refused_with_what_was_learnt():
    with pytest.raises(ValueError, match="all must be alike") as info:
        run(Batches([DATA[:10], DATA[:9]], 2))
    assert np.abs(info.value.module.loc[...]).max() > 0
    with pytest.raises(ValueError, match="gives none"):
        run(Batches([], 2))


def test_arrays_of_unequal_length_are_refused():
    sum_of_squares = lambda module, batch, key: squares(module, batch[0], key)
    for bad in [(DATA, DATA[:90]), (DATA, 1.0), (), DATA[:0]]:
        with pytest.raises(ValueError, match="data must hold arrays with equal leading axes"):
            run(bad, objective=sum_of_squares)
        with pytest.raises(ValueError, match="validation must hold arrays with equal leading axes"):
            run((DATA,), validation=bad, objective=sum_of_squares)
    with pytest.raises(ValueError, match="the first batch of data must hold arrays with equal"):
        run(Batches([(DATA, DATA[:90])], 1), objective=sum_of_squares)


def test_validation_draws_other_numbers_than_the_steps_do():
    number = lambda module, batch, key: jnp.full(len(batch), jax.random.uniform(key))
    result = run(DATA, objective=number, validation=DATA)
    assert not np.isin(result.history["validation"], result.losses).any()


def test_a_metric_of_whole_batches_is_refused():
    mean = lambda module, batch, key: squares(module, batch, key).mean()
    with pytest.raises(ValueError, match=r"loss of each of 95 examples, got shape \(\)"):
        run(DATA, validation=DATA, metric=mean)


def with_a_rule(kind, centre):
    """A loss whose derivative is given by a rule that closes over data."""

    def loss(loc, batch):
        return 0.5 * ((batch - loc) ** 2).sum(-1)

    if kind == "jvp":
        loss = jax.custom_jvp(loss)
        loss.defjvp(lambda args, tangents: (loss(*args), (args[0] - centre) @ tangents[0]))
    else:
        loss = jax.custom_vjp(loss)
        loss.defvjp(lambda *args: (loss(*args), args), lambda args, g: (
            g * (args[0] - centre), jnp.zeros_like(args[1]))
        )  # fmt: skip
    return lambda module, batch, key: jax.vmap(loss, (None, 0))(module.loc[...], batch)


@pytest.mark.parametrize("kind", ["jvp", "vjp"])
def test_a_derivative_of_ones_own_is_part_of_an_objective(kind):
    sizes = []
    for centre in (2.0, -5.0, 2.0):
        objective = with_a_rule(kind, jnp.full(2, centre))
        found = run(DATA, objective=objective, num_steps=100).module.loc[...]
        np.testing.assert_allclose(found, centre, rtol=1e-3)
        sizes.append(on_device.run._cache_size())
    assert sizes[0] < sizes[1] == sizes[2]  # and equal ones do not compile again


def test_an_objective_sees_what_it_closes_over_as_it_is_now():
    shift = 0.0
    objective = lambda module, batch, key: squares(module, batch + shift, key)
    before = run(DATA, objective=objective).module.loc[...]
    shift = 100.0
    after = run(DATA, objective=objective).module.loc[...]
    np.testing.assert_allclose(after - before, 100 * (1 - 0.9**50), rtol=1e-3)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_an_update_that_is_not_finite_is_not_kept(ema_decay):
    one_column = lambda module, batch, key: 0.5 * (batch[:, 0] - module.loc[0]) ** 2
    options = {"objective": one_column, "ema_decay": ema_decay}
    with pytest.raises(NonFiniteError, match="parameters were not finite in 23 of 23") as info:
        run(DATA, optimizer=optax.adam(1e-3, eps=0), **options)  # 0 / 0 in the other column
    np.testing.assert_array_equal(info.value.module.loc[...], 0)

    def once_bad(updates, state, params=None):
        bad = jnp.where(state == 3, jnp.nan, -0.1)
        return jax.tree.map(lambda update: bad * update, updates), state + 1

    optimizer = optax.GradientTransformation(lambda params: jnp.zeros((), int), once_bad)
    with pytest.raises(NonFiniteError) as info:  # its state is not kept either: it stays at 3
        run(DATA, optimizer=optimizer, **options)
    assert np.isfinite(info.value.module.loc[...]).all()
    assert info.value.module.loc[0] != 0


def test_an_iterator_ends_the_run():
    batches = (DATA[i : i + 10] for i in range(0, 90, 10))
    result = run(Batches(batches, 4), num_steps=50, validation=DATA)
    assert result.stop_reason == "exhausted"
    assert (len(result.losses), len(result.history["validation"])) == (9, 3)


def test_an_error_in_the_data_or_the_callback_carries_the_best_module():
    def batches():
        yield from [DATA[:10]] * 5
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as info:
        run(Batches(batches(), 3), validation=DATA[:10])
    trained = run(Batches([DATA[:10]], 5), num_steps=5).module
    np.testing.assert_array_equal(info.value.module.loc[...], trained.loc[...])
    assert np.abs(trained.loc[...]).max() > 0

    def fail(state):
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more") as info:
        run(DATA, callback=fail)
    assert np.abs(info.value.module.loc[...]).max() > 0


def test_a_callback_sees_the_run():
    seen = []
    run(DATA, validation=DATA, callback=lambda state: seen.append((state, state.make_module())))
    states, modules = zip(*seen, strict=True)
    assert states[-1].step == states[-1].num_steps == 50
    assert states[-1].epoch == 50 // 9
    assert states[-1].validation_loss == pytest.approx(
        float(squares(modules[-1], DATA, KEY).mean())
    )
    assert all(np.isfinite(module.loc[...]).all() for module in modules)


@pytest.mark.parametrize("enabled", [False, True])
def test_both_precisions(enabled):
    with jax.enable_x64(enabled):
        result = train(
            Mean(), squares, jnp.asarray(DATA, float), validation=jnp.asarray(DATA, float), key=KEY,
            optimizer=adam(20, 0.1), batch_size=10, num_steps=20, ema_decay=0.9, progress=False,
        )  # fmt: skip
        assert result.module.loc.dtype == (jnp.float64 if enabled else jnp.float32)
        assert np.isfinite(result.losses).all()
        assert np.abs(result.module.loc[...] - DATA.mean(0)).max() < np.abs(DATA.mean(0)).max()
