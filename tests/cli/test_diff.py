"""`privacy-gate diff`: exit codes, the table, and JSON for machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import privacy_gate.cli.diff  # noqa: F401  # enters itself into the program
from privacy_gate.cli import run
from privacy_gate.reports import document
from tests.reports.samples import SAMPLES


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    for name, build in SAMPLES.items():
        (folder / f"{name}.json").write_text(document.dumps(document.seal(build())))
    return {name: str(folder / f"{name}.json") for name in SAMPLES}


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [("pass", "fail", 1), ("fail", "pass", 0), ("pass", "pass", 0), ("pass", "inconclusive", 0), ("error", "fail", 0)],
)
def test_exit_codes(old, new, code, paths, capsys):
    assert run(["diff", paths[old], paths[new]]) == code
    assert capsys.readouterr().err == ""


def test_the_table_says_what_changed(paths, capsys):
    run(["diff", paths["pass"], paths["fail"]])
    out = capsys.readouterr().out.replace("\N{NO-BREAK SPACE}", " ")
    assert "PG101" in out
    assert "50.7 %" in out
    assert "73.6 %" in out
    assert "Regression: a pass became a failure; PG101 is worse beyond noise" in out
    assert "lira, reference" not in out
    run(["diff", paths["pass"], paths["fail"], "--attacks"])
    assert "lira, reference" in capsys.readouterr().out


def test_no_proof_is_not_called_a_proof_of_none(paths, capsys):
    run(["diff", paths["fail"], paths["pass"]])
    assert "No regression is proven. That is not a proof that there is none" in capsys.readouterr().out


def test_the_same_report_twice(paths, capsys):
    assert run(["diff", paths["fail"], paths["fail"]]) == 0
    assert "the same content" in capsys.readouterr().out


def test_json_is_all_of_stdout(paths, capsys):
    assert run(["diff", "--json", paths["pass"], paths["fail"]]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["old"]["verdict"] == "pass"
    assert told["regressed"] is True


def test_what_is_no_report_is_a_usage_error(paths, tmp_path, capsys):
    (tmp_path / "x.json").write_text("{}")
    assert run(["diff", paths["pass"], str(tmp_path / "x.json")]) == 2
    assert "x.json: not a report" in capsys.readouterr().err
    assert run(["diff", str(tmp_path / "none.json"), paths["pass"]]) == 2
    content = json.loads(Path(paths["pass"]).read_text())
    content["verdict"]["status"] = "fail"
    (tmp_path / "changed.json").write_text(json.dumps(content))
    assert run(["diff", paths["pass"], str(tmp_path / "changed.json")]) == 2
    assert "changed after it was written" in capsys.readouterr().err


def test_a_report_cannot_draw_on_the_terminal(paths, tmp_path, capsys):
    content = json.loads(Path(paths["fail"]).read_text())
    content["verdict"]["headline"] = "\x1b[2J\x07red"
    content["rules"][0]["title"] = "\x1b]8;;http://evil\x07click"
    content["integrity"]["report_sha256"] = document.content_digest(content)
    (tmp_path / "evil.json").write_text(json.dumps(content))
    run(["diff", paths["pass"], str(tmp_path / "evil.json")])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "red" in out
