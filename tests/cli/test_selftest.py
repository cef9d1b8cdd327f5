"""`privacy-gate selftest`: says what was promised and what was measured; a broken promise is exit code 3."""

import json
import subprocess
import sys

import pytest

from privacy_gate import selftest
from privacy_gate.cli import run
from privacy_gate.cli.selftest import line
from privacy_gate.selftest import Promise, World


class Worlds(dict):
    def names(self):
        return sorted(self)


def install(monkeypatch, measured, quick=30, most=1000):
    def a_world(seed, replicates):
        """A world."""
        yield Promise("ok", "world", "nothing happens", 0.0, 0.05, 0.0, 0.1, replicates)
        yield Promise("other", "world", "it happens rarely", measured, 0.05, 0.0, 0.1, replicates)

    monkeypatch.setattr(selftest, "CATALOG", Worlds(a=World("a", a_world, quick, most, False)))


@pytest.mark.parametrize(("measured", "code"), [(0.1, 0), (0.11, 3)])
def test_exit_codes(monkeypatch, capsys, measured, code):
    install(monkeypatch, measured, most=20)
    assert run(["selftest", "--replicates", "40", "--jobs", "1", "--json"]) == code
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["held"] is (code == 0)
    assert [p["held"] for p in told["promises"]] == [True, code == 0]
    assert told["promises"][0]["replicates"] == 20
    assert ("other" in captured.err) is (code == 3)


@pytest.mark.parametrize(
    ("size", "replicates"), [([], 30), (["--nightly"], 400), (["--replicates", "12"], 12), (["--replicates", "50"], 50)]
)
def test_every_promise_is_a_line_on_stdout(monkeypatch, capsys, size, replicates):
    install(monkeypatch, 0.2)
    assert run(["selftest", "--jobs", "1", *size]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert [text[0] for text in lines] == ["✔", "✖"]
    assert f" {replicates} replicates" in lines[0]


def test_bounds_in_words():
    assert "(at most 0.05; 0.100 in 9 replicates)" in line(Promise("x", "", "", 0.0, 0.05, 0.0, 0.1, 9))
    assert "(at least 0.95; 0.900 in 9 replicates)" in line(Promise("x", "", "", 0.95, 0.95, 0.9, 1.0, 9))
    assert "(0.5; 0.4000 to 0.6000 in 9 replicates)" in line(Promise("x", "", "", 0.5, 0.5, 0.4, 0.6, 9))


@pytest.mark.parametrize("wrong", [["--replicates", "1"], ["--jobs", "0"]])
def test_sizes_that_say_nothing_are_refused(wrong):
    assert run(["selftest", *wrong]) == 2


def test_as_a_program():
    """Two worlds; all of them are run, one by one, in tests/selftest."""
    worlds = ["--world", "K-02", "--world", "K-03"]
    command = [sys.executable, "-m", "privacy_gate", "selftest", "--replicates", "10", "--json", *worlds]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    said = json.loads(done.stdout)
    assert said["held"]
    assert {promise["id"].split(".")[0] for promise in said["promises"]} == {"K-2", "K-3"}
