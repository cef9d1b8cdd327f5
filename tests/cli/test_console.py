"""What people read on stderr fits 80 columns and says numbers in the units of the reports."""

import itertools
import re

import pytest

from privacy_gate.cli import run
from privacy_gate.cli.console import show_verdict
from privacy_gate.reports import figures
from tests.reports.samples import SAMPLES


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_the_table_has_the_numbers_of_the_reports(narrow, capsys, name):
    report = SAMPLES[name]()
    show_verdict(report, {})
    said = capsys.readouterr().err
    rows = {line.split()[0]: line for line in said.splitlines() if re.match(r"PG\d{3} ", line)}
    assert set(rows) == {rule.id for rule in report.rules if rule.action != "off"}
    assert all(len(line.rstrip()) <= 80 for line in rows.values())
    for rule in report.rules:
        if rule.action == "off" or rule.value is None:
            continue
        kind = figures.unit(rule.metric)
        assert figures.amount(rule.value, kind, rule.limit) in rows[rule.id]
        assert figures.amount(rule.limit, kind) in rows[rule.id]
        assert figures.bounds(rule.low, rule.high, kind, rule.limit) in rows[rule.id]


def test_accuracy_and_rates_are_percentages_and_auc_is_not(narrow, capsys):
    show_verdict(SAMPLES["fail"](), {})
    rows = {line.split()[0]: line for line in capsys.readouterr().err.splitlines() if line.startswith("PG")}
    assert "%" in rows["PG101"]
    assert "%" in rows["PG103"]
    assert "%" not in rows["PG102"]


def test_the_terminal_breaks_the_lines_of_a_help_text(monkeypatch, capsys):
    """And not the source: at this width, lines that end early, or with a single word, come from there."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    for verb in (["sweep"], ["promote"], ["policy", "test"]):
        assert run([*verb, "--help"]) == 0
        text = capsys.readouterr().out.partition("╭")[0].split("Usage:")[1]
        lines = [line.rstrip() for line in text.splitlines()[1:]]
        for line, following in itertools.pairwise(lines):
            if line and following:
                assert len(line) + 1 + len(following.split()[0]) > 79, line


def test_help_has_one_exit_code_per_line(narrow, capsys):
    assert run(["--help"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    codes = [line.split()[0] for line in lines if re.match(r"\d+  \S", line)]
    assert codes == ["0", "1", "2", "3", "4", "130"]


@pytest.mark.parametrize("verb", [["check"], ["shadows", "train"]])
def test_a_device_that_is_none_is_named(verb, capsys):
    assert run([*verb, "models:/x@c", "--device", "tpu"]) == 2
    assert "--device" in capsys.readouterr().err
