"""MLflow's registry. Every URI is followed here: MLflow's own resolution reads settings of the whole process."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import math
import os
import re
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from privacy_gate.datamodel import Attempt, Candidate, DatasetHint
from privacy_gate.errors import CandidateNotFound, DataError, GateError, RegistryUnreachable, StorageFailed, UsageError
from privacy_gate.registry import (
    MEMBERS,
    PASSES,
    REPORT,
    RESTRICTED_FOLDER,
    SHARED_FOLDER,
    TAG_PREFIX,
    Evaluation,
    Probe,
    Recorded,
    RecordedReport,
    RegisteredVersion,
    Remembered,
    StoredEvidence,
    Webhook,
    attempt_of,
    run_tags,
    verdict_tags,
)
from privacy_gate.registry import snapshot as snapshots
from privacy_gate.registry.snapshot import Alias, Bare, Folder, Logged, RunArtifact, Version, bare, listed
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.storage import private_dir

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "privacy-gate"
MOST_RUNS = 20  # evaluations of one model that are searched for a member list
PAGE = 1000  # of a listing; MLflow gives no more models at once
PROMPT = "mlflow.prompt.is_prompt"  # a tag: MLflow keeps prompts as registered models
_PROMPTS = f"tags.`{PROMPT}` = 'true'"

# What the user set stays; what they did not set must not make the gate chatty, slow to fail or talkative to strangers.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "GIT_PYTHON_REFRESH": "quiet",
}
_NOISY = ("mlflow", "alembic", "sqlalchemy", "urllib3", "huey", "git")
_MISSING = frozenset({"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"})
_IMPORT = threading.Lock()


def _quiet() -> None:
    """Import MLflow so that it writes nothing to stdout or stderr and calls nobody.

    One thread at a time: two that begin with different modules of its circle leave both with halves, for good.
    """
    with _IMPORT:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        import mlflow  # noqa: F401  # its import configures the loggers that are turned down next

        for name in _NOISY:
            logging.getLogger(name).setLevel(logging.ERROR)


def redact(text: str) -> str:
    """Without the user and password of any URI in it."""
    return re.sub(r"//[^/@\s]+@", "//***@", text)


def check_uri(uri: str) -> None:
    """Raise UsageError for a URI under which MLflow would create something, or could only fail later."""
    shown = clean(redact(uri), 200)
    if uri.startswith("sqlite:"):
        _check_sqlite(uri, shown)
    elif "://" not in uri and ":" not in uri.partition("/")[0] and uri not in ("databricks", "databricks-uc", "uc"):
        _check_folder(Path(uri), shown)
    elif uri.startswith("file:"):
        _check_folder(Path(unquote(urlsplit(uri).path)), shown)


def _check_folder(folder: Path, shown: str) -> None:
    if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1") or not folder.is_dir():
        raise UsageError(
            f"{shown}: not an MLflow database or server; folders of runs are no longer supported by MLflow",
            "name a database (sqlite:///mlflow.db) or a server; `mlflow migrate-filestore` moves an old ./mlruns",
        )


def _check_sqlite(uri: str, shown: str) -> None:
    path = Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0]))
    if not uri.startswith("sqlite:///") or not path.is_file():
        raise UsageError(
            f"{shown}: there is no such database",
            "name the database that models are registered in (after sqlite:///, a relative path starts at the current "
            "folder); none is created",
        )
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as base:
            tables = {row[0] for row in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        raise UsageError(f"{shown}: not readable as a database ({error})", "name MLflow's own database") from error
    if "registered_models" not in tables:
        raise UsageError(f"{shown}: not an MLflow database", "name the database that models are registered in")


# --- errors ---------------------------------------------------------------------------------------------------------


def _is_forbidden(error: BaseException) -> bool:
    """Whether the registry (or a disk) says: not you."""
    if isinstance(error, PermissionError):
        return True
    code, status = getattr(error, "error_code", None), getattr(error, "get_http_status_code", lambda: None)()
    if code in ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED") or status in (401, 403):
        return True
    text = str(error).lower()
    return "readonly database" in text or re.search(r"failed with error code 40[13]\b", text) is not None


def _is_missing(error: BaseException) -> bool:
    return getattr(error, "error_code", None) in _MISSING


def _is_invalid(error: BaseException) -> bool:
    return getattr(error, "error_code", None) == "INVALID_PARAMETER_VALUE"


@contextlib.contextmanager
def _asking(uri: str, permission: str = "read") -> Iterator[None]:
    """Turn whatever MLflow raises into RegistryUnreachable; the caller has dealt with "does not exist" before.

    permission  that is missing where the registry says "not you": read, edit
    """
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    where = clean(redact(uri), 200)
    try:
        yield
    except ModuleNotFoundError as error:
        raise RegistryUnreachable(f"{where}: needs the module {error.name!r}", f"install {error.name}") from error
    except (MlflowException, SQLAlchemyError, requests.RequestException, OSError) as error:
        if _is_forbidden(error):
            raise RegistryUnreachable(
                f"{where}: access denied", f"set MLFLOW_TRACKING_TOKEN, or ask for {permission} permission"
            ) from error
        raise RegistryUnreachable(
            f"{where}: {clean(redact(str(error)), 300)}",
            "is the server up and the address right? `privacy-gate doctor`",
        ) from error


# --- the registry ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a candidate's files are and what the registry knows of it."""

    location: str
    resolved_uri: str
    name: str | None = None
    version: str | None = None
    run_id: str | None = None
    model_id: str | None = None
    tags: Mapping[str, str] | None = None


class MlflowRegistry:
    """See `Registry`; `tracking` holds runs and logged models, `models` the registered ones. Often they are one."""

    def __init__(self, tracking: str, models: str) -> None:
        self.tracking = tracking
        self.models = models
        for uri in {tracking: None, models: None}:
            check_uri(uri)
        _quiet()

    @cached_property
    def _client(self) -> MlflowClient:
        from mlflow import MlflowClient

        with _asking(self.tracking):
            return MlflowClient(tracking_uri=self.tracking, registry_uri=self.models)

    @property
    def _store(self) -> Any:
        """The registry as it answers everybody: MlflowClient denies models that somebody tagged as prompts.

        Their aliases are there all the same, for whoever asks the server itself.
        """
        return self._client._get_registry_client()  # type: ignore[no-untyped-call]

    # --- resolve ---

    def resolve(self, uri: str, into: Path) -> Candidate:
        """See Registry.resolve."""
        address = snapshots.parse(uri)
        if isinstance(address, Folder):
            origin = _Origin(str(address.path), str(address.path.absolute()))
            shot = snapshots.take_local(address.path, uri, into)
        else:
            origin = self._origin(address, uri)
            shot = self._snapshot(origin.location, uri, into)
        model_id = origin.model_id or shot.model_id
        logged = None if isinstance(address, Folder) else self._logged(model_id)
        run = None if isinstance(address, Folder) else self._run(origin.run_id or shot.run_id)
        tags = {**(run.data.tags if run else {}), **(logged.tags if logged else {}), **(origin.tags or {})}
        return Candidate(
            uri=clean(uri),
            resolved_uri=clean(origin.resolved_uri),
            snapshot=shot.folder,
            digest=shot.digest,
            flavor=shot.flavor,
            executes_code=shot.executes_code,
            inputs=shot.inputs,
            name=origin.name,
            version=origin.version,
            model_id=model_id,
            run_id=None if run is None else clean(run.info.run_id),
            # mlflow.* tags say who trained where: of no use to the gate, and personal.
            tags={clean(k): clean(v) for k, v in sorted(tags.items()) if not k.startswith("mlflow.")},
            params={clean(k): clean(v) for k, v in sorted(run.data.params.items())} if run else {},
            metrics={clean(k): float(v) for k, v in sorted(run.data.metrics.items())} if run else {},
            datasets=_hints(run),
            run_seconds=_seconds(run),
        )

    def _origin(self, address: Version | Alias | Bare | Logged | RunArtifact, uri: str) -> _Origin:
        match address:
            case Logged(model_id):
                return self._logged_origin(model_id, f"models:/{model_id}")
            case RunArtifact(run_id, path):
                return self._run_origin(run_id, path, uri)
            case Bare(name):
                raise self._bare(name)
            case Alias(name, alias):
                found = self._ask(
                    lambda: self._client.get_model_version_by_alias(name, alias), lambda: self._unknown(name, alias)
                )
            case Version(name, None):
                found = self._latest(name)
            case Version(name, str(version)):
                found = self._ask(
                    lambda: self._client.get_model_version(name, version), lambda: self._unknown(name, None, version)
                )
        return self._version_origin(found)

    def _ask(self, question: Callable[[], Any], missing: Callable[[], GateError]) -> Any:
        from mlflow.exceptions import MlflowException

        with _asking(self.models):
            try:
                return question()
            except MlflowException as error:
                # An unknown alias is reported as an invalid parameter.
                if _is_missing(error) or re.search("alias .* not found", str(error), re.IGNORECASE):
                    raise missing() from error
                raise

    def _unknown(self, name: str, alias: str | None, version: str | None = None) -> GateError:
        """Which part of the name is unknown, and what there is instead."""
        shown = clean(name, 100)
        model = self._registered(name)
        if model is None:
            return CandidateNotFound(f"no registered model is called '{shown}'", self._names())
        if alias is not None:
            hint = listed("alias", [str(a) for a in model.aliases])
            return CandidateNotFound(f"model '{shown}' has no alias '{clean(alias, 100)}'", hint)
        latest = self._newest(name)
        hint = "it has no version yet" if latest is None else f"its latest version is {latest.version}"
        return CandidateNotFound(f"model '{shown}' has no version {version or 'at all'}", hint)

    def _denied(self, name: str, version: str) -> GateError:
        """Why MLflow tells nothing of a version that it has just told of."""
        if self._registered(name) is not None or self._known(lambda: self._store.get_registered_model(name)) is None:
            return _no_version(name, version)
        return UsageError(
            f"model '{clean(name, 100)}' is tagged as a prompt ({PROMPT}): MLflow loads none of its versions",
            "delete that tag of the registered model, if it is one",
        )

    def _registered(self, name: str) -> Any | None:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_registered_model(name)
        except MlflowException as error:
            if _is_missing(error):
                return None
            raise

    def _names(self) -> str:
        return listed("model", [model.name for model in self._client.search_registered_models(max_results=50)])

    def _bare(self, name: str) -> GateError:
        with _asking(self.models):
            model = self._registered(name)
            if model is None:
                return CandidateNotFound(f"no registered model is called '{clean(name, 100)}'", self._names())
            latest = self._newest(name)
            return bare(name, [str(a) for a in model.aliases], None if latest is None else str(latest.version))

    def _newest(self, name: str) -> Any | None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # stages are deprecated; this is what models:/name/latest is made of
            found = self._client.get_latest_versions(name)
        return max(found, key=lambda v: int(v.version), default=None)

    def _latest(self, name: str) -> Any:
        found = self._ask(lambda: self._newest(name), lambda: self._unknown(name, None))
        if found is None:
            with _asking(self.models):
                raise self._unknown(name, None)
        return found

    def _version_origin(self, found: Any) -> _Origin:
        name, version = str(found.name), str(found.version)  # sqlite answers with a number, a server with text
        if clean(name) != name:  # what is shown and written to by its name must not be another model
            raise UsageError(
                f"model '{clean(name, 100)}' has characters in its name that cannot be shown",
                "register it again under another name",
            )
        if found.status not in (None, "READY"):
            raise CandidateNotFound(
                f"model '{clean(name, 100)}' version {version} is not ready ({clean(found.status, 40)})", "wait for it"
            )
        location = self._ask(
            lambda: self._client.get_model_version_download_uri(name, version), lambda: self._denied(name, version)
        )
        return _Origin(
            location=location,
            resolved_uri=f"models:/{name}/{version}",
            name=clean(name),
            version=version,
            run_id=found.run_id,
            tags=found.tags,
        )

    def _logged(self, model_id: str | None) -> Any | None:
        """The logged model, or None: versions from before MLflow 3 have none."""
        from mlflow.exceptions import MlflowException

        if model_id is None:
            return None
        with _asking(self.tracking):
            try:
                return self._client.get_logged_model(model_id)
            except MlflowException as error:
                if _is_missing(error):
                    return None
                raise

    def _logged_origin(self, model_id: str, resolved: str) -> _Origin:
        logged = self._logged(model_id)
        if logged is None:
            raise CandidateNotFound(f"no logged model {clean(model_id, 100)}", "see the model's page for its id")
        return _Origin(logged.artifact_location, resolved, run_id=logged.source_run_id, model_id=model_id)

    def _run(self, run_id: str | None) -> Any | None:
        from mlflow.exceptions import MlflowException

        if not run_id:
            return None
        with _asking(self.tracking):
            try:
                return self._client.get_run(run_id)
            except MlflowException as error:
                # An id that is not one is an invalid parameter; a run that was deleted does not exist.
                if _is_missing(error) or _is_invalid(error):
                    return None
                raise

    def _run_origin(self, run_id: str, path: str, uri: str) -> _Origin:
        run = self._run(run_id)
        if run is None:
            raise CandidateNotFound(f"{clean(uri, 200)}: no run {run_id}", "see the run's page for its id")
        logged = [self._logged(output.model_id) for output in (run.outputs.model_outputs if run.outputs else [])]
        named = [model for model in logged if model is not None and model.name == path]
        if named:
            newest = max(named, key=lambda model: model.creation_timestamp)
            return self._logged_origin(newest.model_id, f"models:/{newest.model_id}")
        location = f"{run.info.artifact_uri.rstrip('/')}/{path}"
        if self._is_model(location):
            return _Origin(location, f"runs:/{run_id}/{path}", run_id=run_id)
        names = sorted({model.name for model in logged if model is not None})
        raise CandidateNotFound(
            f"{clean(uri, 200)}: run {run_id} has no model '{clean(path, 100)}'", listed("model of the run", names)
        )

    # --- files ---

    def _follow(self, location: str, depth: int = 0) -> str:
        """The place of the files behind models:/ and runs:/ sources, which copied versions have."""
        if not location.startswith(("models:", "runs:")):
            return location
        if depth == 8:
            raise UsageError(f"{clean(location, 200)}: its source leads back to itself", "register the model again")
        address = snapshots.parse(location)
        if isinstance(address, Folder):
            return location
        return self._follow(self._origin(address, location).location, depth + 1)

    def _repository(self, location: str) -> Any:
        """MLflow's reader of a remote place; raises UsageError for places that nobody configured."""
        _quiet()
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self._check_place(location)
        with _asking(location):
            return get_artifact_repository(location, tracking_uri=self.tracking, registry_uri=self.models)

    def _check_place(self, location: str) -> None:
        """Raise UsageError unless files there belong to the registry: MLflow sends its credentials to whoever is named.

        The registry's own servers (scheme, host and port), and the kind of store that its default experiment is in.
        """
        if _local(location) is not None:
            return
        scheme = location.partition(":")[0].lower()
        if scheme in ("http", "https", "mlflow-artifacts"):
            known = {_endpoint(uri) for uri in (self.tracking, self.models)} - {None}
            trusted = _endpoint(_resolved(location, self.tracking)) in known
        elif _store(location) == ("dbfs", ""):
            trusted = any(uri.partition(":")[0].startswith("databricks") for uri in (self.tracking, self.models))
        else:
            store = _store(location)
            trusted = store is not None and store == _store(self._root())
        if not trusted:
            raise UsageError(
                f"the files are at {clean(redact(location), 200)}, a host or store that is not configured",
                "keep the files in the registry's own artifact store",
            )

    def _root(self) -> str:
        """Where the default experiment's files lie, which whoever runs the registry decides; "" if it does not say."""
        from mlflow.exceptions import MlflowException

        with _asking(self.tracking):
            try:
                return str(self._client.get_experiment("0").artifact_location)
            except MlflowException as error:
                if _is_missing(error) or _is_forbidden(error):
                    return ""
                raise

    def _is_model(self, location: str) -> bool:
        folder = _local(location)
        if folder is not None:
            return (folder / snapshots.MLMODEL).is_file()
        with _asking(location):
            listing = self._repository(location).list_artifacts(None)
        return any(item.path.rpartition("/")[2] == snapshots.MLMODEL for item in listing)

    def _snapshot(self, location: str, uri: str, into: Path) -> snapshots.Snapshot:
        location = self._follow(location)
        local = _local(location)
        if local is not None:
            if not local.is_dir():
                raise CandidateNotFound(
                    f"{clean(uri, 200)}: its files should be at {clean(local, 200)}, and are not",
                    "run the gate where that folder is, or let the server serve its artifacts",
                )
            return snapshots.take_local(local, uri, into)
        repository = self._repository(location)
        # The small file first: what cannot be audited need not be downloaded.
        screen = snapshots.new_folder(into, "mlmodel-")
        self._pull(repository, snapshots.MLMODEL, screen, uri)
        snapshots.refuse_unsupported(snapshots.read_mlmodel(screen), uri)
        folder = snapshots.new_folder(into, "model-")
        self._pull(repository, "", folder, uri)
        snapshots.make_private(folder)
        return snapshots.take(folder, uri)

    def _pull(self, repository: Any, path: str, folder: Path, uri: str) -> None:
        from mlflow.exceptions import MlflowException

        with _asking(self.tracking):
            try:
                repository.download_artifacts(path, dst_path=str(folder))
            except MlflowException as error:
                if _is_missing(error) or re.search(r"\b404\b", str(error)):
                    raise CandidateNotFound(
                        f"{clean(uri, 200)}: its files are gone from the artifact store", "log the model again"
                    ) from error
                raise

    def fetch(self, uri: str, into: Path) -> Path:
        """See Registry.fetch."""
        address = snapshots.parse_run(uri)
        run = self._run(address.run_id)
        if run is None:
            raise CandidateNotFound(f"{clean(uri, 200)}: no run {address.run_id}", "see the run's page for its id")
        folder = snapshots.new_folder(into, "artifact-")
        location = self._follow(run.info.artifact_uri)
        local = _local(location)
        missing = DataError(
            f"{clean(uri, 200)}: the run has no such artifact", "log it to the run with mlflow.log_artifact()"
        )
        if local is None:
            try:
                self._pull(self._repository(location), address.path, folder, uri)
            except CandidateNotFound as error:
                raise missing from error
            snapshots.make_private(folder)
            return folder / address.path
        source = local / address.path
        if not source.resolve().is_relative_to(local.resolve()) or not source.exists():
            raise missing
        snapshots.copy(source, folder / source.name if source.is_dir() else folder)
        return folder / source.name

    # --- record ---

    def record(self, candidate: Candidate, report: RecordedReport) -> Recorded:
        """See Registry.record."""
        refused: list[str] = []

        def write(what: str, action: Callable[[], Any]) -> Any | None:
            try:
                with _asking(self.tracking):
                    return action()
            except RegistryUnreachable as error:
                if error.__cause__ is None or not _is_forbidden(error.__cause__):
                    raise
                refused.append(f"{what} was not recorded: no permission to write to {redact(self.tracking)}")
                return None

        run_id = write("the evidence", lambda: self._new_run(candidate, report))
        if run_id is None:
            return Recorded(None, tuple(refused))
        write("the evidence", lambda: self._log(run_id, candidate, report))
        for what, files, folder in (
            ("the report", report.files, SHARED_FOLDER),
            ("the member list", report.restricted, RESTRICTED_FOLDER),
        ):
            try:
                write(what, partial(self._log_files, run_id, files, folder))
            except UsageError as error:
                refused.append(f"{what} was not recorded: {error.what}")
        if candidate.name is not None and candidate.version is not None:
            name, version = candidate.name, candidate.version
            for key, value in verdict_tags(report, run_id).items():
                write(f"the tag {key}", partial(self._client.set_model_version_tag, name, version, key, value))
        write("the end of the run", lambda: self._client.set_terminated(run_id, "FINISHED"))
        return Recorded(run_id, tuple(refused))

    def _new_run(self, candidate: Candidate, report: RecordedReport) -> str:
        tags = {"mlflow.note.content": report.note, TAG_PREFIX + "model": candidate.resolved_uri, **run_tags(report)}
        name = f"{candidate.name or 'model'} {candidate.version or ''}".strip()
        run = self._client.create_run(self._experiment(), tags=tags, run_name=name)
        return str(run.info.run_id)

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            try:
                return str(self._client.create_experiment(EXPERIMENT, artifact_location=self._artifact_location()))
            except MlflowException as error:
                if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._client.get_experiment_by_name(EXPERIMENT)  # another gate was faster
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _artifact_location(self) -> str | None:
        """Beside the other experiments' artifacts: MLflow itself would start ./mlruns where the gate happens to run."""
        if not self.tracking.startswith("sqlite:"):
            return None
        default = _local(self._client.get_experiment("0").artifact_location)
        return None if default is None else str(default.parent / EXPERIMENT)

    def _log(self, run_id: str, candidate: Candidate, report: RecordedReport) -> None:
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        known = self._logged(candidate.model_id)
        model = None if known is None else known.model_id
        metrics = [
            Metric(key, float(value), now, 0, model_id=model)
            for key, value in _named(report.metrics).items()
            if math.isfinite(value)  # MLflow would store infinity as a number
        ]
        params = [Param(key, str(value)) for key, value in _named(report.params).items()]
        # A batch holds at most 1,000 metrics and 100 params.
        for start in range(0, len(metrics), 500):
            self._client.log_batch(run_id, metrics=metrics[start : start + 500])
        for start in range(0, len(params), 100):
            self._client.log_batch(run_id, params=params[start : start + 100])

    def _log_files(self, run_id: str, files: Sequence[Path], folder: str) -> None:
        """Raises UsageError if somebody made the experiment with its files at a place of their own."""
        if not files:
            return
        place = str(self._client.get_run(run_id).info.artifact_uri)
        self._check_place(place)
        local = _local(place)
        if local is not None and folder == RESTRICTED_FOLDER:
            # Before anything is in it: MLflow would make it readable by all. A server guards its own disk.
            private_dir(local / folder)
        for file in files:
            self._client.log_artifact(run_id, str(file), folder)
            if local is not None and folder == RESTRICTED_FOLDER:
                (local / folder / file.name).chmod(0o600)

    # --- what was recorded before ---

    def attempts(self, candidate: Candidate) -> Remembered:
        """See Registry.attempts. Runs that somebody deleted count as well, until MLflow removes them for good."""
        if re.fullmatch(r"[0-9a-f]{64}", candidate.digest) is None:  # it becomes a part of a query
            raise ValueError(f"not a sha256: {candidate.digest!r}")
        try:
            with _asking(self.tracking):
                found = list(self._evidence_runs(candidate.digest))
        except RegistryUnreachable as error:
            if error.__cause__ is None or not _is_forbidden(error.__cause__):
                raise
            where = clean(redact(self.tracking), 200)
            return Remembered(None, (f"earlier evaluations are not known: no permission to read them from {where}",))
        return Remembered(tuple(_attempt(run) for run in found))

    def _evidence_runs(self, digest: str) -> Iterator[Any]:
        """Newest first, page by page, with those that somebody deleted."""
        from mlflow.entities import ViewType

        with _asking(self.tracking):
            experiment = self._client.get_experiment_by_name(EXPERIMENT)
        token: str | None = None
        while experiment is not None and token != "":
            with _asking(self.tracking):
                page = self._client.search_runs(
                    [experiment.experiment_id],
                    f"tags.`{TAG_PREFIX}model_sha256` = '{digest}'",
                    ViewType.ALL,
                    max_results=PAGE,
                    order_by=["attributes.start_time DESC"],
                    page_token=token,
                )
            yield from page
            token = page.token or ""

    def evaluations(self, candidate: Candidate) -> Iterator[Evaluation]:
        """See Registry.evaluations."""
        if re.fullmatch(r"[0-9a-f]{64}", candidate.digest) is None:  # it becomes a part of a query
            raise ValueError(f"not a sha256: {candidate.digest!r}")
        for run in self._evidence_runs(candidate.digest):
            yield Evaluation(str(run.info.run_id), deleted=run.info.lifecycle_stage != "active")

    def evidence(self, candidate: Candidate, into: Path) -> StoredEvidence | None:
        """See Registry.evidence."""
        run_id = candidate.tags.get(TAG_PREFIX + "run_id", "")
        try:
            run = self._run(run_id) if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", run_id) else None
            if run is None or not self._is_evidence(run, candidate.digest):
                return None
            with _asking(self.tracking):
                known = [r for r in self._evidence_runs(candidate.digest) if self._is_evidence(r, candidate.digest)]
        except RegistryUnreachable as error:
            if error.__cause__ is None or not _is_forbidden(error.__cause__):
                raise
            said = f"the evidence of {candidate.resolved_uri} may not be read: no permission"
            return StoredEvidence(run_id, "", warnings=(said,))
        warnings: list[str] = []

        # The newest pass: a later look that ended otherwise does not undo an approval, nor does one without a key
        # undo the list of members.
        newest = sorted(known, key=lambda r: (r.info.start_time, r.info.run_id), reverse=True)
        run = next((r for r in newest if r.data.tags.get(TAG_PREFIX + "verdict", "") in PASSES), run)

        def get(path: str, run_id: str) -> Path | None:
            try:
                return self.fetch(f"runs:/{run_id}/{path}", into)
            except DataError:  # there is none
                return None
            except UsageError as error:
                warnings.append(f"{path} of run {run_id} cannot be read: {error.what}")
            except (RegistryUnreachable, StorageFailed, PermissionError) as error:
                if not _is_forbidden(error.__cause__ or error):
                    raise
                warnings.append(f"{path} of run {run_id} may not be read: no permission")
            return None

        chosen = run.info.run_id
        lists = (
            get(f"{RESTRICTED_FOLDER}/{MEMBERS}", r) for r in (chosen, *(r.info.run_id for r in newest[:MOST_RUNS]))
        )
        members = next((path for path in lists if path is not None), None)
        return StoredEvidence(
            chosen,
            clean(run.data.tags.get(TAG_PREFIX + "verdict", ""), 100),
            get(f"{SHARED_FOLDER}/{REPORT}", chosen),
            members,
            tuple(dict.fromkeys(warnings)),
        )

    def _is_evidence(self, run: Any, digest: str) -> bool:
        """Whether the gate wrote this run, about these bytes: tags are anybody's, so they are checked on both ends."""
        return run.data.tags.get(TAG_PREFIX + "model_sha256") == digest and self._is_own(run)

    def _is_own(self, run: Any) -> bool:
        """Whether the run is of the gate's own experiment, and nobody deleted it."""
        if run.info.lifecycle_stage != "active":
            return False
        with _asking(self.tracking):
            experiment = self._client.get_experiment_by_name(EXPERIMENT)
        return experiment is not None and experiment.experiment_id == run.info.experiment_id

    # --- versions and aliases ---

    def versions(self) -> Iterator[RegisteredVersion]:
        """See Registry.versions. What comes or goes while it is listed may be missing; prompts are no models."""
        # Databricks' catalogs list prompts elsewhere, or have none.
        both = (None,) if self.models.startswith(("databricks", "uc:")) else (None, _PROMPTS)
        aliases = {
            str(model.name): dict(model.aliases)
            for which in both  # the second are those that the first leaves out
            for model in self._pages(partial(self._client.search_registered_models, which, PAGE, None))
        }
        # A page begins where the one before ended, counted in rows: in this order new versions move few of them.
        order = ["name ASC", "version_number ASC"]
        found = {
            (str(v.name), int(v.version)): v
            for v in self._pages(lambda token: self._client.search_model_versions(None, PAGE, order, token))
        }
        # Whoever tags a version as a prompt hides it, though its alias can be asked for: that much of it is told.
        hidden = {(name, int(version)) for name, named in aliases.items() for version in named.values()} - set(found)
        # A listing does not carry aliases, and databases do not agree on the order of names.
        for name, number in sorted({*found, *hidden}):
            here = sorted(alias for alias, version in aliases.get(name, {}).items() if str(version) == str(number))
            if (name, number) in hidden:
                yield RegisteredVersion(name, str(number), tuple(here), ready=False)
            else:
                yield _listed(found[name, number], here)

    def _pages(self, page: Callable[[Any], Any]) -> Iterator[Any]:
        token = None
        while True:
            with _asking(self.models):
                found = page(token)
            yield from found
            token = found.token
            if not token:
                return

    def version(self, name: str, version: str) -> RegisteredVersion | None:
        """See Registry.version."""
        found = self._version(name, version)
        return None if found is None else _listed(found, found.aliases)

    def _version(self, name: str, version: str) -> Any | None:
        return self._known(lambda: self._client.get_model_version(name, version)) if _is_version(version) else None

    def _known(self, question: Callable[[], Any]) -> Any | None:
        """The answer, or None where there is no such thing, or none can be called that."""
        from mlflow.exceptions import MlflowException

        with _asking(self.models):
            try:
                return question()
            except MlflowException as error:
                if _is_missing(error) or _is_invalid(error):
                    return None
                raise

    def alias(self, name: str, alias: str) -> str | None:
        """See Registry.alias."""
        model = self._known(lambda: self._store.get_registered_model(name))
        version = None if model is None else model.aliases.get(alias)
        return None if version is None else str(version)

    def move_alias(self, name: str, alias: str, version: str | None) -> None:
        """See Registry.move_alias. Writes nothing where it points there already: each write makes an event."""
        if version is not None and not _is_version(version):
            raise _no_version(name, version)
        if self.alias(name, alias) == (None if version is None else str(int(version))):
            return
        if version is None:
            self._change(lambda: self._store.delete_registered_model_alias(name, alias), None)
        else:
            if self._version(name, version) is None:
                raise _no_version(name, version)
            missing = _no_version(name, version)
            self._change(lambda: self._client.set_registered_model_alias(name, alias, version), missing)

    def mark(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """See Registry.mark. Writes only what is not there already: each write makes an event."""
        found = self._version(name, version)
        if found is None:
            raise _no_version(name, version)
        for key, value in tags.items():
            if found.tags.get(key) != value:
                self._change(
                    partial(self._store.set_model_version_tag, name, version, key, value), _no_version(name, version)
                )

    def _change(self, action: Callable[[], Any], missing: GateError | None) -> None:
        """Write to the registry; `missing` is raised where the place to write to is gone, None: that is as good."""
        from mlflow.exceptions import MlflowException

        with _asking(self.models, "edit"):
            try:
                action()
            except MlflowException as error:
                if _is_missing(error):
                    if missing is None:
                        return
                    raise missing from error
                if _is_invalid(error):
                    raise UsageError(
                        f"the registry refuses it: {clean(redact(str(error)), 300)}", "choose another name or value"
                    ) from error
                raise

    def attach(self, run_id: str, files: Sequence[Path]) -> None:
        """See Registry.attach."""
        run = self._run(run_id) if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", run_id) else None
        if run is None or not self._is_own(run):
            raise DataError(f"run {clean(run_id, 100)} is no evaluation of the gate's", "it may have been deleted")
        for file in files:
            if not file.is_file():
                raise StorageFailed(f"{clean(file)}: no such file", "write it before it is attached")
        with _asking(self.tracking, "edit"):
            self._log_files(run_id, files, SHARED_FOLDER)

    def webhooks(self) -> list[Webhook]:
        """See Registry.webhooks. A database keeps webhooks as well, but only a server calls them."""
        where = clean(redact(self.models), 200)
        if _endpoint(self.models) is None:
            raise UsageError(f"{where}: calls no webhooks, only an MLflow server does", "name the server, or sweep")
        try:
            return [_webhook(hook) for hook in self._pages(lambda token: self._client.list_webhooks(100, token))]
        except RegistryUnreachable as error:
            raise _why_no_webhooks(error, where) from error

    # --- ping ---

    def ping(self) -> list[Probe]:
        """See Registry.ping. Writing is tried on a run that cannot exist, which changes nothing."""
        where = clean(redact(self.tracking), 200)
        try:
            with _asking(self.models):
                names = [model.name for model in self._client.search_registered_models(max_results=50)]
        except RegistryUnreachable as error:
            return [Probe("registry", False, error.what, error.hint)]
        read = [
            Probe("registry", True, f"{where} answers"),
            Probe("read", True, f"{len(names)} registered models seen"),
        ]
        return [*read, self._may_write(where)]

    def _may_write(self, where: str) -> Probe:
        from mlflow.exceptions import MlflowException

        mend = "ask for edit permission, or run with --no-mlflow-log"
        if self.tracking.startswith("sqlite:"):
            path = Path(unquote(self.tracking.removeprefix("sqlite:///").partition("?")[0]))
            ok = os.access(path, os.W_OK) and os.access(path.absolute().parent, os.W_OK)
            return Probe("write", ok, f"{where} is {'' if ok else 'not '}writable", "" if ok else mend)
        try:
            self._client.set_tag("0" * 32, "privacy_gate.ping", "")
        except MlflowException as error:
            if _is_missing(error):
                return Probe("write", True, f"{where} takes writes")
            return Probe("write", False, clean(redact(str(error)), 300), mend)
        return Probe("write", False, f"{where} took a write to a run that does not exist", "is this an MLflow server?")


def _is_version(version: str) -> bool:
    """Whether a registry could have it: databases keep 32 bits, and fail on more."""
    return re.fullmatch(r"[0-9]{1,10}", version) is not None and 0 < int(version) < 2**31


def _no_version(name: str, version: str) -> CandidateNotFound:
    return CandidateNotFound(
        f"model '{clean(name, 100)}' has no version {clean(version, 40)}", "it may have been deleted meanwhile"
    )


def _listed(found: Any, aliases: Iterable[str]) -> RegisteredVersion:
    return RegisteredVersion(
        name=str(found.name),
        version=str(found.version),  # sqlite answers with a number, a server with text
        aliases=tuple(sorted(map(str, aliases))),
        tags={str(key): str(value) for key, value in found.tags.items()},
        run_id=found.run_id or None,
        created=(found.creation_timestamp or 0) / 1000,
        ready=found.status in (None, "READY"),
    )


def _webhook(found: Any) -> Webhook:
    return Webhook(
        id=str(found.webhook_id),
        name=str(found.name),
        url=str(found.url),
        events=tuple(sorted(str(event) for event in found.events)),
        active=str(getattr(found.status, "value", found.status)) == "ACTIVE",
    )


def _why_no_webhooks(error: RegistryUnreachable, where: str) -> GateError:
    """A server that does not list its webhooks: too old, or without the key that their secrets are kept under."""
    cause = error.__cause__
    code, status = getattr(cause, "error_code", None), getattr(cause, "get_http_status_code", lambda: None)()
    if code == "ENDPOINT_NOT_FOUND" or status == 404 or re.search(r"error code 404\b", str(cause)):
        return UsageError(f"{where}: has no webhooks", "MLflow has them from 3.3 on; without them, sweep")
    if re.search(r"\b500\b|InvalidToken", str(cause)):
        return RegistryUnreachable(
            f"{where}: fails to list its webhooks: MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY of the server was lost or"
            " never set, so that it calls none of them",
            "start the server with the key that it had; if that is lost, with a new Fernet key, delete the rows of"
            " `webhook_events` and `webhooks` in its database (it can neither list nor delete them any more), and the"
            " webhooks must be made again",
        )
    return error


def _attempt(run: Any) -> Attempt:
    at = datetime.datetime.fromtimestamp((run.info.start_time or 0) / 1000, datetime.UTC)
    tags = {key: clean(value, 200) for key, value in run.data.tags.items() if key.startswith(TAG_PREFIX)}
    return attempt_of(tags, run.data.params, clean(run.info.run_id, 100), at.isoformat(timespec="milliseconds"))


def _local(location: str) -> Path | None:
    """The folder that a location names, if it is on this machine's own disks."""
    if location.startswith("file:"):
        return Path(unquote(urlsplit(location).path))
    return None if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", location) else Path(location)


def _resolved(location: str, tracking: str) -> str:
    """The address that MLflow makes of a location on a server; "" if it can make none."""
    if not location.startswith("mlflow-artifacts:"):
        return location
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

    try:
        return str(MlflowArtifactsRepository.resolve_uri(location, tracking))  # type: ignore[no-untyped-call]
    except (MlflowException, ValueError):
        return ""


def _endpoint(uri: str) -> tuple[str, str, int] | None:
    """(scheme, host, port) of a server; None for anything that two parsers could read as two different hosts."""
    host = r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]"
    match = re.fullmatch(rf"(https?)://(?:[^@/?#\\\s]*@)?({host})(?::(\d{{0,5}}))?(?:[/?#].*)?", uri)
    if match is None:
        return None
    scheme, name, port = match.groups()
    return scheme, name.lower(), int(port or (443 if scheme == "https" else 80))


def _store(location: str) -> tuple[str, str] | None:
    """What credentials for a store depend on; None for no store. The endpoint of a bucket is not the location's to say.

    abfss, wasbs, hdfs, r2, b2, sftp and ftp name the host that is spoken to in the location itself.
    """
    match = re.match(r"([a-z0-9+.-]+):(?://([^/?#\\\s]*)(?=[/?#]|$))?", location)
    if match is None or _local(location) is not None:
        return None
    scheme, authority = match.groups()
    return scheme, "" if scheme in ("s3", "gs") else authority or ""


def _hints(run: Any | None) -> tuple[DatasetHint, ...]:
    inputs = [] if run is None or run.inputs is None else run.inputs.dataset_inputs
    return tuple(
        DatasetHint(
            name=clean(item.dataset.name),
            context=clean(next((tag.value for tag in item.tags if tag.key == "mlflow.data.context"), "")),
            source_type=clean(item.dataset.source_type),
            digest=clean(item.dataset.digest),
            rows=_rows(item.dataset.profile),
        )
        for item in inputs
    )


def _rows(profile: str | None) -> int | None:
    """How many records a dataset's profile tells of: tables have `num_rows`, arrays the shape of their features."""
    try:
        told = json.loads(profile or "null")
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict):
        return None
    shape = told.get("features_shape")
    if isinstance(shape, dict):  # several arrays, all of one length
        shape = next(iter(shape.values()), None)
    rows = told.get("num_rows", shape[0] if isinstance(shape, list) and shape else None)
    return rows if isinstance(rows, int) and not isinstance(rows, bool) and rows >= 0 else None


def _seconds(run: Any | None) -> float | None:
    """How long a run took; MLflow counts milliseconds."""
    if run is None or run.info.start_time is None or not run.info.end_time:
        return None
    taken = run.info.end_time - run.info.start_time
    return taken / 1000 if taken >= 0 else None


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keys made of what MLflow allows in names: letters, digits, `_ - . / space :`; clashes get a number."""
    named: dict[str, Any] = {}
    for key, value in values.items():
        plain = re.sub(r"[^A-Za-z0-9_\-./ :]", "_", key)
        plain = "/".join(part for part in plain.split("/") if part not in ("", ".", ".."))[:240] or "_"
        unique, n = plain, 2
        while unique in named:
            unique, n = f"{plain}_{n}", n + 1
        named[unique] = value
    return named
