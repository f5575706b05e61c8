"""Distilling MAFs into flows that sample in one pass: recipes in equal time, sizes, and tables.

    python benchmarks/distillation.py [--parts recipes students teachers intervals] [--seeds N]
                                      [--data FOLDER]

recipes: students of the galaxy teacher (that of `make demo`) after equal seconds of training on
    one core, compiling aside: the published recipe (reverse KL alone), path gradients, maximum
    likelihood on the data, matching layer by layer, the default of before (networks twice as deep,
    matched and polished), and the default.
students: more passes or fewer, and small networks without passes: divergences against speed.
teachers: `flows.distill` with its defaults on MAFs of the tables of `density.py` that are there.
intervals: how often value +- 1.96 standard errors of a report have the true value inside, in 1,000
    reports of students of two-moons that are close to their teacher and far from it. True is the
    mean of them all.

Results are added to results/distillation.json, part by part; the first part is drawn in
docs/figures/distillation.png.
"""

import argparse
import functools
import json
import os
import time
from pathlib import Path

if __name__ == "__main__":  # before JAX starts its threads
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax
import matplotlib.pyplot as plt
import numpy as np
import tables
import tables_of_data
from flax import nnx
from timing import about
from tqdm import tqdm

import flows
from flows.distillation.compare import divergences
from flows.distillation.measures import log_ratios
from flows.distillation.objectives import layer_matching, symmetric_kl
from flows.distillation.teachers import teacher_draws
from flows.training import adam, train
from flows.variational.objectives import reverse_kl

RESULT = tables.RESULTS / "distillation.json"
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "distillation.png"
GALAXIES = Path(__file__).parent.parent / "examples" / "data" / "galaxy_pzflow.npz"
BUDGETS = 3, 10, 30  # seconds of training
NUM_REPORTS = 1_000
DEEPER = {"num_passes": 0, "hidden_sizes": (64,) * 4, "residual": True}
STUDENTS = {
    "3 passes": {"num_passes": 3},
    "2 passes, the default": {},
    "1 pass": {"num_passes": 1},
    "none, (64, 64, 64, 64) residual": DEEPER,
    "none, (64, 64)": {"num_passes": 0},
    "none, (32, 32)": {"num_passes": 0, "hidden_sizes": (32, 32)},
}


def galaxy_teacher():
    """The teacher of the demo, and the rows it was fitted to."""
    rows = np.load(GALAXIES)
    teacher = flows.maf(7, num_layers=8, standardize_with=rows["train"], rngs=nnx.Rngs(0))
    teacher = flows.fit(
        teacher, rows["train"], validation=rows["val"], key=jax.random.key(0), max_epochs=30,
    ).flow  # fmt: skip
    return teacher, rows["train"]


def plain_reverse_kl(teacher, student, batch, key):
    """Parallel WaveNet's: log student - log teacher at draws of the student (van den Oord 2018)."""
    x, log_q = student.sample_and_log_prob(seed=key, sample_shape=batch[0].shape[:1])
    return log_q - teacher.log_prob(x)


def path_gradient(teacher, student, batch, key):
    """The same, with the gradient of Roeder et al. 2017."""
    return reverse_kl(student, teacher.log_prob, key, batch[0].shape[:1])


def data_likelihood(teacher, student, batch, key):
    """What one does without a teacher."""
    return -student.log_prob(batch[0])


def stage(student, objective, rate, num_steps, batches, seed):
    """Trains, and says how long it took."""
    start = time.perf_counter()
    student = train(
        student, objective, batches, key=jax.random.key(seed), batch_size=256,
        optimizer=adam(num_steps, rate), num_steps=num_steps, progress=False,
    ).module  # fmt: skip
    return student, time.perf_counter() - start


def recipes(seeds):
    """Divergences of each recipe after each of the budgets."""
    teacher, data = galaxy_teacher()
    draws = teacher_draws(teacher, None, jax.random.key(99))
    data = (data, None, None)
    deeper = lambda seed: flows.iaf_like(teacher, rngs=nnx.Rngs(seed), **DEEPER)
    default = lambda seed: flows.iaf_like(teacher, rngs=nnx.Rngs(seed))
    each = {  # a student, and stages: objective, learning rate, share of the steps, batches
        "reverse KL (published)": (deeper, [(plain_reverse_kl, 1e-3, 1.0, draws)]),
        "path gradient": (deeper, [(path_gradient, 1e-3, 1.0, draws)]),
        "maximum likelihood on the data": (deeper, [(data_likelihood, 3e-3, 1.0, data)]),
        "layer by layer": (deeper, [(layer_matching, 1e-2, 1.0, draws)]),
        "the default of before": (
            deeper, [(layer_matching, 1e-2, 0.8, draws), (symmetric_kl, 5e-4, 0.2, draws)],
        ),
        "the default": (default, [(layer_matching, 1e-2, 1.0, draws)]),
    }  # fmt: skip
    for name, (make, stages) in each.items():
        bound = [(functools.partial(f, teacher), *rest) for f, *rest in stages]
        cost = 0.0  # seconds a step
        for objective, rate, share, batches in bound:
            stage(make(0), objective, rate, 50, batches, 0)  # compiles
            _, short = stage(make(0), objective, rate, 50, batches, 0)
            _, longer = stage(make(0), objective, rate, 250, batches, 0)
            cost += share * (longer - short) / 200
        for budget in BUDGETS:
            for seed in range(seeds):
                student, seconds = make(seed), 0.0
                for objective, rate, share, batches in bound:
                    num_steps = max(1, round(share * budget / cost))
                    student, spent = stage(student, objective, rate, num_steps, batches, seed)
                    seconds += spent
                yield {
                    "recipe": name, "budget s": budget, "seed": seed, "seconds": seconds,
                    "steps": round(budget / cost), **apart(teacher, student, seed),
                }  # fmt: skip
        jax.clear_caches()


def apart(teacher, student, seed):
    """Both divergences, their errors, and the worst log ratio of 100,000 draws of each."""
    out = {"worst": 0.0}
    pairs = {"KL(S||T)": (student, teacher), "KL(T||S)": (teacher, student)}
    for i, (name, pair) in enumerate(pairs.items()):
        ratios, _ = log_ratios(*pair, jax.random.fold_in(jax.random.key(1000 + seed), i))
        out[name] = float(ratios.mean())
        out[f"{name} error"] = float(ratios.std() / len(ratios) ** 0.5)
        out["worst"] = max(out["worst"], float(np.abs(ratios).max()))
    return out


def distilled(teacher, student, seed, **options):
    """`flows.distill` and its report."""
    start = time.perf_counter()
    result = flows.distill(teacher, student, key=jax.random.key(seed), progress=False, **options)
    seconds = time.perf_counter() - start
    report = result.report
    return {
        "seed": seed, "seconds": seconds, "KL(S||T)": float(report.kl_student_teacher.value),
        "KL(T||S)": float(report.kl_teacher_student.value), "worst": report.worst_log_ratio,
        "speedup": {timing.num_draws: timing.speedup for timing in report.timings},
        "verdict": report.verdict,
    }  # fmt: skip


def students(seeds):
    """Divergences and speed of students of the galaxy teacher."""
    teacher, _ = galaxy_teacher()
    for name, options in STUDENTS.items():
        for seed in range(seeds):
            student = flows.iaf_like(teacher, rngs=nnx.Rngs(seed), **options)
            yield {"student": name, **distilled(teacher, student, seed)}
        jax.clear_caches()


def teachers(seeds, folder):
    """The default student of each table's MAF, and of the widest one three times as fast."""
    for name in ("POWER-H1", "MINIBOONE-small", "BSDS300"):
        table = next(tables_of_data.TABLES[name](folder))
        size = table.train.shape[1]
        teacher = flows.maf(
            size, hidden_sizes=(table.width,) * 2, standardize_with=table.train, rngs=nnx.Rngs(0)
        )
        teacher = flows.fit(
            teacher, table.train, validation=table.validation, key=jax.random.key(0),
            batch_size=table.batch, max_epochs=5 if name == "BSDS300" else 20,
        ).flow  # fmt: skip
        for seed in range(seeds):
            run = distilled(teacher, "iaf", seed, num_steps=1000)
            yield {"teacher": f"{name}, D = {size}", **run}
        if name == "BSDS300":  # wide enough for networks of the noise alone
            run = distilled(teacher, "iaf", 0, num_steps=1500, speedup=3.0)
            yield {"teacher": f"{name}, D = {size}, speedup=3", **run}
        jax.clear_caches()


def intervals():
    """The coverage of 95 % intervals of each estimate, at three distances."""
    x = two_moons(20_000)
    teacher = flows.maf(2, num_layers=4, hidden_sizes=(32, 32), rngs=nnx.Rngs(0))
    teacher = flows.fit(teacher, x, key=jax.random.key(0), max_epochs=10, progress=False).flow
    draws = teacher_draws(teacher, None, jax.random.key(99))
    for num_steps in (100, 300, 2000):
        student = flows.iaf_like(teacher, num_passes=0, rngs=nnx.Rngs(0))
        objective = functools.partial(layer_matching, teacher)
        student, _ = stage(student, objective, 1e-2, num_steps, draws, 0)
        reports = []
        for i in tqdm(range(NUM_REPORTS), desc=f"{num_steps} steps"):
            one, other = jax.random.split(jax.random.key(i))
            of_student = -log_ratios(student, teacher, one)[0]
            of_teacher = log_ratios(teacher, student, other)[0]
            found = divergences(of_student, of_teacher)
            reports.append([(float(e.value), float(e.standard_error)) for e in found.values()])
        values, errors = np.moveaxis(np.array(reports), 2, 0)
        inside = np.abs(values - values.mean(axis=0)) < 1.96 * errors
        yield {
            "steps": num_steps, "reports": NUM_REPORTS,
            "true": dict(zip(found, values.mean(axis=0).tolist(), strict=True)),
            "coverage": dict(zip(found, inside.mean(axis=0).tolist(), strict=True)),
        }  # fmt: skip


def two_moons(num_rows):
    """Two crescents."""
    rng = np.random.default_rng(0)
    angle, upper = rng.uniform(0, np.pi, num_rows), rng.random(num_rows) < 0.5
    arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    arc = np.where(upper[:, None], arc, [1.0, 0.5] - arc)
    return arc + 0.1 * rng.normal(size=arc.shape)


def draw(rows):
    """Both divergences against seconds of training."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, kind in zip(axes, ("KL(S||T)", "KL(T||S)"), strict=True):
        for name in dict.fromkeys(row["recipe"] for row in rows):
            here = [row for row in rows if row["recipe"] == name]
            budgets = sorted({row["budget s"] for row in here})
            of = [[r[kind] for r in here if r["budget s"] == budget] for budget in budgets]
            line = axis.plot(budgets, [np.median(kls) for kls in of], "o-", label=name)
            axis.fill_between(
                budgets, *zip(*((min(k), max(k)) for k in of), strict=True), alpha=0.2,
                color=line[0].get_color(),
            )  # fmt: skip
        axis.set(xscale="log", yscale="log", ylim=(1e-3, 1e3), xticks=BUDGETS)
        axis.set_xticklabels(BUDGETS)
        axis.minorticks_off()
        axis.set_xlabel("seconds of training on one core")
        axis.set_title({"S": "KL(student || teacher)", "T": "KL(teacher || student)"}[kind[3]])
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("nats")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8,
        frameon=False,
    )  # fmt: skip
    figure.savefig(FIGURE, dpi=130)


def main() -> None:
    """Runs the parts, and saves after each row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--parts", nargs="+", default=["recipes", "students", "teachers", "intervals"]
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default=tables_of_data.FOLDER)
    arguments = parser.parse_args()
    runs = {
        "recipes": lambda: recipes(arguments.seeds),
        "students": lambda: students(arguments.seeds),
        "teachers": lambda: teachers(arguments.seeds, arguments.data),
        "intervals": intervals,
    }
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for part in arguments.parts:
        if part == "teachers" and not Path(arguments.data).exists():
            print(f"{arguments.data} is not there: teachers are left out")
            continue
        result[part] = []
        for row in runs[part]():
            result[part].append(row)
            print(json.dumps(row), flush=True)
            RESULT.write_text(json.dumps(about() | result, indent=1) + "\n")
    if result.get("recipes"):
        draw(result["recipes"])


if __name__ == "__main__":
    main()
