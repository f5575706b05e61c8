"""What a run shows: on a terminal, in a notebook, in a log, and in silence."""

import io

import jax
import nbformat
import numpy as np
import optax
import pytest
from flax import nnx
from nbclient import NotebookClient

from flows.training import progress, train


def run(**options):
    """A run of a hundred steps, into which the host looks at least twice."""
    train(
        nnx.Linear(2, 1, rngs=nnx.Rngs(0)), lambda module, x, key: module(x).sum(-1),
        np.zeros((20, 2), np.float32), key=jax.random.key(0), optimizer=optax.sgd(0.1),
        batch_size=10, num_steps=100, description="mine", **options,
    )  # fmt: skip


def test_a_log_gets_a_line_now_and_then(monkeypatch, capsys):
    now = 100.0  # after compilation
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.progress_bar(10_000, 50, "mine", True) as lines:
        for _ in range(26):
            lines.set_postfix({"train": "1.5", "validation": f"{now}"}, refresh=False)
            lines.update(100)
            now += 1
    assert capsys.readouterr().err.splitlines() == [
        "mine: step 350 of 10,000, 100 steps/s, train 1.5, validation 102.0",
        "mine: step 1,350 of 10,000, 100 steps/s, train 1.5, validation 112.0",
        "mine: step 2,350 of 10,000, 100 steps/s, train 1.5, validation 122.0",
        "mine: step 2,650 of 10,000, 75 steps/s, train 1.5, validation 125.0",
    ]


def test_a_run_writes_whole_lines_to_what_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "FIRST_LINE_S", 0.0)
    run()
    out, err = capsys.readouterr()
    assert not out
    assert "\r" not in err
    assert "mine: step 100 of 100, " in err.splitlines()[-1]


@pytest.mark.parametrize("reason", ["short", "progress=False", "another process"])
def test_silence(reason, monkeypatch, capsys):
    if reason != "short":
        monkeypatch.setattr(progress, "FIRST_LINE_S", 0.0)
    if reason == "another process":
        monkeypatch.setattr(jax, "process_index", lambda: 1)
    run(progress=reason != "progress=False")
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("shown", [True, False])
def test_a_terminal_gets_a_bar(shown, monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    run(progress=shown)
    text = progress.sys.stderr.getvalue()
    assert ("\rmine: 100%|" in text) == shown == bool(text)


FIT = """
import sys, importlib, jax, numpy as np, tqdm.auto
from flax import nnx
import flows
def fit():
    flow = flows.maf(2, num_layers=1, hidden_sizes=(8,), rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(200, 2))
    flows.fit(flow, x, key=jax.random.key(0), max_epochs=2, batch_size=60)
"""
WITHOUT_WIDGETS = """
sys.modules["ipywidgets"] = None
for module in tqdm.notebook, tqdm.autonotebook, tqdm.auto, flows.training.progress:
    importlib.reload(module)
fit()
"""


def test_a_notebook_gets_a_bar():
    cells = [nbformat.v4.new_code_cell(code) for code in (FIT, "fit()", WITHOUT_WIDGETS)]
    notebook = NotebookClient(nbformat.v4.new_notebook(cells=cells)).execute()
    widget = "application/vnd.jupyter.widget-view+json"
    assert sum(widget in output.get("data", {}) for output in notebook.cells[1].outputs) == 1
    (states,) = notebook.metadata.widgets.values()
    states = [model["state"] for model in states["state"].values()]
    bars = [state for state in states if state["_model_name"] == "FloatProgressModel"]
    assert [(bar["value"], bar["bar_style"]) for bar in bars] == [(6, "success")]  # steps
    text = "".join(output.get("text", "") for output in notebook.cells[2].outputs)
    assert "fit: 100%|" in text
