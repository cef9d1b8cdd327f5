"""A small team with a registry, a table with several rows per person, and a candidate that memorises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from privacy_gate.datamodel import Candidate, Description
from privacy_gate.features import Features, digest
from privacy_gate.reports.document import Report, parse, verify
from privacy_gate.sandbox import Scored, examine
from tests.mlflow_server import embedded_registry, tracking

ROWS_PER_PERSON = 2
PERSONS = 150  # on either side


@dataclass(frozen=True)
class Run:
    """What one command line did."""

    code: int
    stdout: str
    stderr: str
    out: Path

    @property
    def report(self) -> Any:
        return json.loads((self.out / "report.json").read_text())

    def document(self) -> Report:
        """The report, read as strictly as `privacy-gate report` reads it, and its seal."""
        document = parse((self.out / "report.json").read_bytes())
        assert verify(document)
        return document

    @property
    def said(self) -> str:
        """stderr on one line: a console wraps where it likes."""
        return " ".join(self.stderr.split())


@dataclass(frozen=True)
class Team:
    """A folder with data, a config and a registry."""

    folder: Path
    uri: str

    def write_config(self, name: str = "privacy-gate.yaml", **changes: Any) -> Path:
        config: dict[str, Any] = {
            "apiVersion": "privacy-gate/v1",
            "model": "models:/tiny@candidate",
            "tracking_uri": self.uri,
            "data": {"members": "members.csv", "nonmembers": "nonmembers.csv", "label": "sick", "person": "person"},
            "shadows": {"count": 4},
            # What `standard` requires, and no more: the whole of `full` is run where it is the subject.
            "attacks": ["correctness", "confidence", "entropy", "modified_entropy", "lira", "rmia"],
        }
        for key, value in changes.items():
            if value is None:
                del config[key]
                continue
            config[key] = {**config[key], **value} if isinstance(value, dict) and key in config else value
        path = self.folder / name
        path.write_text(yaml.safe_dump(config))
        return path

    def gate(self, *arguments: object, out: str = "out", timeout: float = 240.0, **environment: str) -> Run:
        """Run the real program in the team's folder."""
        folder = self.folder / out
        command = [sys.executable, "-m", "privacy_gate", *map(str, arguments)]
        if arguments and arguments[0] == "check":
            command += ["--out", str(folder)]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Run(done.returncode, done.stdout, done.stderr, folder)

    def environment(self, **changes: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PRIVACY_GATE_"))}
        return {**kept, "MLFLOW_DISABLE_TELEMETRY": "true", "XDG_CACHE_HOME": str(self.folder / "cache"), **changes}


def people(start: int, seed: int) -> pd.DataFrame:
    """Rows of persons whose outcome is mostly noise: a tree that fits it has memorised it."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(start, start + PERSONS), ROWS_PER_PERSON)
    trait = rng.normal(size=PERSONS).repeat(ROWS_PER_PERSON)
    frame = pd.DataFrame({"trait": trait, "age": rng.normal(size=len(person)), "bmi": rng.normal(size=len(person))})
    frame["sick"] = np.where(trait + 2 * rng.normal(size=len(person)) > 0, "yes", "no")
    frame["person"] = person
    return frame


@pytest.fixture(scope="session")
def make_team(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Team]:
    """New teams with data and an empty registry."""

    def make() -> Team:
        folder = tmp_path_factory.mktemp("team")
        people(0, 1).to_csv(folder / "members.csv", index=False)
        people(10_000, 2).to_csv(folder / "nonmembers.csv", index=False)
        return Team(folder, embedded_registry(folder))

    return make


@pytest.fixture(scope="session")
def team(make_team: Callable[[], Team]) -> Team:
    """A team whose candidate `tiny` is a full-depth forest, registered under the alias `candidate`."""
    made = make_team()
    register(made, "tiny")
    made.write_config()
    return made


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shadows that several tests may share."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def plain(team: Team) -> str:
    """A candidate that hardly learns: nothing to find, and with few records no proof of it."""
    from sklearn.linear_model import LogisticRegression

    members = pd.read_csv(team.folder / "members.csv")
    version = register(team, "plain", LogisticRegression(C=1e-3).fit(members[FEATURES], members["sick"]))
    return f"models:/plain/{version}"


@pytest.fixture(scope="session")
def leaky(team: Team, store: Path) -> Run:
    """The team's candidate, judged by the real program with everything at its default."""
    return team.gate("check", "--store", store, out="leaky")


Examine = Callable[..., tuple[Description, Scored]]


@pytest.fixture(scope="session")
def examine_once() -> Examine:
    """`examine`, but the same model is asked about the same records only once: its process takes seconds to start.

    For runs in this process alone, and answers alone: a failure is lived through each time.
    """
    known: dict[tuple[object, ...], tuple[Description, Scored]] = {}

    def ask(candidate: Candidate, features: Features, workdir: Path, **options: Any) -> tuple[Description, Scored]:
        question = candidate.digest, candidate.executes_code, digest(features), options.get("form")
        if question not in known:
            known[question] = examine(candidate, features, workdir, **options)
        return known[question]

    return ask


def spare_processes(patch: pytest.MonkeyPatch, examine_once: Examine) -> None:
    """Start no process twice for one answer, nor a second worker for shadows of milliseconds."""
    patch.setattr("privacy_gate.preparation.examine", examine_once)
    patch.setattr("privacy_gate.baseline.examine", examine_once)
    patch.setattr("privacy_gate.shadows.train.usable_cores", lambda: 1)


Here = Callable[..., Run]


@pytest.fixture
def here(
    team: Team,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    examine_once: Examine,
) -> Callable[..., Run]:
    """Run a command line in this process, in the team's folder: seconds faster than the program, and the same code.

    A check that fails needs no shadows of others: each test has a store of its own unless it names one.
    """
    monkeypatch.chdir(team.folder)
    spare_processes(monkeypatch, examine_once)
    for name in [n for n in os.environ if n.startswith(("MLFLOW_", "PRIVACY_GATE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("PRIVACY_GATE_DEBUG", "")  # --debug sets it: put back afterwards
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def gate(*arguments: object, out: Path = tmp_path / "out") -> Run:
        from privacy_gate.cli import run

        line = list(map(str, arguments))
        capfd.readouterr()
        code = run([*line, "--out", str(out)] if line[0] == "check" else line)
        told = capfd.readouterr()
        return Run(code, told.out, told.err, out)

    return gate


FEATURES = ["trait", "age", "bmi"]


def register(team: Team, name: str, model: Any = None, alias: str = "candidate") -> str:
    """Fit (a small forest unless given) on the team's members and register; returns the version."""
    import mlflow
    from sklearn.ensemble import RandomForestClassifier

    members = pd.read_csv(team.folder / "members.csv")
    fitted = model or RandomForestClassifier(10, random_state=0).fit(members[FEATURES], members["sick"])
    with tracking(team.uri):
        mlflow.set_experiment("training")
        with mlflow.start_run():
            logged = mlflow.sklearn.log_model(
                fitted,
                name="model",
                registered_model_name=name,
                pip_requirements=[],
                serialization_format="cloudpickle",
            )
        version = str(logged.registered_model_version)
        mlflow.MlflowClient().set_registered_model_alias(name, alias, version)
    return version
