"""Waivers: what the file may say, what the policy allows, and what a run makes of them."""

import datetime
from dataclasses import replace

import pytest

from privacy_gate.datamodel import Finding, Invalidates, RuleStatus
from privacy_gate.errors import ConfigError
from privacy_gate.policy import Model, judge, read_waivers, resolve
from privacy_gate.policy.contract import WaiverTerms
from privacy_gate.policy.examples import SOUND, described, evidence, result, sliced
from privacy_gate.policy.waivers import Malformed, standing
from tests.policy.test_judge import LEAK, UNCLEAR, outcome, policy

TODAY = datetime.date(2026, 9, 15)
CHURN = Model("churn", "12", "a" * 64)
SCOPE = {"model": "churn", "versions": ">=12,<13"}
GIVEN = {
    "id": "W-3",
    "rule": "PG101",
    "scope": SCOPE,
    "until_value": 0.7,
    "reason": "a small class, retrained next sprint",
    "approved_by": ["dpo@example.org"],
    "ticket": "PRIV-211",
    "created": "2026-09-01",
    "expires": "2026-10-01",
}
HEAD = "apiVersion: privacy-gate/waivers/v1\n"


def text(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(text, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def written(tmp_path, *entries):
    items = "".join(
        "\n".join(f"{'  - ' if n == 0 else '    '}{k}: {text(v)}" for n, (k, v) in enumerate(e.items())) + "\n"
        for e in entries
    )
    path = tmp_path / "w.yaml"
    path.write_text(HEAD + "waivers:\n" + items)
    return read_waivers(path, "w.yaml")


@pytest.fixture
def waiver(tmp_path):
    """Waivers out of changes to a good one; None takes a key away."""

    def make(*changes):
        entries = [{k: v for k, v in {**GIVEN, **change}.items() if v is not None} for change in changes or ({},)]
        return written(tmp_path, *entries)

    return make


def run(rules, seen, waivers, *, model=CHURN, today=TODAY, **terms):
    made = policy(rules, waivers=WaiverTerms(**terms))
    return judge(made, seen, waivers=waivers, model=model, today=today)


RULES = {"PG101": {"max": 0.6}, "PG102": {"max": 0.9}}


# --- the file -------------------------------------------------------------------------------------------------------


def test_a_good_one(waiver):
    (one,) = waiver()
    assert (one.id, one.fields.covers, one.location.line) == ("W-3", "violation", 3)
    assert one.fields.expires == datetime.date(2026, 10, 1)


def test_no_waivers_are_a_file_too(tmp_path):
    for body in ("", "waivers: []\n", "waivers:\n"):
        (tmp_path / "w.yaml").write_text(HEAD + body)
        assert read_waivers(tmp_path / "w.yaml") == ()


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ("waivers: 3\n", "w.yaml:2:10: error[list_type]"),
        ("waiver: []\n", "w.yaml:2:1: error[extra_forbidden]: waiver: unknown key (did you mean 'waivers'?)"),
        ("waivers:\n  - {id: a, id: b}\n", "w.yaml:3:13: error[duplicate-key]"),
        ("waivers: [\n", "w.yaml:3:1: error[yaml]"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error(tmp_path, body, place):
    (tmp_path / "w.yaml").write_text(HEAD + body)
    with pytest.raises(ConfigError) as caught:
        read_waivers(tmp_path / "w.yaml", "w.yaml")
    assert str(caught.value.diagnostics[0]).startswith(place)


def test_another_version_is_not_read(tmp_path):
    (tmp_path / "w.yaml").write_text("apiVersion: privacy-gate/v1\nwaivers: []\n")
    with pytest.raises(ConfigError, match="must be privacy-gate/waivers/v1"):
        read_waivers(tmp_path / "w.yaml", "w.yaml")
    with pytest.raises(ConfigError, match="there is no such file"):
        read_waivers(tmp_path / "gone.yaml", "gone.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"expires": "2026-13-40"}, "w.yaml:11:14: error[value_error]: waivers.0.expires: there is no day 2026-13-40"),
        ({"expires": 20261001}, "w.yaml:11:14: error[value_error]: waivers.0.expires: a date is written as YYYY-MM-DD"),
        ({"expires": "1.10.2026"}, "'1.10.2026' is not a date written as YYYY-MM-DD"),
        ({"expires": "2026-10-01T00:00:00"}, "is not a date written as YYYY-MM-DD"),
        ({"expires": None}, "waivers.0.expires: Field required"),
        ({"expires": "2026-08-31"}, "expires on 2026-08-31, before it is created on 2026-09-01"),
        ({"created": None}, "waivers.0.created: Field required"),
        ({"reason": "nineteen characters"}, "a reason has at least 20 characters"),
        ({"reason": "short" + " " * 40}, "a reason has at least 20 characters"),
        ({"approved_by": []}, "waivers.0.approved_by"),
        ({"ticket": None}, "waivers.0.ticket: Field required"),
        ({"ticket": ""}, "waivers.0.ticket"),
        ({"rule": "PG1O1"}, "there is no rule PG1O1 (did you mean 'PG101'?)"),
        ({"until_value": None}, "PG101 needs until_value, a ceiling"),
        ({"until_value": "0.7"}, "waivers.0.until_value"),
        ({"rule": "PG301"}, "PG301 measures nothing, so until_value has no meaning"),
        ({"covers": "undecided"}, "needs a substitute rule"),
        ({"substitute": "PG102"}, "needs a substitute rule"),
        ({"covers": "undecided", "substitute": "PG101"}, "a rule cannot be its own substitute"),
        ({"covers": "undecided", "substitute": "PG9"}, "there is no rule PG9"),
        ({"covers": "everything"}, "waivers.0.covers"),
        ({"scope": {"model": "churn"}}, "name the model and its versions, or the digest of one model"),
        ({"scope": {"versions": "12"}}, "name the model and its versions"),
        ({"scope": {"digest": "a" * 64, "versions": "12"}}, "name the model and its versions"),
        ({"scope": {"group": "class=3"}}, "name the model and its versions"),
        ({"scope": {**SCOPE, "versions": "12-13"}}, "versions are compared by"),
        ({"scope": {**SCOPE, "versions": ""}}, "waivers.0.scope.versions"),
        ({"scope": {**SCOPE, "group": "class"}}, "waivers.0.scope.group"),
        ({"scope": {"digest": "abc"}}, "waivers.0.scope.digest"),
        ({"id": "W 3"}, "waivers.0.id"),
        ({"untill_value": 0.9}, "untill_value: Extra inputs are not permitted (did you mean 'until_value'?)"),
    ],
)
def test_a_malformed_one_has_no_effect_and_is_shown(waiver, change, said):
    (one,) = waiver(change)
    assert isinstance(one, Malformed)
    verdict = run(RULES, evidence([LEAK]), [one])
    assert verdict.exit_code == 1
    (state,) = verdict.waivers
    assert state.state == "refused"
    assert said in state.note
    assert state.note.startswith("malformed: w.yaml:")


def test_what_is_no_mapping_is_malformed(tmp_path):
    (tmp_path / "w.yaml").write_text(HEAD + "waivers: [3]\n")
    (one,) = read_waivers(tmp_path / "w.yaml", "w.yaml")
    assert (one.id, one.shown().state) == ("number 1", "refused")


def test_a_name_that_is_given_twice_names_neither(waiver):
    both = waiver({}, {"until_value": 0.9})
    verdict = run(RULES, evidence([LEAK]), both)
    assert [state.state for state in verdict.waivers] == ["refused", "refused"]
    assert "W-3 is given 2 times" in verdict.waivers[0].note
    assert verdict.exit_code == 1


def test_the_schema_of_dates_takes_what_yaml_takes_for_text(tmp_path):
    """An unquoted date is text to this reader, not a timestamp."""
    good = HEAD + "waivers:\n  - id: W-1\n    expires: 2026-02-30\n"
    (tmp_path / "w.yaml").write_text(good)
    (one,) = read_waivers(tmp_path / "w.yaml", "w.yaml")
    assert any(str(f).startswith("w.yaml:4:14: ") and "no day 2026-02-30" in str(f) for f in one.findings)


# --- what the policy allows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "terms", "today", "state", "said"),
    [
        ({}, {}, TODAY, None, ""),
        ({}, {"never": ("PG101",)}, TODAY, "refused", "does not allow PG101 to be waived"),
        ({}, {"never": ("PG102",)}, TODAY, None, ""),
        ({"rule": "PG501", "until_value": None}, {}, TODAY, "refused", "PG501 can never be waived"),
        ({"rule": "PG502", "until_value": None}, {}, TODAY, "refused", "PG502 can never be waived"),
        ({}, {"max_days": 30}, TODAY, None, ""),
        ({}, {"max_days": 29}, TODAY, "refused", "lasts 30 days, the policy allows 29"),
        ({}, {"approvers": 2}, TODAY, "refused", "approved by 1, the policy asks for 2"),
        ({"approved_by": ["a", " A "]}, {"approvers": 2}, TODAY, "refused", "approved by 1"),
        ({"approved_by": ["a", "b"]}, {"approvers": 2}, TODAY, None, ""),
        ({}, {}, datetime.date(2026, 8, 31), "refused", "is created on 2026-09-01, which is in the future"),
        ({}, {}, datetime.date(2026, 9, 1), None, ""),
        ({}, {}, datetime.date(2026, 10, 1), None, ""),
        ({}, {}, datetime.date(2026, 10, 2), "expired", "expired at the end of 2026-10-01 (UTC)"),
    ],
)
def test_standing(waiver, change, terms, today, state, said):
    (one,) = waiver(change)
    found = standing(one, policy(RULES, waivers=WaiverTerms(**terms)), today)
    assert (found and found.state) == state
    assert found is None or said in found.note
    verdict = run(RULES, evidence([LEAK]), [one], today=today, **terms)
    assert verdict.exit_code == (1 if state else 0)
    assert verdict.waivers[0].state == (state or "active")


def test_profiles_differ_in_what_they_allow():
    terms = {name: resolve(name).waivers for name in ("strict", "standard", "internal")}
    assert {n: (t.max_days, t.approvers, t.never) for n, t in terms.items()} == {
        "strict": (30, 2, ("PG101", "PG102", "PG103", "PG104")),
        "standard": (30, 2, ()),
        "internal": (90, 1, ()),
    }


# --- a violation ----------------------------------------------------------------------------------------------------


def test_a_violation_is_waived_and_stays_visible(waiver):
    verdict = run(RULES, evidence([LEAK]), waiver())
    assert (verdict.status, verdict.exit_code) == ("pass_with_waivers", 0)
    rule = outcome(verdict, "PG101")
    assert (rule.status, rule.waiver, rule.value) == (RuleStatus.WAIVED, "W-3", 0.66)
    assert rule.reason == (
        "waived until 2026-10-01 (W-3: a small class, retrained next sprint); otherwise: "
        "attack accuracy 66 % (at least 64.8 %) exceeds 60 %"
    )
    assert verdict.headline == (
        "PG102 holds; closest: PG102 attack AUC is at most 0.61, the limit is 0.90 (lira, reference); "
        "waived: PG101 (W-3)"
    )
    assert (verdict.counts["waived"], verdict.counts["fail"]) == (1, 0)
    (state,) = verdict.waivers
    assert (state.state, state.note) == ("active", "excuses 1 of 1 measurements")
    assert (state.approved_by, state.ticket) == (("dpo@example.org",), "PRIV-211")
    assert (state.created, state.expires, state.reason) == ("2026-09-01", "2026-10-01", GIVEN["reason"])


@pytest.mark.parametrize(("until", "state"), [(0.66, "active"), (0.6599, "exceeded"), (0.7, "active")])
def test_the_ceiling_holds_the_measured_value(waiver, until, state):
    verdict = run(RULES, evidence([LEAK]), waiver({"until_value": until}))
    assert verdict.waivers[0].state == state
    assert verdict.exit_code == (0 if state == "active" else 1)
    if state == "exceeded":
        assert verdict.waivers[0].note == "measured 0.66, the ceiling is 0.6599"
        assert outcome(verdict, "PG101").status is RuleStatus.FAIL


def test_a_waiver_alone_is_a_pass_because_a_number_was_measured(waiver):
    assert run({"PG101": {"max": 0.6}}, evidence([LEAK]), waiver()).status == "pass_with_waivers"


@pytest.mark.parametrize(
    ("scope", "model", "excused"),
    [
        (SCOPE, CHURN, True),
        (SCOPE, Model("churn", "13", "a" * 64), False),
        (SCOPE, Model("churn", "11", "a" * 64), False),
        (SCOPE, Model("other", "12", "a" * 64), False),
        (SCOPE, Model("churn", None, "a" * 64), False),
        (SCOPE, None, False),
        ({"model": "churn", "versions": "12"}, CHURN, True),
        ({"model": "churn", "versions": "==12"}, Model("churn", "13"), False),
        ({"model": "churn", "versions": ">11"}, CHURN, True),
        ({"model": "churn", "versions": ">12"}, CHURN, False),
        ({"model": "churn", "versions": "<=12"}, CHURN, True),
        ({"model": "churn", "versions": "<12"}, CHURN, False),
        ({"model": "churn", "versions": ">=9"}, CHURN, True),  # numbers, not texts: "12" < "9"
        ({"digest": "a" * 64}, CHURN, True),
        ({"digest": "a" * 64}, Model(digest="a" * 64), True),
        ({"digest": "b" * 64}, CHURN, False),
        ({"digest": "a" * 64}, None, False),
        ({**SCOPE, "digest": "b" * 64}, CHURN, False),
        ({**SCOPE, "attack": "lira"}, CHURN, True),
        ({**SCOPE, "attack": "rmia"}, CHURN, False),
        ({**SCOPE, "group": "class=3"}, CHURN, False),
    ],
)
def test_scope(waiver, scope, model, excused):
    verdict = run(RULES, evidence([LEAK]), waiver({"scope": scope}), model=model)
    assert verdict.exit_code == (0 if excused else 1)
    assert verdict.waivers[0].state == ("active" if excused else "unused")


def classes(**values):
    return evidence([result("correctness"), sliced("lira", values, error=0.01)])


GROUPED = {"PG101": {"max": 0.6}, "PG203": {"max": 0.7}}
THREE = {"rule": "PG203", "until_value": 0.8, "scope": {**SCOPE, "group": "class=c3"}}


@pytest.mark.parametrize(
    ("values", "status", "state"),
    [
        ({"c3": 0.78, "c4": 0.5}, "waived", "active"),
        ({"c3": 0.78, "c4": 0.79}, "fail", "active"),  # never hides another violation in the same rule
        ({"c3": 0.78, "c4": 0.705}, "inconclusive", "active"),  # nor what is open
        ({"c3": 0.5, "c4": 0.79}, "fail", "unused"),
        ({"c3": 0.82, "c4": 0.5}, "fail", "exceeded"),
        ({"c3": 0.705, "c4": 0.5}, "inconclusive", "unused"),  # not proven: a violation waiver excuses no doubt
        ({"c3": 0.5, "c4": 0.5}, "pass", "unused"),
    ],
)
def test_only_what_is_in_scope_is_excused(waiver, values, status, state):
    verdict = run(GROUPED, classes(**values), waiver(THREE))
    rule = outcome(verdict, "PG203")
    assert (rule.status.value, verdict.waivers[0].state) == (status, state)
    assert verdict.exit_code == {"waived": 0, "fail": 1, "inconclusive": 4, "pass": 0}[status]
    if state == "active" and status != "waived":
        assert rule.cell.startswith("class=c4")
        assert "besides, waived until 2026-10-01 (W-3" in rule.reason


def test_several_waivers_excuse_together(waiver):
    seen = classes(c3=0.78, c4=0.79)
    verdict = run(GROUPED, seen, waiver(THREE, {**THREE, "id": "W-4", "scope": {**SCOPE, "group": "class=c4"}}))
    assert outcome(verdict, "PG203").waiver == "W-3, W-4"
    assert verdict.status == "pass_with_waivers"


def test_what_a_proven_violation_accepts_its_neighbours_may_reach(waiver):
    lira = sliced("lira", {"c3": 0.78}, error=0.01)
    near = sliced("entropy", {"c3": 0.705}, error=0.01)
    seen = evidence([result("correctness"), lira, near])
    assert run(GROUPED, seen, waiver(THREE)).exit_code == 0
    above = sliced("entropy", {"c3": 0.81}, error=0.2)  # open, and above the ceiling
    assert run(GROUPED, evidence([result("correctness"), lira, above]), waiver(THREE)).waivers[0].state == "exceeded"


def test_a_rule_without_numbers_is_waived_as_a_whole(waiver):
    knn = described("sklearn.neighbors._classification.KNeighborsClassifier")
    rules = {"PG101": {"max": 0.6}, "PG301": {}}
    whole = {"rule": "PG301", "until_value": None}
    verdict = run(rules, evidence(model=knn), waiver(whole))
    assert (verdict.status, outcome(verdict, "PG301").status) == ("pass_with_waivers", RuleStatus.WAIVED)
    part = run(rules, evidence(model=knn), waiver({**whole, "scope": {**SCOPE, "attack": "lira"}}))
    assert (part.exit_code, part.waivers[0].state) == (1, "unused")
    fine = run(rules, evidence(), waiver(whole))
    assert (fine.exit_code, fine.waivers[0].note) == (0, "PG301 is not_applicable: nothing to excuse")


def test_a_rule_that_only_warns_needs_no_waiver(waiver):
    rules = {"PG101": {"max": 0.6, "action": "warn"}, "PG102": {"max": 0.9}}
    verdict = run(rules, evidence([LEAK]), waiver())
    assert (verdict.status, verdict.waivers[0].state) == ("pass_with_warnings", "unused")
    absent = run({"PG102": {"max": 0.9}}, evidence([LEAK]), waiver())
    assert absent.waivers[0].note == "PG101 does not block in this policy"


def test_a_waiver_does_not_stop_another_rule(waiver):
    rules = {"PG101": {"max": 0.6}, "PG102": {"max": 0.55}}
    assert run(rules, evidence([LEAK]), waiver()).exit_code == 1


def test_inadmissible_evidence_stays_inadmissible(waiver):
    for takes, status in ((Invalidates.PASS, RuleStatus.WAIVED), (Invalidates.BOTH, RuleStatus.INCONCLUSIVE)):
        seen = evidence([LEAK], findings=(*SOUND, Finding("power", "fail", takes, 0.0, "is off")))
        verdict = run(RULES, seen, waiver())
        assert verdict.exit_code == 4
        assert outcome(verdict, "PG101").status is status


def test_states_come_in_the_order_of_the_file(waiver):
    verdict = run(RULES, evidence([LEAK]), waiver({"id": "W-9"}, {"id": "W-1", "rule": "PG102", "until_value": 0.95}))
    assert [(s.id, s.state) for s in verdict.waivers] == [("W-9", "active"), ("W-1", "unused")]


# --- what could not be decided --------------------------------------------------------------------------------------

UNDECIDED = {"covers": "undecided", "substitute": "PG102"}


def test_a_substitute_stands_in_for_what_could_not_be_decided(waiver):
    verdict = run(RULES, evidence([UNCLEAR]), waiver(UNDECIDED))
    assert (verdict.status, verdict.exit_code) == ("pass_with_waivers", 0)
    rule = outcome(verdict, "PG101")
    assert rule.status is RuleStatus.WAIVED
    assert "cannot be told from the limit 60 %" in rule.reason
    assert run(RULES, evidence([UNCLEAR]), ()).exit_code == 4


@pytest.mark.parametrize(
    ("rules", "seen", "note"),
    [
        (
            {"PG101": {"max": 0.6}, "PG102": {"max": 0.51}},
            evidence([result("lira", accuracy=0.597, auc=0.505, error=0.01)]),
            "its substitute PG102 is inconclusive, and has to pass",
        ),
        (
            {"PG101": {"max": 0.6}, "PG102": {"max": 0.51}},
            evidence([result("lira", accuracy=0.597, auc=0.9, error=0.01)]),
            "its substitute PG102 is fail, and has to pass",
        ),
        ({"PG101": {"max": 0.6}}, evidence([UNCLEAR]), "its substitute PG102 is not in the policy, and has to pass"),
        (
            {"PG101": {"max": 0.6}, "PG102": {"max": 0.9, "action": "off"}},
            evidence([UNCLEAR]),
            "its substitute PG102 is not in the policy, and has to pass",
        ),
    ],
)
def test_a_substitute_has_to_pass(waiver, rules, seen, note):
    verdict = run(rules, seen, waiver(UNDECIDED))
    assert verdict.exit_code != 0
    assert (verdict.waivers[0].state, verdict.waivers[0].note) == ("unused", note)


@pytest.mark.parametrize("id", ["PG204", "PG501"])
def test_a_substitute_has_to_prove_something_about_the_model(waiver, id):
    rules = {**RULES, "PG204": {"max": 0.05}, "PG501": {}}
    verdict = run(rules, evidence([UNCLEAR]), waiver({"covers": "undecided", "substitute": id}))
    assert (verdict.exit_code, verdict.waivers[0].note) == (4, f"its substitute {id} proves nothing about the model")


def test_a_waived_rule_is_no_substitute(waiver):
    seen = evidence([result("lira", accuracy=0.66, auc=0.597, error=0.0063)])
    first = {"id": "W-1"}
    second = {"id": "W-2", "rule": "PG102", "covers": "undecided", "substitute": "PG101", "until_value": 0.7}
    verdict = run({"PG101": {"max": 0.6}, "PG102": {"max": 0.6}}, seen, waiver(first, second))
    assert [s.state for s in verdict.waivers] == ["active", "unused"]
    assert verdict.exit_code == 4


def test_doubt_is_excused_up_to_the_ceiling_only(waiver):
    verdict = run(RULES, evidence([UNCLEAR]), waiver({**UNDECIDED, "until_value": 0.59}))
    assert (verdict.exit_code, verdict.waivers[0].state) == (4, "exceeded")


def test_a_waiver_of_doubt_excuses_no_violation(waiver):
    verdict = run(RULES, evidence([LEAK]), waiver(UNDECIDED))
    assert (verdict.exit_code, verdict.waivers[0].state) == (1, "unused")
    assert verdict.waivers[0].note == "nothing in its scope is undecided"


def test_both_kinds_excuse_one_rule_together(waiver):
    seen = evidence([result("correctness"), LEAK, replace(UNCLEAR, id="rmia")])
    violation = {"id": "W-1", "scope": {**SCOPE, "attack": "lira"}}
    doubt = {"id": "W-2", **UNDECIDED, "scope": {**SCOPE, "attack": "rmia"}}
    assert run(RULES, seen, waiver(violation)).exit_code == 4
    assert run(RULES, seen, waiver(doubt)).exit_code == 1
    verdict = run(RULES, seen, waiver(violation, doubt))
    assert (verdict.exit_code, outcome(verdict, "PG101").waiver) == (0, "W-1, W-2")


def test_nothing_stands_in_for_evidence_that_is_not_admissible(waiver):
    seen = evidence([UNCLEAR], findings=(Finding("power", "fail", Invalidates.PASS, 0.0, "is off"),))
    verdict = run(RULES, seen, waiver(UNDECIDED))
    assert (verdict.exit_code, verdict.waivers[0].state) == (4, "unused")
    assert verdict.waivers[0].note == "the evidence is not admissible: nothing can stand in for it"


def test_what_was_not_measured_is_not_waived(waiver):
    rules = {"PG101": {"max": 0.6}, "PG102": {"max": 0.9}}
    verdict = run(
        rules,
        evidence([result("correctness")]),
        waiver({"rule": "PG102", "covers": "undecided", "substitute": "PG101"}),
    )
    assert (verdict.exit_code, verdict.waivers[0].state) == (4, "unused")
    assert verdict.waivers[0].note == "PG102 is inconclusive: nothing to excuse"


def test_what_withholds_a_pass_is_excused_by_a_waiver_of_the_whole_rule(waiver):
    """TPR rules do not pass on metric attacks alone; approvers may accept that where another rule passes."""
    rules = {"PG101": {"max": 0.6}, "PG103": {"max": 0.05}}
    seen = evidence([result("correctness"), result("confidence")])
    doubt = {"rule": "PG103", "covers": "undecided", "substitute": "PG101", "until_value": 0.05}
    assert run(rules, seen, ()).exit_code == 4
    assert run(rules, seen, waiver(doubt)).exit_code == 0
    assert run(rules, seen, waiver({**doubt, "scope": {**SCOPE, "attack": "confidence"}})).exit_code == 4


def test_a_hidden_model_is_waived_as_a_whole(waiver):
    rules = {"PG101": {"max": 0.6}, "PG301": {}}
    doubt = {"rule": "PG301", "until_value": None, "covers": "undecided", "substitute": "PG101"}
    assert run(rules, evidence(model=described("mine.Model")), waiver(doubt)).status == "pass_with_waivers"
    knn = described("sklearn.svm._classes.SVC")
    assert run(rules, evidence(model=knn), waiver(doubt)).exit_code == 1


def test_waivers_of_no_file_change_nothing():
    assert run(RULES, evidence([LEAK]), ()).waivers == ()


def test_a_waiver_may_end_on_the_day_it_is_granted(waiver):
    (one,) = waiver({"created": "2026-09-15", "expires": "2026-09-15"})
    assert standing(one, policy(RULES), TODAY) is None


def test_a_waived_violation_does_not_lift_what_withholds_the_pass(waiver):
    """Metric attacks alone name one in five: excused or not, nobody has looked with a reference attack."""
    rules = {"PG101": {"max": 0.6}, "PG103": {"max": 0.05}}
    seen = evidence([result("correctness"), result("confidence", tpr=(0.2, 0.1))])
    verdict = run(rules, seen, waiver({"rule": "PG103", "until_value": 0.3}))
    assert (verdict.exit_code, outcome(verdict, "PG103").status) == (1, RuleStatus.FAIL)
    with_reference = evidence([result("correctness"), result("lira", tpr=(0.2, 0.1))])
    assert run(rules, with_reference, waiver({"rule": "PG103", "until_value": 0.3})).exit_code == 0
