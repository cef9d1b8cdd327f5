"""Policy files: extends, merging, floors, digests, and every mistake at its line and column."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from privacy_gate.errors import ConfigError
from privacy_gate.policy import PROFILES, resolve, schema
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
    assert [rule.id for rule in policy.rules] == ["PG101", "PG501"]
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
        "policy.yaml:9:10: error[dict_type]: rules.PG201: Input should be a valid dictionary",
        "policy.yaml:11:3: error[duplicate-key]: rules.PG101: the key is already given in line 10",
        (
            "base.yaml:4:11: error[extra_forbidden]: rules.PG101.maxx: "
            "Extra inputs are not permitted (did you mean 'max'?)"
        ),
        "base.yaml:5:16: error[less_than_equal]: rules.PG102.max: Input should be less than or equal to 1",
    ]


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


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / "standard.json").write_text(golden())
