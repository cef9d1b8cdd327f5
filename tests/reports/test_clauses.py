"""The map from clauses to evidence: statuses follow the report, and no word says more than evidence can."""

from __future__ import annotations

import re

import pytest

from privacy_gate.errors import EvaluationFailed
from privacy_gate.reports import clauses as module
from privacy_gate.reports.clauses import PARTS, STATEMENT, clauses
from privacy_gate.resources import template

OVERCLAIMS = re.compile(
    r"complian|complies|comply|anonym|certif|conform|guarantee|lawful|\blegal(ly)?\b|approved", re.I
)


def said(report) -> dict[str, module.ClauseEvidence]:
    return {clause.id: clause for clause in clauses(report)}


def test_the_texts_that_were_asked_for_are_there(samples):
    sources = " | ".join(c.source for c in clauses(samples["fail"]))
    for text in (
        *(f"EDPB Opinion 28/2024, para. {n}" for n in (43, 46, 55, 58)),
        "Art. 35(7)",
        "Art. 5(2)",
        "Art. 25",
        "Art. 32(1)(d)",
        "Art. 9(6)-(8)",
        "Art. 15(5)",
        "Annex IV 2(g)",
        "Annex IV 2(h)",
        "MEASURE 2.10",
        "ISO/IEC 42001",
        "ICO",
        "OWASP",
        "AML.T0024.000",
    ):
        assert text in sources


def test_no_word_says_more_than_evidence_can(report):
    text = template("clauses.yaml").read_text() + STATEMENT + " ".join(map(str, clauses(report)))
    assert not OVERCLAIMS.search(text), OVERCLAIMS.search(text)
    assert "evidence for resistance to the attacks" in STATEMENT


def test_no_date_of_application_is_printed(report):
    """Years only as parts of a text's name: dates of application have been moved, and will be."""
    for clause in clauses(report):
        bare = re.sub(r"\d+/\d{4}|\(\d{4}/\d+\)|42001:2023|ML04:2023", "", clause.source)
        assert not re.search(r"\b20\d\d\b", f"{bare} {clause.asks} {clause.section}")


def test_a_full_report_holds_evidence(samples):
    found = said(samples["fail"])
    assert found["edpb-28-2024-55"].status == "present"
    assert found["nist-ai-rmf-measure-2-10"].status == "present"
    assert found["edpb-28-2024-43"].missing == ()


def test_what_is_missing_is_named(samples):
    found = said(samples["fail"])["ai-act-annex-iv-2-g"]
    assert (found.status, found.missing) == ("absent", ("a date and a signature",))
    signoff = samples["fail"].signoff.model_copy(update={"reviewed_by": "R. Eader", "date": "2026-09-02"})
    signed = samples["fail"].model_copy(update={"signoff": signoff})
    assert said(signed)["ai-act-annex-iv-2-g"].status == "present"
    assert said(samples["fail"].model_copy(update={"risk": None}))["edpb-28-2024-43"].missing == (
        "the risk of single people",
    )


@pytest.mark.parametrize(
    ("fixed", "status"),
    [("2026-08-31", "present"), ("2026-09-01", "present"), ("2026-09-02", "absent"), (None, "absent"), (7, "absent")],
)
def test_limits_count_as_set_before_only_if_they_were(fixed, status, samples):
    """The sample ran on 2026-09-01."""
    report = samples["fail"]
    policy = report.policy.model_copy(update={"resolved": {**report.policy.resolved, "fixed_on": fixed}})
    assert said(report.model_copy(update={"policy": policy}))["ai-act-9-6-8"].status == status


def test_a_clause_about_a_defence_does_not_apply_without_one(samples):
    bare = samples["fail"].model_copy(update={"defence": None})
    found = said(bare)["ai-act-annex-iv-2-h"]
    assert (found.status, found.missing) == ("not_applicable", ())


def test_a_broken_run_is_evidence_for_nothing(samples):
    for clause in clauses(samples["error"]):
        if "attacks" in _needs()[clause.id]:
            assert clause.status != "present"


def test_every_part_is_used_and_can_be_missing(samples):
    used = {name for needs in _needs().values() for name in needs} | {"model"}
    assert used == set(PARTS)
    empty = samples["error"].model_copy(update={"policy": None})
    there = {name for name, part in PARTS.items() if part.there(empty)}
    assert there <= {"scope"}  # what the gate never tries is known even of a run that broke


def test_a_text_known_from_others_says_so(samples):
    found = said(samples["fail"])
    assert "secondary" in found["edpb-28-2024-55"].caution
    assert found["atlas-aml-t0024-000"].caution == ""


def test_a_part_that_does_not_exist_is_found(monkeypatch, tmp_path, samples):
    wrong = tmp_path / "clauses.yaml"
    wrong.write_text(template("clauses.yaml").read_text().replace("needs: [release_context]", "needs: [magic]"))
    monkeypatch.setattr(module, "template", lambda name: wrong)
    module._known.cache_clear()
    with pytest.raises(EvaluationFailed, match="magic"):
        clauses(samples["fail"])
    module._known.cache_clear()


def _needs() -> dict[str, tuple[str, ...]]:
    return {clause.id: clause.needs for clause in module._known()}
