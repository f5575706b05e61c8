"""How an object was made: its class and constructor arguments, recorded once, as it is made."""

import collections.abc
import dataclasses
import functools
import inspect
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


@dataclasses.dataclass(frozen=True)
class Array:
    """Stands for an array argument, whose values are not recorded."""

    shape: tuple[int, ...]
    dtype: str


@dataclasses.dataclass(frozen=True)
class Rngs:
    """Stands for an `nnx.Rngs`."""


@dataclasses.dataclass(frozen=True)
class Unknown:
    """Stands for an argument that cannot be written down."""

    description: str


class Recipe:
    """A constructor call. Equal ones are one object, so that they compare and hash at once.

    Args:
        cls: The class.
        positional: Positional arguments, where the constructor takes `*args`.
        named: All other arguments by name, defaults included.
    """

    _all: ClassVar[weakref.WeakValueDictionary] = weakref.WeakValueDictionary()

    cls: type
    positional: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]

    def __new__(cls, *made: Any) -> "Recipe":
        key = (*made, repr(made[1:]))  # 1, 1.0 and True are equal, but read differently
        recipe = cls._all.get(key)
        if recipe is None:
            recipe = super().__new__(cls)
            recipe.cls, recipe.positional, recipe.named = made
            cls._all[key] = recipe
        return recipe

    def __reduce__(self) -> tuple:
        return Recipe, (self.cls, self.positional, self.named)

    def __repr__(self) -> str:
        return f"Recipe({self.cls.__name__})"

    def but(self, **changes: Any) -> "Recipe":
        """The same call with other named arguments."""
        changed = {name: recordable(value) for name, value in changes.items()}
        return Recipe(self.cls, self.positional, tuple((dict(self.named) | changed).items()))

    def arguments(self) -> list[tuple[str, Any]]:
        """The named arguments, as the constructor takes them."""
        return [(name, _made(value, nnx.Rngs(0))) for name, value in self.named]

    def build(self, rngs: nnx.Rngs) -> Any:
        """Makes another such object, with fresh random weights and zeros for array arguments."""
        make = functools.partial(_made, rngs=rngs)
        return self.cls(
            *map(make, self.positional), **{name: make(value) for name, value in self.named}
        )


@dataclasses.dataclass(frozen=True)
class Factory:
    """A function of `nnx.Rngs` that makes objects by a recipe."""

    recipe: Recipe | Unknown

    def __call__(self, rngs: nnx.Rngs) -> Any:
        return _made(self.recipe, rngs)


@dataclasses.dataclass(frozen=True)
class Partial:
    """Stands for a `functools.partial`, of which no two are equal."""

    function: Any
    positional: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]


def _made(value: Any, rngs: nnx.Rngs) -> Any:
    match value:
        case Partial():
            positional = _made(value.positional, rngs)
            named = {name: _made(item, rngs) for name, item in value.named}
            return functools.partial(value.function, *positional, **named)
        case Recipe():
            return value.build(rngs)
        case Rngs():
            return rngs
        case Unknown():
            raise TypeError(f"it needs {value.description}")
        case Array():
            return jnp.asarray(np.zeros(value.shape, value.dtype))
        case tuple():
            return tuple(_made(item, rngs) for item in value)
        case _:
            return value


class Recorded(nnx.Module):
    """A module that records how it was made, as `recipe`; its subclasses need do nothing."""

    recipe: Recipe

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _recording(cls.__init__)  # type: ignore[method-assign]

    def _recorded(self, name: str, value: Any) -> Any:
        """What is recorded of the argument `name`: a constructor may be given closures."""
        return value


def _recording(init: Callable) -> Callable:
    signature = inspect.signature(init)

    @functools.wraps(init)
    def recorded(self: Recorded, *args: Any, **kwargs: Any) -> None:
        if type(self).__init__ is not recorded:  # but called by the constructor of a subclass
            return init(self, *args, **kwargs)
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            return init(self, *args, **kwargs)  # which says what is wrong
        bound.apply_defaults()
        given = {name: _given(signature.parameters[name], v) for name, v in bound.arguments.items()}
        init(self, *args, **kwargs)
        for name, value in given.items():
            bound.arguments[name] = self._recorded(name, value)
        self.recipe = _recipe(type(self), signature, bound)
        return None

    return recorded


def _given(parameter: inspect.Parameter, value: Any) -> Any:
    """What is recorded of an argument, before the constructor can change it."""
    match parameter.kind:
        case inspect.Parameter.VAR_KEYWORD:
            return {name: recordable(item) for name, item in value.items()}
        case _:
            return recordable(value)


Recorded.__init__ = _recording(Recorded.__init__)  # type: ignore[method-assign]


def _recipe(cls: type, signature: inspect.Signature, bound: inspect.BoundArguments) -> Recipe:
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    named, positional = dict(bound.kwargs), bound.args[1:]
    if kinds.isdisjoint((inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY)):
        names = list(signature.parameters)[1:]
        named = dict(zip(names, positional, strict=False)) | named
        positional = ()
    return Recipe(cls, positional, tuple(named.items()))


def recordable(value: Any) -> Any:
    """A constructor argument as something that compares, hashes and holds no array."""
    match value:
        case np.generic():
            return value.item()
        case None | bool() | int() | float() | str() | Recipe() | Factory() | Partial():
            return value
        case nnx.Rngs():
            return Rngs()
        case jax.Array() if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return Unknown("a random key")
        case jax.Array() | np.ndarray() | nnx.Variable():
            return Array(tuple(value.shape), str(jax.dtypes.canonicalize_dtype(value.dtype)))
        case tuple() | list() | nnx.List():
            return tuple(map(recordable, value))
        case Recorded():
            return recipe_of(value)
        case functools.partial():
            named = tuple((name, recordable(item)) for name, item in value.keywords.items())
            return Partial(value.func, recordable(value.args), named)
        case collections.abc.Hashable() if callable(value) and not isinstance(value, nnx.Module):
            return value
        case collections.abc.Hashable() if dataclasses.is_dataclass(value):
            return value
        case _:
            return Unknown(f"a {type(value).__name__}")


def recipe_of(module: Recorded) -> Recipe | Unknown:
    """How a module was made, where a constructor of its class has recorded it."""
    unknown = Unknown(f"a {type(module).__name__}, which was not made by an __init__ of its class")
    return getattr(module, "recipe", unknown)
