"""The real tables of `density.py`: which rows are trained, validated and tested on.

Three of them are not ours to copy (POWER, MINIBOONE, BSDS300), so the folder is not in the
repository. It holds galaxy_pzflow.npz, power_h1_2007.npz, bsds300_patches_u8.npz, miniboone.npz
and wine_quality.npz, made from the public sources as Papamakarios et al. 2017 and Uria et al. 2013
describe; POWER are the first six months of 2007, and of MINIBOONE 4,150 rows are trained on.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

FOLDER = str(Path(__file__).parents[2] / "shared" / "data" / "tabular")


class Table(NamedTuple):
    """Rows [N, D] in float32, and the networks and batches that suit them."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    width: int
    batch: int


def galaxy(folder: str) -> Iterator[Table]:
    """Redshift and six magnitudes of a simulated catalogue, 81,000 rows."""
    file = np.load(f"{folder}/galaxy_pzflow.npz")
    yield Table(file["train"], file["val"], file["test"], 64, 256)


def power(folder: str) -> Iterator[Table]:
    """Electricity of one household, 100,000 rows."""
    file = np.load(f"{folder}/power_h1_2007.npz")
    yield Table(file["train"][:100_000], file["val"][:10_000], file["test"], 64, 256)


def bsds(folder: str, rows: int = 60_000) -> Iterator[Table]:
    """Patches of 8 by 8 pixels, 63 columns."""
    file = np.load(f"{folder}/bsds300_patches_u8.npz")

    def patches(pixels: np.ndarray, seed: int) -> np.ndarray:
        noise = np.random.default_rng(seed).random(pixels.shape)
        x = (pixels.astype(np.float64) + noise) / 256.0
        return (x - x.mean(axis=1, keepdims=True))[:, :63].astype(np.float32)

    train, validation, test = (patches(file[k], i) for i, k in enumerate(("train", "val", "test")))
    yield Table(train[:rows], validation, test, 512, 512)


def miniboone(folder: str) -> Iterator[Table]:
    """Particles, 43 columns: 4,150 rows of the 29,556."""
    file = np.load(f"{folder}/miniboone.npz")
    train = np.concatenate([file["train_head"], file["val"][:2627]]).astype(np.float32)
    yield Table(train, file["val"][2627:], file["test"], 512, 512)


def wine(folder: str) -> Iterator[Table]:
    """White wines, 4,898 rows of 11 columns in ten folds; a ninth of the others validates."""
    x = np.load(f"{folder}/wine_quality.npz")["white"].astype(np.float64)
    fold = np.arange(len(x)) % 10
    for k in range(10):
        others, test = x[fold != k], x[fold == k]
        mean, std = others.mean(axis=0), others.std(axis=0)
        others, test = (((rows - mean) / std).astype(np.float32) for rows in (others, test))
        held_out = np.arange(len(others)) % 9 == k % 9
        yield Table(others[~held_out], others[held_out], test, 64, 256)


TABLES: dict[str, Callable[[str], Iterator[Table]]] = {
    "galaxy": galaxy, "POWER-H1": power, "BSDS300": bsds, "MINIBOONE-small": miniboone,
    "wine, white": wine, "BSDS300, 150k": lambda folder: bsds(folder, 150_000),
}  # fmt: skip
