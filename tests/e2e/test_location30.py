"""Location30 end to end: a classifier of visitors, trained by the example's script, registered, gated with 16 shadows.

The early-stopping benchmark of Song & Mittal, USENIX Security 2021, section 5.2, on the same records: the classifier
against itself after fewer epochs, and adversarial regularisation against plain training of the same test accuracy.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from privacy_gate.defences import configure
from privacy_gate.request import TorchTraining
from privacy_gate.shadows.recipes.torch_module import fit
from tests.mlflow_server import embedded_registry, tracking

pytestmark = [pytest.mark.reference, pytest.mark.slow]

EXAMPLE = Path(__file__).parents[2] / "examples" / "location30"
EPOCHS, EARLY = 30, 8  # the small network knows its records by heart after a third of the script's 100 epochs


def run(*command: str | Path, folder: Path, uri: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def check(out: Path, folder: Path, uri: str) -> subprocess.CompletedProcess[str]:
    """Gate what `out` holds the config of; shadows are shared."""
    arguments = ["-c", out / "privacy-gate.yaml", "--store", folder / "store", "--out", out]
    return run("-m", "privacy_gate", "check", *arguments, "--quiet", "--no-mlflow-log", folder=folder, uri=uri)


def report_of(out: Path) -> Any:
    return json.loads((out / "report.json").read_text())


def printed(frontier: Any) -> None:
    """For `pytest -rP`."""
    own, matched = frontier["candidate"], frontier["stops"][frontier["matched"]]
    for stop in (*frontier["stops"], own):
        numbers = "  ".join(f"{id} {found['value']:.3f}" for id, found in stop["attacks"].items())
        print(f"{stop['name']:14s} train {stop['train_accuracy']:.3f}  test {stop['test_accuracy']:.3f}  {numbers}")
    for id, found in frontier["differences"].items():
        print(
            f"candidate less {matched['name']}, {id}: {found['value']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"
        )
    print("dominated by:", [frontier["stops"][place]["name"] for place in frontier["dominated_by"]] or "none")


@pytest.fixture(scope="module")
def home(reference_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder and its registry."""
    folder = tmp_path_factory.mktemp("location30")
    return folder, embedded_registry(folder)


@pytest.fixture(scope="module")
def gated(home: tuple[Path, str]) -> dict[str, Any]:
    """Reports of the small classifier, trained until it knows its records by heart, and stopped after 8 epochs."""
    folder, uri = home
    reports = {}
    for name, epochs in (("full", EPOCHS), ("stopped", EARLY)):
        options = ["--out", folder / name, "--name", name, "--network", "small", "--epochs", str(epochs)]
        trained = run(EXAMPLE / "train.py", *options, folder=folder, uri=uri)
        assert trained.returncode == 0, trained.stderr
        if name == "stopped":  # all that is asked about it; the whole suite has run on the other one
            config = folder / name / "privacy-gate.yaml"
            attacks = ["correctness", "confidence", "modified_entropy"]
            config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "attacks": attacks}))
        done = check(folder / name, folder, uri)
        assert done.returncode in {0, 1, 4}, done.stderr
        reports[name] = report_of(folder / name)
    return reports


def best_accuracy(report: Any, attack: str) -> float:
    return max(a["metrics"]["accuracy"]["value"] for a in report["attacks"] if a["id"] == attack and a["metrics"])


def test_the_full_model_fails(gated: dict[str, Any]) -> None:
    report = gated["full"]
    assert report["verdict"]["status"] == "fail"
    assert report["verdict"]["exit_code"] == 1
    assert report["shadows"] == {**report["shadows"], "plan": "balanced", "count": 16, "train_size": 1000}


def test_modified_entropy_sees_the_leak(gated: dict[str, Any]) -> None:
    assert best_accuracy(gated["full"], "modified_entropy") >= 0.85


def test_a_reference_attack_names_members_at_one_percent(gated: dict[str, Any]) -> None:
    tprs = {
        a["id"]: a["metrics"]["tpr_at_fpr"]["0.01"]["value"]
        for a in gated["full"]["attacks"]
        if a["threat_model"] == "reference" and a["metrics"]
    }
    assert max(tprs.values()) >= 0.4
    # The lesson: thresholds alone, of the same accuracy, name next to nobody.
    metric = next(a for a in gated["full"]["attacks"] if a["id"] == "modified_entropy")
    assert metric["metrics"]["tpr_at_fpr"]["0.01"]["value"] < 0.15


def test_stopping_early_leaks_visibly_less(gated: dict[str, Any]) -> None:
    full, stopped = (best_accuracy(gated[name], "modified_entropy") for name in ("full", "stopped"))
    assert full - stopped >= 0.05


def test_the_shadows_are_like_the_target(gated: dict[str, Any]) -> None:
    for report in gated.values():
        (fidelity,) = [v for v in report["validity"] if v["check"] == "shadow_fidelity"]
        assert fidelity["status"] in {"pass", "warn"}


# --- without any shadow -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare(gated: dict[str, Any], home: tuple[Path, str]) -> Path:
    """The full model once more, on the lowest rung of the ladder."""
    folder, uri = home
    config = yaml.safe_load((folder / "full" / "privacy-gate.yaml").read_text())
    config.pop("frontier", None)
    config["shadows"]["count"] = 0
    config["attacks"] = ["correctness", "confidence", "entropy", "modified_entropy", "lira", "population"]
    out = folder / "bare"
    out.mkdir()
    for file in (folder / "full").iterdir():
        if file.suffix in (".npz", ".py"):
            (out / file.name).symlink_to(file)
    (out / "privacy-gate.yaml").write_text(yaml.safe_dump(config))
    done = check(out, folder, uri)
    assert done.returncode == 1, done.stderr
    (out / "console.txt").write_text(done.stderr)
    return out


def test_without_shadows_what_can_be_failed_is_failed_and_nothing_passes_that_needs_references(bare: Path) -> None:
    report = report_of(bare)
    assert report["shadows"] is None
    status = {rule["id"]: rule["status"] for rule in report["rules"]}
    assert status["PG101"] == status["PG102"] == "fail"
    assert {status[id] for id in ("PG103", "PG104", "PG501")} == {"inconclusive"}
    assert {a["threat_model"] for a in report["attacks"] if a["metrics"] and a["threshold"]} == {"known-subset"}


def test_without_shadows_every_report_says_what_evidence_would_decide(bare: Path) -> None:
    said = " ".join(report_of(bare)["would_decide"])
    assert "4 shadows of the candidate's own recipe" in said
    assert "PG501" in said
    assert "lira" in said
    assert "minute" in said
    for text in ((bare / name).read_text() for name in ("console.txt", "report.md", "report.html")):
        assert "4 shadows of the candidate" in " ".join(text.split())


# --- early stopping ---------------------------------------------------------------------------------------------------


def test_a_stop_around_epoch_8_keeps_the_accuracy_and_leaks_less(gated: dict[str, Any]) -> None:
    frontier = gated["full"]["frontier"]
    printed(frontier)
    assert frontier["source"] == "retraining"
    assert frontier["stops"][-1]["name"] == f"epoch {EPOCHS}"
    own = frontier["candidate"]

    def leak(stop: Any, attack: str = "modified_entropy") -> float:
        return float(stop["attacks"][attack]["value"])

    around = [stop for stop in frontier["stops"] if int(stop["name"].split()[1]) in range(EARLY - 2, EARLY + 3)]
    as_good = [stop for stop in around if stop["test_accuracy"] >= own["test_accuracy"] - 0.02]
    assert as_good
    stop = min(as_good, key=leak)
    assert leak(own) - leak(stop) >= 0.05
    # Correctness is right about (train + 1 - test) / 2 of them: it moves by no more than these two do.
    moved = leak(own, "correctness") - leak(stop, "correctness")
    gap = [of["train_accuracy"] - of["test_accuracy"] for of in (own, stop)]
    assert moved == pytest.approx((gap[0] - gap[1]) / 2, abs=1e-9)
    assert abs(moved) < 0.02 < leak(own) - leak(stop)


def consistent(frontier: Any) -> None:
    """The report's own claims, from its own numbers."""
    own, stops = frontier["candidate"], frontier["stops"]
    worst = [max(found["value"] for found in stop["attacks"].values()) for stop in (*stops, own)]
    distances = [abs(stop["test_accuracy"] - own["test_accuracy"]) for stop in stops]
    matched = stops[frontier["matched"]]
    assert frontier["matched"] == distances.index(min(distances))
    for id, found in frontier["differences"].items():
        assert found["low"] < found["value"] < found["high"]
        assert found["value"] == pytest.approx(own["attacks"][id]["value"] - matched["attacks"][id]["value"], abs=1e-9)
    for place, stop in enumerate(stops):
        better = stop["test_accuracy"] >= own["test_accuracy"] and worst[place] < worst[-1]
        if place in frontier["dominated_by"]:
            assert better
        elif better:  # not proven: the bounds of such a stop overlap the candidate's
            assert worst[place] > worst[-1] - 0.08


def test_the_frontier_says_what_its_numbers_say(gated: dict[str, Any]) -> None:
    for report in gated.values():
        consistent(report["frontier"])


# --- adversarial regularisation against early stopping ----------------------------------------------------------------

DEFENCE = {"adversarial_regularisation": {"strength": 1.0}}
REGULARISED = TorchTraining(learning_rate=3e-3, epochs=20, batch_size=64)


@pytest.fixture(scope="module")
def regularised(home: tuple[Path, str], reference_data: Path) -> Path:
    """The small classifier, trained against the records that the paper's authors gave to their defender; gated."""
    import mlflow
    import torch

    folder, uri = home
    out = folder / "regularised"
    out.mkdir()
    spec = importlib.util.spec_from_file_location("location30_model", EXAMPLE / "model.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    (out / "model.py").write_text((EXAMPLE / "model.py").read_text())
    with np.load(reference_data / "location30" / "records.npz") as data:
        x, y, order = data["x"].astype(np.float32), data["y"].astype(np.int64), data["order"]
    sides = {"members": order[:1000], "seen": order[1000:2000], "nonmembers": order[2000:3000]}
    for name, rows in sides.items():
        np.savez_compressed(out / f"{name}.npz", x=x[rows], y=y[rows])
    inside, beside = (
        (torch.from_numpy(x[rows].copy()), torch.from_numpy(y[rows].copy()))
        for rows in (sides["members"], sides["seen"])
    )
    defences = configure(DEFENCE)
    torch.manual_seed(1)
    order_of_rows = torch.Generator().manual_seed(1)
    module = fit(
        example.small(), *inside, REGULARISED, order_of_rows, defences=defences.training, seed=1, reference=beside
    )
    with tracking(uri), mlflow.start_run():
        logged = mlflow.pytorch.log_model(
            module, name="model", registered_model_name="regularised", input_example=x[:8], pip_requirements=["torch"]
        )
        version = str(logged.registered_model_version)
        client = mlflow.MlflowClient()
        client.set_model_version_tag("regularised", version, "defence", json.dumps(defences.document))
        client.set_model_version_tag("regularised", version, "defence_digest", defences.digest)
    config = {
        "apiVersion": "privacy-gate/v1",
        "model": f"models:/regularised/{version}",
        "data": {f"{name}": f"{name}.npz" for name in sides} | {"label": "y", "classes": list(range(30))},
        "output": "logits",
        "attacks": ["correctness", "confidence", "modified_entropy"],
        "shadows": {
            "count": 4,
            "recipe": {"model": "model.py:small", "training": REGULARISED.model_dump(exclude_defaults=True)},
        },
        "defence": DEFENCE,
        "frontier": "retraining",
    }
    (out / "privacy-gate.yaml").write_text(yaml.safe_dump(config))
    done = check(out, folder, uri)
    assert done.returncode in {0, 1, 4}, done.stderr
    return out


def test_a_regularised_model_against_plain_training_of_the_same_test_accuracy(regularised: Path) -> None:
    """Whichever way it falls: what is claimed is that the comparison is there, and says what its numbers say."""
    report = report_of(regularised)
    frontier = report["frontier"]
    printed(frontier)
    consistent(frontier)
    matched = frontier["stops"][frontier["matched"]]
    # Equal up to twice the standard error of a share of 1,000 records.
    assert abs(matched["test_accuracy"] - frontier["candidate"]["test_accuracy"]) < 2 * 0.5 / 1000**0.5
    assert set(frontier["differences"]) >= {"correctness", "confidence", "modified_entropy"}
    page = (regularised / "report.html").read_text()
    assert ("is dominated:" in page) == bool(frontier["dominated_by"])


def test_the_attacks_knew_of_the_defence_that_the_registry_declares(regularised: Path) -> None:
    report = report_of(regularised)
    (found,) = [v for v in report["validity"] if v["check"] == "undeclared_defence"]
    assert found["status"] == "pass"
    assert report["defence"]["digest"] == configure(DEFENCE).digest
    shadowed = [a["adaptive"] for a in report["attacks"] if a["threat_model"] == "shadow" and a["metrics"]]
    assert sorted(set(shadowed)) == [False, True]  # both are told; the worse one is judged


def test_the_defence_needs_its_own_records(regularised: Path, home: tuple[Path, str]) -> None:
    folder, uri = home
    config = yaml.safe_load((regularised / "privacy-gate.yaml").read_text())
    del config["data"]["seen"]
    (regularised / "without.yaml").write_text(yaml.safe_dump(config))
    arguments = ["-c", regularised / "without.yaml", "--store", folder / "store", "--out", folder / "without"]
    done = run("-m", "privacy_gate", "check", *arguments, "--quiet", "--no-mlflow-log", folder=folder, uri=uri)
    assert done.returncode == 2
    assert "data.seen" in " ".join(done.stderr.split())
    assert not (folder / "without" / "report.json").exists()
