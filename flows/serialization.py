"""Saving and loading: one file with the recipe of the flow, its arrays and the version.

The file is a NumPy `.npz` archive (no pickle, so that loading runs no foreign code). Its entry
"recipe" is JSON: the class and the constructor arguments of every part, as they were recorded when
it was made. The other entries are the arrays, by their path in the flow.
"""

import json
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from flows import bijectors, conditioners, distributions
from flows._recipes import Array, Factory, Partial, Recipe, Rngs, Unknown, recipe_of
from flows._version import __version__
from flows.distributions import Ensemble, Flow, require_flow
from flows.supports import Support

FORMAT = "flows-jax"
FORMAT_VERSION = 2
_COMMON = (
    "abs", "arcsinh", "arctan", "cos", "exp", "expm1", "log1p", "sin", "sinh", "square", "tan",
    "tanh",
)  # fmt: skip
NAMED = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module, names in [
        (jax.nn, [name for name, value in vars(jax.nn).items() if callable(value)]),
        (jax.numpy, _COMMON),
        (conditioners, ["circle", "compressed"]),
    ]
    for name in names
}
"""The functions that a file may name."""


def save(path: str | os.PathLike, flow: Flow | Ensemble) -> None:
    """Writes a flow, or an ensemble, to one file: architecture, arguments, version and arrays.

    The file is written beside `path` first and then moved there, so that an interrupted save
    never leaves half a file. Parts of your own are saved too, if their constructor arguments are
    numbers, strings, arrays, sequences or other parts; import them before loading.

    Args:
        path: Where to write; the usual ending is `.npz`.
        flow: The flow.

    Raises:
        TypeError: `flow` is no flow, or a constructor argument cannot be written down.

    Examples:
        >>> import flows, tempfile, pathlib
        >>> from flax import nnx
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "flow.npz"
        >>> flows.save(path, flows.maf(2, num_layers=1, rngs=nnx.Rngs(0)))
        >>> flows.load(path).event_shape
        (2,)
    """
    _require_flow_or_ensemble("flow", flow)
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "flow": _written(recipe_of(flow), "flow"),
    }
    arrays = {name: np.asarray(value) for name, value in _arrays(flow).items()}
    _check_rebuilds(flow, header["flow"], arrays)
    entries: dict[str, Any] = {"recipe": np.array(json.dumps(header)), **arrays}
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, **entries)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _require_flow_or_ensemble(name: str, value: Any) -> None:
    if not isinstance(value, Ensemble):
        require_flow(name, value)


def _check_rebuilds(flow: Flow | Ensemble, recipe: Any, arrays: dict[str, np.ndarray]) -> None:
    """Raises unless `load` will rebuild this very flow: better now than when it is gone."""
    try:
        rebuilt = nnx.eval_shape(lambda: _read(recipe).build(nnx.Rngs(0)))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise TypeError(f"flow cannot be saved, it could not be loaded again: {error}") from error
    wanted = _shapes(rebuilt)
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise TypeError(f"flow cannot be saved: {name} has dtype {array.dtype}.")
        if wanted.get(name) != array.shape:
            raise TypeError(
                f"flow cannot be saved: {name} has shape {array.shape}, and its constructor makes "
                f"{wanted.get(name)}. Save the members of an ensemble one by one."
            )
    here, there = _settings(flow), _settings(rebuilt)
    for name in sorted(name for name in here | there if here.get(name) != there.get(name)):
        raise TypeError(
            f"flow cannot be saved: {name} is {here.get(name)}, and its constructor makes it "
            f"{there.get(name)}. Build the flow with it instead of changing it afterwards."
        )


def _settings(flow: Flow | Ensemble) -> dict[str, str]:
    """What a flow keeps by path: of arrays the kind, of all else how it reads."""
    plain = lambda value: value.item() if isinstance(value, np.generic) else value
    read = lambda value: re.sub(r" at 0x[0-9a-f]+", "", repr(plain(value)))
    return {
        "/".join(map(str, path)): (
            f"a {type(value).__name__}" if isinstance(value, nnx.Variable) else read(value)
        )
        for path, value in nnx.iter_graph(flow)
        if not isinstance(value, nnx.Pytree | Recipe) and "_pytree" not in str(path)
    }


def _shapes(flow: Flow | Ensemble) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in _arrays(flow).items()}


def load(path: str | os.PathLike) -> Flow | Ensemble:
    """Reads a flow written by `save`; no template is needed.

    Args:
        path: The file.

    Returns:
        The flow, with equal arrays (float64 ones become float32 unless `jax_enable_x64` is set).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, not written by `flows.save`, or does not fit this version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays.pop("recipe")))
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged or was not written by flows.save: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by flows.save.")
    version: Any = header.get("format_version")
    if version not in range(1, 10_000):
        raise ValueError(f"{path} is damaged: its format_version is {version!r}.")
    if version < FORMAT_VERSION:
        raise ValueError(
            f"{path} was written by flows-jax {header['version']}, in an older format, before the "
            "first release: this version cannot read it. Make it anew."
        )
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path} was written by flows-jax {header['version']}, in a newer format than this "
            "version reads: upgrade flows-jax."
        )
    try:
        flow = nnx.eval_shape(lambda: _read(header["flow"]).build(nnx.Rngs(0)))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} does not fit this version of flows-jax: {error}") from error
    try:
        _require_flow_or_ensemble(f"the content of {path}", flow)
    except TypeError as error:
        raise ValueError(str(error)) from None
    wanted = _shapes(flow)
    found = {name: array.shape for name, array in arrays.items()}
    if wanted != found:
        differ = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
        raise ValueError(
            f"{path} does not hold the arrays its recipe needs; {len(differ)} differ, "
            f"the first is {differ[0]}."
        )
    leaves = [jax.numpy.asarray(arrays[name]) for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(flow), leaves)


def _arrays(flow: Flow | Ensemble) -> dict[str, Any]:
    """The leaves of a flow by their paths, such as "bijector/layers/bijectors/0/..."."""

    def name(path: tuple) -> str:
        keys = [getattr(k, "name", getattr(k, "key", getattr(k, "idx", None))) for k in path]
        return "/".join(str(key) for key in keys if key != "value")

    return {name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(flow)}


def _written(value: Any, name: str) -> Any:
    """A recorded constructor argument as JSON."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case tuple():
            return {"list": [_written(item, f"{name}[{i}]") for i, item in enumerate(value)]}
        case Array():
            return {"array": list(value.shape), "dtype": value.dtype}
        case Support():
            return {"support": [value.low, value.high, value.kind]}
        case Rngs():
            return {"rngs": None}
        case Factory():
            return {"factory": _written(value.recipe, name)}
        case Recipe():
            return {
                "class": _class_name(value.cls),
                "positional": _written(value.positional, name),
                "named": {key: _written(item, f"{name}.{key}") for key, item in value.named},
            }
        case Unknown():
            raise TypeError(f"{name} cannot be saved: it is {value.description}.")
        case type() if issubclass(value, nnx.Module):
            return {"type": _class_name(value)}
        case Partial():
            return {
                "partial": _written(value.function, name),
                "positional": _written(value.positional, name),
                "named": {key: _written(item, f"{name}.{key}") for key, item in value.named},
            }
    for function, named in NAMED.items():
        if named is value:
            return {"function": function}
    raise TypeError(
        f"{name} cannot be saved: it is {value!r}. What can be written down are functions of "
        "jax.nn, common ones of jax.numpy, nnx.Module classes and functools.partial of a class."
    )


def _read(written: Any) -> Any:
    """What `_written` wrote."""
    match written:
        case {"list": items}:
            return tuple(map(_read, items))
        case {"array": shape, "dtype": dtype}:
            return Array(tuple(shape), dtype)
        case {"support": made}:
            return Support(*made)
        case {"rngs": None}:
            return Rngs()
        case {"factory": recipe}:
            return Factory(_read(recipe))
        case {"class": name, "positional": positional, "named": named}:
            pairs = tuple((key, _read(item)) for key, item in named.items())
            return Recipe(_find_class(name), _read(positional), pairs)
        case {"type": name}:
            return _find_class(name)
        case {"partial": {"type": name}, "positional": positional, "named": named}:
            pairs = tuple((key, _read(item)) for key, item in named.items())
            return Partial(_find_class(name), _read(positional), pairs)
        case {"function": str(name)}:
            return NAMED[name]
        case None | bool() | int() | float() | str():
            return written
    raise TypeError(f"{written!r} is no part of a recipe")


def _class_name(cls: type) -> str:
    for package in (bijectors, conditioners, distributions):
        if getattr(package, cls.__name__, None) is cls:
            return f"{package.__name__}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def _find_class(name: str) -> type:
    module, _, qualname = name.rpartition(".")
    if module not in sys.modules:
        raise TypeError(f"{name} is not known: import {module} first.")
    cls = getattr(sys.modules[module], qualname)
    if not (isinstance(cls, type) and issubclass(cls, nnx.Module)):
        raise TypeError(f"{name} is not an nnx.Module.")
    return cls
