"""Versions, aliases, tags and webhooks: alike in memory, embedded, and behind a server."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from privacy_gate.errors import CandidateNotFound, DataError, RegistryUnreachable, StorageFailed, UsageError
from privacy_gate.registry import SHARED_FOLDER, RecordedReport, mlflow, open_registry
from tests.mlflow_server import free_port
from tests.registry.test_mlflow import answering, real  # noqa: F401  (a fixture)

# What people call models: MLflow takes all but "/", ":" and names of folders.
NAMES = ["o'brien", 'a"b', "x`y", "50%", "naïve ☃", "a b", " lead", "m#?&=+%2F", "\x1b[31mred", "a\nb", "name = 'x'"]
DENIED = json.dumps({"error_code": "PERMISSION_DENIED", "message": "no"}).encode()


def register(world, name: str) -> str:
    """One more version of a model, with the files of churn's first."""
    if world.uri is None:
        return world.registry.add(name, world.registry.models["churn"]["1"].folder)
    client = world.registry._client
    with contextlib.suppress(Exception):
        client.create_registered_model(name)
    return str(client.create_model_version(name, "models:/churn/1").version)


def delete(world, name: str, version: str | None = None) -> None:
    """A version, or the whole model."""
    if world.uri is None:
        if version is None:
            del world.registry.models[name]
            world.registry.aliases.pop(name, None)
        else:
            del world.registry.models[name][version]
    elif version is None:
        world.registry._client.delete_registered_model(name)
    else:
        world.registry._client.delete_model_version(name, version)


def listed(world, *names: str):
    return [v for v in world.registry.versions() if v.name in names]


@pytest.fixture
def model(world, request):
    """A model of two versions that no other test knows; a tag on its first."""
    name = f"{request.node.originalname}"
    register(world, name)
    register(world, name)
    world.registry.mark(name, "1", {"team": "x"})
    yield name
    delete(world, name)


# --- versions ---


def test_every_version_is_listed_in_order(world, model):
    for _ in range(9):
        register(world, model)
    world.registry.move_alias(model, "b", "2")
    world.registry.move_alias(model, "a", "2")
    world.registry.move_alias(model, "c", "10")
    found = listed(world, model)
    assert [v.version for v in found] == [str(n) for n in range(1, 12)]
    assert {v.version: v.aliases for v in found if v.aliases} == {"2": ("a", "b"), "10": ("c",)}
    assert found[0].tags == {"team": "x"}
    assert all(v.ready for v in found)
    assert found[1].uri == f"models:/{model}/2"
    every = list(world.registry.versions())
    assert every == sorted(every, key=lambda v: (v.name, int(v.version)))
    assert {"churn", "churn-copy", model} <= {v.name for v in every}
    assert found == [world.registry.version(model, v.version) for v in found], "one by one is as in the listing"


def test_a_version_that_calls_itself_a_prompt_is_listed_by_its_alias(world, model):
    """Else it could carry the alias of approved ones for ever: no sweep would see it, and deployments could load it."""
    world.registry.move_alias(model, "privacy-approved", "2")
    for version in ("1", "2"):
        world.registry.mark(model, version, {"mlflow.prompt.is_prompt": "true"})
    assert {v.version: v.aliases for v in listed(world, model)}["2"] == ("privacy-approved",)
    world.registry.move_alias(model, "privacy-approved", None)
    assert world.registry.alias(model, "privacy-approved") is None


PROMPT = "mlflow.prompt.is_prompt"


@pytest.fixture(params=[False, True], ids=["the model", "its version, too"])
def hidden(request, real):  # noqa: F811
    """A model of one version, tagged as a prompt after an alias was set: MLflow's client denies that it is there."""
    name = f"hidden-{request.param}"
    register(real, name)
    client = real.registry._client
    client.set_registered_model_alias(name, "approved", "1")
    if request.param:
        client.set_model_version_tag(name, "1", PROMPT, "true")
    client.set_registered_model_tag(name, PROMPT, "true")
    yield name
    client._get_registry_client().delete_registered_model(name)


def served(world, name: str) -> str | None:
    """The version that an alias points to, as anybody is told who asks the registry itself."""
    if not world.uri.startswith("http"):
        with contextlib.closing(sqlite3.connect(world.database, timeout=30)) as base:
            found = base.execute("SELECT version FROM registered_model_aliases WHERE name = ?", (name,)).fetchone()
        return None if found is None else str(found[0])
    query = urllib.parse.urlencode({"name": name, "alias": "approved"})
    try:
        with urllib.request.urlopen(f"{world.uri}/api/2.0/mlflow/registered-models/alias?{query}") as answer:
            return json.load(answer)["model_version"]["version"]
    except urllib.error.HTTPError:
        return None


def test_a_model_that_calls_itself_a_prompt_keeps_no_alias(real, hidden, tmp_path):  # noqa: F811
    """Else a forged alias would stay for ever: the registry still answers with it."""
    registry = real.registry
    assert served(real, hidden) == "1"
    assert registry.alias(hidden, "approved") == "1"
    assert [(v.version, v.aliases) for v in listed(real, hidden)] == [("1", ("approved",))]
    for uri in (f"models:/{hidden}/1", f"models:/{hidden}@approved"):
        with pytest.raises(UsageError, match=r"tagged as a prompt|no registered model"):
            registry.resolve(uri, tmp_path)
    with pytest.raises(CandidateNotFound):
        registry.move_alias(hidden, "other", "1")
    if registry.version(hidden, "1") is not None:
        registry.mark(hidden, "1", {"privacy_gate.verdict": "fail"})
        assert registry.version(hidden, "1").tags["privacy_gate.verdict"] == "fail"
    registry.move_alias(hidden, "approved", None)
    assert served(real, hidden) is None
    assert registry.alias(hidden, "approved") is None
    registry.move_alias(hidden, "approved", None)
    assert [v.aliases for v in listed(real, hidden)] in ([()], [])


def test_a_prompt_says_what_it_is_where_its_files_are_asked_for(real, tmp_path):  # noqa: F811
    """And not that the registry is gone, for which a sweep would give up."""
    register(real, "half hidden")
    client = real.registry._client
    client.set_registered_model_tag("half hidden", PROMPT, "true")
    try:
        with pytest.raises(UsageError, match="tagged as a prompt") as caught:
            real.registry.resolve("models:/half hidden/1", tmp_path)
        assert "delete that tag" in caught.value.hint
    finally:
        client._get_registry_client().delete_registered_model("half hidden")


def test_a_version_that_goes_before_its_files_are_asked_for(real, tmp_path, monkeypatch):  # noqa: F811
    registry = open_registry(real.uri, None)
    version = register(real, "fleeting files")
    seen = registry._client.get_model_version("fleeting files", version)
    delete(real, "fleeting files")
    monkeypatch.setattr(registry._client, "get_model_version", lambda *_: seen)
    with pytest.raises(CandidateNotFound, match="has no version"):
        registry.resolve(f"models:/fleeting files/{version}", tmp_path)


def test_a_name_is_only_a_name(world):
    made = {name: register(world, name) for name in NAMES}
    try:
        for name, version in made.items():
            world.registry.mark(name, version, {"privacy_gate.verdict": name.strip()})
            world.registry.move_alias(name, "approved", version)
        found = {v.name: v for v in listed(world, *NAMES)}
        assert set(found) == set(NAMES)
        for name, version in made.items():
            assert world.registry.alias(name, "approved") == version
            assert found[name].aliases == ("approved",)
            assert found[name].tags == {"privacy_gate.verdict": name.strip()}
            assert world.registry.version(name, version) == found[name]
    finally:
        for name in made:
            delete(world, name)


NO_VERSIONS = ["99", "0", "-1", "1.0", "", "x", "1 ", "²", "9" * 19, "9" * 40, "../1", "latest"]
NO_MODELS = ["nope", "", "a/b", "churn' OR name = 'churn", "chur_", "chur%"]


def test_a_version_that_is_none_is_none(world):
    for version in NO_VERSIONS:
        assert world.registry.version("churn", version) is None
        with pytest.raises(CandidateNotFound, match="has no version"):
            world.registry.move_alias("churn", "approved", version)
        for tags in ({"a": "b"}, {}):
            with pytest.raises(CandidateNotFound, match="has no version"):
                world.registry.mark("churn", version, tags)
    assert world.registry.alias("churn", "approved") is None


def test_a_model_that_is_none_is_none(world):
    for name in NO_MODELS:
        assert world.registry.version(name, "1") is None
        assert world.registry.alias(name, "candidate") is None
        world.registry.move_alias(name, "candidate", None)
        with pytest.raises(CandidateNotFound):
            world.registry.move_alias(name, "candidate", "1")


def test_a_version_that_was_deleted_is_gone(world, model):
    delete(world, model, "1")
    assert world.registry.version(model, "1") is None
    assert [v.version for v in listed(world, model)] == ["2"]
    with pytest.raises(CandidateNotFound):
        world.registry.mark(model, "1", {"a": "b"})
    assert register(world, model) == "3"


# --- aliases ---


def test_an_alias_moves_and_goes(world, model):
    registry = world.registry
    assert registry.alias(model, "approved") is None
    registry.move_alias(model, "approved", None)
    for version in ("1", "1", "2", "1"):
        registry.move_alias(model, "approved", version)
        assert registry.alias(model, "approved") == version
    registry.move_alias(model, "other", "1")
    registry.move_alias(model, "approved", None)
    registry.move_alias(model, "approved", None)
    assert registry.alias(model, "approved") is None
    assert registry.alias(model, "other") == "1"
    with pytest.raises(CandidateNotFound):
        registry.move_alias(model, "other", "99")
    assert registry.alias(model, "other") == "1", "a refused move moves nothing"


def test_latest_is_no_alias(world):
    assert world.registry.alias("churn", "latest") is None


# --- tags ---


def test_tags_are_set_and_others_stay(world, model):
    world.registry.mark(model, "1", {"privacy_gate.verdict": "fail", "b": "1"})
    world.registry.mark(model, "1", {"privacy_gate.verdict": "pass", "b": "1"})
    found = world.registry.version(model, "1")
    assert found.tags == {"team": "x", "privacy_gate.verdict": "pass", "b": "1"}
    assert world.registry.version(model, "2").tags == {}


# --- files of an evidence run ---


@pytest.fixture
def evidence(world, tmp_path):
    """An evaluation of churn 2 with a report; its candidate and its run."""
    report = tmp_path / "report.json"
    report.write_text("first")
    candidate = world.registry.resolve("models:/churn/2", tmp_path)
    recorded = world.registry.record(candidate, RecordedReport("pass", candidate.digest, "p" * 64, files=(report,)))
    return candidate, recorded.run_id


def artifact(world, run: str, name: str, into) -> str | None:
    """Content of a file that an evidence run shows to anybody."""
    if world.uri is None:
        return next((f.read_text() for f in world.registry.recorded[run].files if f.name == name), None)
    try:
        return world.registry.fetch(f"runs:/{run}/{SHARED_FOLDER}/{name}", into).read_text()
    except DataError:
        return None


def test_files_are_put_beside_the_report(world, evidence, tmp_path):
    _, run = evidence
    new = tmp_path / "new"
    new.mkdir()
    (new / "report.json").write_text("second")
    (new / "attestation.json").write_text("signed")
    assert artifact(world, run, "attestation.json", tmp_path / "a") is None
    world.registry.attach(run, [new / "report.json", new / "attestation.json"])
    assert artifact(world, run, "report.json", tmp_path / "b") == "second"
    assert artifact(world, run, "attestation.json", tmp_path / "c") == "signed"
    (new / "attestation.json").write_text("s")
    world.registry.attach(run, [new / "attestation.json"])
    assert artifact(world, run, "attestation.json", tmp_path / "d") == "s"
    assert artifact(world, run, "report.json", tmp_path / "e") == "second"


def test_files_are_put_into_the_gates_own_runs_only(world, tmp_path):
    file = tmp_path / "report.json"
    file.write_text("{}")
    for run in (world.run, "0" * 31 + "1", "", "../x", "a b", "x" * 65):
        with pytest.raises(DataError, match="is no evaluation of the gate's"):
            world.registry.attach(run, [file])


def test_nothing_is_put_into_a_deleted_run(real, tmp_path):  # noqa: F811
    registry = real.registry
    candidate = registry.resolve("models:/churn/2", tmp_path)
    run = registry.record(candidate, RecordedReport("pass", candidate.digest, "p" * 64)).run_id
    registry._client.delete_run(run)
    with pytest.raises(DataError, match="deleted"):
        registry.attach(run, [])


def test_a_file_that_is_not_there_is_not_the_registrys_fault(real, tmp_path):  # noqa: F811
    registry = real.registry
    candidate = registry.resolve("models:/churn/2", tmp_path)
    run = registry.record(candidate, RecordedReport("pass", candidate.digest, "p" * 64)).run_id
    with pytest.raises(StorageFailed, match="no such file"):
        registry.attach(run, [tmp_path / "absent.json"])


# --- what is MLflow's own ---


def test_pages_are_followed_to_the_end(real, monkeypatch):  # noqa: F811
    for name in ("paged-a", "paged-b", "paged-c"):
        register(real, name)
        register(real, name)
        real.registry.move_alias(name, "approved", "2")
    try:
        whole = list(real.registry.versions())
        assert len(whole) >= 9
        for page in (1, 2, 3):
            monkeypatch.setattr(mlflow, "PAGE", page)
            assert list(real.registry.versions()) == whole
        assert [v.aliases for v in listed(real, "paged-c")] == [(), ("approved",)]
    finally:
        for name in ("paged-a", "paged-b", "paged-c"):
            delete(real, name)


def test_the_run_and_the_time_are_known(real):  # noqa: F811
    found = real.registry.version("churn", "1")
    assert found.run_id == real.run
    assert 0 <= time.time() - found.created < 3600
    [copied] = listed(real, "churn-copy")
    assert copied.tags["stage"] == "from version", "a copy carries the tags of its original"
    bare = register(real, "no run")
    try:
        assert real.registry.version("no run", bare).run_id in (None, real.run)
        assert real.registry.version("no run", bare).run_id != ""
    finally:
        delete(real, "no run")


def test_prompts_are_no_models(real):  # noqa: F811
    real.registry._client.register_prompt("a-prompt", "Answer {{question}}")
    assert "a-prompt" not in {v.name for v in real.registry.versions()}


@pytest.mark.parametrize("status", ["PENDING_REGISTRATION", "FAILED_REGISTRATION"])
def test_versions_that_are_not_ready_say_so(real, status):  # noqa: F811
    version = register(real, "unready")
    try:
        with sqlite3.connect(real.database, timeout=30) as base:
            base.execute("UPDATE model_versions SET status = ? WHERE name = 'unready'", (status,))
        base.close()
        assert real.registry.version("unready", version).ready is False
        assert [v.ready for v in listed(real, "unready")] == [False]
    finally:
        delete(real, "unready")


def test_what_is_there_already_is_not_written_again(embedded, tmp_path):
    """A write makes an event, and each event would make the service look again."""
    copy = tmp_path / "copy.db"
    shutil.copy(embedded.database, copy)
    registry = open_registry(f"sqlite:///{copy}", None)
    registry.move_alias("churn", "approved", "1")
    registry.mark("churn", "1", {"a": "b"})
    written = []
    for name in ("set_registered_model_alias", "delete_registered_model_alias", "set_model_version_tag"):
        setattr(registry._store, name, lambda *given, name=name: written.append((name, *given)))
    registry.move_alias("churn", "approved", "1")
    registry.move_alias("churn", "other", None)
    registry.mark("churn", "1", {"a": "b"})
    assert written == []
    registry.mark("churn", "1", {"a": "c"})
    assert written == [("set_model_version_tag", "churn", "1", "a", "c")]


@pytest.mark.parametrize("alias", ["we ird", "v3", "latest", "a@b", "", "x" * 300])
def test_an_alias_that_mlflow_refuses_is_a_usage_error(real, alias):  # noqa: F811
    with pytest.raises(UsageError, match="the registry refuses it"):
        real.registry.move_alias("churn", alias, "1")


def test_a_tag_that_mlflow_refuses_is_a_usage_error(real):  # noqa: F811
    with pytest.raises(UsageError, match="the registry refuses it"):
        real.registry.mark("churn", "2", {"k": "v" * 200_000})


def test_a_version_deleted_between_two_questions_is_gone(real, monkeypatch):  # noqa: F811
    """What was seen a moment ago is written to no more."""
    registry = open_registry(real.uri, None)
    version = register(real, "fleeting")
    seen = registry._client.get_model_version("fleeting", version)
    delete(real, "fleeting")
    monkeypatch.setattr(registry, "_version", lambda *_: seen)
    with pytest.raises(CandidateNotFound):
        registry.mark("fleeting", version, {"a": "b"})
    with pytest.raises(CandidateNotFound):
        registry.move_alias("fleeting", "approved", version)


# --- refused, unreachable ---

QUESTIONS = {
    "versions": lambda registry: list(registry.versions()),
    "version": lambda registry: registry.version("churn", "1"),
    "alias": lambda registry: registry.alias("churn", "candidate"),
    "move": lambda registry: registry.move_alias("churn", "approved", "1"),
    "remove": lambda registry: registry.move_alias("churn", "approved", None),
    "mark": lambda registry: registry.mark("churn", "1", {"a": "b"}),
    "attach": lambda registry: registry.attach("0" * 32, []),
    "webhooks": lambda registry: registry.webhooks(),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_missing_permission_says_so(question):
    with answering(403, DENIED) as uri, pytest.raises(RegistryUnreachable, match="access denied") as caught:
        QUESTIONS[question](open_registry(uri, None))
    assert "ask for read permission" in caught.value.hint


def test_a_missing_permission_to_write_names_that_one(embedded, tmp_path):
    """Who may read but not write."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    registry = open_registry(embedded.uri, None)

    def denied(*_):
        raise MlflowException("Permission denied", PERMISSION_DENIED)

    for name in ("set_registered_model_alias", "delete_registered_model_alias", "set_model_version_tag"):
        setattr(registry._store, name, denied)
    for write in (
        lambda: registry.move_alias("churn", "approved", "1"),
        lambda: registry.move_alias("churn", "candidate", None),
        lambda: registry.mark("churn", "1", {"new": "tag"}),
    ):
        with pytest.raises(RegistryUnreachable, match="access denied") as caught:
            write()
        assert "ask for edit permission" in caught.value.hint
    assert registry.alias("churn", "candidate") == "1"


@pytest.mark.parametrize("question", QUESTIONS)
def test_nobody_there_is_unreachable(question, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = f"http://someone:secret@127.0.0.1:{free_port()}"
    with pytest.raises(RegistryUnreachable) as caught:
        QUESTIONS[question](open_registry(uri, None))
    assert "secret" not in str(caught.value)


# --- webhooks ---


def test_only_a_server_calls_webhooks(in_memory, embedded):
    for world in (in_memory, embedded):
        with pytest.raises(UsageError, match="calls no webhooks"):
            world.registry.webhooks()


@pytest.mark.server
@pytest.mark.slow
def test_webhooks_are_listed_while_the_key_is_there(server, monkeypatch):
    assert server.registry.webhooks() == []
    client = server.registry._client
    made = [
        client.create_webhook(
            f"gate-{n}", f"https://1.1.1.1/{n}", ["model_version.created", "registered_model.created"]
        )
        for n in range(2)
    ]
    client.update_webhook(made[0].webhook_id, status="DISABLED")
    try:
        found = {hook.id: hook for hook in server.registry.webhooks()}
        assert set(found) == {hook.webhook_id for hook in made}
        first, second = (found[hook.webhook_id] for hook in made)
        assert (first.name, first.url, first.active) == ("gate-0", "https://1.1.1.1/0", False)
        assert second.active
        assert second.events == ("model_version.created", "registered_model.created")
        # Kept under a key that the server does not have, as after a restart without it.
        from cryptography.fernet import Fernet

        lost = Fernet(Fernet.generate_key()).encrypt(b"secret").decode()
        with sqlite3.connect(server.database, timeout=30) as base:
            base.execute("UPDATE webhooks SET secret = ? WHERE webhook_id = ?", (lost, made[1].webhook_id))
        base.close()
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(RegistryUnreachable, match="MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY") as caught:
            server.registry.webhooks()
        assert "Fernet" in caught.value.hint
        assert "made again" in caught.value.hint
        assert server.registry.version("churn", "1") is not None, "all the rest goes on working"
    finally:
        with sqlite3.connect(server.database, timeout=30) as base:
            base.execute("DELETE FROM webhook_events")
            base.execute("DELETE FROM webhooks")
        base.close()


def test_a_server_from_before_webhooks_has_none():
    with answering(404, b"<html>Not Found</html>") as uri, pytest.raises(UsageError, match="has no webhooks"):
        open_registry(uri, None).webhooks()
