"""From nouns to the document: nothing is invented, nothing is lost, small cells are hidden."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_gate.datamodel import Audit, Candidate, RiskScores, ThreatModel, Verdict, VerdictStatus
from privacy_gate.errors import NotEvaluable
from privacy_gate.policy.cells import name_of
from privacy_gate.policy.examples import result
from privacy_gate.reports import assemble, charts
from privacy_gate.reports.document import Report, Roc, dumps, parse
from tests.reports.samples import SAMPLES, Measured


def test_interval_uses_one_sided_bounds() -> None:
    """1.6449 is the 95 % point of the normal distribution: one-sided at 0.05, not two-sided (1.96)."""
    made = assemble.interval(Measured(0.6, 0.01), 0.05)
    assert made.low == pytest.approx(0.6 - 1.6449 * 0.01, abs=1e-6)
    assert made.high == pytest.approx(0.6 + 1.6449 * 0.01, abs=1e-6)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_number_is_null_where_there_is_none(value: float | None) -> None:
    assert assemble.number(value) is None


@pytest.mark.parametrize(("rate", "key"), [(0.01, "0.01"), (0.001, "0.001"), (1e-5, "0.00001"), (0.1, "0.1")])
def test_rate_key(rate: float, key: str) -> None:
    assert assemble.rate_key(rate) == key


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://me:pw@host/x", "https://***@host/x"),
        ("postgresql://u:p@db:5432/m", "postgresql://***@db:5432/m"),
        ("s3://b/k?X-Amz-Signature=abc&x=1", "s3://b/k?X-Amz-Signature=***&x=1"),
        ("https://h/?token=abc", "https://h/?token=***"),
        ("models:/churn@candidate", "models:/churn@candidate"),
        ("mail a@b.c about https://h/p", "mail a@b.c about https://h/p"),
    ],
)
def test_without_secrets(text: str, clean: str) -> None:
    assert assemble.without_secrets(text) == clean


def test_plain_keeps_json_and_drops_the_rest() -> None:
    value = {"a": [1, 2.5, math.nan, None, True, "x"], "b": {"c": (1, math.inf)}, "d": np.float64(0.5)}
    assert assemble.plain(value) == {"a": [1, 2.5, None, None, True, "x"], "b": {"c": [1, None]}, "d": 0.5}


def test_an_unexpected_error_shows_no_text_of_its_own() -> None:
    """It may hold a record."""
    assert "Alice" not in str(assemble.problem(ValueError("Alice, 1971-02-03")))
    assert assemble.problem(NotEvaluable("too few", "get more")).what == "too few"


# --- disclosure -----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12))
def test_suppress_hides_small_cells_and_what_would_give_them_away(counts: list[int]) -> None:
    shown = assemble.suppress(counts)
    hidden = [count for count, cell in zip(counts, shown, strict=True) if cell is None]
    assert all(cell is None or cell == count for count, cell in zip(counts, shown, strict=True))
    assert all(cell is None or cell >= 10 for cell in shown)
    # With the total known, the hidden cells' sum is known: it is nothing, ten or more, or all that there is.
    assert sum(hidden) == 0 or sum(hidden) >= 10 or len(hidden) == len(counts)


def test_suppress_hides_no_more_than_it_takes() -> None:
    assert assemble.suppress([50, 3, 20, 40]) == (50, None, None, 40)
    assert assemble.suppress([50, 0, 20, 40]) == (50, None, 20, 40)
    assert assemble.suppress([50, 6, 7, 40]) == (50, None, None, 40)
    assert assemble.suppress([50, 10]) == (50, 10)


def test_histogram_counts_each_record_once() -> None:
    rng = np.random.default_rng(0)
    values, member = rng.normal(size=4000), np.arange(4000) < 2000
    values[:3] = [math.nan, 50.0, -50.0]
    made = assemble.histogram("x", values, member)
    assert made is not None
    edges = np.array(made.edges)
    assert np.all(np.diff(edges) > 0)
    assert -4 < edges[0] < edges[-1] < 4  # the two far records set no edge
    for side, where in ((made.members, member), (made.nonmembers, ~member)):
        visible = sum(count for count in side if count is not None)
        missing = int(np.isfinite(values[where]).sum()) - visible
        assert missing == 0 or missing >= 10
        # The slow twin of one inner cell.
        inside = (values[where] >= edges[10]) & (values[where] < edges[11])
        assert side[10] == inside.sum()


def test_histogram_of_few_or_constant_values() -> None:
    member = np.arange(60) < 30
    assert assemble.histogram("x", np.full(60, math.nan), member) is None
    assert assemble.histogram("x", np.arange(60.0), np.arange(60) < 9) is None
    constant = assemble.histogram("x", np.full(60, 0.3), member)
    assert constant is not None
    assert constant.edges[0] < 0.3 < constant.edges[-1]
    assert [count for count in constant.members if count is not None] == [30]


def _grouped() -> tuple[np.ndarray, Audit]:
    member = np.arange(400) < 200
    labels = np.where(np.arange(400) % 200 < 4, 2, np.arange(400) % 2).astype(np.int64)
    audit = Audit(member, labels, np.arange(400), ("a", "b", "rare"))
    return np.where(member, 0.9, 0.1), audit


def test_small_groups_are_hidden_and_cannot_be_worked_out() -> None:
    scores, audit = _grouped()
    made = {group.value: group for group in assemble.groups(scores, audit, 0.8)}
    assert made["rare"].members is None
    assert made["rare"].mean_members is None
    assert made["rare"].high_members is None
    # Two of three known would give the third away.
    assert [made[name].members is None for name in ("a", "b")].count(True) == 1
    shown = next(made[name] for name in ("a", "b") if made[name].members is not None)
    assert (shown.mean_members, shown.mean_nonmembers) == (0.9, 0.1)
    assert (shown.high_members, shown.high_nonmembers) == (1.0, 0.0)


def test_a_share_of_few_people_is_hidden() -> None:
    scores, audit = np.full(100, 0.1), Audit(np.arange(100) < 50, np.zeros(100, np.int64), np.arange(100), ("a",))
    scores[:9] = 0.9
    assert assemble.groups(scores, audit, 0.8)[0].high_members is None
    scores[:10] = 0.9
    assert assemble.groups(scores, audit, 0.8)[0].high_members == 0.2


def test_reliability_hides_small_bins() -> None:
    audit = Audit(np.arange(40) < 20, np.zeros(40, np.int64), np.arange(40), ("a",))
    scores = RiskScores("x", np.full(40, 0.5), (), {}, ((0.1, 0.0, 9), (0.5, 0.5, 31), (0.9, math.nan, 0)))
    made = assemble.risk(scores, audit).reliability
    assert [(b.score, b.members, b.n) for b in made] == [(0.1, None, None), (0.5, 0.5, 31)]


def test_nothing_of_single_records_is_in_the_report(samples: dict[str, Report]) -> None:
    """No list in the document is as long as the records are many."""

    def longest(value: object) -> int:
        if isinstance(value, dict):
            return max(map(longest, value.values()), default=0)
        if isinstance(value, list):
            return max([len(value), *map(longest, value)])
        return 0

    import json

    assert longest(json.loads(dumps(samples["pass"]))) < 100


# --- curves ---------------------------------------------------------------------------------------------------------


def _slow_tpr(fpr: np.ndarray, tpr: np.ndarray, at: float) -> float:
    return max((t for f, t in zip(fpr, tpr, strict=True) if f <= at), default=0.0)


@given(st.integers(0, 2**32 - 1), st.integers(2, 300), st.integers(1, 40))
def test_thin_never_exceeds_the_curve(seed: int, n: int, distinct: int) -> None:
    rng = np.random.default_rng(seed)
    fpr, tpr = (np.sort(rng.integers(0, distinct + 1, n)) / distinct for _ in range(2))
    thin = assemble.thin((fpr, tpr))
    assert len(thin.fpr) == assemble.ROC_POINTS
    assert thin.fpr[-1] == 1.0
    assert np.all(np.diff(thin.tpr) >= 0)
    for f, t in zip(thin.fpr, thin.tpr, strict=True):
        # The grid is printed with seven decimals: a step may lie within half of the last one.
        assert _slow_tpr(fpr, tpr, f - 5e-8) - 1e-6 <= t <= _slow_tpr(fpr, tpr, f + 5e-8) + 1e-6


def test_thin_of_an_empty_curve() -> None:
    assert set(assemble.thin((np.zeros(0), np.zeros(0))).tpr) == {0.0}


def test_a_curve_is_shown_once_per_attack(samples: dict[str, Report]) -> None:
    shown = [attack.id for attack in samples["fail"].attacks if attack.roc is not None]
    assert sorted(shown) == ["confidence", "lira", "modified_entropy", "rmia"]


def test_tpr_at_reads_the_step_before() -> None:
    roc = Roc(fpr=(0.01, 0.1, 1.0), tpr=(0.2, 0.4, 1.0))
    assert [charts.tpr_at(roc, rate) for rate in (0.005, 0.01, 0.05, 0.1, 1.0)] == [None, 0.2, 0.2, 0.4, 1.0]


# --- the whole ------------------------------------------------------------------------------------------------------


def test_a_verdict_alone_makes_a_report() -> None:
    made = assemble.report(assemble.Parts(verdict=Verdict(VerdictStatus.INCONCLUSIVE, 4, "nothing ran", (), {})))
    assert parse(dumps(made)) == made
    assert (made.data, made.risk, made.shadows, made.policy, made.subject.uri) == (None, None, None, None, None)


def test_an_attack_without_a_threshold_says_nothing_of_where_one_came_from() -> None:
    """`correctness, shadow` where there are no shadows at all would be a lie."""
    ran = [replace(result("correctness"), threat_model=ThreatModel.SHADOW), result("confidence"), result("lira")]
    told = assemble.threats("scores", ran)
    assert told.attacks_run == ("correctness", "confidence", "lira")
    assert told.threat_models == (ThreatModel.KNOWN_SUBSET, ThreatModel.REFERENCE)
    assert [name_of(each, scope=True) for each in ran] == [
        "correctness",
        "confidence, known-subset, global",
        "lira, reference, global",
    ]


def test_exit_zero_changes_the_code_and_is_said() -> None:
    verdict = Verdict(VerdictStatus.FAIL, 1, "no", (), {})
    made = assemble.report(assemble.Parts(verdict=verdict, exit_zero=True, exit_code=0)).verdict
    assert (made.status, made.exit_code, made.exit_zero) == (VerdictStatus.FAIL, 0, True)


def test_no_path_of_this_machine_and_no_tag_is_in_the_report(samples: dict[str, Report]) -> None:
    text = dumps(samples["fail"])
    assert "/nowhere" not in text


def test_persons_are_null_without_a_person_column(samples: dict[str, Report]) -> None:
    by_person, by_record = samples["fail"].data, samples["pass"].data
    assert by_person is not None
    assert by_record is not None
    assert (by_person.members.n, by_person.members.persons) == (4000, 2000)
    assert (by_record.members.n, by_record.members.persons) == (12000, None)


def test_scope_names_what_ran_and_what_did_not(samples: dict[str, Report]) -> None:
    scope = samples["inconclusive"].threat_model
    assert scope.attacks_run == ("correctness", "confidence")
    assert [(a.id, a.status) for a in scope.attacks_not_run] == [("lira", "skipped"), ("rmia", "error")]
    assert [str(model) for model in scope.threat_models] == ["known-subset"]
    assert scope.out_of_scope


def test_the_run_is_cleaned_too() -> None:
    from privacy_gate.reports.document import Run

    parts = assemble.Parts(
        verdict=Verdict(VerdictStatus.FAIL, 1, "no", (), {}), run=Run(argv=("check", "https://u:secret@h/x"))
    )
    assert assemble.report(parts).run.argv == ("check", "https://***@h/x")


def test_all_fields_of_a_candidate_but_its_private_ones_are_kept(samples: dict[str, Report]) -> None:
    from tests.reports import samples as built

    candidate: Candidate = replace(built._candidate("x"), executes_code=True)
    made = assemble.subject(candidate)
    assert (made.uri, made.resolved_uri, made.digest) == (candidate.uri, candidate.resolved_uri, candidate.digest)
    assert made.executes_code is True
    assert made.datasets[0].digest == "a1b2c3d4"


@pytest.mark.parametrize("name", SAMPLES)
def test_charts_stay_in_their_frame(name: str, samples: dict[str, Report]) -> None:
    report = samples[name]
    for rule in report.rules:
        scale = charts.scale(rule)
        if scale is not None:
            assert scale.limit is not None
            assert 0 <= scale.low <= scale.high <= 100
            assert 0 <= scale.limit <= 100
    roc = charts.roc(report.attacks)
    for curve in roc.curves if roc else ():
        assert roc is not None
        for point in curve.points.split():
            x, y = map(float, point.split(","))
            assert roc.frame.left <= x <= roc.frame.right
            assert roc.frame.top <= y <= roc.frame.bottom
    for histogram in report.distributions:
        chart = charts.histogram(histogram)
        assert all(bar.height >= 0 and bar.y >= chart.frame.top for bar in chart.bars)
