"""`privacy-gate explain`: everything can be explained, and a report's numbers are shown as they are."""

import json
import re
import subprocess
import sys

import pytest

from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.cli import explain as verb
from privacy_gate.cli import run
from privacy_gate.policy import CATALOG as RULES
from privacy_gate.policy import resolve
from privacy_gate.reports import document
from privacy_gate.resources import templates
from privacy_gate.validity import CATALOG as CHECKS
from tests.reports.samples import SAMPLES

IDS = [*RULES.names(), *ATTACKS.names(), *CHECKS.names()]


@pytest.fixture(scope="module")
def failing():
    """A failed model, with the metrics named as the rules name them, and a reference attack that did not run."""
    report = SAMPLES["fail"]()
    rules = tuple(r.model_copy(update={"metric": RULES[r.id].metric}) if r.id in RULES else r for r in report.rules)
    skipped = next(a for a in report.attacks if a.status != "executed").model_copy(update={"id": "rmia"})
    kept = tuple(a for a in report.attacks if a.id != "rmia")
    return report.model_copy(update={"rules": rules, "attacks": (*kept, skipped)})


@pytest.fixture
def report(tmp_path, failing):
    path = tmp_path / "report.json"
    path.write_text(document.dumps(document.seal(failing)))
    return path


# --- the contract -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", IDS)
def test_everything_has_an_explanation(id, capsys):
    assert run(["explain", id]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"# {id}")
    assert len(verb.text_of(verb.find(id)).split()) >= 10  # not only a title
    assert not re.search(r"methods\.md|DESIGN\.md", out)  # papers that users do not have


@pytest.mark.parametrize("id", RULES.names())
def test_a_rule_says_meaning_formula_source_decision_and_mend(id):
    headings = re.findall(r"^## (.*)$", verb.text_of(verb.find(id)), re.MULTILINE)
    if (templates() / "explain" / f"{id}.md").is_file():  # a plug-in's docstring is free in form
        expected = ["In plain words", "Formula", "Where the limit comes from", "How it is decided", "How to mend"]
        assert headings == expected


@pytest.mark.parametrize("id", ["PG101", "PG103"])
def test_limits_come_from_the_profiles(id, capsys):
    run(["explain", id])
    out = capsys.readouterr().out
    for profile in ("strict", "standard", "internal"):
        limit = resolve(profile).rule(id).settings.max
        shown = f"{100 * limit:g} %" if RULES[id].unit == "percent" else f"{limit:g}"
        assert f"- {profile}: at most {shown}, blocks" in out


def test_no_text_is_left_over():
    assert sorted(path.stem for path in (templates() / "explain").glob("*.md")) == sorted(
        path.stem for path in (templates() / "explain").glob("*.md") if path.stem in IDS
    )


def test_a_plug_in_without_a_text_speaks_for_itself():
    topic = verb.Topic("rule", "PG999", "new", list, "What the module says.")
    assert verb.text_of(topic) == "What the module says.\n"


def test_ids_are_unique_whatever_the_case():
    assert len({id.lower() for id in IDS}) == len(IDS)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "id"), [("pg101", "PG101"), ("LiRA", "lira"), ("out-model-placebo", "out_model_placebo")]
)
def test_names_in_any_case(name, id):
    assert verb.find(name).id == id


@pytest.mark.parametrize(("name", "hint"), [("pg11", "PG1"), ("lirra", "'lira'"), ("nothing like it", "known: ")])
def test_an_unknown_name_gets_a_suggestion(name, hint, capsys):
    assert run(["explain", name]) == 2
    assert hint in capsys.readouterr().err


# --- with a report ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["PG101", "PG103"])
def test_a_rules_numbers_are_the_reports(id, report, failing, capsys):
    assert run(["explain", id, "--report", str(report)]) == 0
    shown = capsys.readouterr().out.partition("## In this report")[2]
    rule = next(r for r in failing.rules if r.id == id)
    assert f"- status: {rule.status.value}" in shown
    assert rule.reason in shown
    value, low, high, limit = (f"{100 * x:.1f}" for x in (rule.value, rule.low, rule.high, rule.limit))
    assert f"{value} % [{low}, {high}]; limit {limit} %" in shown.replace("\N{NO-BREAK SPACE}", " ")
    lira = next(a for a in failing.attacks if a.id == "lira" and a.metrics is not None)
    part = lira.metrics.accuracy if id == "PG101" else lira.metrics.tpr_at_fpr["0.01"]
    value, low, high = (f"{100 * x:.1f}" for x in (part.value, part.low, part.high))
    line = next(line for line in shown.splitlines() if line.startswith("  - lira, reference, "))
    assert lira.threshold.value in line
    assert line.replace("\N{NO-BREAK SPACE}", " ").endswith(f": {value} % [{low}, {high}]")


def test_one_ranking_is_said_once_with_all_its_scopes(report, failing, capsys):
    ranked = [a for a in failing.attacks if a.metrics is not None and "0.01" in a.metrics.tpr_at_fpr]
    assert run(["explain", "PG103", "--report", str(report)]) == 0
    numbers = capsys.readouterr().out.partition("What to change:")[0]
    lines = [line for line in numbers.splitlines() if line.startswith("  - ")]
    assert len(lines) == len(set(lines))
    distinct = {(a.id, a.threat_model, a.metrics.tpr_at_fpr["0.01"]) for a in ranked}
    assert len(lines) == len(distinct) < len(ranked)
    for attack in ranked:  # no form is left out
        scope = attack.threshold.value if attack.threshold else ""
        assert any(line.startswith(f"  - {attack.id}, {attack.threat_model.value}") and scope in line for line in lines)


def test_an_attack_that_did_not_run_says_why(report, failing, capsys):
    skipped = next(a for a in failing.attacks if a.id == "rmia")
    assert run(["explain", "rmia", "--report", str(report)]) == 0
    assert f"{skipped.status}: {skipped.reason}" in capsys.readouterr().out


def test_a_checks_finding(report, failing, capsys):
    finding = next(f for f in failing.validity if f.check in CHECKS)
    assert run(["explain", finding.check, "--report", str(report)]) == 0
    assert f"- {finding.status.replace('_', ' ')}: {finding.reason}" in capsys.readouterr().out


def test_what_the_report_does_not_mention_is_said(failing):
    empty = failing.model_copy(update={"rules": (), "attacks": (), "validity": ()})
    for id in ("PG101", "lira", "duplicates"):
        assert verb.findings(verb.find(id), empty) == [f"The report says nothing about {id}."]


def test_a_report_cannot_draw_on_the_terminal(report, capsys):
    content = json.loads(report.read_text())
    for rule in content["rules"]:
        rule["reason"] = "\x1b[2J\x1b]8;;http://evil\x07click"
    content["integrity"]["report_sha256"] = document.content_digest(content)
    report.write_text(json.dumps(content))
    assert run(["explain", "PG101", "--report", str(report)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "click" in out


@pytest.mark.parametrize("verb", [["report"], ["explain", "PG101", "--report"]])
def test_a_report_that_was_changed_is_refused(verb, report, capsys):
    content = json.loads(report.read_text())
    content["rules"][0]["status"] = "pass" if content["rules"][0]["status"] != "pass" else "fail"
    report.write_text(json.dumps(content))
    assert run([*verb, str(report)]) == 2
    said = capsys.readouterr().err
    assert "report.json was changed after it was written" in said
    assert "run the check again" in said


@pytest.mark.parametrize("verb", [["report"], ["explain", "PG101", "--report"]])
def test_a_report_that_is_nested_too_deeply_is_refused(verb, report, capsys):
    report.write_text('{"schema_version": "1.0", "verdict": ' + "[" * 200_000 + "]" * 200_000 + "}")
    assert run([*verb, str(report)]) == 2
    assert "not a report: nested too deeply" in capsys.readouterr().err


def test_a_file_that_is_no_report(tmp_path, capsys):
    assert run(["explain", "PG101", "--report", str(tmp_path / "none.json")]) == 2
    (tmp_path / "x.json").write_text("{}")
    assert run(["explain", "PG101", "--report", str(tmp_path / "x.json")]) == 2
    assert "not a report" in capsys.readouterr().err


def test_as_a_program(report):
    command = [sys.executable, "-m", "privacy_gate", "explain", "pg104", "--report", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "## In this report" in done.stdout


# --- in persons, and what to change -----------------------------------------------------------------------------------


def told(id, path, capsys, *more):
    assert run(["explain", id, "--report", str(path), *more]) == 0
    return capsys.readouterr().out.partition("## In this report")[2].replace("\N{NO-BREAK SPACE}", " ")


def test_a_rate_is_told_in_persons(report, failing, capsys):
    """Bayes by hand: TPR t at 1 % FPR, one member in 100 candidates."""
    lira = next(a for a in failing.attacks if a.id == "lira" and a.metrics is not None)
    rate = lira.metrics.tpr_at_fpr["0.01"]
    value, low, high = (round(1000 * 0.01 * t / (0.01 * t + 0.99 * 0.01)) for t in (rate.value, rate.low, rate.high))
    shown = told("PG103", report, capsys)
    assert f"of 1,000 people whom lira names at a threshold that names 1 % of all others, too, about {value} " in shown
    assert f"({low} to {high}) would rightly be named, if one in 100 candidates is a member" in shown


@pytest.mark.parametrize(
    ("precision", "said"),
    [
        ({"0.01": document.Interval(value=0.034, low=0.03, high=0.04)}, True),
        ({"0.01": document.Interval(value=None, low=0.0, high=1.0)}, False),  # nobody was called a member
        ({}, False),
    ],
)
def test_an_accuracy_is_told_in_persons_where_the_report_has_the_precision(precision, said, failing, tmp_path, capsys):
    attacks = tuple(
        a
        if a.metrics is None
        else a.model_copy(update={"metrics": a.metrics.model_copy(update={"precision": precision})})
        for a in failing.attacks
    )
    path = tmp_path / "precise.json"
    path.write_text(document.dumps(document.seal(failing.model_copy(update={"attacks": attacks}))))
    shown = told("PG101", path, capsys)
    assert ("of 1,000 people whom lira calls members, about 34 (30 to 40) would" in shown) is said
    assert ("in persons" in shown) is said


def test_a_risk_score_is_told_in_persons(report, failing, capsys):
    share = failing.risk.high[0].precision_at["0.01"]
    assert f"of 1,000 people flagged at a risk score of 0.8, about {round(1000 * share.value)} (" in told(
        "PG201", report, capsys
    )


@pytest.mark.parametrize(
    ("limit", "how"), [(0.60, "as profile standard"), (0.55, "tighter than"), (0.65, "looser than")]
)
def test_a_limit_is_compared_with_the_profiles(limit, how, failing, tmp_path, capsys):
    rules = tuple(r.model_copy(update={"limit": limit}) if r.id == "PG101" else r for r in failing.rules)
    path = tmp_path / "limits.json"
    path.write_text(document.dumps(document.seal(failing.model_copy(update={"rules": rules}))))
    shown = told("PG101", path, capsys)
    assert f"policy adult-release: {how}" in shown
    assert "which says at most 60.0 %" in shown
    assert "set in: privacy-policy.yaml:14" in shown


def test_what_to_change_follows_the_model(report, capsys):
    of_sklearn = told("PG101", report, capsys)
    assert "min_samples_leaf" in of_sklearn
    assert "weight decay" not in of_sklearn
    forest = told("PG101", report, capsys, "--model", "RandomForestClassifier")
    assert "min_samples_leaf" in forest
    assert "rounds" not in forest
    assert "n_estimators does not help" in forest
    for shown in (of_sklearn, forest):
        assert "differential privacy" in shown
        assert "no frontier of this model was measured" in shown


@pytest.mark.parametrize(
    ("model", "word"),
    [
        ("LGBMClassifier", "rounds"),
        ("xgboost.XGBClassifier", "rounds"),
        ("LogisticRegression", "regularisation"),
        ("MLPClassifier", "early stopping"),
        ("KNeighborsClassifier", "carry training records inside"),
        ("SomethingNew", "differential privacy"),
    ],
)
def test_what_to_change_without_a_report(model, word, capsys):
    assert run(["explain", "PG101", "--model", model]) == 0
    shown = capsys.readouterr().out
    assert word in shown.partition("## For this kind of model")[2]
    assert "## In this report" not in shown


def test_every_flavor_is_met():
    of = {flavor for family in verb.families() for flavor in family.flavors}
    assert of == {"sklearn", "lightgbm", "xgboost", "pytorch"}
    assert verb.families()[-1].flavors == ()
    assert not re.search(r"\d+(\.\d+)? ?%", " ".join(c for f in verb.families() for c in f.changes))  # nothing invented
