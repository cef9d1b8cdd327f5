"""What is MLflow's own: resolution, noise, errors, write-back."""

from __future__ import annotations

import http.server
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from privacy_gate.errors import GateError, RegistryUnreachable, UsageError
from privacy_gate.registry import RecordedReport, open_registry
from privacy_gate.registry import mlflow as module
from privacy_gate.registry.mlflow import MlflowRegistry, _named, _rows, _seconds, check_uri, redact
from tests.mlflow_server import embedded_registry

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def unconfigured(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)


@contextmanager
def answering(status: int, body: bytes = b"{}"):
    """A server that answers every request the same."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_PUT = _answer  # noqa: N815

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# --- which registry ---


def test_nothing_configured_is_refused_and_creates_nothing(unconfigured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no MLflow registry is configured"):
        open_registry(None, None)
    with pytest.raises(UsageError, match="no MLflow registry is configured"):
        open_registry(None, None, "models:/churn/1")
    assert list(tmp_path.iterdir()) == []


def test_a_model_folder_alone_needs_no_configuration(unconfigured, embedded, tmp_path):
    folder = embedded.registry.resolve("models:/churn/1", tmp_path).snapshot
    registry = open_registry(None, None, str(folder))
    candidate = registry.resolve(str(folder), tmp_path)
    assert candidate.digest == embedded.registry.resolve("models:/churn/1", tmp_path).digest
    recorded = registry.record(candidate, RecordedReport("pass", candidate.digest, "p" * 64))
    assert recorded.run_id is None
    assert "not recorded" in recorded.warnings[0]


def test_a_folder_is_no_record_in_the_registry(embedded, tmp_path):
    folder = embedded.registry.resolve("models:/churn/1", tmp_path).snapshot
    candidate = embedded.registry.resolve(str(folder), tmp_path)
    assert candidate.run_id is None
    assert candidate.tags == {}


def test_the_environment_names_the_registry(embedded, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", embedded.uri)
    assert open_registry(None, None).resolve("models:/churn/1", tmp_path).version == "1"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", embedded.uri)
    assert open_registry(None, None).resolve("models:/churn/1", tmp_path).version == "1"


def test_two_registries_in_one_process_do_not_mix(embedded, tmp_path):
    """MLflow's own models:/ resolution asks the process-wide registry, whatever client it was given."""
    from tests.mlflow_server import embedded_registry

    empty = open_registry(embedded_registry(tmp_path), None)
    with pytest.raises(UsageError, match="no registered model"):
        empty.resolve("models:/churn/1", tmp_path / "a")
    assert embedded.registry.resolve("models:/churn/1", tmp_path / "b").version == "1"


@pytest.mark.parametrize(
    "uri",
    ["sqlite:///absent.db", "sqlite://", "sqlite:///empty.db", "sqlite:///text.db", "mlruns", "file:///tmp/mlruns"],
)
def test_what_mlflow_would_create_is_refused(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("no database " * 200)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError) as caught:
        open_registry(uri, None)
    assert caught.value.exit_code == 2
    assert sorted(tmp_path.iterdir()) == before


def test_other_uris_are_left_to_mlflow():
    for uri in ("https://mlflow.example", "databricks", "databricks://profile", "postgresql://u:p@h/db"):
        check_uri(uri)


# --- errors ---


def test_a_dead_server_is_unreachable_within_seconds(tmp_path):
    from tests.mlflow_server import free_port

    registry = open_registry(f"http://someone:secret@127.0.0.1:{free_port()}", None)
    started = time.monotonic()
    with pytest.raises(RegistryUnreachable) as caught:
        registry.resolve("models:/churn/1", tmp_path)
    assert time.monotonic() - started < 60  # MLflow's own settings would retry for four minutes
    assert caught.value.exit_code == 3
    assert "secret" not in str(caught.value)
    [probe] = registry.ping()
    assert not probe.ok
    assert probe.mend


@pytest.mark.parametrize("status", [401, 403])
def test_a_missing_read_permission_says_so(status, tmp_path):
    with answering(status, b"Permission denied") as uri, pytest.raises(RegistryUnreachable, match="access denied"):
        open_registry(uri, None).resolve("models:/churn/1", tmp_path)


@pytest.mark.parametrize("status", [401, 403])
def test_a_missing_write_permission_is_a_warning(status, embedded, tmp_path):
    candidate = embedded.registry.resolve("models:/churn/1", tmp_path)
    with answering(status, json.dumps({"error_code": "PERMISSION_DENIED", "message": "no"}).encode()) as uri:
        recorded = open_registry(uri, None).record(candidate, RecordedReport("pass", candidate.digest, "p" * 64))
    assert recorded.run_id is None
    assert "no permission" in recorded.warnings[0]


def test_a_read_only_database_is_a_warning(embedded, tmp_path, monkeypatch):
    candidate = embedded.registry.resolve("models:/churn/1", tmp_path)
    copy = tmp_path / "copy.db"
    shutil.copy(embedded.uri.removeprefix("sqlite:///"), copy)
    registry = open_registry(f"sqlite:///{copy}", None)
    registry.resolve("models:/churn/1", tmp_path)
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def freeze(connection, *_):
        connection.execute("PRAGMA query_only = ON")

    # Root may write to everything; SQLite's own switch refuses with the same words as a read-only file.
    event.listen(Engine, "checkout", freeze)
    try:
        recorded = registry.record(candidate, RecordedReport("pass", candidate.digest, "p" * 64))
    finally:
        event.remove(Engine, "checkout", freeze)
    assert recorded.run_id is None
    assert "no permission" in recorded.warnings[0]


def test_a_server_that_is_gone_at_the_end_raises(embedded, tmp_path):
    candidate = embedded.registry.resolve("models:/churn/1", tmp_path)
    with answering(500) as uri, pytest.raises(RegistryUnreachable):
        open_registry(uri, None).record(candidate, RecordedReport("pass", candidate.digest, "p" * 64))


def test_nonsense_from_a_server_is_unreachable(tmp_path):
    with answering(200, b"<html>login</html>") as uri, pytest.raises(RegistryUnreachable):
        open_registry(uri, None).resolve("models:/churn/1", tmp_path)


def test_redaction_keeps_the_host():
    assert redact("GET https://user:pw@host:5000/a failed") == "GET https://***@host:5000/a failed"
    assert redact("https://host/@x") == "https://host/@x"


# --- where files are ---


@contextmanager
def moved(embedded, tmp_path, place):
    """The registry with the files of all its versions said to be at `place`."""
    copy = tmp_path / "copy.db"
    shutil.copy(embedded.uri.removeprefix("sqlite:///"), copy)
    with sqlite3.connect(copy) as base:
        base.execute("UPDATE model_versions SET source = ?, storage_location = ?", (place, place))
    base.close()
    yield f"sqlite:///{copy}"


@pytest.mark.parametrize(
    "place",
    [
        "https://elsewhere.example/model",
        "ftp://elsewhere.example/model",
        "sftp://elsewhere.example/model",
        "mlflow-artifacts://elsewhere.example/model",
        "mlflow-artifacts:/1/model",  # on a server; this registry has none
        "abfss://c@elsewhere.example/model",
        "hdfs://elsewhere.example/model",
        "s3://bucket/model",
        "gs://bucket/model",
        "dbfs:/model",
        "dbfs://profile@databricks/model",
        "http:/model",
        "http://[elsewhere/model",
        "s3:\\\\bucket/model",
        "unheard-of://elsewhere.example/model",
    ],
)
def test_files_at_a_place_that_is_not_the_registrys_are_refused(embedded, tmp_path, place):
    with moved(embedded, tmp_path, place) as uri, pytest.raises(UsageError, match="that is not configured") as caught:
        open_registry(uri, None).resolve("models:/churn/1", tmp_path)
    assert caught.value.exit_code == 2


@contextmanager
def listening():
    """A stranger on loopback; yields its host:port and what it was sent: (path, Authorization)."""
    heard = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append((self.path, self.headers.get("Authorization")))
            self.send_error(404)

        do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    "form",
    [
        "mlflow-artifacts://{stranger}/1/model",
        "http://{stranger}/api/2.0/mlflow-artifacts/artifacts/1",
        "http://{known}@{stranger}/model",
        "http://{stranger}\\@{known}/model",  # one parser's user is another parser's host
        "mlflow-artifacts://{stranger}\\@{known}/model",
        "https://{known}/model",  # the same host and port, in another protocol, is another server
    ],
)
def test_no_stranger_is_sent_the_token(form, tmp_path, monkeypatch):
    """The stranger is the registry's own host, at another port."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "TOKEN")
    with answering(404) as tracking, listening() as (stranger, heard):
        registry = MlflowRegistry(tracking, tracking)
        place = form.format(stranger=stranger, known=tracking.removeprefix("http://"))
        with pytest.raises(UsageError, match="that is not configured"):
            registry._snapshot(place, "models:/churn/1", tmp_path)
    assert heard == []


def test_the_stranger_would_be_heard(monkeypatch, tmp_path):
    """The server of the test above does see the token of a registry that is configured."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "TOKEN")
    with listening() as (own, heard):
        registry = MlflowRegistry(f"http://{own}", f"http://{own}")
        with pytest.raises(GateError, match="404"):
            registry._snapshot("mlflow-artifacts:/1/model", "models:/churn/1", tmp_path)
    assert "Bearer TOKEN" in {token for _, token in heard}


def test_a_report_is_not_sent_to_a_stranger(embedded, tmp_path, monkeypatch):
    """Whoever makes the gate's experiment first says where its files go."""
    import mlflow

    from tests.mlflow_server import embedded_registry

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "TOKEN")
    candidate = embedded.registry.resolve("models:/churn/1", tmp_path)
    file = tmp_path / "report.json"
    file.write_text("{}")
    uri = embedded_registry(tmp_path)
    with listening() as (stranger, heard):
        mlflow.MlflowClient(uri).create_experiment("privacy-gate", artifact_location=f"http://{stranger}/x")
        registry = open_registry(uri, None)
        report = RecordedReport("pass", candidate.digest, "p" * 64, files=[file])
        recorded = registry.record(replace(candidate, name=None), report)
    assert heard == []
    assert recorded.run_id is not None
    assert "the report was not recorded" in recorded.warnings[0]


@pytest.mark.parametrize(
    ("root", "place", "trusted"),
    [
        ("s3://root/x", "s3://other/y", True),  # where a bucket's requests go is not the location's to say
        ("s3://root/x", "gs://root/x", False),
        ("abfss://c@a.dfs.core.windows.net/x", "abfss://c@a.dfs.core.windows.net/y", True),
        ("abfss://c@a.dfs.core.windows.net/x", "abfss://c@elsewhere.example/y", False),
        ("abfss://c@a.dfs.core.windows.net/x", "abfss://c@a.dfs.core.windows.net\\@elsewhere/y", False),
        ("mlflow-artifacts:/0", "s3://root/x", False),
        ("", "s3://root/x", False),
        ("s3://root/x", "/a/folder", True),
        ("s3://root/x", "http://127.0.0.1:5000/api/2.0/mlflow-artifacts/artifacts/1", True),
        ("s3://root/x", "mlflow-artifacts://127.0.0.1:5000/1", True),
        ("s3://root/x", "mlflow-artifacts:/1/a model", True),
        ("s3://root/x", "mlflow-artifacts:/../../x", True),
        ("s3://root/x", "mlflow-artifacts://127.0.0.1/1", False),
        ("s3://root/x", "mlflow-artifacts://5000/1", False),
    ],
)
def test_stores_are_those_of_the_registry(monkeypatch, root, place, trusted):
    registry = MlflowRegistry("http://u:p@127.0.0.1:5000", "http://127.0.0.1:5000")
    monkeypatch.setattr(registry, "_root", lambda: root)
    if trusted:
        registry._check_place(place)
    else:
        with pytest.raises(UsageError):
            registry._check_place(place)


def test_databricks_keeps_files_in_its_own_store():
    MlflowRegistry("databricks", "databricks")._check_place("dbfs:/databricks/mlflow/1")


def test_a_version_whose_files_are_gone_is_named(embedded, tmp_path):
    copy = tmp_path / "copy.db"
    shutil.copy(embedded.uri.removeprefix("sqlite:///"), copy)
    with sqlite3.connect(copy) as base:
        base.execute("UPDATE model_versions SET storage_location = ?", (str(tmp_path / "gone"),))
    base.close()
    with pytest.raises(UsageError, match="should be at"):
        open_registry(f"sqlite:///{copy}", None).resolve("models:/churn/1", tmp_path)


def test_a_source_that_leads_in_circles_ends(embedded, tmp_path):
    copy = tmp_path / "copy.db"
    shutil.copy(embedded.uri.removeprefix("sqlite:///"), copy)
    with sqlite3.connect(copy) as base:
        base.execute("UPDATE model_versions SET storage_location = 'models:/churn/1'")
    base.close()
    with pytest.raises(UsageError):
        open_registry(f"sqlite:///{copy}", None).resolve("models:/churn/1", tmp_path)


# --- what a real MLflow knows ---


@pytest.fixture(params=["embedded", pytest.param("server", marks=[pytest.mark.server, pytest.mark.slow])])
def real(request):
    return request.getfixturevalue(request.param)


def test_the_training_run_is_read(real, tmp_path):
    candidate = real.registry.resolve("models:/churn/1", tmp_path)
    assert candidate.run_id == real.run
    assert candidate.params["depth"] == "3"
    [hint] = candidate.datasets
    assert (hint.name, hint.context, hint.rows) == ("train set", "training", 3)
    run = real.registry._client.get_run(real.run)
    assert candidate.run_seconds == (run.info.end_time - run.info.start_time) / 1000
    assert candidate.model_id is not None
    assert candidate.model_id.startswith("m-")
    same = real.registry.resolve(f"models:/{candidate.model_id}", tmp_path)
    assert same.digest == candidate.digest
    assert same.run_id == real.run
    assert real.registry.resolve("models:/churn-copy/1", tmp_path).model_id == candidate.model_id


@pytest.mark.parametrize(
    ("profile", "rows"),
    [
        ('{"num_rows": 7, "num_elements": 21}', 7),
        ('{"features_shape": [5, 2], "features_size": 10}', 5),
        ('{"features_shape": {"a": [4, 2], "b": [4]}}', 4),
        ('{"features_shape": []}', None),
        ('{"features_shape": ["x"]}', None),
        ('{"num_rows": -1}', None),
        ('{"num_rows": true}', None),
        ('{"num_rows": "many"}', None),
        ("[3]", None),
        ("{", None),
        ("", None),
        (None, None),
    ],
)
def test_rows_are_read_from_a_profile(profile, rows):
    assert _rows(profile) == rows


@pytest.mark.parametrize(
    ("start", "end", "seconds"),
    [(1000, 3500, 2.5), (1000, 1000, 0.0), (1000, None, None), (1000, 0, None), (9, 8, None)],
)
def test_the_time_of_a_run_is_known_once_it_ended(start, end, seconds):
    assert _seconds(SimpleNamespace(info=SimpleNamespace(start_time=start, end_time=end))) == seconds
    assert _seconds(None) is None


def test_evidence_can_be_read_in_mlflow(real, tmp_path):
    import mlflow

    files = [tmp_path / "report.json", tmp_path / "report.html"]
    for file in files:
        file.write_text("{}")
    candidate = real.registry.resolve("models:/churn/2", tmp_path)
    report = RecordedReport(
        "pass",
        candidate.digest,
        "p" * 64,
        params={"policy": "standard", "tpr@fpr=0.1%": "x"},
        metrics={"tpr@fpr=0.1%": 0.25, "never": float("inf")},
        files=files,
        note="**passed**",
    )
    recorded = real.registry.record(candidate, report)
    client = mlflow.MlflowClient(real.uri)
    run = client.get_run(recorded.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"tpr_fpr_0.1_": 0.25}
    assert run.data.params == {"policy": "standard", "tpr_fpr_0.1_": "x"}
    assert run.data.tags["mlflow.note.content"] == "**passed**"
    assert client.get_experiment(run.info.experiment_id).name == "privacy-gate"
    assert sorted(a.path for a in client.list_artifacts(recorded.run_id, "privacy-gate")) == [
        "privacy-gate/report.html",
        "privacy-gate/report.json",
    ]
    logged = client.get_logged_model(candidate.model_id)
    assert [m.value for m in logged.metrics if m.key == "tpr_fpr_0.1_"] == [0.25]


def test_evidence_lies_beside_the_other_artifacts(embedded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    candidate = embedded.registry.resolve("models:/churn/2", tmp_path / "w")
    file = tmp_path / "report.json"
    file.write_text("{}")
    embedded.registry.record(candidate, RecordedReport("pass", candidate.digest, "p" * 64, files=(file,)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "w"], "an mlruns folder appeared"


def test_names_become_what_mlflow_allows():
    assert _named({"a@b": 1, "a=b": 2, "../../x": 3, "/": 4, "é": 5}) == {
        "a_b": 1,
        "a_b_2": 2,
        "x": 3,
        "_": 4,
        "__2": 5,
    }


_QUIET = """
import sys
from pathlib import Path
from privacy_gate.registry import RecordedReport, open_registry
registry = open_registry(sys.argv[1], None)
candidate = registry.resolve("models:/churn@candidate", Path(sys.argv[2]))
assert registry.record(candidate, RecordedReport("pass", candidate.digest, "p" * 64)).run_id
try:
    registry.resolve("models:/churn/99", Path(sys.argv[2]))
except Exception as error:
    assert type(error).__name__ == "CandidateNotFound"
"""


def test_mlflow_writes_nothing_to_stdout_or_stderr(real, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", _QUIET, real.uri, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    noise = [line for line in done.stderr.splitlines() if "Warning" not in line and not line.startswith("  ")]
    assert noise == []


def test_two_threads_do_not_import_mlflow_at_once(tmp_path: Path) -> None:
    """Each would leave the other with half of it, in every later call: a worker and its sweep begin together."""
    opened = threading.Event()
    uri = embedded_registry(tmp_path)

    def open_it() -> None:
        MlflowRegistry(uri, uri)
        opened.set()

    with module._IMPORT:
        thread = threading.Thread(target=open_it)
        thread.start()
        assert not opened.wait(0.1)
    assert opened.wait(30)
    thread.join()
