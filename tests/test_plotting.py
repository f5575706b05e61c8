import matplotlib

matplotlib.use("Agg")

import numpy as np

from flows import plotting


def test_corner_and_losses_draw():
    points = np.random.default_rng(0).normal(size=(500, 3))
    figure = plotting.corner({"a": points, "b": points + 1}, ["x", "y", "z"])
    assert len(figure.axes) == 9
    figure = plotting.losses({"one": {"train": np.ones(5)}, "two": {"train": np.full(5, np.nan)}})
    assert len(figure.axes) == 2
