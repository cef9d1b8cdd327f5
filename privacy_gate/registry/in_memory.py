"""A registry without a server or a database: for demos, tests, and for model folders on disk."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from privacy_gate.datamodel import Candidate
from privacy_gate.errors import CandidateNotFound, DataError, UsageError
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


@dataclass(frozen=True, slots=True)
class Entry:
    """One version: where its model folder is, the run that made it, and what people said about it."""

    folder: Path
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    run_id: str | None = None


@dataclass(slots=True)
class InMemoryRegistry:
    """name -> version -> model folder; `keeps` False: evidence has nowhere to go, which `record` then says."""

    models: dict[str, dict[str, Entry]] = field(default_factory=dict)
    aliases: dict[str, dict[str, str]] = field(default_factory=dict)
    runs: dict[str, Path] = field(default_factory=dict)  # run id -> folder of its artifacts
    recorded: dict[str, RecordedReport] = field(default_factory=dict)  # run id -> evidence
    recorded_at: dict[str, str] = field(default_factory=dict)  # run id -> ISO time
    keeps: bool = True

    def add(self, name: str, folder: Path, alias: str | None = None, entry: Entry | None = None) -> str:
        """Register `folder` as the next version of `name`; returns the version."""
        versions = self.models.setdefault(name, {})
        version = str(max(map(int, versions), default=0) + 1)
        versions[version] = entry or Entry(folder)
        if alias:
            self.aliases.setdefault(name, {})[alias] = version
        return version

    def resolve(self, uri: str, into: Path) -> Candidate:
        """See Registry.resolve."""
        address = snapshots.parse(uri)
        match address:
            case Folder(path):
                return self._candidate(uri, str(path.absolute()), Entry(path), into)
            case RunArtifact(run, path):
                return self._candidate(uri, uri, Entry(self._artifact(run, path, uri)), into)
            case Logged(model_id):
                raise CandidateNotFound(f"{uri}: no model {model_id}", "name a registered model")
            case Version(name) | Alias(name) | Bare(name):
                versions = self._versions(name)
                version = self._version(address, versions)
                return self._candidate(uri, f"models:/{name}/{version}", versions[version], into, name, version)

    def fetch(self, uri: str, into: Path) -> Path:
        """See Registry.fetch."""
        address = snapshots.parse_run(uri)
        folder = snapshots.new_folder(into, "artifact-")
        source = self._artifact(address.run_id, address.path, uri)
        target = folder / source.name if source.is_dir() else folder
        snapshots.copy(source, target)
        return snapshots.only_file(folder, uri)

    def record(self, candidate: Candidate, report: RecordedReport) -> Recorded:
        """See Registry.record."""
        if not self.keeps:
            return Recorded(None, ("the evidence was not recorded: the model comes from a folder, not a registry",))
        run = uuid.uuid4().hex
        self.recorded[run] = report
        self.recorded_at[run] = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        if candidate.name is not None and candidate.version is not None:
            self.models[candidate.name][candidate.version].tags.update(verdict_tags(report, run))
        return Recorded(run)

    def attempts(self, candidate: Candidate) -> Remembered:
        """See Registry.attempts."""
        if not self.keeps:
            return Remembered(None, ("earlier evaluations are not known: the model comes from a folder",))
        return Remembered(
            tuple(
                attempt_of(run_tags(report), report.params, run, self.recorded_at[run])
                for run, report in self.recorded.items()
                if report.model_sha256 == candidate.digest
            )
        )

    def evaluations(self, candidate: Candidate) -> Iterator[Evaluation]:
        """See Registry.evaluations."""
        same = [run for run, report in self.recorded.items() if report.model_sha256 == candidate.digest]
        return map(Evaluation, reversed(same))

    def evidence(self, candidate: Candidate, into: Path) -> StoredEvidence | None:
        """See Registry.evidence."""
        run = candidate.tags.get(TAG_PREFIX + "run_id", "")
        report = self.recorded.get(run)
        if report is None or report.model_sha256 != candidate.digest:
            return None
        same = {name: r for name, r in self.recorded.items() if r.model_sha256 == candidate.digest}
        run, report = next(((n, r) for n, r in reversed(same.items()) if r.verdict in PASSES), (run, report))
        folder = snapshots.new_folder(into, "evidence-")
        for name, files in ((SHARED_FOLDER, report.files), (RESTRICTED_FOLDER, report.restricted)):
            for file in files:
                snapshots.copy(file, folder / name)
        return _stored(folder, run, report.verdict)

    def versions(self) -> Iterator[RegisteredVersion]:
        """See Registry.versions."""
        for name in sorted(self.models):
            yield from (self._registered(name, version) for version in sorted(self.models[name], key=int))

    def version(self, name: str, version: str) -> RegisteredVersion | None:
        """See Registry.version."""
        return self._registered(name, version) if version in self.models.get(name, {}) else None

    def _registered(self, name: str, version: str) -> RegisteredVersion:
        entry = self.models[name][version]
        here = sorted(alias for alias, target in self.aliases.get(name, {}).items() if target == version)
        return RegisteredVersion(name, version, tuple(here), dict(entry.tags), entry.run_id)

    def alias(self, name: str, alias: str) -> str | None:
        """See Registry.alias."""
        return self.aliases.get(name, {}).get(alias)

    def move_alias(self, name: str, alias: str, version: str | None) -> None:
        """See Registry.move_alias."""
        if version is None:
            self.aliases.get(name, {}).pop(alias, None)
        else:
            self._entry(name, version)
            self.aliases.setdefault(name, {})[alias] = version

    def mark(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """See Registry.mark."""
        self._entry(name, version).tags.update(tags)

    def _entry(self, name: str, version: str) -> Entry:
        if version not in self.models.get(name, {}):
            raise CandidateNotFound(
                f"model '{clean(name, 100)}' has no version {clean(version, 40)}", "it may have been deleted meanwhile"
            )
        return self.models[name][version]

    def attach(self, run_id: str, files: Sequence[Path]) -> None:
        """See Registry.attach."""
        if run_id not in self.recorded:
            raise DataError(f"run {clean(run_id, 100)} is no evaluation of the gate's", "it may have been deleted")
        names = {file.name for file in files}
        kept = [file for file in self.recorded[run_id].files if file.name not in names]
        self.recorded[run_id] = replace(self.recorded[run_id], files=(*kept, *files))

    def webhooks(self) -> list[Webhook]:
        """See Registry.webhooks."""
        raise UsageError("a registry in memory calls no webhooks", "name an MLflow server, or sweep")

    def ping(self) -> list[Probe]:
        """See Registry.ping."""
        return [Probe("registry", True, f"in memory, {len(self.models)} models")]

    def _versions(self, name: str) -> dict[str, Entry]:
        if not self.models.get(name):
            raise CandidateNotFound(f"no registered model is called '{clean(name, 100)}'", listed("model", self.models))
        return self.models[name]

    def _version(self, address: Version | Alias | Bare, versions: dict[str, Entry]) -> str:
        match address:
            case Bare(name):
                raise bare(name, self.aliases.get(name, {}), max(versions, key=int))
            case Version(name, None):
                return max(versions, key=int)
            case Version(name, str(version)):
                if version not in versions:
                    raise CandidateNotFound(
                        f"model '{clean(name, 100)}' has no version {version}", listed("version", versions)
                    )
                return version
            case Alias(name, alias):
                known = self.aliases.get(name, {})
                if alias not in known:
                    raise CandidateNotFound(
                        f"model '{clean(name, 100)}' has no alias '{clean(alias, 100)}'", listed("alias", known)
                    )
                return known[alias]
        raise AssertionError(address)  # pragma: no cover

    def _artifact(self, run: str, path: str, uri: str) -> Path:
        for file in self.recorded[run].files if run in self.recorded else ():
            if path == f"{SHARED_FOLDER}/{file.name}" and file.exists():
                return file
        if run in self.recorded:
            raise DataError(f"{clean(uri, 200)}: run {run} has no such artifact", "see the run's artifacts")
        if run not in self.runs:
            raise CandidateNotFound(f"{clean(uri, 200)}: no run {run}", listed("run", self.runs))
        source = self.runs[run] / path
        if not source.exists():
            raise DataError(f"{clean(uri, 200)}: run {run} has no such artifact", "see the run's artifacts")
        return source

    def _candidate(
        self, uri: str, resolved: str, entry: Entry, into: Path, name: str | None = None, version: str | None = None
    ) -> Candidate:
        shot = snapshots.take_local(entry.folder, uri, into)
        return Candidate(
            uri=clean(uri),
            resolved_uri=clean(resolved),
            snapshot=shot.folder,
            digest=shot.digest,
            flavor=shot.flavor,
            executes_code=shot.executes_code,
            inputs=shot.inputs,
            name=name,
            version=version,
            model_id=shot.model_id,
            run_id=shot.run_id,
            tags={clean(k): clean(v) for k, v in entry.tags.items()},
            params={clean(k): clean(v) for k, v in entry.params.items()},
            metrics={clean(k): v for k, v in entry.metrics.items()},
        )


def _stored(folder: Path, run: str, verdict: str) -> StoredEvidence:
    report, members = folder / SHARED_FOLDER / REPORT, folder / RESTRICTED_FOLDER / MEMBERS
    return StoredEvidence(run, verdict, report if report.is_file() else None, members if members.is_file() else None)
