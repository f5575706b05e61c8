"""The results in `results/*.json` as Markdown tables; each function returns what one file holds."""

import json
import math
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
KINDS = "log_prob", "gradient", "sample", "sample gradient"
OTHERS = "FlowJAX", "zuko", "nflows", "normflows"
SPREAD = "gap's standard error"


def load(name: str) -> dict:
    """The results of the script of this name."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(head: Iterable, rows: Iterable[Iterable]) -> str:
    """A table in Markdown."""
    head = list(map(str, head))
    lines = [head, ["---"] * len(head), *(map(str, row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(row: dict, digits: str = ".3f") -> str:
    """A median with its quartiles or range."""
    return f"{row['median']:{digits}} ({row['low']:{digits}} - {row['high']:{digits}})"


# autoregressive.py


def others(rows: list[dict]) -> list[str]:
    """The other libraries that were measured."""
    return [name for name in OTHERS if any(name in row["log_prob"] for row in rows)]


def of_others(rows: list[dict]) -> str:
    """How many times longer others take."""
    names = others(rows)
    cell = lambda kind: (
        lambda row: " / ".join(_ratio(row, (kind, name), (kind, "ours")) for name in names)
    )
    return _by_size(rows, {kind: cell(kind) for kind in KINDS})


def of_ours(rows: list[dict]) -> str:
    """Our own ratios of medians."""
    of = lambda *pair: lambda row: _ratio(row, *pair)
    heads = {
        "sample / log_prob": lambda row: spread(row["sample / log_prob"], ".2f"),
        "their gradients": lambda row: spread(row["sample gradient / gradient"], ".2f"),
        "log_prob / dense": of(("log_prob", "ours"), ("log_prob", "floor")),
        "its gradient / dense": of(("gradient", "ours"), ("gradient", "floor")),
        "naive / blocked": of(("sample", "ours, naive"), ("sample", "ours, blocked")),
        "Jacobi / blocked": of(("sample", "ours, jacobi"), ("sample", "ours, blocked")),
        "autodiff / implicit": of(
            ("sample gradient", "ours, autodiff"), ("sample gradient", "ours, blocked")
        ),
        "its memory": lambda row: _memory(row, "ours, autodiff, sample gradient"),
        "log_prob gradient's memory": lambda row: _memory(row, "ours, gradient"),
        "compile sample, s": lambda row: f"{row['compile s']['ours, sample']:.1f}",
    }
    return _by_size(rows, heads)


def _ratio(row: dict, above: tuple[str, str], below: tuple[str, str]) -> str:
    if below[1] not in row[below[0]]:
        below = below[0], "ours"  # which is "blocked"
    if above[1] not in row[above[0]]:
        return "-"
    value = row[above[0]][above[1]]["median_ms"] / row[below[0]][below[1]]["median_ms"]
    return f"{value:.2f}" if value < 9.95 else f"{value:.0f}"


def _memory(row: dict, name: str) -> str:
    memory = row["temporary memory MB"]
    return f"{memory[name] / memory['ours, sample gradient']:.2f}"


def _by_size(rows: list[dict], columns: dict[str, Callable[[dict], str]]) -> str:
    cells = lambda row: [f"{row['D']}, {row['H']}", row["batch"], row["layers"]]
    lines = ([*cells(row), *(column(row) for column in columns.values())] for row in rows)
    return table(["D, H", "batch", "layers", *columns], lines)


# families.py


def of_families(rows: list[dict]) -> str:
    """Milliseconds of ours, and how many times longer the others take."""

    def cell(row: dict, kind: str) -> str:
        own = row[kind]["flows"]["median_ms"]
        others = (row[kind][name]["median_ms"] / own for name in ("FlowJAX", "zuko")
                  if name in row[kind])  # fmt: skip
        times = " / ".join(f"{t:.1f}" if t < 9.95 else f"{t:.0f}" for t in others)
        return f"{own:.1f} ms" + (f" ({times})" if times else "")

    compiled = lambda row: (
        f"{row['compile s']['flows']['gradient']:.1f}, {row['compile gradient of 20 layers s']:.1f}"
    )
    lines = (
        [row["family"], f"{row['D']}, {row['H']}", *(cell(row, kind) for kind in KINDS),
         compiled(row)]
        for row in rows
    )  # fmt: skip
    return table(["family", "D, H", *KINDS, "compile gradient, 5 and 20 layers, s"], lines)


# density.py


def of_density(rows: list[dict]) -> str:
    """Test log-likelihood of each fit on each table, in nats; the best in bold."""
    columns = list(dict.fromkeys((row["table"], row["budget s"]) for row in rows))
    fits = list(dict.fromkeys(row["fit"] for row in rows))

    def found(fit: str, column: tuple) -> list[dict]:
        return [r for r in rows if (r["fit"], r["table"], r["budget s"]) == (fit, *column)]

    def mean(fit: str, column: tuple) -> float:
        tests = [row["test"] for row in found(fit, column)]
        return sum(tests) / len(tests) if tests else -math.inf

    def cell(fit: str, column: tuple) -> str:
        here = found(fit, column)
        if not here:
            return "-"
        tests = [row["test"] for row in here]
        error = max(row["error"] for row in here)
        text = f"{mean(fit, column):.2f} +- {error:.2f}"
        if len(tests) > 1:
            text += f" ({min(tests):.2f} .. {max(tests):.2f})"
        return f"**{text}**" if fit == max(fits, key=lambda f: mean(f, column)) else text

    lines = ([fit, *(cell(fit, column) for column in columns)] for fit in fits)
    return table(["fit", *(f"{name}, {seconds:g} s" for name, seconds in columns)], lines)


def overrun(rows: list[dict]) -> str:
    """The fits that took a third more than their time, and what they took."""
    return "; ".join(
        f"{row['fit']} on {row['table']} ({row['seconds']:.0f} s)"
        for row in rows
        if row["seconds"] > 4 / 3 * row["budget s"]
    )


def of_small_tables(rows: list[dict]) -> str:
    """Mean test log-likelihood over ten folds, and what a fit takes."""
    lines = (
        [row["wine"], row["fit"], f"{row['test']:.2f} +- {row['error']:.2f}",
         f"{row['seconds a fold']:.0f}"]
        for row in rows
    )  # fmt: skip
    return table(["wine", "fit", "nats", "s"], lines)


# variational.py


def of_variational(rows: list[dict]) -> str:
    """The worst of the seeds of each target."""
    by_target: dict[str, list[dict]] = {}
    for row in rows:
        by_target.setdefault(row["target"], []).append(row)

    def line(name: str, runs: list[dict]) -> list[str]:
        worst = lambda key: max(abs(run[key]) for run in runs)
        known = runs[0]["log evidence off"] is not None
        seconds = statistics.median(run["seconds"] for run in runs)
        reasons = sorted({reason for run in runs for reason in run["reasons"]})
        return [
            name, str(runs[0]["dimensions"]), f"{seconds:.0f}",
            f"{worst('log evidence off'):.4f}" if known else "-", f"{worst('its error'):.4f}",
            f"{worst('mean error'):.3f}", f"{worst('sd error'):.3f}",
            f"{min(run['ess'] for run in runs):,.0f}", f"{worst('khat'):.2f}",
            "; ".join(reasons) or "good", str(sum(run["silent"] for run in runs)),
        ]  # fmt: skip

    head = (
        "target", "D", "seconds", "log evidence off", "its error", "means off, sd", "sds off",
        "ESS of 10,000", "k-hat", "verdict", "silent",
    )  # fmt: skip
    return table(head, [line(name, runs) for name, runs in by_target.items()])


def of_guides_in_equal_time(rows: list[dict]) -> str:
    """ELBOs of ours and of numpyro's guides, those that pass in bold."""
    cell = lambda fit: f"**{fit['elbo']:.2f}**" if fit["passes"] else f"{fit['elbo']:.2f}"
    lines = (
        [row["target"], row["dimensions"], f"{row['seconds']:.0f}",
         *(cell(fit) for fit in row["fits"].values())]
        for row in rows
    )  # fmt: skip
    return table(["posterior", "D", "seconds", *rows[0]["fits"]], lines)


# distillation.py


def of_recipes(rows: list[dict]) -> str:
    """Both divergences, medians over the seeds, after each time; and the worst log ratio."""
    budgets = sorted({row["budget s"] for row in rows})

    def cell(name: str, budget: float) -> str:
        here = [r for r in rows if (r["recipe"], r["budget s"]) == (name, budget)]
        values = [statistics.median(r[key] for r in here) for key in ("KL(S||T)", "KL(T||S)")]
        worst = max(r["worst"] for r in here)
        return f"{values[0]:.2g} / {values[1]:.2g} ({worst:.2g})"

    names = dict.fromkeys(row["recipe"] for row in rows)
    lines = ([name, *(cell(name, budget) for budget in budgets)] for name in names)
    return table(["recipe", *(f"{budget} s" for budget in budgets)], lines)


def of_students(rows: list[dict], what: str) -> str:
    """Divergences, the worst log ratio, and times as fast as the teacher."""
    batches = list(rows[0]["speedup"])
    lines = (
        [row[what], f"{row['KL(S||T)']:.2g} / {row['KL(T||S)']:.2g}", f"{row['worst']:.2g}",
         *(f"{row['speedup'][batch]:.2g}" for batch in batches), f"{row['seconds']:.0f}"]
        for row in rows
    )  # fmt: skip
    heads = (f"speed, {int(batch):,} at once" for batch in batches)
    return table([what, "KL(S to T) / KL(T to S)", "worst", *heads, "seconds"], lines)


def of_intervals(rows: list[dict]) -> str:
    """The true values, and how often an interval of 95 % has them inside."""
    names = list(rows[0]["true"])
    lines = (
        [f"{row['true']['jeffreys']:.2g}", *(f"{row['coverage'][name]:.1%}" for name in names)]
        for row in rows
    )
    heads = ["KL(S to T)", "KL(T to S)", "Jeffreys", "Jensen-Shannon", "told apart"]
    return table(["true Jeffreys divergence, nats", *heads], lines)


# training.py


def of_epochs(rows: list[dict]) -> str:
    """Seconds an epoch takes us, and how many times longer others."""
    times = lambda row, name: (
        f"{row[name]['median'] / row['ours']['median']:.1f} times" if name in row else "-"
    )
    size = lambda row: f"{row['D']}, {row['layers']}, {' x '.join(map(str, row['hidden']))}"
    lines = (
        [size(row), row["batch"], spread(row["ours"]), times(row, "flowjax"), times(row, "zuko")]
        for row in rows
    )
    return table(["D, layers, hidden", "batch", "flows, s", "FlowJAX", "zuko"], lines)


def of_training(result: dict) -> str:
    """Starts, compilation, devices, memory and precision, as far as they were measured."""
    lines = {
        "starts": lambda row: (
            "a repeated fit of one step",
            ", ".join(f"{name} {row[name]['median']:.3f} s" for name in row),
        ),
        "compilation": lambda row: (
            "a first fit of one step, 2 and 32 layers",
            " and ".join(f"{row[layers]['median']:.1f} s" for layers in ("2", "32")),
        ),
        "devices": lambda rows: (
            "rows a second, 1,000 a step for each of "
            + ", ".join(str(row["devices"]) for row in rows)
            + " forced devices",
            ", ".join(f"{1000 * row['devices'] * row['steps per second']:,.0f}" for row in rows),
        ),
        "memory": lambda row: (
            f"memory for a file of {row['file']} GB, beyond that for few rows",
            f"{row['beyond']:.2f} GB",
        ),
        "precision": lambda row: (
            "held-out log-likelihood, bfloat16 less float32",
            f"{row['gap']:.5f} +- {row[SPREAD]:.5f} nats",
        ),
    }
    found = (line(result[part]) for part, line in lines.items() if part in result)
    return table(["what", "measured"], found)


# faults.py, import_time.py, first_answers.py, calls.py


def of_faults(result: dict) -> str:
    """What comes of each fault."""
    return table(["Fault", "What comes of it"], result["faults"].items())


def of_import_time(result: dict) -> str:
    """Seconds for an import, beside the import of what it stands on."""
    lines = ((name, f"{value:.3f}") for name, value in result.items() if name.endswith(" s"))
    return table(["what", "measured"], lines)


def of_first_answers(result: dict) -> str:
    """Seconds to the first answer, and how much of it went into what."""
    parts = "total", "importing", "tracing", "lowering", "compiling"
    lines = ([row["case"], row["flows"], *(spread(row[p], ".2f") for p in parts)]
             for row in result["rows"])  # fmt: skip
    return table(["case", "flows", *(f"{part}, s" for part in parts)], lines)


def of_calls(result: dict) -> str:
    """Milliseconds of a call, made eagerly and under `jax.jit`."""
    lines = ([row["call"], row["flows"], spread(row["eager"]), spread(row["jit"])]
             for row in result["rows"])  # fmt: skip
    return table(["call", "flows", "eager, ms", "jit, ms"], lines)


# divergences.py


def of_coverage(rows: list[dict]) -> str:
    """Share of intervals that hold the exact value."""
    names = list(dict.fromkeys(row["estimator"] for row in rows))
    cell = {(row["pair"], row["estimator"]): f"{row['coverage']:.1%}" for row in rows}
    pairs = dict.fromkeys(row["pair"] for row in rows)
    return table(["", *names], ([a, *(cell.get((a, b), "") for b in names)] for a in pairs))


def of_variance(rows: list[dict]) -> str:
    """The sd of one draw."""
    return table(rows[0], ([f"{value:.3g}" for value in row.values()] for row in rows))


def of_mixtures(rows: list[dict]) -> str:
    """Errors of the bounds and approximations."""
    names = (name for name, value in rows[0].items() if isinstance(value, dict))
    cell = lambda e: f"{e['median']:.2g}, {e['bias']:+.2g}, {e['largest']:.2g}"
    head = (f"d = {row['size']} (KL {row['median']:.2g})" for row in rows)
    lines = ([name, *(cell(row[name]) for row in rows)] for name in names)
    return table(["median, mean and largest error", *head], lines)


def of_histograms(r: dict) -> str:
    """All pairs of histograms, in a sentence."""
    times = "{1:,.{d}f} ({0:,.{d}f} to {2:,.{d}f})"
    return (
        f"{r['count']:,} x {r['count']:,} histograms of {r['bins']} bins: "
        f"{times.format(*r['seconds'], d=1)} s; two loops over `scipy.stats.entropy` "
        f"{times.format(*r['ratio'], d=0)} times as long; largest difference "
        f"{r['largest_difference']:.1g}."
    )
