"""The snippets of README.md run, in order, as they stand."""

import pytest
from doors import doors


@pytest.mark.slow
def test_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(doors(), names)
    assert names["posterior"].diagnostics.trustworthy
