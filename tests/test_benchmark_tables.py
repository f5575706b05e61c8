"""docs/benchmarks.md is what benchmarks/report.py makes of the results."""

import importlib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_page_is_what_the_script_writes(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    report = importlib.import_module("report")
    assert (ROOT / "docs" / "benchmarks.md").read_text() == report.text(), "run report.py"
