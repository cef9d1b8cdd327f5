"""`privacy-gate policy`: what it shows is what the gate applies."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from privacy_gate.cli import run
from privacy_gate.policy import PROFILES, resolve
from privacy_gate.policy.examples import FAMILIES, evidence, result
from privacy_gate.resources import template
from tests.policy.test_stored import written

TIGHTER = "apiVersion: privacy-gate/v1\nname: mine\nextends: standard\nrules:\n  PG101: {max: 0.58}\n"
SLIGHT = [result("correctness"), *(result(id, accuracy=0.57) for id in FAMILIES if id != "correctness")]
BROKEN = "apiVersion: privacy-gate/v1\nextends: standard\nrules:\n  PG101: {max: 58}\n  PG999: {max: 0.1}\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_validate_says_name_and_digest(here, capsys):
    Path("p.yaml").write_text(TIGHTER)
    assert run(["policy", "validate", "p.yaml"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"sha256 {resolve(Path('p.yaml')).digest}" in captured.err


def test_validate_names_every_line(here, capsys):
    Path("p.yaml").write_text(BROKEN)
    Path("good.yaml").write_text(TIGHTER)
    assert run(["policy", "validate", "p.yaml", "good.yaml", "nowhere.yaml"]) == 2
    said = capsys.readouterr().err
    assert "p.yaml:4:" in said
    assert "p.yaml:5:" in said
    assert "good.yaml: mine" in said
    assert "nowhere.yaml: there is no such file" in said


def test_validate_says_where_a_policy_is_looser_than_what_it_extends(here, capsys):
    Path("base.yaml").write_text(
        "apiVersion: privacy-gate/v1\nname: base\nextends: standard\nrules:\n  PG103: {max: 0.09}\n"
    )
    Path("p.yaml").write_text(
        "apiVersion: privacy-gate/v1\nextends: base.yaml\nalpha: {pass: 0.2}\nrules:\n"
        "  PG101: {max: 0.58}\n  PG102: {action: warn, max: 0.7}\n"
    )
    assert run(["policy", "validate", "p.yaml"]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning[looser]" in line]
    assert warnings == [
        "p.yaml:6:19: warning[looser]: rules.PG102.action: warn is looser than block in standard",
        "p.yaml:6:30: warning[looser]: rules.PG102.max: 0.7 is looser than 0.65 in standard",
        "p.yaml:3:15: warning[looser]: alpha.pass: is looser than in what p extends",
        "base.yaml:5:16: warning[looser]: rules.PG103.max: 0.09 is looser than 0.05 in standard",
    ]


def test_validate_says_nothing_of_a_tighter_policy(here, capsys):
    Path("p.yaml").write_text(TIGHTER)
    assert run(["policy", "validate", "p.yaml"]) == 0
    assert "looser" not in capsys.readouterr().err


@pytest.mark.parametrize(("written", "meant"), [("5 %", "0.05"), ("5%", "0.05"), ("0.1 %", "0.001"), ("100 %", "1")])
def test_a_percentage_gets_the_number_to_write(here, capsys, written, meant):
    Path("p.yaml").write_text(f"apiVersion: privacy-gate/v1\nextends: standard\nrules:\n  PG103: {{max: {written}}}\n")
    assert run(["policy", "validate", "p.yaml"]) == 2
    said = capsys.readouterr().err
    assert f"p.yaml:4:16: error[percent]: rules.PG103.max: '{written}' is text to YAML: write {meant}\n" in said


@pytest.mark.parametrize("profile", PROFILES)
def test_resolved_reads_back_as_what_is_applied(capsys, profile):
    assert run(["policy", "show", profile, "--resolved"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == resolve(profile).resolved


def test_origin_says_which_file_set_what(here, capsys):
    Path("p.yaml").write_text(TIGHTER)
    assert run(["policy", "show", "p.yaml", "--origin"]) == 0
    out = capsys.readouterr().out
    assert yaml.safe_load(out) == resolve(Path("p.yaml")).resolved
    assert "max: 0.58  # p.yaml:5" in out
    assert "max: 0.65  # templates/policies/standard.yaml:" in out
    assert "floor: false  # default" in out


def test_show_is_a_table_of_the_rules(here, capsys):
    Path("p.yaml").write_text(TIGHTER)
    assert run(["policy", "show", "p.yaml"]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("PG")}
    assert set(lines) == {rule.id for rule in resolve("standard").rules}
    assert "58 %" in lines["PG101"]
    assert "5 %" in lines["PG103"]
    assert lines["PG101"].rstrip().endswith("p.yaml:5")
    assert "templates/policies/standard.yaml:" in lines["PG103"]
    assert "from p.yaml, then templates/policies/standard.yaml" in out


def test_json_is_for_machines(capsys):
    assert run(["policy", "show", "strict", "--json"]) == 0
    shown, policy = json.loads(capsys.readouterr().out), resolve("strict")
    assert (shown["digest"], shown["resolved"]) == (policy.digest, policy.resolved)
    assert shown["origins"]["rules.PG101.max"]["file"] == "templates/policies/strict.yaml"


def test_without_a_name_it_is_what_check_would_apply(here, capsys):
    assert run(["policy", "digest"]) == 0
    assert capsys.readouterr().out.strip() == resolve("standard").digest
    Path("p.yaml").write_text(TIGHTER)
    Path("privacy-gate.yaml").write_text(
        "apiVersion: privacy-gate/v1\ndata: {members: a.csv, nonmembers: b.csv}\npolicy: p.yaml\n"
    )
    assert run(["policy", "digest"]) == 0
    assert capsys.readouterr().out.strip() == resolve(Path("p.yaml")).digest


def test_a_name_cannot_draw_on_the_terminal(here, capsys):
    Path("p.yaml").write_text('apiVersion: privacy-gate/v1\nname: "a\\e[2Jb"\nextends: standard\n')
    for arguments in (["validate", "p.yaml"], ["show", "p.yaml"]):
        run(["policy", *arguments])
        captured = capsys.readouterr()
        assert "\x1b" not in captured.out + captured.err


def test_the_schema_takes_every_profile_and_refuses_a_typo(capsys):
    assert run(["policy", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    for profile in PROFILES:
        jsonschema.validate(yaml.safe_load(template("policies", f"{profile}.yaml").read_text()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"apiVersion": "privacy-gate/v1", "extends": "standard", "rulez": {}}, schema)


def test_an_unknown_policy_is_a_usage_error(here, capsys):
    assert run(["policy", "show", "standart"]) == 2
    assert "standart" in capsys.readouterr().err


def test_test_judges_stored_reports(here, capsys):
    Path("report.json").write_text(written(evidence(SLIGHT, n=500)))
    for limit, code, now in (("0.58", 0, "pass"), ("0.572", 1, "inconclusive"), ("0.55", 1, "fail")):
        Path("p.yaml").write_text(
            f"apiVersion: privacy-gate/v1\nextends: standard\nrules:\n  PG101: {{max: {limit}}}\n"
        )
        assert run(["policy", "test", "p.yaml", "report.json"]) == code
        out = capsys.readouterr().out
        row = next(line for line in out.splitlines() if line.startswith("report.json"))
        assert row.split()[1:3] == ["pass", now]
        assert (f"PG101 pass → {now}" in row) is bool(code)
        assert ("(!)" in row) is bool(code)
    assert run(["policy", "test", "p.yaml", "report.json", "--json"]) == 1
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["stored"], row["verdict"], row["exit_code"], row["changed"]) == ("pass", "fail", 1, True)
    assert row["rules"] == ["PG101 pass → fail"]
    assert row["headline"].startswith("PG101 attack accuracy 57 % (at least ")


def test_test_can_look_ahead(here, capsys):
    Path("report.json").write_text(written(evidence(SLIGHT, n=500)))
    Path("p.yaml").write_text(
        "apiVersion: privacy-gate/v1\nextends: standard\nrules:\n  PG101: {max: 0.55, enforce_from: 2030-12-01}\n"
    )
    assert run(["policy", "test", "p.yaml", "report.json", "--on", "2030-11-30"]) == 0
    assert run(["policy", "test", "p.yaml", "report.json", "--on", "2030-12-01"]) == 1
    assert run(["policy", "test", "p.yaml", "report.json", "--on", "tomorrow"]) == 2
    capsys.readouterr()
    assert run(["policy", "show", "p.yaml"]) == 0
    assert "warn, blocks from 2030-12-01" in capsys.readouterr().out


def test_test_refuses_what_is_no_report(here, capsys):
    Path("report.json").write_text(written(evidence(n=500)).replace('"seed": null', '"seed": 1'))
    assert run(["policy", "test", "standard", "report.json"]) == 2
    assert "report.json: report.json was changed after it was written" in capsys.readouterr().err
    assert run(["policy", "test", "standard", "nowhere.json"]) == 2


def test_validate_tells_the_notes(here, capsys):
    Path("p.yaml").write_text("apiVersion: privacy-gate/v1\nextends: standard\ndata_sensitivity: children\n")
    assert run(["policy", "validate", "p.yaml"]) == 0
    assert "p.yaml: warning: for children data the profile strict is meant" in capsys.readouterr().err


def test_as_a_program(here):
    command = [sys.executable, "-m", "privacy_gate", "policy", "show", "internal", "--resolved"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert yaml.safe_load(done.stdout) == resolve("internal").resolved
