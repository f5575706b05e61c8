"""Students: flows that sample in one parallel pass, made after their teacher."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import nnx

from flows import _checks, supports
from flows.architectures import iaf, nsf, on_circle, real_nvp
from flows.bijectors import Bijector, Composite, Inverse, MaskedAutoregressive
from flows.conditioners import MaskedMLP, Unrolled
from flows.conditioners.unrolled import frozen
from flows.distillation.measures import seconds_of_draws
from flows.distributions import Flow, require_flow
from flows.divergences.supports import space
from flows.training.sharding import of_first_process

KINDS = ("coupling", "iaf")
DEFAULT_PASSES = 2
WIDEST_GUESS = 128  # units: a guess may be rough, and then costs little beside the passes
SLIMMER, NARROWEST = (1, 2, 4, 8), 8  # how many times narrower networks may be, and units of them
TIMED = 1_000  # draws at once, by which a student is fast enough


def iaf_like(
    teacher: Flow, *, num_passes: int = DEFAULT_PASSES, rngs: nnx.Rngs, **network: Any
) -> Flow:
    r"""An IAF laid out like a MAF: the same layers, orders, whitening, context, base and support.

    Each layer has the network of the MAF layer and a guess of its own: it corrects the guess by
    `num_passes` passes of the network (`flows.conditioners.Unrolled`). Trained by `flows.distill`,
    the guess is all that it has to learn.

    Args:
        teacher: A flow with layers as `flows.maf` makes them; all its other layers are copied.
        num_passes: The more, the closer the student and the slower its draws; with as many as
            coordinates, of which there are no more, it is the teacher. 0 for networks of the noise
            alone, which learn the teacher's from the start: with small ones draws are
            faster, and much further from the teacher.
        rngs: Source of the initial weights.
        **network: Options of the networks of the noise, those of `flows.maf`: `hidden_sizes=`,
            `residual=`, ... By default those of the teacher, but no guess is wider than 128.

    Returns:
        A flow to be trained. Its draws take 1 + num_passes network passes a layer, all parallel;
        its `log_prob` of other points about 5 (1 + num_passes), at most event_size times as many.

    Raises:
        TypeError: `teacher` is no flow.
        ValueError: It has no MAF layers, or one has a network that is no
            `flows.conditioners.MaskedMLP`.

    Examples:
        >>> import flows
        >>> from flax import nnx
        >>> teacher = flows.maf(3, num_layers=2, rngs=nnx.Rngs(0))
        >>> small = flows.iaf_like(teacher, num_passes=0, hidden_sizes=(16,), rngs=nnx.Rngs(1))
    """
    require_flow("teacher", teacher)
    if not has_maf_layers(teacher):
        raise ValueError(
            "teacher must have layers as flows.maf makes them, with networks that are "
            f"flows.conditioners.MaskedMLP, for an IAF like it; got {teacher.bijector.name}."
        )
    _checks.positive_int("num_passes", num_passes, least=0)
    copy = functools.partial(_copy, num_passes=num_passes, network=network)
    return Flow(nnx.clone(teacher.base), copy(teacher.bijector, rngs), teacher.support)


def with_passes(student: Flow, teacher: Flow, num_passes: int) -> Flow:
    """The student of `iaf_like(teacher)` with another number of passes."""
    other = iaf_like(teacher, num_passes=num_passes, rngs=nnx.Rngs(0))
    nnx.update(other, nnx.state(student, nnx.Param))
    return other


def untaught(student: Flow, teacher: Any, rngs: nnx.Rngs) -> Flow:
    """What is to learn without its teacher: of a student with its networks, the IAF without."""
    has_passes = any(isinstance(module, Unrolled) for _, module in nnx.iter_modules(student))
    if has_passes and has_maf_layers(teacher):
        return iaf_like(teacher, num_passes=0, rngs=rngs)
    return student


def fast_student(
    teacher: Flow, speedup: float, context: Any, key: jax.Array, rngs: nnx.Rngs
) -> Flow:
    """The first of the students, each less close, that draws so many times as fast as its teacher.

    Raises:
        ValueError: None does.
    """
    fastest = 0.0
    for options in _faster_and_faster(teacher):
        student = iaf_like(teacher, rngs=rngs, **options)
        [(_, (slow, fast))] = seconds_of_draws([teacher, student], context, key, (TIMED,))
        [times] = of_first_process(slow / fast)
        if times >= speedup:
            return student
        fastest = max(fastest, times)
    raise ValueError(
        f"speedup is {speedup:g}, and no student here draws more than {fastest:.2g} times as fast "
        f"as the teacher, {TIMED:,} at once."
    )


def _faster_and_faster(teacher: Flow) -> Iterator[dict[str, Any]]:
    """Options of `iaf_like`: fewer passes, and then networks of the noise alone, ever narrower."""
    yield from ({"num_passes": n} for n in range(min(DEFAULT_PASSES, teacher.event_size), 0, -1))
    of_layers = [layer.conditioner.hidden_sizes for layer in _maf_layers(teacher.bijector)]
    sizes = min(of_layers, key=sum)
    narrow = lambda times: tuple(max(size // times, min(size, NARROWEST)) for size in sizes)
    for hidden_sizes in dict.fromkeys(map(narrow, SLIMMER)):
        yield {"num_passes": 0, "hidden_sizes": hidden_sizes}


def has_maf_layers(teacher: Any) -> bool:
    """Whether it is a flow that `iaf_like` can copy."""
    layers = list(_maf_layers(teacher.bijector)) if isinstance(teacher, Flow) else []
    return bool(layers) and all(type(layer.conditioner) is MaskedMLP for layer in layers)


def _maf_layers(bijector: Bijector) -> Iterator[MaskedAutoregressive]:
    if isinstance(bijector, Composite):
        for part in bijector.parts:
            yield from _maf_layers(part)
    elif _is_maf_layer(bijector):
        yield bijector.bijector


def _is_maf_layer(bijector: Bijector) -> bool:
    return isinstance(bijector, Inverse) and type(bijector.bijector) is MaskedAutoregressive


def _copy(bijector: Bijector, rngs: nnx.Rngs, *, num_passes: int, network: dict) -> Bijector:
    """An IAF layer for each MAF layer, and a clone of all else."""
    copy = functools.partial(_copy, num_passes=num_passes, network=network)
    if isinstance(bijector, Composite):
        return bijector.with_parts(copy, rngs)
    if not _is_maf_layer(bijector):
        return nnx.clone(bijector)
    layer = bijector.bijector
    transformer = layer.transformer.inverted()
    theirs = layer.conditioner.options()
    make = functools.partial(
        MaskedAutoregressive,
        layer.event_size,
        context_size=layer.context_size,
        transformer=nnx.clone(transformer),
        rngs=rngs,
    )
    if not num_passes:
        return make(**(theirs | network))
    sizes = tuple(min(size, WIDEST_GUESS) for size in layer.conditioner.hidden_sizes)
    guess = functools.partial(MaskedMLP, **(theirs | {"hidden_sizes": sizes} | network))
    unrolled = functools.partial(
        Unrolled,
        transformer=nnx.clone(transformer),
        num_passes=min(num_passes, layer.event_size),  # no more are needed
        guess=guess,
    )
    copied = make(conditioner=unrolled, **theirs)
    copied.conditioner.network = frozen(layer.conditioner)
    return copied


def make_student(kind: str, teacher: Any, support: Any, pool: Any, rngs: nnx.Rngs) -> Flow:
    """A student of one of the `KINDS`, whitened by the pool of draws where it is no copy."""
    _checks.one_of("student", kind, KINDS)
    if kind == "iaf" and has_maf_layers(teacher):
        return iaf_like(teacher, rngs=rngs)
    x, context, _ = pool
    event_size = x.shape[1]
    architecture: Callable[..., Flow] = iaf if kind == "iaf" else nsf
    options: dict[str, Any] = {"num_layers": 8, "hidden_sizes": (64,) * 4, "residual": True}
    if kind == "coupling":
        options = {"num_layers": 8}
    if "angles" in str(space(teacher)):
        architecture = functools.partial(on_circle, iaf if kind == "iaf" else real_nvp)
        options["support"] = _around(space(teacher), event_size)
    student = architecture(
        event_size,
        context_size=None if context is None else context.shape[-1],
        standardize_with=x if context is None else (x, context),
        rngs=rngs,
        **options,
    )
    return Flow(student.base, student.bijector, support)


def _around(spaces: Any, event_size: int) -> list[supports.Support]:
    """Circles in radians where a teacher has angles, on the real line."""
    spaces = (spaces,) * event_size if isinstance(spaces, str) else spaces
    return [supports.ANGLES if "angles" in each else supports.real for each in spaces]
