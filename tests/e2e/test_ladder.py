"""The ladder of evidence through the real program: no shadows, fold models, earlier versions, proxies, a sample."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.e2e.conftest import FEATURES, Here, Run, Team
from tests.e2e.conftest import register as log

FOLDS = 2
OPEN = {"PG103", "PG104", "PG501"}  # rules of `standard` that no evidence without references lets pass


def fitted(table: pd.DataFrame, seed: int, **settings: Any) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(10, random_state=seed, **settings).fit(table[FEATURES], table["sick"])


@pytest.fixture(scope="module")
def models(team: Team) -> dict[str, list[dict[str, str]]]:
    """What a team has anyway: fold models by person, last month's version, and one with other settings."""
    folder = team.folder
    for name in ("members", "nonmembers"):
        table = pd.read_csv(folder / f"{name}.csv")
        table["row"] = [f"{name[0]}{i:04d}" for i in range(len(table))]
        table.to_csv(folder / f"{name}-rows.csv", index=False)
    members = pd.read_csv(folder / "members-rows.csv")
    fold = np.random.default_rng(0).permutation(members["person"].nunique()) % FOLDS
    found: dict[str, list[dict[str, str]]] = {"folds": [], "earlier": [], "shallow": []}

    def keep(kind: str, rows: pd.DataFrame, seed: int, **settings: Any) -> None:
        version = log(team, kind, fitted(rows, seed, **settings))
        path = f"{kind}-{version}.parquet"
        rows[["row"]].to_parquet(folder / path)
        found[kind].append({"model": f"models:/{kind}/{version}", "members": path})

    for number in range(FOLDS):
        keep("folds", members[fold[members["person"]] != number], number)
    keep("earlier", members[members["person"] < 100], 7)
    keep("shallow", members[members["person"] < 100], 8, max_depth=2)
    return found


def configured(team: Team, name: str, **changes: Any) -> Path:
    """A config in which records have ids."""
    path = team.write_config(name, **changes)
    config = yaml.safe_load(path.read_text())
    config["data"] |= {"members": "members-rows.csv", "nonmembers": "nonmembers-rows.csv", "id": "row"}
    path.write_text(yaml.safe_dump(config))
    return path


def statuses(report: Any) -> dict[str, str]:
    return {rule["id"]: rule["status"] for rule in report["rules"]}


def nothing_passes_that_needs_references(report: Any) -> None:
    assert not OPEN & {id for id, status in statuses(report).items() if status == "pass"}


def the_same_everywhere(run: Run) -> tuple[str, ...]:
    """What would decide, as report.json says it: whole in the terminal and in both other reports."""
    texts = tuple(run.report["would_decide"])
    pages = [html.unescape((run.out / name).read_text()) for name in ("report.md", "report.html")]
    for text in texts:
        assert f"to decide: {text}\n" in run.stderr
        assert all(text[1:] + "." in page for page in pages)
    return texts


def findings(report: Any) -> dict[str, Any]:
    return {found["check"]: found for found in report["validity"]}


# --- no shadows -------------------------------------------------------------------------------------------------------


def test_without_shadows_a_leak_fails_and_the_report_says_what_would_decide_the_rest(
    team: Team, here: Here, tmp_path: Path
) -> None:
    team.write_config("bare.yaml", shadows={"count": 0})
    run = here("check", "-c", "bare.yaml", "--store", tmp_path / "store")
    report = run.report
    assert run.code == 1
    assert report["shadows"] is None
    assert statuses(report)["PG101"] == "fail"
    nothing_passes_that_needs_references(report)
    first, *others = the_same_everywhere(run)
    assert first.startswith("4 shadows of the candidate's own recipe (")
    assert "PG501, which no number of records alone lets pass: " in first
    assert "lira" in first
    # Records beside the shadows, never in their place.
    assert all(text[5:].startswith(": also about ") for text in others if text[:5] in OPEN)
    assert all("What evidence would decide" in (run.out / name).read_text() for name in ("report.md", "report.html"))
    assert report["data"]["coverage"] == "census: all 300 training records"
    assert "Audited: census" in (run.out / "report.md").read_text()


def test_without_shadows_an_innocent_model_does_not_pass(team: Team, here: Here, plain: str, tmp_path: Path) -> None:
    two = ["correctness", "confidence"]
    team.write_config("plain.yaml", model=plain, shadows={"count": 0}, attacks=two)
    run = here("check", "-c", "plain.yaml", "--store", tmp_path / "store", "--profile", "internal")
    assert run.code == 4
    assert statuses(run.report)["PG101"] in ("pass", "inconclusive")
    nothing_passes_that_needs_references(run.report)
    first, *others = the_same_everywhere(run)
    assert first.startswith("4 shadows of the candidate's own recipe (")
    assert "lira added to attacks, can decide " in first
    assert "PG501, which no number of records alone lets pass" in first
    assert all(text[5:].startswith(": also about ") for text in others if text[:5] in OPEN)


# --- models that exist ------------------------------------------------------------------------------------------------


def test_fold_models_find_the_leak_and_pass_nothing(
    team: Team, models: dict[str, list[dict[str, str]]], here: Here, tmp_path: Path
) -> None:
    configured(team, "folds.yaml", shadows={"recipe": {"load": models["folds"]}})
    run = here("check", "-c", "folds.yaml", "--store", tmp_path / "store")
    report = run.report
    assert run.code == 1
    carried = [a for a in report["attacks"] if a["threat_model"] == "shadow" and a["metrics"] and a["threshold"]]
    assert {a["id"] for a in carried} == {"confidence", "entropy", "modified_entropy"}
    assert max(a["metrics"]["accuracy"]["low"] for a in carried) > 0.6
    assert not [a for a in report["attacks"] if a["threat_model"] == "reference" and a["metrics"]]
    assert findings(report)["reference_membership"]["status"] == "not_applicable"
    # Each was trained on one half of the records.
    assert findings(report)["shadow_fidelity"]["status"] == "fail"
    assert "pass" not in {statuses(report)[id] for id in ("PG101", "PG102", "PG103", "PG104", "PG501", "PG502")}
    assert report["shadows"]["count"] == FOLDS
    assert report["shadows"]["train_size"] == 150
    assert any("members alone" in note for note in report["shadows"]["notes"])
    # The same again asks none of them, and plan marks the rung.
    again = here("plan", "-c", "folds.yaml", "--store", tmp_path / "store", "--json")
    assert "models:/folds/1 in a process" in run.stderr
    assert "models:/folds/1 in a process" not in again.stderr
    (chosen,) = [rung for rung in json.loads(again.stdout)["ladder"] if rung["chosen"]]
    assert (chosen["id"], chosen["shadows"], chosen["minutes"]) == ("folds", FOLDS, 0.0)


def test_an_earlier_version_and_a_model_with_other_settings(
    team: Team, models: dict[str, list[dict[str, str]]], here: Here, tmp_path: Path
) -> None:
    both = [*models["earlier"], *models["shallow"]]
    configured(team, "earlier.yaml", shadows={"recipe": {"load": both}}, attacks=["correctness", "confidence"])
    run = here("check", "-c", "earlier.yaml", "--store", tmp_path / "store")
    report = run.report
    assert run.code == 1
    assert "pass" not in {statuses(report)[id] for id in ("PG101", "PG102", "PG502")}
    proxies = findings(report)["proxy_shadows"]
    assert proxies["status"] == "fail"
    assert "models:/shallow/1: it was trained with other settings (max_depth)" in proxies["reason"]
    assert "earlier" not in proxies["reason"]
    assert report["shadows"]["proxy"]
    assert "never pass it" in (run.out / "report.html").read_text()


def test_what_a_list_must_have_is_said_before_any_model_is_asked(
    team: Team, models: dict[str, list[dict[str, str]]], here: Here
) -> None:
    team.write_config("without.yaml", shadows={"recipe": {"load": models["folds"]}})
    run = here("check", "-c", "without.yaml")
    assert run.code == 2
    assert "data.id" in run.said
    own = {"model": "models:/tiny@candidate", "members": models["folds"][0]["members"]}
    configured(team, "own.yaml", shadows={"recipe": {"load": [own]}})
    run = here("check", "-c", "own.yaml")
    assert run.code == 2
    assert "is the candidate itself" in run.said


# --- declared proxies, samples ----------------------------------------------------------------------------------------


def test_declared_proxies_on_a_sample_fail_the_candidate_and_the_report_says_sample(
    team: Team, here: Here, tmp_path: Path
) -> None:
    team.write_config("sample.yaml", shadows={"count": 4, "proxy": "the real one takes a week"}, audit={"members": 240})
    run = here("check", "-c", "sample.yaml", "--store", tmp_path / "store")
    report = run.report
    assert run.code == 1
    assert findings(report)["proxy_shadows"]["status"] == "fail"
    assert statuses(report)["PG502"] == "inconclusive"
    assert report["data"]["members"]["drawn_from"] == 300
    said = f"sample: {report['data']['members']['n']} of 300 members"
    assert report["data"]["coverage"].startswith(said)
    assert said in run.said
    for name in ("report.md", "report.html"):
        assert said in (run.out / name).read_text()


def test_plan_prints_the_ladder(team: Team, here: Here, tmp_path: Path) -> None:
    team.write_config("bare.yaml", shadows={"count": 0})
    run = here("plan", "-c", "bare.yaml", "--store", tmp_path / "store")
    lines = run.stderr.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("ladder"))
    rows = lines[start : start + 8]
    assert all(len(line) <= 80 for line in rows)
    assert [line for line in rows if line.startswith("         > 0 shadows")]
    assert [line.split()[0] for line in rows[-3:]] == ["4", "16", "64"]
    assert "not without shadows: lira, rmia" in run.stderr
