"""`privacy-gate defences`: what it lists, what it shows, what it prints of a comparison, and the exit code."""

from __future__ import annotations

import json
from itertools import permutations

import pytest

from privacy_gate.cli import defences, run
from privacy_gate.datamodel import VerdictStatus
from privacy_gate.defences import CATALOG
from privacy_gate.reports import charts
from privacy_gate.reports.document import Interval
from tests.reports.samples import failing

CONFIG = "apiVersion: privacy-gate/v1\nmodel: models:/m/1\ndata: {members: a.csv, nonmembers: b.csv}\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def test_the_list_names_every_defence_and_its_settings(here, capsys):
    assert run(["defences"]) == 0
    told = capsys.readouterr().out
    for one in CATALOG:
        assert one.id in told
        for name in one.settings.model_fields:
            assert name in told
    assert max(map(len, told.splitlines())) <= 80


def test_the_list_for_machines(here, capsys):
    assert run(["defences", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in rows] == CATALOG.names()
    assert {row["kind"] for row in rows} == {"output", "fitted output", "training"}


def test_show_prints_the_tags_that_declare_a_defence(here, capsys):
    (here / "privacy-gate.yaml").write_text(CONFIG + "defence: {output_coarsening: {decimals: 1}}\n")
    assert run(["defences", "show"]) == 0
    told = capsys.readouterr().out
    assert run(["defences", "show", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["digest"] in told
    assert document["defence"]["output_coarsening"]["decimals"] == 1
    from privacy_gate.defences import declared

    tags = dict(line.strip().split("=", 1) for line in told.splitlines() if "=" in line)
    assert declared(tags).defences.document == document["defence"]


def test_show_without_a_defence_or_a_config(here, capsys):
    assert run(["defences", "show"]) == 0
    assert "no defence is configured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("{tree_limit: {min_samples_leaf: 5}}", ":5:6: error[unknown-defence]: compare.0.tree_limit: "),
        ("{tree_limits: {min_samples_leaves: 5}}", ":5:20: error[extra_forbidden]: compare.0.tree_limits.min_samples_"),
        ("{output_coarsening: {decimals: -1}}", ":5:36: error[greater_than_equal]: compare.0.output_coarsening.dec"),
    ],
)
def test_a_misspelt_alternative_is_shown_in_its_line(here, capsys, entry, told):
    (here / "privacy-gate.yaml").write_text(CONFIG + f"compare:\n  - {entry}\n")
    assert run(["defences", "compare"]) == 2
    assert told in capsys.readouterr().err
    assert not (here / "privacy-gate-defences").exists()


def test_compare_without_a_config(here, capsys):
    assert run(["defences", "compare", "models:/m/1"]) == 2
    assert "no configuration" in capsys.readouterr().err


def test_an_old_report_does_not_outlive_a_misspelt_option(here):
    old = here / "privacy-gate-defences" / "report.json"
    old.parent.mkdir()
    old.write_text("{}")
    assert run(["defences", "compare", "--profile", "lax"]) == 2
    assert not old.exists()


# --- the table ------------------------------------------------------------------------------------------------------


def table(report, capsys):
    defences._table(report)
    return capsys.readouterr().out


def test_eighty_columns_hold_every_name_and_every_rule(here, capsys):
    report = failing()
    told = table(report, capsys)
    assert max(map(len, told.splitlines())) <= 80
    assert "…" not in told
    words = told.split()
    for one in report.alternatives:
        assert set(one.name.split()) <= set(words)
        assert set(one.violated) <= {word.rstrip(",;") for word in words}
    assert "−0.3" in words
    assert told.count("trained again") == 2


def test_of_few_people_the_table_tells_an_upper_bound(here, capsys):
    report = failing()
    hidden = report.alternatives[1].model_copy(update={"high_risk": Interval(value=None, low=None, high=0.012)})
    told = table(report.model_copy(update={"alternatives": (report.alternatives[0], hidden)}), capsys)
    assert "≤\N{NO-BREAK SPACE}1.2" in told or "≤ 1.2" in told


def test_one_sentence_says_what_to_release():
    as_it_is, leaf20, leaf100 = failing().alternatives

    def said(*rows):
        return charts.said_of(rows)

    assert said(as_it_is, leaf20) == "None of them passes this policy."
    assert said(as_it_is) == "Nothing else was compared."
    undecided = leaf100.model_copy(update={"status": VerdictStatus.INCONCLUSIVE})
    assert said(as_it_is, undecided) == "None of them passes this policy; still open for want of evidence: 1."
    told = said(as_it_is, leaf20, leaf100)
    assert leaf100.name in told
    assert "−0.3 pts against the candidate" in told
    passing = as_it_is.model_copy(update={"status": VerdictStatus.PASS_WITH_WAIVERS})
    assert "The candidate passes as it is" in said(passing, leaf100)


@pytest.mark.parametrize(
    ("codes", "code"),
    [((0,), 0), ((1, 0), 0), ((1, 1), 1), ((1, 4), 4), ((4, 4, 3), 3), ((1, 3, 4, 0), 0), ((1,), 1)],
)
def test_the_exit_code(codes, code):
    assert {defences.exit_code(order) for order in permutations(codes)} == {code}


# --- the chart ------------------------------------------------------------------------------------------------------


def test_no_label_of_the_chart_covers_another():
    rows = [failing().alternatives[0].model_copy(update={"name": str(n)}) for n in range(24)]
    chart = charts.alternatives(rows)
    labels = [(mark.at_x, mark.at_y) for mark in chart.marks]
    assert len({(mark.x, mark.y) for mark in chart.marks}) == 1
    radius = 9
    for n, (x, y) in enumerate(labels):
        assert chart.frame.left <= x - radius
        assert x + radius <= chart.frame.right
        assert all((x - a) ** 2 + (y - b) ** 2 >= (2 * radius) ** 2 for a, b in labels[:n])
    assert labels[0] == (chart.marks[0].x, chart.marks[0].y)  # the candidate stands where it lies
