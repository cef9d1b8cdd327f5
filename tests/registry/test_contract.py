"""What every registry does alike: in memory, embedded, behind a server."""

from __future__ import annotations

import dataclasses
import stat

import numpy as np
import pytest

from privacy_gate.errors import CandidateNotFound, DataError, UsageError
from privacy_gate.registry import RecordedReport
from privacy_gate.registry.snapshot import digest

CLEAN = "red line"


def test_an_alias_is_followed_once_to_a_version(world, tmp_path):
    candidate = world.registry.resolve("models:/churn@candidate", tmp_path)
    assert candidate.uri == "models:/churn@candidate"
    assert candidate.resolved_uri == "models:/churn/1"
    assert (candidate.name, candidate.version) == ("churn", "1")
    assert candidate.flavor == "sklearn"
    assert candidate.executes_code


def test_the_snapshot_is_a_private_copy_named_by_its_content(world, tmp_path):
    candidate = world.registry.resolve("models:/churn/1", tmp_path)
    assert candidate.snapshot.is_relative_to(tmp_path)
    assert stat.S_IMODE(candidate.snapshot.stat().st_mode) == 0o700
    assert {stat.S_IMODE(f.stat().st_mode) for f in candidate.snapshot.rglob("*") if f.is_file()} == {0o600}
    assert candidate.digest == digest(candidate.snapshot)
    (candidate.snapshot / "MLmodel").write_text("changed")
    again = world.registry.resolve("models:/churn/1", tmp_path)
    assert again.digest == candidate.digest, "the live store was changed through the snapshot"
    assert again.snapshot != candidate.snapshot


def test_other_content_has_another_digest_and_a_copied_version_the_same(world, tmp_path):
    one, two, copied = (
        world.registry.resolve(f"models:/{which}", tmp_path).digest for which in ("churn/1", "churn/2", "churn-copy/1")
    )
    assert one != two
    assert one == copied


def test_latest_is_the_highest_version(world, tmp_path):
    assert world.registry.resolve("models:/churn/latest", tmp_path).resolved_uri == "models:/churn/2"


def test_text_from_the_registry_is_harmless(world, tmp_path):
    candidate = world.registry.resolve("models:/churn/1", tmp_path)
    assert candidate.tags["evil"] == CLEAN
    assert candidate.params["note"] == CLEAN
    assert all(isinstance(v, str) for v in [*candidate.tags.values(), *candidate.params.values()])


def test_the_candidate_knows_its_origin(world, tmp_path):
    candidate = world.registry.resolve("models:/churn/1", tmp_path)
    assert candidate.tags["defence"] == "none"
    assert candidate.tags["stage"] == "from version", "tags of the version win over the run's"
    assert candidate.metrics == {"accuracy": 0.75}
    assert not [key for key in candidate.tags if key.startswith("mlflow.")]


@pytest.mark.parametrize(
    ("uri", "what", "hint"),
    [
        ("models:/nope/1", "no registered model is called 'nope'", "churn"),
        ("models:/nope@candidate", "no registered model is called 'nope'", "churn"),
        ("models:/churn/99", "no version 99", "2"),
        ("models:/churn@champion", "no alias 'champion'", "candidate"),
        ("models:/churn", "does not say which version", "models:/churn@candidate"),
        ("models:/churn/Production", "stages are no longer supported", "models:/churn@production"),
        ("models:/m-" + "0" * 32, "0000", ""),
        ("runs:/" + "1" * 32 + "/model", "no run 1111", ""),
        ("models:/a/b/c", "not the URI of a model", "models:/NAME@ALIAS"),
        ("models:/", "not the URI of a model", "models:/NAME@ALIAS"),
        ("http://host/model", "not the URI of a model", "models:/NAME@ALIAS"),
        ("/no/such/folder", "no such folder", "models:/NAME@ALIAS"),
    ],
)
def test_an_unknown_model_is_named_with_what_exists(world, tmp_path, uri, what, hint):
    with pytest.raises(UsageError) as caught:
        world.registry.resolve(uri, tmp_path)
    assert what in caught.value.what
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_run_names_its_model(world, tmp_path):
    candidate = world.registry.resolve(f"runs:/{world.run}/model", tmp_path)
    assert candidate.digest == world.registry.resolve("models:/churn/1", tmp_path).digest
    assert candidate.version is None


def test_a_folder_needs_no_registry(world, tmp_path):
    folder = world.registry.resolve("models:/churn/1", tmp_path).snapshot
    candidate = world.registry.resolve(str(folder), tmp_path)
    assert candidate.digest == digest(folder)
    assert (candidate.name, candidate.version) == (None, None)
    assert candidate.snapshot != folder


def test_an_artifact_is_fetched_as_a_private_copy(world, tmp_path):
    path = world.registry.fetch(f"runs:/{world.run}/privacy_gate/split.npz", tmp_path)
    assert path.is_relative_to(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with np.load(path) as arrays:
        assert arrays["x"].tolist() == [0, 1, 2, 3, 4, 5]
    other = world.registry.fetch(f"runs:/{world.run}/privacy_gate/split.npz", tmp_path)
    assert other != path


def test_an_artifact_that_is_not_there_is_an_error(world, tmp_path):
    with pytest.raises(DataError, match="no such artifact"):
        world.registry.fetch(f"runs:/{world.run}/privacy_gate/absent.npz", tmp_path)
    with pytest.raises(CandidateNotFound, match="no run"):
        world.registry.fetch(f"runs:/{'2' * 32}/privacy_gate/split.npz", tmp_path)
    for outside in ("../../secret", "/etc/passwd", "a/../../b"):
        with pytest.raises(UsageError):
            world.registry.fetch(f"runs:/{world.run}/{outside}", tmp_path)


def test_evidence_is_written_back(world, tmp_path):
    report_file = tmp_path / "report.json"
    report_file.write_text("{}")
    candidate = world.registry.resolve("models:/churn-copy/1", tmp_path)
    report = RecordedReport(
        verdict="fail",
        model_sha256=candidate.digest,
        policy_sha256="p" * 64,
        params={"seed": "0"},
        metrics={"privacy/auc": 0.6},
        files=(report_file,),
        note="**refused**",
    )
    recorded = world.registry.record(candidate, report)
    assert recorded.warnings == ()
    tags = world.registry.resolve("models:/churn-copy/1", tmp_path).tags
    assert tags["privacy_gate.verdict"] == "fail"
    assert tags["privacy_gate.run_id"] == recorded.run_id
    assert tags["privacy_gate.model_sha256"] == candidate.digest
    assert tags["privacy_gate.policy_sha256"] == "p" * 64


def test_a_candidate_without_a_version_gets_a_run_only(world, tmp_path):
    before = world.registry.resolve("models:/churn/2", tmp_path)  # of a registry that other tests wrote to
    candidate = dataclasses.replace(before, name=None, version=None)
    recorded = world.registry.record(candidate, RecordedReport("pass", candidate.digest, "p" * 64))
    assert recorded.run_id
    assert recorded.warnings == ()
    assert world.registry.resolve("models:/churn/2", tmp_path).tags == before.tags


def test_a_healthy_registry_says_so(world):
    probes = world.registry.ping()
    assert probes
    assert all(probe.ok for probe in probes), probes
