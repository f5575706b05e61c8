"""Checkpoints of a run, by orbax: written atomically, checked when read, two of them kept."""

import contextlib
import io
import json
import logging
import re
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

KEPT = 2
MAX_SHOWN = 4  # arrays in an error message
SHARE = 0.05  # of the time that saving may take


class Checkpoints:
    """The checkpoints of one run in one directory.

    Args:
        directory: Where they are; made if it is missing.
        about: What identifies the run: names and values that JSON can hold.

    Raises:
        OSError: The directory cannot be written to.
    """

    def __init__(self, directory: Any, about: dict[str, Any]):
        import orbax.checkpoint as ocp  # slow to import

        self._ocp = ocp
        self.directory = Path(directory).resolve()
        self.about = about
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            probe = self.directory / f".writable-{jax.process_index()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise type(error)(
                error.errno, f"checkpoint_dir cannot be written to ({error.strerror})", directory
            ) from error
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        with _quiet():
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        self._saved_at, self._took = time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether so much time has passed that saving takes a small share of it."""
        return time.monotonic() - self._saved_at > self._took / SHARE

    def save(self, step: int, items: dict[str, Any]) -> None:
        """Writes pytrees of arrays; a full disk is a warning, for the run itself is well."""
        if step in self._manager.all_steps():
            return
        clock = time.monotonic()
        packed = _pack(self.about, items)
        try:
            with _quiet():
                self._manager.save(step, args=self._ocp.args.StandardSave({"npz": packed}))
        except Exception as error:  # orbax passes on what tensorstore raises, of several types
            warnings.warn(
                f"No checkpoint of step {step} could be written to {self.directory}: {error}",
                stacklevel=5,
            )
        self._saved_at = time.monotonic()
        self._took = self._saved_at - clock

    def restore(self) -> dict[str, list[np.ndarray]] | None:
        """The leaves of what `save` got, from the newest checkpoint that can be read, if any.

        Raises:
            ValueError: The checkpoints are of another run, or none of them can be read.
        """
        problems = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                with _quiet():
                    saved = self._manager.restore(step, args=self._ocp.args.StandardRestore())
                about, leaves = _unpack(np.asarray(saved["npz"]))
            except Exception as error:  # as above
                problems[step] = str(error).splitlines()[0][:100]
                continue
            self._require_same(about)
            for damaged, problem in problems.items():
                warnings.warn(
                    f"The damaged checkpoint of step {damaged} was deleted: {problem}", stacklevel=5
                )
                self._manager.delete(damaged)
            return leaves
        if problems:
            raise ValueError(
                f"checkpoint_dir {self.directory} has no checkpoint that can be read: {problems}. "
                "Delete it to start anew."
            )
        return None

    def _require_same(self, about: dict[str, Any]) -> None:
        for name, value in self.about.items():
            if about.get(name) != value:
                raise ValueError(
                    f"checkpoint_dir {self.directory} holds a run with another {name}: "
                    f"{about.get(name)} there, {value} here. Give each run a directory of its own."
                )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what orbax logs: what matters is raised, or warned of here."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _pack(about: dict[str, Any], items: dict[str, Any]) -> np.ndarray:
    """The bytes of an `.npz` file, which keeps a checksum of every array."""
    arrays = {
        f"{name}.{i}": _numbers(leaf)
        for name, item in items.items()
        for i, leaf in enumerate(jax.tree.leaves(item))
    }
    file = io.BytesIO()
    np.savez(file, about=json.dumps(about), **arrays)  # type: ignore[arg-type]
    return np.frombuffer(file.getbuffer(), np.uint8)


def _unpack(packed: np.ndarray) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    leaves: dict[str, list[np.ndarray]] = {}
    with np.load(io.BytesIO(packed.tobytes())) as archive:
        about = json.loads(str(archive["about"]))
        for path in archive.files[1:]:
            leaves.setdefault(path.split(".")[0], []).append(archive[path])
    return about, leaves


def _numbers(leaf: Any) -> np.ndarray:
    """A leaf as a numpy array; of a random key its data."""
    if jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def as_it_was(saved: np.ndarray, leaf: jax.Array) -> Any:
    """A saved array as what it was: a random key, or of a dtype that `.npz` does not know."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(saved), impl=jax.random.key_impl(leaf))
    return saved.view(leaf.dtype)


def describe(tree: Any) -> str:
    """The dtypes and shapes of a pytree's arrays, with a checksum of its structure."""
    text = re.sub(r"0x[0-9a-f]+", "", str(jax.tree.structure(tree)))
    shapes = [f"{leaf.dtype}{list(leaf.shape)}" for leaf in map(_numbers, jax.tree.leaves(tree))]
    shown = ", ".join(shapes[:MAX_SHOWN]) + (", ..." if len(shapes) > MAX_SHOWN else "")
    return f"{shown} ({zlib.crc32((text + str(shapes)).encode()):08x})"


def checksum(tree: Any) -> str:
    """A checksum of all values of a pytree."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        total = zlib.crc32(_numbers(leaf).tobytes(), total)
    return f"{total:08x}"
