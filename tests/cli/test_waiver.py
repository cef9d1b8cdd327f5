"""`privacy-gate waiver` as people run it: add, list, check."""

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import privacy_gate.cli.waiver  # noqa: F401  (enters its verb)
from privacy_gate import cli
from privacy_gate.policy import read_waivers

CODE = "import sys, privacy_gate.cli as c, privacy_gate.cli.waiver; sys.exit(c.run(sys.argv[1:]))"
ROOT = Path(__file__).parents[2]
TODAY = datetime.datetime.now(datetime.UTC).date()


@pytest.fixture
def gate(tmp_path, monkeypatch, capsys):
    """The program, in a folder with a policy of its own."""
    (tmp_path / "p.yaml").write_text(
        "apiVersion: privacy-gate/v1\nextends: internal\n"
        "waivers: {max_days: 30, approvers: 2, never: [PG104], file: w.yaml}\n"
    )

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.run(["waiver", *arguments])
        said = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=said.out, stderr=said.err)

    run.folder = tmp_path
    return run


GOOD = (
    *("add", "--policy", "p.yaml", "--rule", "PG101", "--model", "churn", "--versions", ">=12,<13"),
    *("--until-value", "0.73", "--reason", "retrained next sprint: see ticket", "--ticket", "PRIV-211"),
    *("--approved-by", "dpo@example.org", "--approved-by", "ml@example.org"),
)


def changed(**options):
    """The good command line with options replaced."""
    line = list(GOOD)
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if option in line:
            line[line.index(option) + 1] = value
        else:
            line += [option, value]
    return line


def test_add_then_list_then_check(gate):
    added = gate(*GOOD)
    assert (added.returncode, added.stdout) == (0, "")
    last = TODAY + datetime.timedelta(days=30)
    assert added.stderr == f"W-1: PG101 until {last} in w.yaml\n"
    (one,) = read_waivers(gate.folder / "w.yaml")
    assert one.fields.approved_by == ["dpo@example.org", "ml@example.org"]
    assert (one.fields.until_value, one.fields.scope.versions) == (0.73, ">=12,<13")
    shown = gate("list", "--policy", "p.yaml")
    assert shown.stdout == f"W-1  PG101 (model churn, versions >=12,<13, up to 0.73) until {last}  in force\n"
    checked = gate("check", "--policy", "p.yaml")
    assert (checked.returncode, checked.stderr) == (0, "✔ w.yaml: 1 waivers in force\n")
    (row,) = json.loads(gate("list", "--policy", "p.yaml", "--json").stdout)
    assert (row["id"], row["state"], row["days"]) == ("W-1", "in force", 30)


def test_what_is_there_stays_as_it_is(gate):
    path = gate.folder / "w.yaml"
    assert gate(*GOOD).returncode == 0
    path.write_text(
        "# agreed on Tuesday\n" + path.read_text().replace("churn", "churn # not chirn")[:0] + path.read_text()
    )
    path.write_text(path.read_text().replace('ticket: "PRIV-211"', 'ticket: "PRIV-211"  # ours'))
    path.chmod(0o664)
    before = path.read_text()
    assert gate(*changed(group="class=3", id="W-7", rule="PG203")).returncode == 0
    assert path.read_text().startswith(before)
    assert path.stat().st_mode & 0o777 == 0o664
    assert gate(*GOOD).returncode == 0
    assert [entry.id for entry in read_waivers(path)] == ["W-1", "W-7", "W-8"]
    assert sorted(p.name for p in gate.folder.iterdir()) == ["p.yaml", "w.yaml"]


@pytest.mark.parametrize(
    "body", ["waivers: []\n", "waivers: []  # none yet\n", "waivers:\n", "# none\nwaivers: null\n", ""]
)
def test_an_empty_list_makes_way(gate, body):
    (gate.folder / "w.yaml").write_text("apiVersion: privacy-gate/waivers/v1\n" + body)
    done = gate(*GOOD)
    if body:
        assert done.returncode == 0
        assert len(read_waivers(gate.folder / "w.yaml")) == 1
    else:
        assert done.returncode == 2
        assert "add it by hand:" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rule": "PG501"}, "PG501 measures nothing"),
        ({"rule": "PG104"}, "the policy does not allow PG104 to be waived"),
        ({"rule": "PG999"}, "there is no rule PG999"),
        ({"reason": "too short"}, "a reason has at least 20 characters"),
        ({"versions": "twelve"}, "versions are compared by"),
        ({"covers": "undecided"}, "needs a substitute rule"),
        ({"expires": (TODAY + datetime.timedelta(days=31)).isoformat()}, "lasts 31 days, the policy allows 30"),
        ({"expires": "2026-13-40"}, "there is no day 2026-13-40"),
        ({"expires": "2020-01-01"}, "before it is created"),
        ({"until_value": "nan"}, "until_value"),
        ({"group": "class"}, "scope.group"),
    ],
)
def test_what_check_would_refuse_is_not_added(gate, options, said):
    done = gate(*changed(**options))
    assert done.returncode == 2
    assert said in done.stderr
    assert not (gate.folder / "w.yaml").exists()


def test_one_approver_is_too_few(gate):
    line = list(GOOD)
    at = line.index("--approved-by")
    done = gate(*line[:at], *line[at + 2 :])
    assert (done.returncode, "approved by 1, the policy asks for 2" in done.stderr) == (2, True)


def test_a_name_that_is_taken_is_refused(gate):
    assert gate(*GOOD).returncode == 0
    before = (gate.folder / "w.yaml").read_text()
    done = gate(*changed(id="W-1"))
    assert (done.returncode, "W-1 is given 2 times" in done.stderr) == (2, True)
    assert (gate.folder / "w.yaml").read_text() == before


def test_a_file_that_does_not_end_with_its_list_is_left_alone(gate):
    text = "waivers: []\napiVersion: privacy-gate/waivers/v1\n"
    (gate.folder / "w.yaml").write_text(text)
    done = gate(*GOOD)
    assert (done.returncode, "add it by hand:" in done.stderr) == (2, True)
    assert (gate.folder / "w.yaml").read_text() == text


def test_check_ends_with_1_on_what_has_no_effect(gate):
    assert gate(*GOOD).returncode == 0
    path = gate.folder / "w.yaml"
    good = path.read_text()
    created, expires = (TODAY - datetime.timedelta(days=days) for days in (20, 1))
    old = good.replace(f'created: "{TODAY}"', f"created: {created}")
    old = old.replace(f'expires: "{TODAY + datetime.timedelta(days=30)}"', f"expires: {expires}")
    path.write_text(old)
    done = gate("check", "--policy", "p.yaml")
    assert (done.returncode, done.stderr) == (1, f"✖ W-1 PG101: expired at the end of {expires} (UTC)\n")
    assert "expired" in gate("list", "--policy", "p.yaml").stdout
    path.write_text(good.replace("until_value: 0.73", "until_value: much"))
    done = gate("check", "--policy", "p.yaml")
    assert done.returncode == 1
    assert "✖ W-1 PG101: malformed: w.yaml:" in done.stderr
    path.write_text(good)
    stricter = gate("check", "--policy", "strict", "--file", "w.yaml")
    assert (stricter.returncode, "does not allow PG101" in stricter.stderr) == (1, True)
    path.write_text("waivers: 3\n")
    assert gate("check", "--policy", "p.yaml").returncode == 2
    path.unlink()
    assert gate("check", "--policy", "p.yaml").returncode == 2


def test_what_ends_soon_is_said(gate):
    assert gate(*changed(expires=(TODAY + datetime.timedelta(days=3)).isoformat())).returncode == 0
    done = gate("check", "--policy", "p.yaml")
    assert done.returncode == 0
    assert "~ W-1 PG101: ends on" in done.stderr
    assert "~" not in gate("check", "--policy", "p.yaml", "--soon", "1").stderr


def test_check_of_several_files_tells_all_and_the_worst_decides(gate):
    """What pre-commit calls: with the names of the files that a commit changes, and no default file anywhere."""
    assert gate(*GOOD).returncode == 0
    good = (gate.folder / "w.yaml").read_text()
    (gate.folder / "team").mkdir()
    (gate.folder / "w.yaml").rename(gate.folder / "team" / "good.yaml")
    line = ("check", "--policy", "p.yaml", "team/good.yaml")
    assert gate(*line).returncode == 0

    (gate.folder / "a.yaml").write_text(good.replace("until_value: 0.73", "until_value: much"))
    (gate.folder / "b.yaml").write_text(good.replace("PG101", "PG104"))
    done = gate(*line, "a.yaml", "b.yaml")
    assert done.returncode == 1
    assert "✔ team/good.yaml: 1 waivers in force\n" in done.stderr
    assert "✖ a.yaml: W-1 PG101: malformed: a.yaml:" in done.stderr
    assert "✖ b.yaml: W-1 PG104: the policy does not allow PG104" in done.stderr

    (gate.folder / "c.yaml").write_text("waivers: 3\n")
    done = gate(*line, "c.yaml", "absent.yaml", "a.yaml", "--soon", "40")
    assert done.returncode == 2
    assert "✖ a.yaml: W-1" in done.stderr
    assert "~ team/good.yaml: W-1 PG101: ends on" in done.stderr
    assert "c.yaml:1" in done.stderr
    assert "absent.yaml" in done.stderr
    both = gate("check", "--policy", "p.yaml", "--file", "a.yaml", "team/good.yaml", "a.yaml")
    assert (both.returncode, both.stderr.count("✖ a.yaml: W-1")) == (1, 1)


def test_words_of_others_stay_words(gate):
    reason = 'a "quoted" reason: # no comment, ünïcode 🙂 and \\ too'
    assert gate(*changed(reason=reason, id="1e5")).returncode == 0
    (one,) = read_waivers(gate.folder / "w.yaml")
    assert (one.fields.reason, one.id) == (reason, "1e5")


def test_as_a_program(gate):
    def program(*arguments):
        return subprocess.run(
            [sys.executable, "-c", CODE, "waiver", *arguments],
            cwd=gate.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    assert program(*GOOD).returncode == 0
    path = gate.folder / "w.yaml"
    assert program("check", "--policy", "p.yaml").returncode == 0
    path.write_text(path.read_text().replace("until_value: 0.73", "until_value: much"))
    done = program("check", "--policy", "p.yaml")
    assert (done.returncode, done.stdout) == (1, "")
    assert "malformed: w.yaml:" in done.stderr
