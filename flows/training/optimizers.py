"""The default optimizer."""

import functools

import optax


@functools.lru_cache(maxsize=64)  # an equal call gives the same object, so nothing recompiles
def adam(num_steps: int, learning_rate: float) -> optax.GradientTransformation:
    """Adam with a short warm-up, a cosine decay to zero over `num_steps`, and norm clipping.

    Args:
        num_steps: Number of steps the schedule spans.
        learning_rate: Peak learning rate.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=learning_rate,
        warmup_steps=min(100, num_steps // 10),
        decay_steps=num_steps,
    )
    return optax.chain(optax.clip_by_global_norm(5.0), optax.adam(schedule))
