"""Where candidates come from and evidence goes to. "Registry" always means the model registry, never a plug-in list."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from privacy_gate.datamodel import Candidate
from privacy_gate.errors import UsageError

TAG_PREFIX = "privacy_gate."


@dataclass(frozen=True, slots=True)
class RecordedReport:
    """What one evaluation leaves in the registry.

    params, metrics  of the evaluation's run; names may hold any character, the registry's own rules are applied
    files            report.json, report.html, ...: shareable ones only
    verdict          status of the verdict
    note             markdown shown on the run's page
    """

    verdict: str
    model_sha256: str
    policy_sha256: str
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Sequence[Path] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What of it arrived: the evidence run (None: none could be made) and what was refused."""

    run_id: str | None
    warnings: tuple[str, ...] = ()


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
            "set MLFLOW_TRACKING_URI, or tracking_uri: in privacy-gate.yaml, e.g. sqlite:///mlflow.db",
        )
    from privacy_gate.registry.mlflow import MlflowRegistry

    return MlflowRegistry(tracking, models)
