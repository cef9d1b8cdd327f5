"""What a registry remembers of earlier evaluations, and gives back of their evidence."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from privacy_gate.datamodel import Candidate
from privacy_gate.errors import RegistryUnreachable
from privacy_gate.registry import RecordedReport, Remembered, attempt_of, open_registry, run_tags
from privacy_gate.registry.in_memory import InMemoryRegistry
from privacy_gate.registry.mlflow import MlflowRegistry

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def a_candidate() -> Candidate:
    return Candidate("m", "m", Path(), "7" * 64, "sklearn", False)


def evidence_of(digest: str, folder: Path, seed: int = 3, data: str = "d" * 64, code: int = 1) -> RecordedReport:
    folder.mkdir(exist_ok=True)
    report, members = folder / "report.json", folder / "members.npz"
    report.write_text(f'{{"seed": {seed}}}')
    members.write_bytes(b"pseudonyms")
    return RecordedReport(
        verdict={0: "pass", 1: "fail", 3: "error"}[code],
        model_sha256=digest,
        policy_sha256="p" * 64,
        params={"seed": str(seed)},
        files=[report],
        data_sha256=data,
        references="16" * 32,
        seed=seed,
        exit_code=code,
        restricted=[members],
    )


def test_evaluations_are_remembered_by_the_models_content(world, tmp_path):
    one = world.registry.resolve("models:/churn/1", tmp_path)
    other = world.registry.resolve("models:/churn/2", tmp_path)
    before = world.registry.attempts(one).attempts
    for seed, code in ((3, 1), (4, 3)):
        recorded = world.registry.record(one, evidence_of(one.digest, tmp_path / "f", seed, code=code))
        assert recorded.warnings == ()
    remembered = world.registry.attempts(one)
    assert remembered.warnings == ()
    mine = [a for a in remembered.attempts if a not in before]
    assert sorted((a.data_digest, a.seed, a.policy_digest, a.verdict, a.exit_code) for a in mine) == [
        ("d" * 64, 3, "p" * 64, "fail", 1),
        ("d" * 64, 4, "p" * 64, "error", 3),
    ]
    assert all(a.at.endswith("+00:00") and a.run_id for a in mine)
    assert {a.references for a in mine} == {"16" * 32}
    # The same bytes under another name are the same model; other bytes are not.
    copied = world.registry.resolve("models:/churn-copy/1", tmp_path)
    assert {a.run_id for a in world.registry.attempts(copied).attempts} >= {a.run_id for a in mine}
    assert not {a.run_id for a in world.registry.attempts(other).attempts} & {a.run_id for a in mine}


def test_the_evidence_of_a_version_comes_back(world, tmp_path):
    fresh = world.registry.resolve("models:/churn-copy/1", tmp_path)
    world.registry.record(fresh, evidence_of(fresh.digest, tmp_path / "f", code=0))
    found = world.registry.evidence(world.registry.resolve("models:/churn-copy/1", tmp_path), tmp_path / "into")
    assert (found.verdict, found.warnings) == ("pass", ())
    assert found.report.read_text() == '{"seed": 3}'
    assert found.members.read_bytes() == b"pseudonyms"
    assert stat.S_IMODE(found.members.stat().st_mode) == 0o600
    assert found.members.is_relative_to(tmp_path / "into")


def test_evidence_about_other_bytes_is_none(world, tmp_path):
    candidate = replace(world.registry.resolve("models:/churn/2", tmp_path), name=None, version=None)
    recorded = world.registry.record(candidate, evidence_of(candidate.digest, tmp_path / "f"))
    tags = {"privacy_gate.run_id": recorded.run_id}
    assert world.registry.evidence(replace(candidate, tags=tags), tmp_path) is not None
    assert world.registry.evidence(replace(candidate, tags=tags, digest="0" * 64), tmp_path) is None
    assert world.registry.evidence(replace(candidate, tags={}), tmp_path) is None
    for nonsense in ("1" * 32, "../x", "' or 1=1"):
        assert world.registry.evidence(replace(candidate, tags={"privacy_gate.run_id": nonsense}), tmp_path) is None


def test_a_run_of_somebody_elses_is_no_evidence(embedded, tmp_path):
    """Tags are anybody's: only runs of the gate's own experiment count."""
    candidate = embedded.registry.resolve("models:/churn/1", tmp_path)
    embedded.registry._client.set_tag(embedded.run, "privacy_gate.model_sha256", candidate.digest)
    tags = {"privacy_gate.run_id": embedded.run}
    assert embedded.registry.evidence(replace(candidate, tags=tags), tmp_path) is None


def test_a_deleted_evaluation_is_not_forgotten(embedded, tmp_path):
    candidate = embedded.registry.resolve("models:/churn/1", tmp_path)
    recorded = embedded.registry.record(candidate, evidence_of(candidate.digest, tmp_path / "f", seed=77))
    embedded.registry._client.delete_run(recorded.run_id)
    assert 77 in {a.seed for a in embedded.registry.attempts(candidate).attempts}
    tags = {"privacy_gate.run_id": recorded.run_id}
    assert embedded.registry.evidence(replace(candidate, tags=tags), tmp_path) is None


def test_pseudonyms_are_not_left_readable_by_others(embedded, tmp_path):
    candidate = embedded.registry.resolve("models:/churn/1", tmp_path)
    recorded = embedded.registry.record(candidate, evidence_of(candidate.digest, tmp_path / "f"))
    kept = Path(embedded.registry._client.get_run(recorded.run_id).info.artifact_uri.removeprefix("file://"))
    assert stat.S_IMODE((kept / "restricted").stat().st_mode) == 0o700
    assert stat.S_IMODE((kept / "restricted" / "members.npz").stat().st_mode) == 0o600
    assert (kept / "privacy-gate" / "report.json").is_file()


def test_many_evaluations_come_in_pages(embedded, tmp_path, monkeypatch):
    candidate = replace(embedded.registry.resolve("models:/churn/1", tmp_path), digest="7" * 64, name=None)
    for seed in range(3):
        embedded.registry.record(candidate, RecordedReport("fail", candidate.digest, "p" * 64, seed=seed))
    client = embedded.registry._client
    search = client.search_runs
    monkeypatch.setattr(client, "search_runs", lambda *a, max_results, **k: search(*a, max_results=2, **k))
    assert sorted(a.seed for a in embedded.registry.attempts(candidate).attempts) == [0, 1, 2]


def test_a_registry_without_the_experiment_remembers_nothing(tmp_path):
    from tests.mlflow_server import embedded_registry

    registry = open_registry(embedded_registry(tmp_path), None)
    model = replace(a_candidate(), digest="7" * 64)
    assert registry.attempts(model) == Remembered(())
    assert registry.evidence(model, tmp_path) is None


def test_without_permission_the_caller_is_told(embedded, tmp_path, monkeypatch):
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, PERMISSION_DENIED

    candidate = embedded.registry.resolve("models:/churn/1", tmp_path)
    registry = MlflowRegistry(embedded.uri, embedded.uri)

    def refuse(*args, **kwargs):
        raise MlflowException("no", PERMISSION_DENIED)

    def gone(*args, **kwargs):
        raise MlflowException("boom", INTERNAL_ERROR)

    monkeypatch.setattr(registry._client, "search_runs", refuse)
    remembered = registry.attempts(candidate)
    assert remembered.attempts is None
    assert "no permission" in remembered.warnings[0]
    monkeypatch.setattr(registry._client, "search_runs", gone)
    with pytest.raises(RegistryUnreachable):
        registry.attempts(candidate)
    monkeypatch.setattr(registry._client, "get_run", refuse)
    found = registry.evidence(replace(candidate, tags={"privacy_gate.run_id": "a" * 32}), tmp_path)
    assert (found.report, found.members) == (None, None)
    assert "no permission" in found.warnings[0]


def test_an_artifact_that_may_not_be_read_is_left_out_with_a_warning(embedded, tmp_path, monkeypatch):
    candidate = embedded.registry.resolve("models:/churn/1", tmp_path)
    recorded = embedded.registry.record(candidate, evidence_of(candidate.digest, tmp_path / "f"))
    fetch = embedded.registry.fetch

    def guarded(uri, into):
        if "restricted" in uri:
            raise PermissionError(13, "Permission denied")
        return fetch(uri, into)

    monkeypatch.setattr(embedded.registry, "fetch", guarded)
    found = embedded.registry.evidence(
        replace(candidate, tags={"privacy_gate.run_id": recorded.run_id}), tmp_path / "into"
    )
    assert found.report is not None
    assert found.members is None
    assert "restricted/members.npz" in found.warnings[0]


def test_a_digest_that_is_none_is_no_query(embedded):
    with pytest.raises(ValueError, match="not a sha256"):
        embedded.registry.attempts(replace(a_candidate(), digest="' or 1=1"))


def test_a_folder_has_no_memory(tmp_path):
    remembered = InMemoryRegistry(keeps=False).attempts(a_candidate())
    assert remembered.attempts is None
    assert remembered.warnings


def test_runs_of_earlier_versions_count_with_what_is_known_of_them():
    told = attempt_of({"privacy_gate.verdict": "inconclusive"}, {"seed": "7"}, "r", "t")
    assert (told.seed, told.exit_code, told.references) == (7, 4, "")
    assert told.data_digest != attempt_of({}, {}, "s", "t").data_digest
    junk = attempt_of({"privacy_gate.seed": "-1 or so", "privacy_gate.exit_code": "x"}, {}, "r", "t")
    assert (junk.seed, junk.exit_code) == (-1, 0)


def test_tags_say_nothing_of_what_is_not_known():
    assert set(run_tags(RecordedReport("error", "m" * 64, "p" * 64))) == {
        "privacy_gate.verdict",
        "privacy_gate.model_sha256",
        "privacy_gate.policy_sha256",
    }
