"""Two stored reports side by side: bounds out of bounds, changes, and what counts as a regression."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_gate.datamodel import VerdictStatus
from privacy_gate.metrics import Proportion, balanced_accuracy
from privacy_gate.reports.compare import Stored, as_json, cell_name, compare, stored, stored_accuracies, unpaired
from privacy_gate.reports.document import Interval, Report, seal
from tests.reports.samples import SAMPLES

Z = 1.6448536269514722


@given(st.floats(0.02, 0.98), st.integers(20, 5000), st.sampled_from([0.3, 0.05, 0.01, 0.0005]))
def test_bounds_of_a_share_come_back_at_any_level(p, n, alpha):
    """A Wilson interval stored at 5 % is that of n records, whatever the level that is asked for."""
    share = Proportion(p, n)
    kept = Stored(p, share.wilson(-Z), share.wilson(Z), 0.05)
    z = {0.3: 0.5244005127080409, 0.05: Z, 0.01: 2.3263478740408408, 0.0005: 3.2905267314919255}[alpha]
    # n is recovered from a square of a difference: relative error of some 1e-16 / distance, distances above 1e-3.
    assert kept.lower(alpha) == pytest.approx(share.wilson(-z), abs=1e-9)
    assert kept.upper(alpha) == pytest.approx(share.wilson(z), abs=1e-9)


def test_bounds_of_an_accuracy_are_kept_at_its_level_and_near_at_others():
    rng = np.random.default_rng(0)
    member = np.arange(2000) < 1000
    decisions = rng.random(2000) < np.where(member, 0.7, 0.4)
    real = balanced_accuracy(decisions, member, np.arange(2000))
    kept = Stored(real.value, real.lower(0.05), real.upper(0.05), 0.05)
    assert kept.lower(0.05) == pytest.approx(real.lower(0.05), abs=1e-12)
    # Two sides are taken for one share of the same error: second-order terms of 1/n differ, 3 % of the distance.
    for alpha in (0.2, 0.01, 0.001):
        assert kept.value - kept.lower(alpha) == pytest.approx(real.value - real.lower(alpha), rel=0.03)
        assert kept.upper(alpha) - kept.value == pytest.approx(real.upper(alpha) - real.value, rel=0.03)


def test_certainty_stays_certainty_and_ignorance_ignorance():
    assert Stored(1.0, 0.9, 1.0, 0.05).upper(0.001) == 1.0
    assert Stored(0.5, 0.0, 1.0, 0.05).lower(0.3) == 0.0
    assert Stored(0.5, 0.0, 1.0, 0.05).upper(0.3) == 1.0
    with pytest.raises(ValueError, match="alpha"):
        Stored(0.5, 0.4, 0.6, 0.05).lower(0.0)


@pytest.mark.parametrize("bad", [(None, 0.1, 0.2), (0.5, None, 0.6), (0.5, 0.6, 0.7), (1.2, 1.0, 1.3)])
def test_what_is_no_share_is_not_read_back(bad):
    assert stored(Interval(value=bad[0], low=bad[1], high=bad[2]), 0.05) is None


def test_the_difference_of_two_stored_shares():
    """MOVER by hand: sqrt of the sum of the squared distances that matter."""
    new, old = Stored(0.7, 0.66, 0.73, 0.05), Stored(0.6, 0.58, 0.65, 0.05)
    found = unpaired(new, old)
    assert found.value == pytest.approx(0.1)
    assert found.lower(0.05) == pytest.approx(0.1 - math.sqrt(0.04**2 + 0.05**2), abs=1e-12)
    assert found.upper(0.05) == pytest.approx(0.1 + math.sqrt(0.03**2 + 0.02**2), abs=1e-12)


def test_cells_are_named_as_the_rules_name_them(samples):
    names = [cell_name(a) for a in samples["fail"].attacks if a.metrics is not None]
    assert "lira, reference, global" in names
    assert "correctness" in names
    assert set(stored_accuracies(samples["fail"])) == set(names)


# --- whole reports ----------------------------------------------------------------------------------------------------


def changed(report: Report, edit: Callable[[Report], dict[str, object]]) -> Report:
    return seal(report.model_copy(update=edit(report)))


def with_rule(report: Report, id: str, **values: object) -> Report:
    return changed(
        report, lambda r: {"rules": tuple(x.model_copy(update=values) if x.id == id else x for x in r.rules)}
    )


def other_model(report: Report) -> Report:
    return changed(report, lambda r: {"subject": r.subject.model_copy(update={"digest": "1" * 64})})


def test_a_report_has_not_changed_against_itself(report):
    found = compare(report, report)
    assert found.identical
    assert found.apart == (() if report.subject.digest is None else ("both are about the same model",))
    assert not found.regressed
    assert {r.values.direction for r in found.rules if r.values.change is not None} <= {"same"}
    assert {a.values.direction for a in found.attacks} <= {"same", "unknown"}


def test_a_leaky_model_after_a_private_one_is_a_regression(samples):
    found = compare(samples["pass"], samples["fail"])
    assert found.turned
    assert {"PG101", "PG102", "PG103", "PG201"} <= set(found.proven)
    assert found.regressed
    back = compare(samples["fail"], samples["pass"])
    assert not back.regressed
    assert {r.values.direction for r in back.rules if r.id == "PG101"} == {"better"}


def test_a_change_within_the_bounds_is_noise(samples):
    """0.507 [.., ..] against half a point more: the bounds of either are wider than that."""
    old = other_model(samples["pass"])
    rule = next(r for r in old.rules if r.id == "PG101")
    new = with_rule(samples["pass"], "PG101", value=rule.value + 0.005, low=rule.low + 0.005, high=rule.high + 0.005)
    found = next(r for r in compare(old, new).rules if r.id == "PG101")
    assert found.values.direction == "noise"
    assert found.values.change == pytest.approx(0.005)
    assert not compare(old, new).regressed


def test_only_rules_that_block_make_a_regression(samples):
    quiet = samples["fail"]
    for rule in quiet.rules:
        quiet = with_rule(quiet, rule.id, action="warn")
    verdict = quiet.verdict.model_copy(update={"status": VerdictStatus.PASS_WITH_WARNINGS})
    quiet = changed(quiet, lambda r: {"verdict": verdict})
    found = compare(samples["pass"], quiet)
    assert any(r.values.direction == "worse" for r in found.rules)
    assert not found.regressed


def test_a_pass_that_became_a_failure_is_one_whatever_the_numbers(samples):
    verdict = samples["fail"].verdict
    failed = changed(samples["pass"], lambda r: {"verdict": verdict})
    found = compare(samples["pass"], failed)
    assert found.proven == ()
    assert found.regressed
    undecided = changed(samples["pass"], lambda r: {"verdict": samples["inconclusive"].verdict})
    assert not compare(samples["pass"], undecided).regressed


def test_what_differs_beside_the_model_is_said(samples):
    new = changed(
        other_model(samples["pass"]),
        lambda r: {
            "seed": 99,
            "suite": "fast",
            "policy": r.policy.model_copy(update={"digest": "0" * 64}),
            "data": r.data.model_copy(update={"members": r.data.members.model_copy(update={"digest": "2" * 64})}),
        },
    )
    assert compare(samples["pass"], new).apart == ("policy differs", "suite differs", "seed differs", "members differ")


def test_the_same_measurement_under_another_suite_is_not_forced_to_be_equal(samples):
    """One model, records and seed; but the full suite has an attack that the fast one has not."""
    fast = with_rule(samples["fail"], "PG101", value=0.55, low=0.53, high=0.57)
    found = next(r for r in compare(fast, samples["fail"]).rules if r.id == "PG101")
    assert found.values.direction == "worse"


def test_rules_of_one_policy_only_are_listed(samples):
    fewer = changed(samples["pass"], lambda r: {"rules": tuple(x for x in r.rules if x.id != "PG102")})
    found = next(r for r in compare(fewer, samples["fail"]).rules if r.id == "PG102")
    assert (found.old_status, found.values.change, found.proven) == (None, None, False)
    assert found.values.direction == "unknown"


def test_hidden_counts_stay_hidden(samples):
    risk = samples["pass"].risk
    hidden = risk.model_copy(update={"high": tuple(h.model_copy(update={"members": None}) for h in risk.high)})
    found = compare(changed(samples["pass"], lambda r: {"risk": hidden}), samples["fail"])
    assert {h.old_members for h in found.high_risk} == {None}
    assert all(h.new_members is not None for h in found.high_risk)


def test_reports_of_broken_runs_compare_with_what_there_is():
    broken, leaky = SAMPLES["error"](), SAMPLES["fail"]()
    found = compare(broken, leaky)
    assert not found.regressed
    assert all(a.values.direction == "unknown" for a in found.attacks)


def test_json_has_every_number(samples):
    import json

    told = as_json(compare(samples["pass"], samples["fail"]))
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["regressed"] is True
    assert told["proven_regressions"][0] == "PG101"
    assert {"old", "new", "change", "low", "high", "direction"} == set(told["rules"][0]["value"])
