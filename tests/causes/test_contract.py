"""What every cause promises, run over the catalog: a new one is tested by being there."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from privacy_gate.causes import CATALOG
from privacy_gate.measure import View
from tests.causes.worlds import looked_at

LEAKY = looked_at()
FINDERS = list(CATALOG)


def test_the_catalog_is_found():
    expected = {"embedding_distance", "generalisation_gap", "influence", "label_noise", "outliers", "stability"}
    assert expected <= set(CATALOG.names())


@pytest.mark.parametrize("finder", FINDERS, ids=lambda finder: finder.id)
class TestEveryCause:
    def test_is_named_and_documented(self, finder):
        assert re.fullmatch(r"[a-z_]+", finder.id)
        assert re.search(r"\d{4}", finder.paper)
        assert finder.find.__doc__

    def test_says_a_sentence_with_numbers(self, finder):
        found = finder.find(LEAKY)
        assert found is not None
        assert found.id == finder.id
        assert found.title
        assert found.reason.endswith(".")
        assert re.search(r"\d", found.reason)
        assert found.p_value is None or 0 < found.p_value <= 1
        assert found.value is None or math.isfinite(found.value)

    def test_is_deterministic(self, finder):
        assert repr(finder.find(LEAKY)) == repr(finder.find(LEAKY))

    def test_tells_aggregates_only(self, finder):
        """Rows stand for many members, never for a record."""
        found = finder.find(LEAKY)
        assert len(found.rows) <= max(len(LEAKY.audit.classes), 2)

    def test_says_nothing_without_evidence(self, finder):
        seen = replace(LEAKY.view.seen, references={}, reference_member=None)
        bare = replace(LEAKY, risk=None, shadow_correct=None, view=View(seen, None))
        found = finder.find(bare)
        assert found is None or finder.id == "embedding_distance"

    def test_leaves_its_input_alone(self, finder):
        before = LEAKY.embedding.copy(), LEAKY.risk.scores.copy()
        finder.find(LEAKY)
        np.testing.assert_array_equal(before[0], LEAKY.embedding)
        np.testing.assert_array_equal(before[1], LEAKY.risk.scores)
