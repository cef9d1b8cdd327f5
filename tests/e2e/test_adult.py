"""Adult: the forest that looks harmless to a threshold, what to do about it, and what may be released."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.test_location30 import run
from tests.mlflow_server import embedded_registry

pytestmark = [pytest.mark.reference, pytest.mark.slow]

EXAMPLE = Path(__file__).parents[2] / "examples" / "adult"


@pytest.fixture(scope="module")
def home(reference_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder and its registry."""
    folder = tmp_path_factory.mktemp("adult")
    return folder, embedded_registry(folder)


@pytest.fixture(scope="module")
def gated(home: tuple[Path, str]) -> dict[str, Any]:
    """Reports of both candidates, from one real registry, under `standard`, with 8 balanced shadows each."""
    folder, uri = home
    reports = {}
    for kind in ("forest", "logistic"):
        trained = run(EXAMPLE / "train.py", "--out", folder / kind, "--model", kind, folder=folder, uri=uri)
        assert trained.returncode == 0, trained.stderr
        arguments = ["-c", folder / kind / "privacy-gate.yaml", "--store", folder / "store", "--out", folder / kind]
        done = run(
            "-m", "privacy_gate", "check", *arguments, "--profile", "standard", "--quiet", folder=folder, uri=uri
        )
        reports[kind] = json.loads((folder / kind / "report.json").read_text())
        assert done.returncode == reports[kind]["verdict"]["exit_code"], done.stderr
    return reports


def entries(report: Any, attack: str) -> list[Any]:
    return [a["metrics"] for a in report["attacks"] if a["id"] == attack and a["metrics"]]


def test_the_forest_fails(gated: dict[str, Any]) -> None:
    assert gated["forest"]["verdict"]["exit_code"] == 1
    assert gated["forest"]["shadows"]["count"] == 8


def test_the_confidence_attack_alone_sees_little(gated: dict[str, Any]) -> None:
    seen = [
        a["metrics"]["accuracy"]["value"]
        for a in gated["forest"]["attacks"]
        if (a["id"], a["threshold"]) == ("confidence", "global")
    ]
    # 0.607 in the literature's setting; the split, the encoder and the forest's seed move it by a point or two.
    assert 0.58 <= max(seen) <= 0.65


def test_a_reference_attack_sees_the_forest_through(gated: dict[str, Any]) -> None:
    lira = entries(gated["forest"], "lira")
    assert max(m["accuracy"]["value"] for m in lira) >= 0.70
    assert lira[0]["tpr_at_fpr"]["0.01"]["value"] > 0.10


def test_the_logistic_regression_passes_with_tpr_at_one_in_a_thousand_decided(gated: dict[str, Any]) -> None:
    report = gated["logistic"]
    assert report["verdict"]["exit_code"] == 0
    (rule,) = [r for r in report["rules"] if r["id"] == "PG104"]
    assert (rule["status"], rule["action"]) == ("pass", "block")


def test_without_shadows_the_forest_fails_and_what_needs_references_stays_open(
    gated: dict[str, Any], home: tuple[Path, str]
) -> None:
    folder, uri = home
    config = yaml.safe_load((folder / "forest" / "privacy-gate.yaml").read_text())
    config["shadows"]["count"] = 0
    (folder / "forest" / "bare.yaml").write_text(yaml.safe_dump(config))
    out = folder / "bare"
    arguments = ["-c", folder / "forest" / "bare.yaml", "--store", folder / "store", "--out", out]
    done = run("-m", "privacy_gate", "check", *arguments, "--profile", "standard", "--quiet", folder=folder, uri=uri)
    report = json.loads((out / "report.json").read_text())
    status = {rule["id"]: rule["status"] for rule in report["rules"]}
    assert done.returncode == report["verdict"]["exit_code"] == 1, done.stderr
    assert status["PG101"] == "fail"
    assert {status[id] for id in ("PG103", "PG104", "PG501")} == {"inconclusive"}
    (text,) = report["would_decide"]
    assert text.startswith("4 shadows of the candidate's own recipe")
    # Eight shadows were trained in this store a moment ago: what they took is known.
    assert "minutes unknown" not in text
    assert report["data"]["coverage"].startswith("census: ")


def test_larger_leaves_make_a_forest_that_passes_standard(reference_data: Path, tmp_path: Path) -> None:
    uri = embedded_registry(tmp_path)
    # 4,500 records of either side are the fewest tried at which every rule of `standard` is decided.
    small = ["--sample", 5000, "--trees", 20, "--leaves", 20, 100]
    trained = run(EXAMPLE / "train.py", "--out", tmp_path / "forest", *small, folder=tmp_path, uri=uri)
    assert trained.returncode == 0, trained.stderr
    arguments = ["-c", tmp_path / "forest" / "privacy-gate.yaml", "--store", tmp_path / "store", "--out", tmp_path]
    command = ["-m", "privacy_gate", "defences", "compare", *arguments, "--profile", "standard", "--quiet"]
    done = run(*command, folder=tmp_path, uri=uri)
    report = json.loads((tmp_path / "report.json").read_text())
    candidate, leaf20, leaf100 = report["alternatives"]

    assert done.returncode == 0, done.stderr
    assert report["verdict"]["exit_code"] == candidate["exit_code"] == 1
    assert {"PG101", "PG201"} <= set(candidate["violated"])
    assert candidate["accuracy"]["value"] > 0.65
    for row, leaf in ((leaf20, 20), (leaf100, 100)):
        assert row["settings"]["tree_limits"]["min_samples_leaf"] == leaf
        assert (row["exit_code"], row["violated"], row["undecided"]) == (0, [], []), row["headline"]
        assert row["accuracy"]["high"] < 0.60
        assert row["retrained"]
    # The cost: next to nothing for a forest with leaves of 20, some two points with leaves of 100. A paired difference
    # over 5,000 records of whom fewer than one in six are answered otherwise has a standard error under 0.6 points.
    assert abs(leaf20["gain"]) < 0.02
    assert -0.045 < leaf100["gain"] < -0.002
    assert leaf20["name"] in " ".join(done.stdout.rpartition("Of those that pass")[2].split())
