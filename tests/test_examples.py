"""What the examples claim holds."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import hierarchical
import relaxed_discrete
import second_study

pytestmark = [pytest.mark.slow, pytest.mark.runs_long]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_flow_of_a_hierarchy_has_the_best_bound():
    y, pupils = hierarchical.marks()
    posterior = hierarchical.posterior_of(y, pupils)
    assert posterior.diagnostics.trustworthy
    guide = hierarchical.AutoMultivariateNormal(
        hierarchical.model, init_loc_fn=hierarchical.init_to_median
    )
    value, error = hierarchical.elbo_of(guide, y, pupils, 3000)
    mine = posterior.diagnostics.elbo
    assert float(mine.value) - value > 3 * np.hypot(error, float(mine.standard_error))


def test_the_first_study_helps_the_second():
    errors = second_study.main()
    assert errors["flow"] < errors["normal"] < errors["measured"]
    assert (second_study.FIGURES / "second_study.png").exists()


def test_relaxed_sources_come_closer_as_they_cool():
    np.testing.assert_allclose(relaxed_discrete.exact().sum(), 1)
    errors = relaxed_discrete.main()
    assert errors["flow, temperature 0.2"] < errors["flow, temperature 0.5"]
    assert errors["flow, temperature 0.2"] < errors["independent normals, temperature 0.2"]
