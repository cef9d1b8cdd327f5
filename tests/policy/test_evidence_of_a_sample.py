"""What rules make of evidence that is a part of the whole, or about another object."""

from __future__ import annotations

from dataclasses import replace

from privacy_gate.datamodel import Estimand, Finding, Invalidates, RuleStatus, VerdictStatus
from privacy_gate.policy import CATALOG, judge, resolve
from privacy_gate.policy.examples import evidence, result, sliced
from privacy_gate.policy.high_risk import verified_cells
from privacy_gate.policy.pg202_high_risk_persons import trained_on


def test_a_number_of_persons_counts_all_who_were_trained_on() -> None:
    """Auditing a tenth of the members must not divide the number of persons at risk by ten."""
    found = replace(evidence(attributable=0.003, n=20_000), train_size=200_000)
    settings = resolve("standard").rule("PG202").settings
    whole = CATALOG["PG202"].examine(settings, found).cells[0].measurement
    sample = CATALOG["PG202"].examine(settings, replace(found, train_size=None)).cells[0].measurement
    assert trained_on(found) == 200_000
    assert whole.value == 10 * sample.value == 600
    assert whole.upper(0.05) > settings.max > sample.upper(0.05)


def test_several_records_of_a_person_are_one_person_in_the_whole_too() -> None:
    found = replace(evidence(n=9_000), members=9_000, member_persons=3_000, train_size=27_000)
    assert trained_on(found) == 9_000
    assert trained_on(replace(found, train_size=9_000)) == 3_000


def test_slices_that_the_policy_names_must_be_large_enough() -> None:
    small = sliced("lira", {"a": 0.7})
    small = replace(small, slices=tuple(replace(part, members=99, nonmembers=99) for part in small.slices))
    by = small.slices[0].by
    settings = resolve("standard").rule("PG203").settings
    given = evidence([result("correctness"), small])
    assert CATALOG["PG203"].examine(settings, given).status is RuleStatus.NOT_APPLICABLE
    named = settings.model_copy(update={"by": [by]})
    assert CATALOG["PG203"].examine(named, given).status is RuleStatus.INCONCLUSIVE


def test_a_warning_that_informs_takes_no_pass_even_under_equivalence() -> None:
    strict = replace(resolve("standard"), equivalence=True)
    finding = Finding("power", "warn", Invalidates.PASS, 0.8, "PG104 cannot be proven to be violated", informs=True)
    passed = judge(strict, evidence(findings=(finding,)))
    assert passed.status in (VerdictStatus.PASS, VerdictStatus.PASS_WITH_WARNINGS)
    taken = judge(strict, evidence(findings=(replace(finding, informs=False),)))
    assert taken.status is VerdictStatus.INCONCLUSIVE


def test_risk_is_about_this_model_whatever_the_attacks_are_about() -> None:
    settings = resolve("standard").rule("PG201").settings
    given = replace(evidence(), estimand=Estimand.PROCEDURE)
    (cell,) = verified_cells(settings, given, 0.01, lambda share: share).cells
    assert "this model" in cell.name
