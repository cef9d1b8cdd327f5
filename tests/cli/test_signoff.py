"""`privacy-gate signoff` and its file: bound to the report, chained, never overwritten."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import privacy_gate.cli.signoff  # noqa: F401  (enters its verb)
from privacy_gate import cli
from privacy_gate.errors import UsageError
from privacy_gate.policy.examples import evidence
from privacy_gate.signoff import read, sign
from tests.policy.test_stored import LEAKY, written

CODE = "import sys, privacy_gate.cli as c, privacy_gate.cli.signoff; sys.exit(c.run(sys.argv[1:]))"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def gate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.run(["signoff", *arguments])
        said = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=said.out, stderr=said.err)

    run.folder = tmp_path
    (tmp_path / "report.json").write_text(written(evidence(n=100)))
    return run


WHO = ("--name", "Ada Ng", "--role", "privacy officer")


def test_a_decision_is_bound_to_the_report(gate):
    done = gate("report.json", *WHO, "--decision", "approve")
    assert (done.returncode, done.stderr) == (0, "signoff.json\n")
    (entry,) = read(gate.folder)
    sha = json.loads((gate.folder / "report.json").read_text())["integrity"]["report_sha256"]
    assert (entry.report_sha256, entry.verdict, entry.previous) == (sha, "pass", None)
    assert entry.at.endswith("+00:00")
    assert (gate.folder / "signoff.json").stat().st_mode & 0o777 == 0o600
    shown = gate("report.json", "--list")
    assert shown.stdout == f"{entry.at}  approve  Ada Ng (privacy officer)  verdict pass, report {sha[:12]}\n"


def test_the_list_only_grows(gate):
    assert gate("report.json", "--list").stdout == "nobody has decided yet\n"
    assert gate("report.json", *WHO, "--decision", "approve").returncode == 0
    first = json.loads((gate.folder / "signoff.json").read_text())["entries"]
    assert gate("report.json", *WHO, "--decision", "reject", "--note", "new\nfacts").returncode == 0
    entries = read(gate.folder)
    assert json.loads((gate.folder / "signoff.json").read_text())["entries"][:1] == first
    assert entries[1].previous == entries[0].digest
    (gate.folder / "report.json").write_text(written(evidence(LEAKY, n=100)))
    listed = gate("report.json", "--list").stdout.splitlines()
    assert ["another report" in line for line in listed] == [True, True]
    assert listed[1].endswith(": new facts")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*WHO,), "--decision is missing"),
        (("--decision", "approve"), "--name, --role is missing"),
        ((*WHO, "--decision", "aprove"), "did you mean 'approve'?"),
        ((*WHO, "--decision", "reject"), "--note is missing"),
        ((*WHO, "--decision", "conditional", "--note", "  "), "--note is missing"),
        (("--name", " ", "--role", "x", "--decision", "approve"), "--name"),
        (("--list", *WHO), "--list only shows; --name, --role"),
    ],
)
def test_an_incomplete_decision_is_refused(gate, arguments, said):
    done = gate("report.json", *arguments)
    assert (done.returncode, said in done.stderr) == (2, True)
    assert not (gate.folder / "signoff.json").exists()


def test_to_approve_against_the_verdict_needs_a_reason(gate):
    (gate.folder / "report.json").write_text(written(evidence(LEAKY, n=100)))
    done = gate("report.json", *WHO, "--decision", "approve")
    assert (done.returncode, "approve a report whose verdict is fail" in done.stderr) == (2, True)
    assert gate("report.json", *WHO, "--decision", "approve", "--note", "withdrawn on Monday").returncode == 0


def test_a_report_that_was_changed_cannot_be_signed(gate):
    path = gate.folder / "report.json"
    path.write_text(path.read_text().replace('"exit_code": 0', '"exit_code": 1', 1))
    done = gate("report.json", *WHO, "--decision", "approve")
    assert (done.returncode, "was changed after it was written" in done.stderr) == (2, True)
    assert gate("gone.json", "--list").returncode == 2


def signed(folder, *names):
    for name in names:
        sign(
            folder,
            report_sha256="a" * 64,
            verdict="pass",
            name=name,
            role="r",
            decision="approve",
            note="",
            at="2026-09-01T00:00:00+00:00",
        )


def edited(folder, change):
    path = folder / "signoff.json"
    content = json.loads(path.read_text())
    change(content["entries"])
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: entries[0].update(decision="reject"),
        lambda entries: entries[1].update(note="x"),
        lambda entries: entries.pop(0),
        lambda entries: entries.pop(1),
        lambda entries: entries.reverse(),
        lambda entries: entries[1].update(previous=None),
        lambda entries: entries[0].update(extra=1),
    ],
)
def test_an_edit_is_found(tmp_path, change):
    signed(tmp_path, "a", "b", "c")
    edited(tmp_path, change)
    with pytest.raises(UsageError, match=r"signoff\.json"):
        read(tmp_path)
    before = (tmp_path / "signoff.json").read_text()
    with pytest.raises(UsageError):
        signed(tmp_path, "d")
    assert (tmp_path / "signoff.json").read_text() == before


def test_what_is_no_list_is_refused(tmp_path):
    (tmp_path / "signoff.json").write_text("{")
    with pytest.raises(UsageError, match="not a list of sign-offs"):
        read(tmp_path)


def test_as_a_program(gate):
    def program(*arguments):
        return subprocess.run(
            [sys.executable, "-c", CODE, "signoff", *arguments],
            cwd=gate.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    assert program("report.json", *WHO, "--decision", "approve").returncode == 0
    assert "approve  Ada Ng" in program("report.json", "--list").stdout
    edited(gate.folder, lambda entries: entries[0].update(name="Eve"))
    done = program("report.json", "--list")
    assert (done.returncode, "entry 1 (Eve) was changed" in done.stderr) == (2, True)
