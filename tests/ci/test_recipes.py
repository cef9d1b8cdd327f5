"""The CI recipes: valid by their vendors' schemas and parsers, and every shell line of them run against a real verdict.

What a runner does around the lines is played here: expressions and inputs, environment, artifacts, exit codes. `pip
install` is noted and not done, and one and the same command line of the gate is run for real once.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
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
    for name in {{"check": ["report.json", "report.md"], "attest": ["attestation.json"]}}[line[0]]:
        pathlib.Path(out[0], name).write_text('{{"verdict": {{"status": "played"}}}}')
    sys.exit(int(ends.read_text()))
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
        "GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary), "RUNNER_TEMP": str(machine.folder / "temp")
    }  # fmt: skip
    code, log, kept = 0, "", set()
    for step in ACTION["runs"]["steps"]:
        if not wanted(step.get("if"), known, code != 0):
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
        for line in output.read_text().splitlines():
            name, _, value = line.partition("=")
            known[f"steps.{step.get('id')}.outputs.{name}"] = value
    outputs = {name: evaluated(given["value"], known) for name, given in ACTION["outputs"].items()}
    return Ended(code, log, kept, outputs, summary.read_text() if summary.exists() else "")


# --- GitLab -----------------------------------------------------------------------------------------------------------

SPEC, COMPONENT = yaml.safe_load_all(text("gitlab/templates/privacy-gate.yml"))


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
    inputs = {name: given.get(name, about["default"]) for name, about in known.items()}
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


def on_jenkins(machine: Machine, sign: bool = False, **given: str) -> tuple[Ended, str]:
    """The three scripts, and what the pipeline makes of the exit code: SUCCESS, UNSTABLE or FAILURE."""
    parameters = dict(re.findall(r"string\(name: '(\w+)', defaultValue: '([^']*)'", JENKINSFILE))
    parameters |= dict(re.findall(r"choice\(name: '(\w+)', choices: \['([^']*)'", JENKINSFILE))
    assert set(given) <= {name.lower() for name in parameters}
    constants = dict(re.findall(r"^    (\w+) = '([^']*)'", JENKINSFILE, re.M))
    known = parameters | constants | {name.upper(): value for name, value in given.items()}
    known |= {"PRIVACY_GATE_STORE": str(machine.folder / "temp")}
    shell = ["sh", "-xe"]
    installed = machine.run(shell, BLOCKS["install"], known | machine.environment)
    if installed.returncode:
        return Ended(installed.returncode, installed.stderr, set()), "FAILURE"
    done = machine.run(shell, BLOCKS["check"], known | {"MLFLOW_TRACKING_TOKEN": "t"} | machine.environment)
    code = done.returncode
    if sign and not given.get("observations") and code in (0, 1, 4):
        key = {"PRIVACY_GATE_SIGNING_KEY_FILE": "/key"}
        signed = machine.run(shell, BLOCKS["attest"], known | key | machine.environment)
        code = 3 if code == 0 and signed.returncode else code
    patterns = re.search(r'artifacts: "([^"]*)"', JENKINSFILE)[1].replace("${env.OUT}", known["OUT"]).split(",")
    words = {int(c): w for c, w in re.findall(r"if \(code == (\d)\) \{ (\w+)\(", JENKINSFILE)}
    otherwise = re.search(r"if \(!\(code in \[([\d, ]+)\]\)\) \{ error\(", JENKINSFILE)
    assert set(map(int, otherwise[1].split(","))) == {0, *words}  # no code is left without a word
    word = {"error": "FAILURE", "unstable": "UNSTABLE"}[words.get(code, "error")] if code else "SUCCESS"
    return Ended(code, done.stdout + done.stderr, machine.kept(patterns)), word


# --- one verdict of each kind, on each --------------------------------------------------------------------------------


def predictions(leaky: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    arrays: dict[str, np.ndarray] = {}
    for side in ("member", "nonmember"):
        labels = np.arange(200) % 2
        sure = rng.beta(40, 1, 200) if leaky and side == "member" else rng.beta(4, 2, 200)
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
    assert ready.pip() == [*ARGUMENTS.splitlines(), f"privacy-gate=={VERSION}"]


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
    assert on_github(machine, signing_key="PEM").code != 0
    ended, word = on_jenkins(machine, sign=True)
    assert (ended.code, word) == (3, "FAILURE")
    machine.environment = {"PRIVACY_GATE_SIGNING_KEY": "PEM"}
    assert on_gitlab(machine).code == 3


def test_an_installation_that_fails_is_no_verdict(machine: Machine) -> None:
    (machine.played / "pip-ends-with").write_text("1")
    github = on_github(machine)
    assert github.code != 0
    assert github.outputs == {"verdict": "", "exit-code": "", "report": ""}
    assert "no verdict" in github.summary
    assert on_gitlab(machine).code == 3  # 1 would read as a violation
    assert on_jenkins(machine)[1] == "FAILURE"
    assert machine.calls("check") == []


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
    assert workflow["permissions"] == {"contents": "read"}


def test_one_version_everywhere() -> None:
    """What is installed by default, and the tags of image, action and component, are this version."""
    named = re.compile(r"(?:privacy-gate(?:==|:|[\w/.-]*@v?)|rev: v)(\d+\.\d+\.\d+)")
    found = {
        path.name: named.findall(path.read_text(encoding="utf-8")) for path in RECIPES.rglob("*.*") if path.is_file()
    }
    assert {version for versions in found.values() for version in versions} == {VERSION}
    mentioned = {name for name, versions in found.items() if versions}
    assert mentioned == {
        "action.yml", "workflow.yml", "privacy-gate.yml", "gitlab-ci.yml", "docker-compose.yaml", "README.md"
    }  # fmt: skip
    for name in ("jenkins/Jenkinsfile", "docker/Dockerfile"):
        assert set(named.findall(text(name))) == {VERSION}
    assert ACTION["inputs"]["package"]["default"] == SPEC["spec"]["inputs"]["package"]["default"]


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


def test_what_init_drafts_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_brackets_of_the_jenkinsfile() -> None:
    """A parser of Groovy takes seconds: here it is what an edit breaks most."""
    plain = re.sub(r"'''.*?'''|'[^'\n]*'|\"[^\"\n]*\"|//[^\n]*", "", JENKINSFILE, flags=re.S)
    opened: list[str] = []
    for mark in re.findall(r"[][(){}]", plain):
        if mark in "([{":
            opened.append(mark)
        else:
            assert opened.pop() + mark in ("()", "[]", "{}")
    assert opened == []
    assert not re.search(r",\s*\)", plain)  # Groovy 2.4 takes no comma after the last argument


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
    from privacy_gate.service.subscriptions import find, load, terms

    subscribed = load(DOCKER / "config" / "subscriptions.yaml")
    for name, place in (("churn", 0), ("churn-eu", 1)):
        found = find(subscribed.value, name)
        assert found == subscribed.value.subscriptions[place]
        terms(subscribed, found)
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
    policy, waivers = folder / "privacy-policy.yaml", folder / "privacy-waivers.yaml"
    policy.write_text("apiVersion: privacy-gate/v1\nextends: standard\nrules:\n  PG101: {max: 0.58}\n")
    assert run("git", "init", "-q").returncode == 0
    run("git", "add", ".")
    good = run("pre-commit", "run")
    assert good.returncode == 0, good.stdout
    assert (good.stdout.count("Passed"), good.stdout.count("Skipped")) == (1, 1)  # there are no waivers

    policy.write_text("apiVersion: privacy-gate/v1\nextends: standard\nrules:\n  PG101: {maximum: 0.58}\n")
    waivers.write_text("waivers: [{id: W-1}]\n")
    run("git", "add", ".")
    bad = run("pre-commit", "run")
    assert bad.returncode == 1
    assert bad.stdout.count("Failed") == 2, bad.stdout
    assert "privacy-policy.yaml:4" in bad.stdout
    assert "privacy-waivers.yaml:1" in bad.stdout


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
