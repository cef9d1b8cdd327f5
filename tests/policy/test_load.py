"""Policy files: extends, merging, floors, digests, and every mistake at its line and column."""

import datetime
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from privacy_gate.errors import ConfigError
from privacy_gate.policy import PROFILES, notes, resolve, schema
from privacy_gate.policy.contract import WaiverTerms
from privacy_gate.policy.load import looser
from privacy_gate.resources import template
from privacy_gate.storage import sha256_of_json

GOLDEN = Path(__file__).parent / "golden"
HEAD = "apiVersion: privacy-gate/v1\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, text, name="policy.yaml"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(HEAD + text)
    return Path(name)


def findings(path):
    with pytest.raises(ConfigError) as caught:
        resolve(path)
    return [str(finding) for finding in caught.value.diagnostics]


def test_standard_resolved_is_what_it_was():
    # To accept a change: python -m tests.policy.test_load, then review the diff.
    assert golden() == (GOLDEN / "standard.json").read_text()


def golden():
    policy = resolve("standard")
    origins = {key: None if p is None else f"{p.file}:{p.line}:{p.column}" for key, p in policy.origins.items()}
    shown = {"name": policy.name, "digest": policy.digest, "resolved": policy.resolved, "origins": origins}
    return json.dumps(shown, indent=2) + "\n"


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles(profile):
    policy = resolve(profile)
    assert (policy.name, policy.profile) == (profile, profile)
    assert (policy.alpha_pass, policy.alpha_fail, policy.valid_days) == (0.05, 0.05, 90)
    assert policy.digest == sha256_of_json(policy.resolved)
    text = template("policies", f"{profile}.yaml").read_text()
    for rule in policy.rules:
        lines = text.splitlines()
        assert lines[rule.location.line - 1].strip().startswith(f"{rule.id}:")
        assert lines[rule.location.line - 2].strip().startswith("#"), "each limit says why"


def test_limits_are_those_of_the_specification():
    limits = {
        profile: [resolve(profile).rule(id).settings.max for id in ("PG101", "PG102", "PG103", "PG104", "PG201")]
        for profile in PROFILES
    }
    assert limits == {
        "strict": [0.55, 0.57, 0.025, 0.003, 0.001],
        "standard": [0.60, 0.65, 0.05, 0.01, 0.01],
        "internal": [0.70, 0.75, 0.10, 0.03, 0.05],
    }
    assert resolve("internal").rule("PG104").settings.action == "warn"
    required = ["correctness", "confidence", "entropy", "modified_entropy", "lira"]
    assert resolve("standard").rule("PG501").settings.attacks == required
    assert resolve("strict").rule("PG501").settings.attacks == [*required, "rmia"]
    assert [resolve(profile).equivalence for profile in PROFILES] == [True, False, False]


def test_a_child_overrides_setting_by_setting(folder):
    path = write(
        folder,
        """\
name: churn-release
extends: standard
release_context: public-api
alpha: {pass: 0.01}
valid_days: 30
rules:
  PG104: {action: warn, reason: "3,000 non-members cannot decide 0.1 % FPR"}
  PG101: {max: 0.58}
""",
    )
    policy = resolve(path)
    assert (policy.name, policy.profile, policy.valid_days) == ("churn-release", "standard", 30)
    assert (policy.alpha_pass, policy.alpha_fail) == (0.01, 0.05)
    assert policy.release_context == "public-api"
    pg104 = policy.rule("PG104")
    assert (pg104.settings.action, pg104.settings.max, pg104.settings.severity) == ("warn", 0.01, "critical")
    assert (pg104.location.file, pg104.location.line, pg104.location.column) == ("policy.yaml", 8, 3)
    assert policy.rule("PG102").location.file == "templates/policies/standard.yaml"
    origins = policy.origins
    assert (origins["rules.PG104.action"].file, origins["rules.PG104.action"].column) == ("policy.yaml", 11)
    assert origins["rules.PG104.max"].file == "templates/policies/standard.yaml"
    assert origins["alpha.pass"].file == "policy.yaml"
    assert origins["alpha.fail"].file == "templates/policies/standard.yaml"
    assert origins["equivalence"] is None
    assert policy.files == ("policy.yaml", "templates/policies/standard.yaml")


def test_extends_is_relative_to_the_file_that_says_it(folder):
    write(folder, "extends: strict\nrules: {PG101: {max: 0.52}}\n", "org/base.yaml")
    path = write(folder, "extends: ../org/base.yaml\nrules: {PG102: {max: 0.56}}\n", "team/policy.yaml")
    policy = resolve(path)
    assert (policy.name, policy.profile) == ("policy", "strict")
    assert policy.rule("PG101").settings.max == 0.52
    assert policy.rule("PG101").location.file == "team/../org/base.yaml"


def test_a_policy_of_its_own_still_minds_missing_attacks(folder):
    policy = resolve(write(folder, "rules:\n  PG101: {max: 0.58}\n"))
    assert policy.profile is None
    assert [rule.id for rule in policy.rules] == ["PG101", "PG501", "PG502"]
    assert policy.rule("PG501").location is None
    switched_off = resolve(write(folder, "rules:\n  PG101: {max: 0.58}\n  PG501: {action: off}\n"))
    assert switched_off.rule("PG501").settings.action == "off"


def test_the_digest_is_of_what_is_decided(folder):
    one = resolve(write(folder, "extends: standard\nrules: {PG101: {max: 0.58, action: block}}\n"))
    same = resolve(write(folder, "# other words\nname: x\nextends: standard\nrules:\n  PG101:\n    max: 0.58\n"))
    other = resolve(write(folder, "extends: standard\nrules: {PG101: {max: 0.57}}\n"))
    assert one.digest == same.digest
    assert one.digest != other.digest
    assert resolve(write(folder, "extends: standard\n")).digest == resolve("standard").digest


def test_every_finding_of_every_file_at_its_place(folder):
    write(folder, "extends: standard\nrules:\n  PG101: {maxx: 0.5}\n  PG102: {max: 2}\n", "base.yaml")
    path = write(
        folder,
        """\
extends: base.yaml
valid_day: 3
alpha: {pass: 0.7}
rules:
  PG103: {max: true}
  PG10: {max: 0.1}
  PG104: {max: "0.01", action: blok}
  PG201: 3
  PG101: {max: 0.55}
  PG101: {max: 0.99}
""",
    )
    assert findings(path) == [
        (
            "policy.yaml:3:1: error[extra_forbidden]: valid_day: "
            "Extra inputs are not permitted (did you mean 'valid_days'?)"
        ),
        "policy.yaml:4:15: error[less_than]: alpha.pass: Input should be less than 0.5",
        "policy.yaml:6:16: error[float_type]: rules.PG103.max: Input should be a valid number",
        "policy.yaml:7:3: error[unknown-rule]: rules.PG10: there is no such rule (did you mean 'PG104'?)",
        "policy.yaml:8:16: error[float_type]: rules.PG104.max: Input should be a valid number",
        "policy.yaml:8:32: error[literal_error]: rules.PG104.action: Input should be 'block', 'warn' or 'off'",
        "policy.yaml:9:10: error[dict_type]: rules.PG201: settings stand in braces: write PG201: {max: 3}",
        "policy.yaml:11:3: error[duplicate-key]: rules.PG101: the key is already given in line 10",
        (
            "base.yaml:4:11: error[extra_forbidden]: rules.PG101.maxx: "
            "Extra inputs are not permitted (did you mean 'max'?)"
        ),
        (
            "base.yaml:5:16: error[less_than_equal]: rules.PG102.max: "
            "Input should be less than or equal to 1; 2 % is written 0.02"
        ),
    ]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("PG103: 0.05", "settings stand in braces: write PG103: {max: 0.05}"),
        ("PG103: 5 %", "settings stand in braces: write PG103: {max: 0.05}"),
        ("PG103: warn", "settings stand in braces: write PG103: {action: warn}"),
        ("PG103: [0.05]", "settings stand in braces: write PG103: {max: 0.05}"),
        ("PG501: true", "settings stand in braces: write PG501: {action: off}"),
        ("PG101: {max: 58}", "Input should be less than or equal to 1; 58 % is written 0.58"),
        ("PG101: {max: 57.5}", "Input should be less than or equal to 1; 57.5 % is written 0.575"),
        ("PG101: {max: 580}", "Input should be less than or equal to 1"),
    ],
)
def test_a_limit_that_is_written_as_people_say_it(folder, rule, said):
    (finding,) = findings(write(folder, f"extends: standard\nrules:\n  {rule}\n"))
    assert finding.split(": ", 3)[3] == said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "policy.yaml:1:1: error[empty-policy]: the policy extends nothing and has no rules"),
        ("rules: {}\n", "policy.yaml:1:1: error[empty-policy]: the policy extends nothing and has no rules"),
        ("rules: {PG101: {}}\n", "policy.yaml:2:9: error[missing]: rules.PG101.max: Field required"),
        (
            "rules: {PG101: {max: 0.6, action: warn}, PG501: {action: off}}\n",
            "policy.yaml:2:1: error[nothing-blocks]: rules: no rule has `action: block`: every model would pass",
        ),
        ("extends: policy.yaml\n", "policy.yaml:2:10: error[cycle]: extends: policy.yaml is extended by itself"),
        (
            "extends: standart\n",
            "policy.yaml:2:10: error[no-such-policy]: extends: there is no file standart; did you mean 'standard'?",
        ),
        ("extends: [standard]\n", "policy.yaml:2:10: error[string_type]: extends: Input should be a valid string"),
        (
            "extends: standard\nrules: {PG501: {attacks: []}}\n",
            (
                "policy.yaml:3:26: error[too_short]: rules.PG501.attacks: "
                "List should have at least 1 item after validation, not 0"
            ),
        ),
        (
            "extends: standard\nrules: {PG101: {max: .nan}}\n",
            "policy.yaml:3:22: error[float_type]: rules.PG101.max: Input should be a valid number",
        ),
    ],
)
def test_what_is_refused(folder, text, expected):
    assert expected in findings(write(folder, text))


def test_the_version_must_be_named(folder):
    (folder / "policy.yaml").write_text("extends: standard\n")
    assert findings(Path("policy.yaml")) == ["policy.yaml:1:1: error[missing]: apiVersion: Field required"]


def test_a_longer_cycle_is_found(folder):
    write(folder, "extends: b.yaml\n", "a.yaml")
    write(folder, "extends: ./a.yaml\n", "b.yaml")
    assert findings(Path("a.yaml")) == ["b.yaml:2:10: error[cycle]: extends: a.yaml is extended by itself"]


def test_a_policy_that_is_not_there_is_an_error(folder):
    with pytest.raises(ConfigError, match=r"missing\.yaml: there is no such file"):
        resolve(Path("missing.yaml"))


FLOOR = "extends: standard\nrules:\n  PG101: {max: 0.58, floor: true}\n  PG501: {floor: true}\n"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("rules: {PG101: {max: 0.59}}", "policy.yaml:3:22: error[floor]: rules.PG101.max:"),
        ("rules: {PG101: {action: warn}}", "policy.yaml:3:25: error[floor]: rules.PG101.action:"),
        ("rules: {PG101: {floor: false}}", "policy.yaml:3:24: error[floor]: rules.PG101.floor:"),
        ("rules: {PG501: {attacks: [lira]}}", "policy.yaml:3:26: error[floor]: rules.PG501.attacks:"),
        ("rules: {PG501: {threat_models: any}}", "policy.yaml:3:32: error[floor]: rules.PG501.threat_models:"),
        ("alpha: {pass: 0.1}", "policy.yaml:3:15: error[floor]: alpha.pass:"),
        ("alpha: {fail: 0.01}", "policy.yaml:3:15: error[floor]: alpha.fail:"),
    ],
)
def test_a_floor_may_not_be_loosened(folder, text, place):
    write(folder, FLOOR, "base.yaml")
    found = findings(write(folder, f"extends: base.yaml\n{text}\n"))
    assert len(found) == 1
    assert found[0].startswith(place)
    if "rules" in text:
        assert "base.yaml:" in found[0], "both places are named"


def test_a_floor_may_be_tightened(folder):
    write(folder, FLOOR, "base.yaml")
    text = "extends: base.yaml\nalpha: {pass: 0.01}\nrules: {PG101: {max: 0.5}, PG102: {max: 0.9}}\n"
    assert resolve(write(folder, text)).rule("PG101").settings.max == 0.5


def test_a_floor_holds_over_two_generations(folder):
    write(folder, FLOOR, "base.yaml")
    write(folder, "extends: base.yaml\nrules: {PG102: {max: 0.6}}\n", "team.yaml")
    assert "rules.PG101.max" in findings(write(folder, "extends: team.yaml\nrules: {PG101: {max: 0.6}}\n"))[0]


def test_the_schema_agrees_with_the_reader(folder):
    whole = schema()
    jsonschema.Draft202012Validator.check_schema(whole)
    validator = jsonschema.Draft202012Validator(whole)
    for profile in PROFILES:
        validator.validate(yaml.safe_load(template("policies", f"{profile}.yaml").read_text()))
    good = {"apiVersion": "privacy-gate/v1", "extends": "standard", "rules": {"PG101": {"max": 0.5}}}
    validator.validate(good)
    for bad in (
        {**good, "extend": "x"},
        {**good, "rules": {"PG999": {}}},
        {**good, "rules": {"PG101": {"maxx": 0.5}}},
        {**good, "rules": {"PG101": {"max": 1.5}}},
        {**good, "alpha": {"pass": 0.5}},
        {"apiVersion": "privacy-gate/v1"},
        {"extends": "standard"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(bad)


def test_more_limits_are_those_of_the_specification():
    ids = ("PG202", "PG203", "PG204", "PG302", "PG401")
    found = {
        p: [(resolve(p).rule(id).settings.max, resolve(p).rule(id).settings.action) for id in ids] for p in PROFILES
    }
    assert found == {
        "strict": [(10, "block"), (0.60, "block"), (0.05, "block"), (0.05, "warn"), (0.01, "block")],
        "standard": [(100, "block"), (0.70, "block"), (0.05, "block"), (0.10, "warn"), (0.02, "block")],
        "internal": [(100, "warn"), (0.75, "warn"), (0.10, "block"), (0.10, "off"), (0.02, "warn")],
    }
    effect = {p: resolve(p).on(datetime.date(2026, 1, 1)).rule("PG301").settings.action for p in PROFILES}
    assert effect == {"strict": "block", "standard": "block", "internal": "warn"}
    assert all(resolve(p).rule("PG203").settings.fewest == 100 for p in PROFILES)


NEW = """\
extends: standard
owner: privacy-office@example.org
fixed_on: 2026-08-30
data_sensitivity: children
estimand: procedure
waivers: {file: org/w.yaml, max_days: 14, never: [PG201]}
rules:
  PG203: {enforce_from: 2026-12-01}
  PG502: {limits: {duplicates: 0.01}}
"""


def test_the_new_keys(folder):
    policy = resolve(write(folder, NEW, "team/p.yaml"))
    assert (policy.owner, policy.fixed_on) == ("privacy-office@example.org", datetime.date(2026, 8, 30))
    assert (policy.data_sensitivity, policy.estimand) == ("children", "procedure")
    assert policy.waivers == WaiverTerms(Path("team/org/w.yaml"), 14, 2, ("PG201",))  # two approvers as in standard
    assert policy.rule("PG203").settings.enforce_from == datetime.date(2026, 12, 1)
    assert policy.validity_limits == {"duplicates": 0.01}
    assert policy.resolved["fixed_on"] == "2026-08-30"
    assert policy.resolved["rules"]["PG203"]["enforce_from"] == "2026-12-01"
    assert policy.origins["waivers.max_days"].file == "team/p.yaml"
    assert policy.origins["waivers.approvers"].file == "templates/policies/standard.yaml"
    assert policy.origins["fixed_on"].line == 4
    assert resolve("standard").validity_limits == {}


def test_an_owner_and_a_day_are_of_one_file(folder):
    write(folder, NEW, "base.yaml")
    child = resolve(write(folder, "extends: base.yaml\n"))
    assert (child.owner, child.fixed_on, child.data_sensitivity) == ("", None, "children")
    assert (child.origins["owner"], child.resolved["fixed_on"]) == (None, None)
    assert child.waivers.file == Path("org/w.yaml")  # relative to the file that says it


def test_limits_of_checks_are_folded_into_those_above(folder):
    write(folder, NEW, "base.yaml")
    child = resolve(write(folder, "extends: base.yaml\nrules: {PG502: {limits: {shift: 0.02}}}\n"))
    assert child.validity_limits == {"duplicates": 0.01, "shift": 0.02}


@pytest.mark.parametrize(
    "change",
    [
        "data_sensitivity: ordinary",
        "estimand: artefact",
        "waivers: {max_days: 13}",
        "fixed_on: 2026-08-31",
        "rules: {PG203: {enforce_from: 2026-12-02}}",
        "rules: {PG502: {limits: {duplicates: 0.02}}}",
    ],
)
def test_the_digest_covers_the_new_keys(folder, change):
    key = change.split(":")[0]
    lines = [line for line in NEW.splitlines() if not (key != "rules" and line.startswith(f"{key}:"))]
    base = "\n".join(lines[: lines.index("rules:")] if key == "rules" else lines) + "\n"
    one, other = resolve(write(folder, NEW, "a.yaml")), resolve(write(folder, base + change + "\n", "b.yaml"))
    assert one.digest != other.digest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fixed_on: 2026-13-40", "policy.yaml:3:11: error[value_error]: fixed_on: there is no day 2026-13-40"),
        ("fixed_on: 30.8.2026", "policy.yaml:3:11: error[value_error]: fixed_on: '30.8.2026' is not a date"),
        ("fixed_on: 20260830", "policy.yaml:3:11: error[value_error]: fixed_on: a date is written as YYYY-MM-DD"),
        (
            "rules: {PG101: {enforce_from: 2026-02-30}}",
            "policy.yaml:3:31: error[value_error]: rules.PG101.enforce_from",
        ),
        ("rules: {PG502: {action: warn}}", "policy.yaml:3:25: error[literal_error]: rules.PG502.action"),
        ("rules: {PG502: {enforce_from: 2026-12-01}}", "policy.yaml:3:31: error[none_required]: rules.PG502.enforce"),
        ("data_sensitivity: secret", "policy.yaml:3:19: error[literal_error]: data_sensitivity"),
        ("estimand: model", "policy.yaml:3:11: error[enum]: estimand"),
        ("waivers: {max_days: 0}", "policy.yaml:3:21: error[greater_than]: waivers.max_days"),
        ("waivers: {approvers: 1.5}", "policy.yaml:3:22: error[int_type]: waivers.approvers"),
        (
            "waivers: {never: [PG101, PG1O2]}",
            "policy.yaml:3:26: error[unknown-rule]: waivers.never.1: there is no such rule (did you mean 'PG102'?)",
        ),
        ("waivers: {maxdays: 3}", "policy.yaml:3:11: error[extra_forbidden]: waivers.maxdays"),
        ("rules: {PG202: {max: 0.01}}", "policy.yaml:3:22: error[int_"),
    ],
)
def test_what_is_refused_of_the_new_keys(folder, text, expected):
    assert any(found.startswith(expected) for found in findings(write(folder, f"extends: standard\n{text}\n")))


FLOORED = """\
extends: standard
release_context: public-api
data_sensitivity: special-category
waivers: {max_days: 20, approvers: 2, never: [PG101]}
valid_days: 60
rules:
  PG101: {floor: true, enforce_from: 2026-12-01}
  PG301: {floor: true}
"""


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("release_context: internal", "policy.yaml:3:18: error[floor]: release_context:"),
        ("data_sensitivity: ordinary", "policy.yaml:3:19: error[floor]: data_sensitivity:"),
        ("waivers: {max_days: 21}", "policy.yaml:3:21: error[floor]: waivers.max_days:"),
        ("waivers: {approvers: 1}", "policy.yaml:3:22: error[floor]: waivers.approvers:"),
        ("waivers: {never: [PG102]}", "policy.yaml:3:18: error[floor]: waivers.never:"),
        ("estimand: artefact-census", "policy.yaml:3:11: error[floor]: estimand:"),
        ("valid_days: 61", "policy.yaml:3:13: error[floor]: valid_days:"),
        ("rules: {PG101: {enforce_from: 2026-12-02}}", "policy.yaml:3:31: error[floor]: rules.PG101.enforce_from:"),
        ("rules: {PG301: {warn_in: [internal, public-api]}}", "policy.yaml:3:26: error[floor]: rules.PG301.warn_in:"),
        ("rules: {PG301: {cleared: [mine.Model]}}", "policy.yaml:3:26: error[floor]: rules.PG301.cleared:"),
    ],
)
def test_a_floor_holds_the_new_keys(folder, text, place):
    write(folder, FLOORED, "base.yaml")
    found = findings(write(folder, f"extends: base.yaml\n{text}\n"))
    assert len(found) == 1
    assert found[0].startswith(place)


@pytest.mark.parametrize(
    "text",
    [
        "release_context: open-weights",
        "data_sensitivity: children",
        "waivers: {max_days: 20, approvers: 3, never: [PG102, PG101]}",
        "estimand: procedure",
        "valid_days: 60",
        "rules: {PG101: {enforce_from: 2026-11-30}}",
        "rules: {PG101: {enforce_from: null}, PG301: {warn_in: []}}",
    ],
)
def test_a_floor_allows_the_new_keys_to_be_tightened(folder, text):
    write(folder, FLOORED, "base.yaml")
    resolve(write(folder, f"extends: base.yaml\n{text}\n"))


def test_the_release_context_is_held_by_the_floor_of_what_it_decides(folder):
    write(folder, FLOORED.replace("  PG301: {floor: true}\n", ""), "base.yaml")
    path = write(folder, "extends: base.yaml\nrelease_context: internal\n")
    resolve(path)  # PG101 has a floor, and the context does not touch it
    assert any(f.message.startswith("release_context") for f in looser(path))


def test_notes_tell_what_limits_alone_do_not(folder):
    day = datetime.date(2026, 8, 29)
    said = notes(resolve(write(folder, NEW)), day)
    assert said[0] == "the policy says that its limits are fixed on 2026-08-30, which is in the future"
    assert said[1].startswith("for children data the profile strict is meant; PG101, PG102, PG103, PG104, PG201, PG202")
    assert notes(resolve(write(folder, NEW)), datetime.date(2026, 8, 30)) == said[1:]
    assert [notes(resolve(profile), day) for profile in PROFILES] == [[], [], []]
    weights = resolve(write(folder, "extends: standard\nrelease_context: open-weights\n"))
    assert notes(weights, day)[0].startswith("for the release context open-weights the profile strict is meant")


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / "standard.json").write_text(golden())
