"""Figures: what is drawn where, read from the artists."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from flax import nnx
from scipy import stats

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import nbformat
from matplotlib.patches import StepPatch
from nbclient import NotebookClient

import flows
from flows import _levels, plotting
from flows import bijectors as fb
from flows.calibration import CalibrationReport
from flows.plotting.canvas import COLOURS, grid, wrapped
from flows.plotting.points import edges, level_holding
from flows.targets import as_target
from flows.variational.diagnostics import diagnose

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2000, 3))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def steps(axis):
    """The histograms of a panel."""
    return [patch.get_data() for patch in axis.patches if isinstance(patch, StepPatch)]


def legend_of(owner):
    return [text.get_text() for text in owner.get_legend().texts]


def lines(axis):
    return {line.get_label(): line.get_xydata().T for line in axis.lines}


# Sets of points


def test_corner_lays_sets_over_one_another():
    figure = plotting.corner({"a": X, "b": X + 1}, ["x", "y", "z"])
    square = np.array(figure.axes).reshape(3, 3)
    assert [axis.get_xlabel() for axis in square[2]] == ["x", "y", "z"]
    assert [axis.get_ylabel() for axis in square[:, 0]] == ["", "y", "z"]
    assert legend_of(square[0, 2]) == ["a", "b"]
    for i in range(3):
        a, b = steps(square[i, i])
        assert len(a.values) == 40
        width = np.diff(a.edges)
        assert (a.values * width).sum() == pytest.approx(0.998, abs=0.001)
        centres = (a.edges[1:] + a.edges[:-1]) / 2
        assert abs((centres * a.values * width).sum() - X[:, i].mean()) < 0.05
        inside = ((X[:, i] + 1 >= b.edges[0]) & (X[:, i] + 1 < b.edges[-1])).mean()
        assert (b.values * width).sum() == pytest.approx(inside, abs=1e-3)
        np.testing.assert_allclose(a.edges[[0, -1]], np.quantile(X[:, i], [0.001, 0.999]))
    assert [len(axis.collections) for axis in square[np.tril_indices(3, -1)]] == [2, 2, 2]
    assert not any(axis.axison for axis in square[np.triu_indices(3, 1)])
    assert square[2, 0].get_xlim() == square[0, 0].get_xlim()
    assert square[2, 0].get_ylim() == square[2, 2].get_xlim()


def test_contours_hold_one_and_two_sigma():
    x = RNG.normal(size=(100_000, 2)) * [1.0, 3.0]
    contours = plotting.corner(x).axes[2].collections[0]
    areas = []
    for path in contours.get_paths():  # the outer first: levels rise
        outline = path.to_polygons()[0] / [1.0, 3.0]
        areas.append(np.hypot(*outline.T).mean())
    np.testing.assert_allclose(areas, [2.0, 1.0], rtol=0.06)


def test_names_come_from_the_first_frame_and_are_checked():
    pandas, polars = pd.DataFrame(X, columns=list("abc")), pl.DataFrame(X, schema=list("abc"))
    for samples in (pandas, polars, {"array": X, "frame": polars, "other": pandas}):
        figure = plotting.corner(samples)
        assert [axis.get_xlabel() for axis in figure.axes[-3:]] == ["a", "b", "c"]
    assert plotting.corner(X, num_bins=5).axes[0].get_legend() is None
    assert plotting.marginals(pandas, ["d", "e", "f"]).axes[1].get_xlabel() == "e"
    with pytest.raises(ValueError, match=r"samples\['b'\] must have the columns .*'a', 'b', 'c'"):
        plotting.corner({"a": pandas, "b": pandas[["b", "a", "c"]]})
    text = pd.DataFrame({"mass": [1.0, 2.0], "name": ["x", "y"]})
    with pytest.raises(TypeError, match=r"samples\['a'\] column 'name' must hold floating-point"):
        plotting.marginals({"a": text})


def test_parameters_by_their_names_are_one_set():
    draws = {"mu": X[:, 0], "w": X[:, 1:].reshape(-1, 1, 2)}
    figure = plotting.marginals({"posterior": draws})
    assert [axis.get_xlabel() for axis in figure.axes] == ["mu", "w[0, 0]", "w[0, 1]"]
    expected = steps(plotting.marginals(X).axes[2])[0].values
    np.testing.assert_array_equal(steps(figure.axes[2])[0].values, expected)
    with pytest.raises(ValueError, match=r"samples\['mu'\].*got \(2000,\).*{\"posterior\": draws}"):
        plotting.marginals(draws)


def test_rows_that_are_not_finite_are_left_out_and_counted():
    holes = X.copy()
    holes[:7, 1], holes[7, 2] = np.nan, np.inf
    square = plotting.corner({"a": holes, "b": X}).axes
    assert legend_of(square[2]) == ["a (8 rows not finite)", "b"]
    alone = plotting.marginals(holes)
    assert [text.get_text() for text in alone.legends[0].texts] == ["8 rows not finite"]
    expected = steps(plotting.marginals(X[8:]).axes[0])[0].values
    np.testing.assert_array_equal(steps(alone.axes[0])[0].values, expected)


@pytest.mark.parametrize("draw", [plotting.corner, plotting.marginals])
@pytest.mark.parametrize(
    "samples",
    [
        X[:1, :2],
        X[:, :1],
        jnp.asarray(X[:, :2]),
        X[:, :2] > 0,
        np.full((20, 2), [3.5, 1e12 + 0.5]),
        1e6 + 1e-11 * X,
        {"a": X, "elsewhere": X + 1e6},
        dict.fromkeys(range(6), X),
    ],
)
def test_odd_points_are_drawn_without_a_warning(draw, samples, recwarn):
    draw(samples).canvas.draw()
    assert not recwarn.list


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({}, "samples must hold 1 to 6 sets, got 0"),
        (dict.fromkeys(range(7), X), "1 to 6 sets, got 7"),
        ({"a": X, "b": X[:, :2]}, r"samples\['b'\] must have 3 columns, got 2"),
        ({"a": X, "b": X[:0]}, r"samples\['b'\] has no finite rows"),
        (X * np.nan, "samples has no finite rows"),
        (X[:, 0], r"samples must have shape \[rows, columns\], got \(2000,\)"),
        ([X, X], "several sets go into a mapping"),
        (np.zeros((3, 500)), "samples has 500 columns"),
    ],
)
def test_points_that_cannot_be_drawn_are_refused(samples, message):
    for draw in (plotting.corner, plotting.marginals):
        with pytest.raises(ValueError, match=message):
            draw(samples)


def test_wrong_names_bins_and_axes_are_refused():
    with pytest.raises(ValueError, match="names must be 3, one for each column, got 2"):
        plotting.corner(X, ["a", "b"])
    with pytest.raises(ValueError, match="num_bins must be at least 1"):
        plotting.marginals(X, num_bins=0)
    with pytest.raises(ValueError, match="axes must be 9 matplotlib Axes, got 4"):
        plotting.corner(X, axes=plt.subplots(2, 2)[1])
    with pytest.raises(TypeError, match=r"axes\[0\] must be a matplotlib Axes, got a Figure"):
        plotting.marginals(X[:, :1], axes=[plt.figure()])
    with pytest.raises(TypeError, match="axis must be a matplotlib Axes, got a list"):
        plotting.weights(X[:, 0], axis=[])


def test_bins_of_whole_numbers_lie_between_them():
    counts = RNG.poisson(3, (5000, 1))
    [histogram] = steps(plotting.marginals(counts).axes[0])
    np.testing.assert_allclose(histogram.edges % 1, 0.5)
    expected = [(counts == k + 0.5).mean() for k in histogram.edges[:-1]]
    np.testing.assert_allclose(histogram.values, expected)
    assert len(edges(np.arange(1000), 40)) <= 42
    assert np.diff(edges(np.arange(1000.0), 40))[0] == 25


def test_axes_that_are_given_are_drawn_on_and_left_open():
    figure, axes = plt.subplots(3, 3)
    before = dict(matplotlib.rcParams)
    assert plotting.corner({"a": X, "b": X}, axes=axes) is figure
    assert len(steps(axes[1, 1])) == 2
    row = plt.figure().subplots(1, 3)
    plotting.marginals({"a": X}, axes=row)
    assert legend_of(row[0]) == ["a"]
    assert plt.get_fignums() == [1, 2]
    assert dict(matplotlib.rcParams) == before


# Notebooks


@pytest.mark.parametrize(
    ("backend", "open_after"), [("module://x.backend_inline", 0), ("qtagg", 1)]
)
def test_windows_stay_open_where_no_notebook_shows_figures(monkeypatch, backend, open_after):
    figure = plotting.corner(X)
    monkeypatch.setattr(plt, "get_backend", lambda: backend)
    with pytest.raises(NotImplementedError):  # IPython shows it as it shows other figures
        figure._ipython_display_()
    assert len(plt.get_fignums()) == open_after


@pytest.mark.slow
def test_a_cell_shows_one_image(monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)
    cells = [
        "import numpy as np, flows\nfrom flows import plotting\nx = np.ones((9, 2)) * np.arange(2)",
        "plotting.corner(x)",
        "plotting.marginals({'a': x})",
        "plotting.density(flows.StandardNormal(2), samples=x)",
        "figure = plotting.corner(x)",
        "plotting.corner(x);",
        "for i in range(2): plotting.marginals(x)",
        "figure",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    images = lambda cell: sum("image/png" in output.get("data", {}) for output in cell.outputs)
    assert [images(cell) for cell in notebook.cells] == [0, 1, 1, 1, 1, 1, 2, 1]


# Losses


def outcome(**more):
    history = {"train": np.array([3.0, 2.0, 1.0]), "validation": np.array([3.1, np.nan, 1.9])}
    return SimpleNamespace(losses=np.ones(300), history=history, **more)


def test_losses_are_labelled_by_what_they_are():
    fit = outcome(held_out=None)
    staged = {"elbo": -np.ones(600), "cross_entropy": np.arange(10.0)}
    figure = plotting.losses({"fit": fit, "posterior": SimpleNamespace(history=staged)})
    assert [(a.get_title(), a.get_xlabel(), a.get_ylabel()) for a in figure.axes] == [
        ("fit", "epoch", "negative log-likelihood (nats)"),
        ("posterior", "step (medians of 3)", "ELBO (nats)"),
        ("posterior", "step", "cross-entropy (nats)"),
    ]
    curves = lines(figure.axes[0])
    np.testing.assert_array_equal(curves["train"], [[1, 2, 3], [3, 2, 1]])
    assert curves["lowest: epoch 3"][0].tolist() == [3, 3]
    assert legend_of(figure.axes[0]) == ["train", "validation", "lowest: epoch 3"]
    long_fit = plotting.losses({"long": {"train": np.ones(1000)}}).axes[0]
    assert long_fit.get_xlabel() == "epoch (medians of 5)"
    short_run = plotting.losses({"short": {"warm_start": np.ones(5)}}).axes[0]
    assert (short_run.get_xlabel(), short_run.get_title()) == ("step", "short")


def test_long_curves_are_medians_of_what_is_finite():
    values = np.repeat(np.arange(1.0, 201.0), 5)
    values[::5] = np.nan
    values[1::5] = np.inf
    [axis] = plotting.losses({"a": {"elbo": values}}).axes
    [(at, shown)] = lines(axis).values()
    np.testing.assert_array_equal(at, 5 * np.arange(1, 201))
    np.testing.assert_array_equal(shown, np.arange(1, 201))


def test_a_beginning_far_off_does_not_hide_the_rest():
    step = np.arange(200)
    [axis] = plotting.losses({"a": {"elbo": np.where(step < 10, -1e6, np.sin(step))}}).axes
    assert -2 < axis.get_ylim()[0] < axis.get_ylim()[1] < 2
    [axis] = plotting.losses({"a": {"warm_start": np.exp(-step / 20)}}).axes
    assert axis.get_yscale() == "log"
    [axis] = plotting.losses({"a": {"train": np.linspace(5, 1, 10)}}).axes
    assert axis.get_ylim()[0] < 1 < 5 < axis.get_ylim()[1]


@pytest.mark.parametrize("curve", [[], [np.nan] * 50, [1.0]])
def test_histories_without_numbers_are_drawn(curve, recwarn):
    fit = {"train": [1.0], "validation": curve}
    plotting.losses({"a": {"elbo": curve}, "b": fit}).canvas.draw()
    assert not recwarn.list


@pytest.mark.parametrize("wrong", [3, {"train": [1.0, 2.0]}, {"a": object()}, {"a": {"b": X}}])
def test_what_has_no_history_is_refused(wrong):
    with pytest.raises(TypeError, match=r"results must be a result with a \.history"):
        plotting.losses(wrong)


# Distributions


def correlated(offset=0.0):
    """A normal with correlation 0.8 between columns of sd 1 and 2."""
    tril = jnp.array([[1.0, 0.0], [1.6, 1.2]])
    return flows.Flow(flows.StandardNormal(2), fb.TriangularAffine(jnp.full(2, offset), tril))


class Identity(nnx.Module):
    """Parameters of an affine map that adds the context, and does not scale."""

    def __init__(self, num_inputs, num_outputs, *, context_size, rngs):
        pass

    def __call__(self, x, context):
        return jnp.stack([context, 0 * context], axis=-1).reshape(*context.shape[:-1], -1)


def shifted_by_context(size):
    """x = context + noise."""
    shift = fb.Elementwise(size, context_size=size, conditioner=Identity, rngs=nnx.Rngs(0))
    return flows.Flow(flows.StandardNormal(size), shift)


def test_density_is_that_of_the_flow_with_the_points_over_it():
    covariance = np.array([[1.0, 1.6], [1.6, 4.0]])
    frame = pd.DataFrame(RNG.multivariate_normal([0, 0], covariance, 5000), columns=["mass", "age"])
    axis = plotting.density(correlated(), samples=frame)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("mass", "age")
    mesh, cloud = axis.collections
    corners = mesh.get_coordinates()
    centres = (corners[1:, 1:] + corners[:-1, :-1]) / 2
    expected = stats.multivariate_normal([0, 0], covariance).pdf(centres)
    drawn = mesh.get_array().reshape(expected.shape)
    np.testing.assert_allclose(drawn, expected, rtol=1e-3, atol=1e-6)
    assert 0.9 * expected.max() < mesh.get_clim()[1] <= expected.max()
    np.testing.assert_array_equal(cloud.get_offsets(), frame.to_numpy()[::3])
    assert axis.get_xlim()[1] > np.quantile(frame["mass"], 0.995)
    without = plotting.density(correlated(), axis=plt.subplots()[1])
    np.testing.assert_allclose(without.get_ylim(), axis.get_ylim(), rtol=0.3)


def test_density_is_zero_outside_of_a_support():
    axis = plotting.density(
        flows.Flow(flows.StandardNormal(2), fb.Reverse(2), flows.supports.positive),
        samples={"data": np.where(X > 2, np.nan, np.abs(X))[:, :2]},
        bounds=((-1, 1), (-1, 1)),
    )
    values = axis.collections[0].get_array().reshape(150, 150)
    assert values[:75].max() == values[:, :75].max() == 0 < values[75:, 75:].min()
    assert legend_of(axis)[0].startswith("data (")


def test_density_refuses_what_has_not_two_columns():
    conditional = shifted_by_context(2)
    with pytest.raises(ValueError, match=r"batch shape \(\) and event shape \(3,\)"):
        plotting.density(flows.StandardNormal(3))
    with pytest.raises(ValueError, match="context is missing"):
        plotting.density(conditional)
    with pytest.raises(ValueError, match=r"batch shape \(5,\)"):
        plotting.density(conditional.condition(jnp.zeros((5, 2))))
    with pytest.raises(ValueError, match=r"integer columns.*flow\.dequantized\(\)"):
        plotting.density(
            flows.Flow(flows.StandardNormal(2), fb.Reverse(2), flows.supports.integers(0, 5))
        )
    with pytest.raises(TypeError, match=r"flow must be a distribution.*its \.flow"):
        plotting.density(SimpleNamespace(flow=correlated()))
    for bounds in (((0, 0), (1, 2)), (0, 1), ((0, np.inf), (0, 1))):
        with pytest.raises(ValueError, match="bounds must be"):
            plotting.density(correlated(), bounds=bounds)
    with pytest.raises(ValueError, match="samples must be one set"):
        plotting.density(correlated(), samples={"a": X[:, :2], "b": X[:, :2]})
    with pytest.raises(ValueError, match="samples must have 2 columns, got 3"):
        plotting.density(correlated(), samples=X)


def test_coverage_levels_are_those_known_in_closed_form():
    """PIT by the normal CDF; the region of level r^2 holds a chi-square share."""
    x = RNG.normal(size=(400, 2)) @ np.array([[1.0, 1.6], [0.0, 1.2]]) + 0.3
    frame = pd.DataFrame(x.astype(np.float32), columns=["mass", "age"])
    gaps, regions = plotting.coverage(correlated(), frame, key=KEY).axes
    at = np.linspace(0, 1, 201)
    for i, name in enumerate(("mass", "age")):
        pit = stats.norm.cdf(x[:, i] / [1.0, 2.0][i])
        np.testing.assert_array_equal(lines(gaps)[name][0], at)
        expected = _levels.share_below(pit, at) - at
        np.testing.assert_allclose(lines(gaps)[name][1], expected, atol=0.03)
        assert abs(expected).max() > 0.06  # the shift is seen
    whitened = np.linalg.solve([[1.0, 0.0], [1.6, 1.2]], x.T)
    held = stats.chi2(2).cdf((whitened**2).sum(axis=0))
    curve = regions.lines[-1].get_ydata()
    np.testing.assert_allclose(curve, _levels.share_below(held, at), atol=0.03)
    band = gaps.collections[0].get_paths()[0].get_extents().y1
    assert band == pytest.approx(_levels.largest_gap(0.05, 400 / 1.04))


def test_coverage_of_a_conditional_flow_is_by_draws_at_each_context():
    """x = c + noise: right given c, and far off where contexts are shuffled."""
    flow = shifted_by_context(1)
    context = 5 * RNG.normal(size=(120, 1))
    x = context + RNG.normal(size=(120, 1))
    gaps, regions = plotting.coverage(flow, x, context, key=KEY, names=["mass"]).axes
    expected = _levels.share_below(stats.norm.cdf(x - context)[:, 0], np.linspace(0, 1, 201))
    np.testing.assert_allclose(lines(gaps)["mass"][1] + np.linspace(0, 1, 201), expected, atol=0.1)
    assert regions.lines[-1].get_color() == COLOURS[0]
    _, regions = plotting.coverage(flow, x, context[::-1], key=KEY).axes
    assert regions.lines[-1].get_color() == COLOURS[1]
    assert regions.lines[-1].get_ydata()[-2] < 0.5  # most lie outside of nearly all draws


def test_coverage_breaks_ties_at_random():
    flow = flows.Flow(flows.StandardNormal(1), fb.Reverse(1), flows.supports.integers(-10, 10))
    x = np.asarray(flow.sample(seed=jax.random.key(5), sample_shape=(500,)))
    gaps, _ = plotting.coverage(flow, x, key=KEY).axes
    assert np.abs(lines(gaps)["x0"][1]).max() < _levels.largest_gap(0.001, 500)


def test_coverage_refuses_what_does_not_fit():
    normal, conditional = flows.StandardNormal(3), shifted_by_context(3)
    with pytest.raises(ValueError, match="x must have 3 columns"):
        plotting.coverage(normal, X[:, :2], key=KEY)
    with pytest.raises(ValueError, match="context was given"):
        plotting.coverage(normal, X, X, key=KEY)
    with pytest.raises(ValueError, match="context is missing"):
        plotting.coverage(conditional, X, key=KEY)
    with pytest.raises(ValueError, match="context has 5 rows and x has 2000"):
        plotting.coverage(conditional, X, X[:5], key=KEY)
    with pytest.raises(ValueError, match=r"batch shape \(2,\).*pass a conditional flow itself"):
        plotting.coverage(conditional.condition(jnp.zeros((2, 3))), X, key=KEY)
    with pytest.raises(ValueError, match="non-finite"):
        plotting.coverage(normal, np.where(X > 2, np.nan, X), key=KEY)
    with pytest.raises(TypeError, match="key must be a JAX random key"):
        plotting.coverage(normal, X, key=0)
    with pytest.raises(ValueError, match="axes must be 2"):
        plotting.coverage(normal, X, key=KEY, axes=plt.subplots(3)[1])


# Reports


def calibration_report(num_names):
    ranks = RNG.integers(0, 101, (300, num_names))
    ranks[:, -1] //= 2  # draws too high
    names = tuple(f"theta[{i}]" for i in range(num_names))
    return CalibrationReport(names, ranks, RNG.random(300), RNG.random(300) ** 2, 100, 0)


def test_ranks_show_gaps_and_name_what_fails():
    report = calibration_report(3)
    axis = plotting.ranks(report, axis=plt.subplots()[1])
    assert legend_of(axis) == ["theta[0]", "theta[1]", "theta[2]"]
    at, gap = lines(axis)["theta[2]"]
    assert gap.max() == pytest.approx(0.5, abs=0.02)
    assert at[gap.argmax()] == pytest.approx(0.5, abs=0.02)
    widths = [line.get_linewidth() for line in axis.lines[:3]]
    assert widths[2] > widths[0] == widths[1]
    band = axis.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((-report.band, report.band))
    assert legend_of(plotting.ranks(calibration_report(9))) == ["theta[8]"]


def test_calibration_has_ranks_and_both_coverages():
    report = calibration_report(2)
    figure = plotting.calibration(report)
    at = np.linspace(0, 1, 201)
    for axis, name, colour in zip(figure.axes[1:], ("HPD", "TARP"), COLOURS, strict=False):
        np.testing.assert_array_equal(axis.lines[-1].get_ydata(), report.coverage(at)[name])
        assert axis.lines[-1].get_color() == colour  # the second fails
    assert figure.get_suptitle().replace("\n", " ") == report.verdict
    of_draws = CalibrationReport(
        report.names, report.ranks, None, report.tarp_levels, report.num_draws, 0
    )
    given, axes = plt.subplots(1, 3)
    assert plotting.calibration(of_draws, axes=axes) is given
    assert axes[1].texts[0].get_text() == "not known of draws alone"
    assert given.get_suptitle() == ""


def distill_report():
    ratios = np.r_[RNG.normal(size=999), 8.0], np.r_[RNG.normal(size=998), -6.0, np.inf]
    timings = [SimpleNamespace(num_draws=n, teacher=n * 1e-3, student=1e-2) for n in (1, 1000)]
    return SimpleNamespace(
        log_ratios=ratios, kl_student_teacher=0.1, kl_teacher_student=0.2,
        timings=timings, verdict="deploy " * 20,
    )  # fmt: skip


def test_log_ratios_show_all_that_is_finite():
    axis = plotting.log_ratios(distill_report())
    assert legend_of(axis) == ["draws of the student", "draws of the teacher"]
    student, teacher = steps(axis)
    for histogram in (student, teacher):
        assert (histogram.values * np.diff(histogram.edges)).sum() == pytest.approx(1)
        np.testing.assert_allclose(histogram.edges[[0, -1]], [-6, 8])
    assert student.values[-1] > 0 == student.values[0]
    assert teacher.values[0] > 0 == teacher.values[-1]


def test_distillation_shows_tails_and_speeds():
    figure = plotting.distillation(distill_report())
    tail, speed = figure.axes
    sizes, shares = tail.lines[1].get_xydata().T
    assert (sizes[0], shares[0], shares[-1]) == pytest.approx((6, 0.001, 0.999))
    assert lines(speed)["teacher"].tolist() == [[1, 1000], [1000, 1000]]
    assert lines(speed)["student"].tolist() == [[1, 1000], [100, 100_000]]
    assert "\n" in figure.get_suptitle()


@pytest.mark.parametrize("draw", [plotting.ranks, plotting.calibration, plotting.log_ratios])
def test_a_result_is_no_report(draw):
    with pytest.raises(TypeError, match=r"report must be the .*Report"):
        draw(SimpleNamespace(report=1))


# Posteriors


def test_weights_are_those_of_the_draws():
    log_weights = np.r_[RNG.normal(size=5000) + 100, -np.inf, np.nan]
    axis = plotting.weights(log_weights)
    [histogram] = steps(axis)
    assert histogram.values.sum() == 5000
    finite = log_weights[:5000]
    mean = np.log(np.exp(finite - 100).sum() / 5001) + 100
    np.testing.assert_allclose(histogram.edges[[0, -1]], [finite.min() - mean, finite.max() - mean])
    summary = diagnose(log_weights)
    assert axis.get_title() == (
        f"ESS {summary.ess:,.0f} of 5,002, k-hat {summary.khat:.2f}\n1 of weight zero\n1 no numbers"
    )
    with pytest.raises(ValueError, match=r"log_weights must have shape \[n\]"):
        plotting.weights(X)
    with pytest.raises(ValueError, match="none or one is finite"):
        plotting.weights([-np.inf, -np.inf, np.nan])


def test_a_posterior_shows_its_elbo_and_weights():
    """Of N(1/2, 1) by N(0, 1): log w is normal with mean -|m|^2 / 2 and variance |m|^2."""
    loc = jnp.array([0.5, 0.5])
    density = lambda u: -0.5 * jnp.sum((u - loc) ** 2) - jnp.log(2 * jnp.pi)
    q = flows.Flow(flows.StandardNormal(2), fb.Reverse(2))
    elbo = np.linspace(-3.0, -0.25, 100)
    diagnostics = diagnose(RNG.normal(size=1000))
    posterior = flows.Posterior(
        flow=q, target=as_target(density, 2), diagnostics=diagnostics, losses=-elbo,
        history={"elbo": elbo}, stop_reason="finished", num_skipped=0,
    )  # fmt: skip
    log_weights = posterior.log_weights(seed=KEY, num_samples=5000)
    assert stats.kstest(log_weights, stats.norm(-0.25, 0.5**0.5).cdf).pvalue > 1e-3
    figure = posterior.plot(seed=KEY)
    curve, weights = figure.axes
    np.testing.assert_array_equal(lines(curve)["elbo"][1], elbo)
    evidence = float(diagnostics.log_evidence.value)
    np.testing.assert_allclose(lines(curve)[f"log evidence {evidence:.4g}"][1], evidence)
    assert weights.get_title().startswith("ESS ")
    assert steps(weights)[0].values.sum() == 10_000
    assert figure.get_suptitle().replace("\n", " ") == f"verdict: {diagnostics.verdict}"
    with pytest.raises(TypeError, match="seed must be a JAX random key"):
        posterior.plot(seed=0)
    with pytest.raises(TypeError, match="posterior must be what flows"):
        plotting.posterior(q, seed=KEY)


# What they share


def test_levels_and_places():
    heights = stats.norm.pdf(np.linspace(-8, 8, 4001))
    assert level_holding(0.6827, heights) == pytest.approx(stats.norm.pdf(1), rel=0.01)
    assert grid(4, 3).tolist() == [[0, 1, 2], [3, -1, -1]]
    assert grid(2, 3).tolist() == [[0, 1]]


def test_long_names_are_wrapped_and_cut_but_no_formulas():
    lines = wrapped("photometric_redshift_of_each_of_the_galaxies").split("\n")
    assert max(map(len, lines)) <= 18
    assert lines[-1].endswith("…")
    formula = r"$\log_{10} (M_* / M_\odot)$ of the galaxy"
    assert wrapped(formula) == formula
