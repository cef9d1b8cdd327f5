"""Where candidates come from and evidence goes to. "Registry" always means the model registry, never a plug-in list."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from privacy_gate.datamodel import Attempt, Candidate
from privacy_gate.errors import ExitCode, UsageError

TAG_PREFIX = "privacy_gate."
SHARED_FOLDER = "privacy-gate"  # of an evidence run's artifacts: what its report may show to anybody
RESTRICTED_FOLDER = "restricted"  # keyed digests of persons: for the gate's own later runs
REPORT, MEMBERS = "report.json", "members.npz"
PASSES = frozenset({"pass", "pass_with_warnings", "pass_with_waivers"})


@dataclass(frozen=True, slots=True)
class RecordedReport:
    """What one evaluation leaves in the registry.

    params, metrics  of the evaluation's run; names may hold any character, the registry's own rules are applied
    files            report.json, report.html, ...: shareable ones only
    restricted       members.npz, ...: pseudonyms of persons, kept apart from the shareable files
    verdict          status of the verdict
    note             markdown shown on the run's page
    data_sha256      digest of all records of the evaluation; "": none were read
    references       what the reference models were drawn from; "": the evaluation did not get that far
    seed, exit_code  of the evaluation; the verdict's exit code, whatever --exit-zero made of it
    """

    verdict: str
    model_sha256: str
    policy_sha256: str
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Sequence[Path] = ()
    note: str = ""
    data_sha256: str = ""
    seed: int | None = None
    exit_code: int | None = None
    restricted: Sequence[Path] = ()
    references: str = ""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What of it arrived: the evidence run (None: none could be made) and what was refused."""

    run_id: str | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Remembered:
    """Earlier evaluations of one model.

    attempts  None: nobody knows (nothing keeps them, or the gate may not read them); not the same as none
    warnings  why they are not known
    """

    attempts: tuple[Attempt, ...] | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A run of the gate's about one model digest, as anybody may have made it; `deleted` ones can still be read."""

    run_id: str
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class StoredEvidence:
    """What an earlier evaluation of exactly this model left.

    report   private copy of its report.json; None where it is gone or may not be read, as `warnings` say
    members  the same of its member list; often there is none
    """

    run_id: str
    verdict: str
    report: Path | None = None
    members: Path | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A version as the registry lists it; nothing of it is downloaded.

    aliases  of its model that point to it, sorted
    run_id   of the run that made it; None: none is named
    created  seconds since 1970
    ready    False while its files are still being written, or when that went wrong
    """

    name: str
    version: str
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    run_id: str | None = None
    created: float = 0.0
    ready: bool = True

    @property
    def uri(self) -> str:
        """models:/NAME/VERSION."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook that the registry calls: `events` as entity.action, e.g. model_version.created."""

    id: str
    name: str
    url: str
    events: tuple[str, ...]
    active: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """One question of `doctor`: what was tried, whether it went well, and the mend if not."""

    name: str
    ok: bool
    detail: str
    mend: str = ""


def verdict_tags(report: RecordedReport, run: str) -> dict[str, str]:
    """What a model version carries of its verdict. A hint: promotion recomputes the digest and reads the run."""
    values = {
        "verdict": report.verdict,
        "run_id": run,
        "model_sha256": report.model_sha256,
        "policy_sha256": report.policy_sha256,
    }
    return {TAG_PREFIX + key: value for key, value in values.items()}


def run_tags(report: RecordedReport) -> dict[str, str]:
    """What an evidence run carries, so that later evaluations find it and know what it looked at."""
    values = {
        "verdict": report.verdict,
        "model_sha256": report.model_sha256,
        "policy_sha256": report.policy_sha256,
        "data_sha256": report.data_sha256,
        "references": report.references,
        "seed": "" if report.seed is None else str(report.seed),
        "exit_code": "" if report.exit_code is None else str(int(report.exit_code)),
    }
    return {TAG_PREFIX + key: value for key, value in values.items() if value}


_EXIT_CODES = {"fail": ExitCode.VIOLATED, "inconclusive": ExitCode.INCONCLUSIVE, "error": ExitCode.FAILED}


def attempt_of(tags: Mapping[str, str], params: Mapping[str, str], run_id: str, at: str) -> Attempt:
    """The evaluation behind an evidence run.

    Runs of versions that wrote fewer tags count, with what is known of them: an unknown data digest is one of its own,
    and references of which nothing is said are of one kind.
    """
    verdict = tags.get(TAG_PREFIX + "verdict", "")
    seed, code = tags.get(TAG_PREFIX + "seed", params.get("seed", "")), tags.get(TAG_PREFIX + "exit_code", "")
    return Attempt(
        data_digest=tags.get(TAG_PREFIX + "data_sha256") or f"unknown, of run {run_id}",
        seed=int(seed) if _is_number(seed) else -1,
        policy_digest=tags.get(TAG_PREFIX + "policy_sha256", ""),
        verdict=verdict,
        # Anything that is not said to have broken counts as a look.
        exit_code=int(code) if _is_number(code) else int(_EXIT_CODES.get(verdict, ExitCode.PASS)),
        run_id=run_id,
        at=at,
        references=tags.get(TAG_PREFIX + "references", ""),
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


class Registry(Protocol):
    """A model registry, as far as the gate needs one."""

    def resolve(self, uri: str, into: Path) -> Candidate:
        """The candidate that `uri` names now: its alias followed once, its files copied below `into` and hashed.

        Raises CandidateNotFound, UnsupportedModel (where the MLmodel file alone tells), RegistryUnreachable.
        """

    def fetch(self, uri: str, into: Path) -> Path:
        """A private copy below `into` of the artifact `runs:/<run>/<path>`; raises DataError if there is none."""

    def record(self, candidate: Candidate, report: RecordedReport) -> Recorded:
        """Write the evidence back. A missing permission becomes a warning; a registry that is gone raises."""

    def attempts(self, candidate: Candidate) -> Remembered:
        """All earlier evaluations of the same model digest, whatever name and version it had then.

        A missing permission gives `attempts` None and a warning; a registry that is gone raises RegistryUnreachable.
        """

    def evidence(self, candidate: Candidate, into: Path) -> StoredEvidence | None:
        """What the gate's newest approval of the candidate left, copied below `into`; with none, its newest evaluation.

        None where no run is named, or the run is not the gate's, or not of exactly this model digest. What may not be
        read is left out with a warning; a registry that is gone raises RegistryUnreachable.
        """

    def evaluations(self, candidate: Candidate) -> Iterator[Evaluation]:
        """The gate's runs about exactly this model digest, newest first, those that were deleted among them.

        Raises RegistryUnreachable (also without permission).
        """

    def versions(self) -> Iterator[RegisteredVersion]:
        """Every version of every registered model, models by name, versions ascending; raises RegistryUnreachable.

        One that the registry hides, and that an alias points to, is told without its tags, and is not ready.
        """

    def version(self, name: str, version: str) -> RegisteredVersion | None:
        """One of them; None where there is no such version. Raises RegistryUnreachable."""

    def alias(self, name: str, alias: str) -> str | None:
        """The version that an alias points to; None where it points nowhere. Raises RegistryUnreachable.

        Also of a model that the registry hides from its own client.
        """

    def move_alias(self, name: str, alias: str, version: str | None) -> None:
        """Point an alias to a version, with None to nothing; again is the same as once.

        Raises CandidateNotFound where there is no such version, UsageError for a name that the registry refuses,
        RegistryUnreachable (also without permission).
        """

    def mark(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version, leave others.

        Raises CandidateNotFound, UsageError for a tag that the registry refuses, RegistryUnreachable (also without
        permission).
        """

    def attach(self, run_id: str, files: Sequence[Path]) -> None:
        """Put shareable files beside the report of an evidence run, in place of files of the same name.

        Raises DataError where the gate did not make that run, RegistryUnreachable (also without permission).
        """

    def webhooks(self) -> list[Webhook]:
        """What the registry calls on events; raises UsageError where a registry has none, RegistryUnreachable."""

    def ping(self) -> list[Probe]:
        """Is it reachable, may the gate read, may it write? Changes nothing."""


def open_registry(tracking_uri: str | None, registry_uri: str | None, model: str | None = None) -> Registry:
    """The registry named by the arguments, or else by MLFLOW_TRACKING_URI and MLFLOW_REGISTRY_URI; never half and half.

    model  the candidate's URI: with nothing configured, a local MLflow model folder needs no registry
    Raises UsageError when nothing is configured: an empty mlflow.db is never created in passing.
    """
    if not (tracking_uri or registry_uri):
        # Only then: mlflow.set_registry_uri() leaves its variable behind, and would redirect what a file names.
        tracking_uri, registry_uri = os.environ.get("MLFLOW_TRACKING_URI"), os.environ.get("MLFLOW_REGISTRY_URI")
    tracking, models = tracking_uri or registry_uri, registry_uri or tracking_uri
    if not tracking or not models:
        if model is not None and not model.startswith(("models:", "runs:")):
            from privacy_gate.registry.in_memory import InMemoryRegistry

            return InMemoryRegistry(keeps=False)
        raise UsageError(
            "no MLflow registry is configured",
            "set MLFLOW_TRACKING_URI, or tracking_uri: in privacy-gate.yaml (of a service: in subscriptions.yaml), e.g."
            " sqlite:///mlflow.db",
        )
    from privacy_gate.registry.mlflow import MlflowRegistry

    return MlflowRegistry(tracking, models)
