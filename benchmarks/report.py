"""Writes docs/benchmarks.md from `results/*.json`: every figure in it is read from there."""

from pathlib import Path

import amortised
import guides
import tables
from tables import load

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def on(result: dict) -> str:
    """What was measured on, as far as the results say."""
    said = [f"{name} {result[name]}" for name in ("device", "cores", "jax") if name in result]
    return f" ({', '.join(said)}.)" if said else ""


def text() -> str:
    """The page."""
    flow, training, faults = load("autoregressive"), load("training"), load("faults")
    answers, calls, imports = load("first_answers"), load("calls"), load("import_time")
    divergences, families = load("divergences"), load("families")
    density, small = load("density"), load("small_tables")
    posteriors, distilled = load("variational"), load("distillation")
    amortised_result, of_guides = load("amortised"), load("guides")
    in_equal_time = load("variational_peers")
    names, rows = " / ".join(tables.others(flow["rows"])), f"{training['epochs'][0]['rows']:,}"
    mixtures = divergences["mixtures"]
    pairs, violations = (sum(row[name] for row in mixtures) for name in ("pairs", "violations"))
    return f"""---
search: {{boost: 0.1}}
---
<!-- Written by report.py from results/*.json: change those, not this. -->
# Benchmarks

`make benchmarks` measures all of this anew, which takes long, writes `results/*.json` and makes
this page. One script alone: `.venv/bin/python benchmarks/calls.py`, and then
`.venv/bin/python benchmarks/report.py`. What is compared is measured in turn, so that a busy
machine slows all alike; a cell with a range holds the median and, of `training.py`, the quartiles,
of the others the least and the greatest.

## Both directions of an autoregressive flow

`autoregressive.py` times masked autoregressive flows of equal size: two hidden layers of H ReLU
units, affine maps. How many times longer than ours the others take, {names};
"gradient" is that of `log_prob` and "sample gradient" that through sampling, in all weights; "-"
was not run, as one call takes seconds. At batch 1 the masked weights have to be made in every
pass, so there our largest networks are slower forward than those of libraries that
store them.{on(flow)}

{tables.of_others(flow["rows"])}

Our own ratios: sampling over `log_prob` and the gradients through them (each pair measured in turn,
the median of three such measurements and their range), `log_prob` over the same
dense products without masks, the naive loop and Jacobi iteration (`inverse="jacobi"`) over
blocked substitution, and differentiating through the substitution over our implicit gradient, in
time and memory.

{tables.of_ours(flow["rows"])}

![time of sampling against dimension](figures/sampling.png)

`chart.py` draws the medians, with bands from quartile to quartile.

## Families

`families.py`: 5 layers, networks of two hidden layers of H ReLU units, splines of 8 pieces, batch
1000. Medians of ours, and in brackets how many times longer FlowJAX / zuko take. A mixture of
logistics has no closed inverse: there sampling iterates. The last column is what compiling the
gradient takes.{on(families)}

<!-- --8<-- [start:families] -->
{tables.of_families(families["rows"])}
<!-- --8<-- [end:families] -->

## Density

`density.py`: test log-likelihood in nats (+- one standard error of the mean over test rows) after
equal time on one core, compiling aside. Five layers, two hidden layers of 64 units (BSDS300,
MINIBOONE: 512), ours with the defaults of `flows.fit` (the mixture: flows of random orders, at a
peak of 1e-2); each fit with as many epochs as the time holds, as foreseen from a short run, and two
at least.{on(density)}

What took a third longer than foreseen: {tables.overrun(density["rows"])}.

{tables.of_density(density["rows"])}

![log-likelihood against seconds](figures/density.png)

The figure shows rows validated on; not of BSDS300, where FlowJAX's are of other images than ours.
What was tried: [density.md](../benchmarks/density.md).

## Small tables

`small_tables.py`: wines of Uria et al. 2013, ten folds; one fit with the defaults, and an ensemble
of ten. RNADE (2013) had -9.36 and -10.23, mixtures of factor analysers -10.19 and -10.73. What was
tried: [small_tables.md](../benchmarks/small_tables.md).{on(small)}

{tables.of_small_tables(small["rows"])}

## Posteriors

`variational.py`: `flows.fit_posterior` with its defaults on targets of known evidence and on
posteriors of posteriordb with their reference draws, compilation included; the worst of two or
three seeds, and medians of the seconds (the third seed had a busy machine). "silent" counts runs
that were called good and were not: means off by 0.1 deviations, deviations by 15 %, or the log
evidence by 0.02 and four of its errors. (Draws of a Student-t of 2.5 degrees of freedom and of a
funnel do not tell their own deviations: those columns say little there.){on(posteriors)}

{tables.of_variational(posteriors["rows"])}

`variational_peers.py`: four of these in equal time, compiling included, beside guides of numpyro on
the same densities, by SVI with 10 draws a step at the better of two constant rates. ELBO in nats,
larger is better; in bold what has no mean off by 0.1 deviations and no deviation by
15 %.{on(in_equal_time)}

{tables.of_guides_in_equal_time(in_equal_time["rows"])}

## Distillation

`distillation.py`: students of the demo's teacher, a MAF of 8 layers on the galaxy catalogue.
Divergences in nats, KL(student to teacher) / KL(teacher to student),
medians of {len({row["seed"] for row in distilled["recipes"]})} seeds, after equal seconds of
training on one core, compiling aside, and in brackets the worst log ratio of 200,000 draws. The
default guesses each layer's parameters and corrects the guess by two passes of the teacher's own
network; all others have networks twice as deep as the teacher's.{on(distilled)}

{tables.of_recipes(distilled["recipes"])}

![divergences against seconds](figures/distillation.png)

Students with more passes, fewer, or none (networks of the noise alone, matched and polished):
`flows.distill` of each, 5,000 steps, compilation and report included, and how many times as fast
as the teacher's own sampling it is.

<!-- --8<-- [start:students] -->
{tables.of_students(distilled["students"], "student")}
<!-- --8<-- [end:students] -->

The default student of other MAFs, 1,000 steps; and of the widest, of networks (512, 512), the one
that `speedup=3` chooses, 1,500 steps:

{tables.of_students(distilled["teachers"], "teacher")}

How often value +- 1.96 standard errors of a report have the true value inside, in
{distilled["intervals"][0]["reports"]:,} reports of students of two moons. Of students that are all
but their teacher, Jeffreys and Jensen-Shannon rest on rare draws, and their errors are too small:

{tables.of_intervals(distilled["intervals"])}

What was tried: [distillation.md](../benchmarks/distillation.md).

## Amortised posteriors

`amortised.py`: neural posterior estimation by `flows.fit` of a conditional
`flows.nsf(autoregressive=True)`, one recipe for four tasks of sbibm (Lueckmann et al. 2021,
arXiv:2101.04653). C2ST is the accuracy of sbibm's classifier in telling its draws from those of the
reference posterior, mean and deviation over observations; 0.5 is perfect. Beside it the published
NPE (with splines) of sbibm's own runs. "flows" is 1, or the members of an even mixture
(`--members 4`), whose networks are wider. Calibrated are parameters whose ranks are uniform,
p > 0.01, of 1,000 fresh parameters, five times (one row: once), beside the least p (of a perfect
posterior 99 % are); seconds are of one core.{on(amortised_result)}

{amortised.table(amortised_result["rows"])}

What was tried: [amortised.md](../benchmarks/amortised.md).

## numpyro guides

`guides.py`: `flows.adapters.numpyro.AutoFlow` with its defaults and guides of numpyro with theirs,
after 2,000 steps of Adam at a constant rate, as SVI is run without further thought. ELBO in nats
(larger is better; "nan" and huge ones diverged), one seed.{on(of_guides)}

{guides.table(of_guides["rows"])}

What was tried: [guides.md](../benchmarks/guides.md).

## Training

`training.py`. An epoch of fitting a MAF to {rows} rows, shuffling and validation included, and
how many times longer FlowJAX's `fit_to_data` and a plain loop around zuko take.{on(training)}

{tables.of_epochs(training["epochs"])}

{tables.of_training(training)}

## The first answer

`first_answers.py`. Seconds in a fresh process until there is a result, and how much of them went
into importing, tracing, lowering and compiling. "Kept": the programs of an earlier process lie on
disk ([how](how-to/start-up.md)). Median and range of {answers["repeats"]} runs.{on(answers)}

{tables.of_first_answers(answers)}

## Single calls

`calls.py`. A MAF of 8 dimensions, called as it is and under `jax.jit`, with all that a call costs
in Python. Median and range of {calls["repeats"]} runs.{on(calls)}

{tables.of_calls(calls)}

## Importing

`import_time.py`, {imports["pairs"]} pairs of fresh interpreters.{on(imports)}

{tables.of_import_time(imports)}

## Faults

`faults.py`, on 2,000 rows of a Gaussian whose entropy is 2.84 nats.{on(faults)}

{tables.of_faults(faults)}

## Divergences

`divergences.py`; [which to use when](divergences.md).{on(divergences)}

How often value +- 1.96 standard errors holds the exact value, of 1,000 repetitions with 10,000
draws. The KL divergences are of pairs of autoregressive flows in 8 dimensions, which are
Gaussians; JS and TV of two normals.

{tables.of_coverage(divergences["coverage"])}

The same pairs: standard error times sqrt(draws), which is the sd of one draw if draws are
independent.

{tables.of_variance(divergences["variance"])}

{pairs} random pairs of mixtures of 5 Gaussians, against 1,000,000 draws each: the median of the
absolute error, the mean error and the largest, in nats. Bounds violated by more than 4 standard
errors of the draws: {violations}.

{tables.of_mixtures(mixtures)}

{tables.of_histograms(divergences["histograms"])}
"""


if __name__ == "__main__":
    PAGE.write_text(text())
