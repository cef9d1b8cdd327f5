"""The page of examples/torch_images, from top to bottom: its commands are run, its settings are put into the config.

In a small form: four shadows, the attacks that the policy asks for and one more, two folds.
"""

import contextlib
import importlib.metadata
import io
import os
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from privacy_gate.cli import run
from privacy_gate.datamodel import Candidate, Description
from privacy_gate.features import Features, digest
from privacy_gate.manifest import Role
from privacy_gate.policy import resolve
from privacy_gate.reports.document import Report, parse, verify
from privacy_gate.request import Config, Recipe
from privacy_gate.sandbox import Scored, examine
from tests.mlflow_server import embedded_registry, tracking

HOME = Path(__file__).resolve().parents[2] / "examples" / "torch_images"
# What only a shell can do; the fixture does the same.
BY_HAND = (
    "mkdir digits && cd digits",
    "cp ../examples/torch_images/*.py .",
    "python -m venv .venv && . .venv/bin/activate",
    "pip install privacy-gate",
    "export MLFLOW_TRACKING_URI=sqlite:///$PWD/mlflow.db",
)
ATTACKS = ["correctness", "confidence", "entropy", "modified_entropy", "lira", "difficulty_calibration"]
SMALL = {"python folds.py data folds": ("--folds", "2", "--epochs", "2"), "python finetune.py data": ("--epochs", "2")}


# --- the page -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A command of the page, what it ends with, and what the page says it prints."""

    line: str
    ends: int
    shown: str


@dataclass(frozen=True)
class Edit:
    """Settings that the page puts into a file."""

    file: str
    settings: dict[str, Any]


def page(text: str) -> list[Command | Edit]:
    """Indented lines after a `$` are commands, others what the last one printed; blocks of YAML name their file."""
    found: list[Command | Edit] = []
    for fenced, indented in re.findall(r"^```yaml\n(.*?)^```$|((?:^    .*\n|^\n(?=    [^$]))+)", text, re.M | re.S):
        if fenced:
            found.append(Edit(fenced.splitlines()[0].removeprefix("# "), yaml.safe_load(fenced)))
            continue
        for line in indented.splitlines():
            if line.startswith("    $ "):
                command, _, code = line.removeprefix("    $ ").partition("# ends with ")
                found.append(Command(command.strip(), int(code or 0), ""))
            elif line.strip():
                last = found[-1]
                assert isinstance(last, Command)
                found[-1] = Command(last.line, last.ends, f"{last.shown}{line[4:]}\n")
    return found


def edit(path: Path, settings: dict[str, Any]) -> None:
    """A section gets the settings beside its own; everything below them is replaced, as everything else is."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in settings.items():
        document[key] = {**(document.get(key) or {}), **value} if key in ("data", "shadows", "rules") else value
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


# --- one run of it --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """What a command did: how it ended, what it printed, and the report if it wrote one."""

    command: Command
    code: int
    said: str
    report: Report | None

    @property
    def rules(self) -> dict[str, str]:
        assert self.report is not None
        return {rule.id: rule.status for rule in self.report.rules}


@dataclass(frozen=True)
class Hour:
    """The first hour: what its commands did, in their order, and the configs on the way."""

    folder: Path
    done: list[Done]
    draft: dict[str, Any]
    configs: list[Config]

    def __getitem__(self, start: str) -> list[Done]:
        return [one for one in self.done if one.command.line.startswith(start)]


def ask_once() -> Callable[..., tuple[Description, Scored]]:
    """The same model is asked about the same records once: its process takes seconds to start."""
    known: dict[tuple[object, ...], tuple[Description, Scored]] = {}

    def ask(candidate: Candidate, features: Features, workdir: Path, **options: Any) -> tuple[Description, Scored]:
        question = candidate.digest, digest(features), options.get("form")
        if question not in known:
            known[question] = examine(candidate, features, workdir, **options)
        return known[question]

    return ask


def gate(words: list[str]) -> int:
    """The command line, in this process. What trains is made small; `plan` sees the config as it is."""
    path = Path("privacy-gate.yaml")
    as_it_is = path.read_text(encoding="utf-8") if path.exists() else ""
    if words[0] in ("check", "defences"):
        small: dict[str, Any] = {"attacks": ATTACKS}
        if "head" not in yaml.safe_load(as_it_is)["shadows"]["recipe"]:
            small["shadows"] = {"count": 4}
        edit(path, small)
    try:
        return run(words)
    finally:
        if words[0] in ("check", "defences"):
            path.write_text(as_it_is, encoding="utf-8")


def script(words: list[str]) -> int:
    """A script of the team's, in this process: torch and MLflow take seconds to import."""
    before = sys.argv, list(sys.path), set(sys.modules)
    sys.argv, sys.path = words, [str(Path.cwd()), *sys.path]
    try:
        runpy.run_path(words[0], run_name="__main__")
    finally:
        sys.argv, sys.path = before[:2]
        for name in {path.stem for path in HOME.glob("*.py")} - before[2]:
            sys.modules.pop(name, None)
    return 0


def follow(command: Command) -> Done:
    words = shlex.split(command.line, comments=True)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        if words[0] == "privacy-gate":
            code = gate(words[1:])
        else:
            assert words[0] == "python", command.line
            code = script([*words[1:], *SMALL.get(command.line, ())])
    report = None
    if words[1] == "check":
        report = parse(Path("privacy-gate-report", "report.json").read_bytes())
        assert verify(report)
    return Done(command, code, out.getvalue() + err.getvalue(), report)


@pytest.fixture(scope="module")
def steps() -> list[Command | Edit]:
    return page((HOME / "README.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def hour(steps: list[Command | Edit], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hour]:
    folder = tmp_path_factory.mktemp("digits")
    for file in HOME.glob("*.py"):
        shutil.copy(file, folder)
    uri = embedded_registry(folder)
    done: list[Done] = []
    draft: dict[str, Any] = {}
    configs: list[Config] = []
    with pytest.MonkeyPatch.context() as patch, tracking(uri), contextlib.chdir(folder):
        for name in [n for n in os.environ if n.startswith(("MLFLOW_", "PRIVACY_GATE_"))]:
            patch.delenv(name)
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("PRIVACY_GATE_STORE", str(folder / "store"))
        patch.setenv("PRIVACY_GATE_DEBUG", "")
        patch.setenv("COLUMNS", "80")
        asked = ask_once()
        for module in ("preparation", "existing"):
            patch.setattr(f"privacy_gate.{module}.examine", asked)
        patch.setattr("privacy_gate.shadows.train.usable_cores", lambda: 1)
        for step in steps:
            if isinstance(step, Edit):
                if not draft:
                    draft = yaml.safe_load(Path("privacy-gate.yaml").read_text(encoding="utf-8"))
                edit(Path(step.file), step.settings)
                configs.append(Config.model_validate(yaml.safe_load(Path("privacy-gate.yaml").read_text())))
            elif step.line not in BY_HAND:
                done.append(follow(step))
        yield Hour(folder, done, draft, configs)
