"""benchmarks/README.md is what benchmarks/report.py makes of the results."""

import importlib
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "benchmarks"


def test_the_page_is_what_the_script_writes(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    report = importlib.import_module("report")
    assert (FOLDER / "README.md").read_text() == report.text(), "run benchmarks/report.py"
