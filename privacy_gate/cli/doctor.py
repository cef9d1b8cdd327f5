"""`privacy-gate doctor`: would a check run here? Every finding comes with its mend."""

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from privacy_gate.cli import app
from privacy_gate.errors import ExitCode, GateError, UsageError

if TYPE_CHECKING:
    from privacy_gate.request import CheckRequest, Config, Source
    from privacy_gate.service.health import Finding
    from privacy_gate.service.subscriptions import Subscribed

GIGABYTE = 1 << 30
LEAST_FREE, COMFORTABLE_FREE = GIGABYTE // 4, 2 * GIGABYTE
DISTRIBUTION = "privacy-gate"
_ITSELF = "`privacy-gate doctor`"  # how others end a hint
_DRAFTED, _OPEN = "Drafted by `privacy-gate init`", "TODO:"  # in the drafts of `init`


@dataclass(frozen=True, slots=True)
class Examined:
    """One finding; `code` is what a failure of its kind makes of the exit code."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    mend: str = ""
    code: ExitCode = ExitCode.FAILED


MARKS = {"ok": ("✔", "green"), "warn": ("!", "yellow"), "fail": ("✖", "bold red")}


@app.command()
def doctor(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Default: privacy-gate.yaml in this folder, if any.", show_default=False),
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Where finished shadows are kept.", show_default=False)] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("privacy-gate-report"),
    subscriptions: Annotated[
        Path | None,
        typer.Option(help="Look at a service: its file, registry, webhook, queue and clocks.", show_default=False),
    ] = None,
    test_delivery: Annotated[
        bool,
        typer.Option("--test-delivery", help="Also have the registry send its test event, and wait for it."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """Look at the configuration, the registry, the disks and the installation; changes nothing.

    Ends with 0 if a check can run, with 2 if the configuration is wrong, with 3 if anything else is.
    """
    if subscriptions is not None:
        _alone({"--config": config, "--store": store})
        findings = examine_service(subscriptions, test_delivery)
    elif test_delivery:
        raise UsageError("--test-delivery belongs to a service", "add --subscriptions FILE")
    else:
        findings = examine(config, store, out)
    findings = [replace(finding, mend=finding.mend.removesuffix(_ITSELF).rstrip()) for finding in findings]
    failed = {finding.code for finding in findings if finding.status == "fail"}
    code = ExitCode.USAGE if ExitCode.USAGE in failed else max(failed, default=ExitCode.PASS)
    if as_json:
        rows = [{key: value for key, value in asdict(f).items() if key != "code"} for f in findings]
        typer.echo(json.dumps({"exit_code": int(code), "findings": rows}, indent=2))
    else:
        _show(findings)
    return int(code)


def _show(findings: list[Examined]) -> None:
    from rich.console import Console
    from rich.text import Text

    from privacy_gate.cli.console import clean

    out = Console(highlight=False)
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark, style = MARKS[finding.status]
        line = Text.assemble((mark, style), f" {clean(finding.name):<{width}}  {clean(finding.detail)}")
        out.print(line, soft_wrap=True)
        if finding.mend:
            out.print(Text(f"  {'':<{width}}  → {clean(finding.mend)}"), soft_wrap=True)


def examine(config: Path | None, store: Path | None, out: Path) -> list[Examined]:
    """All findings. What needs a library that is missing is not looked at."""
    findings = [*installation(), _cores(), _telemetry()]
    if any(finding.status == "fail" for finding in findings):
        return [*findings, Examined("rest", "warn", "not looked at: the installation comes first")]
    request, found = _configuration(config, store)
    findings += found
    if request is not None and request.config is not None:
        findings += _files(request.config, request.config_dir)
        findings += _environment(request.config, request.config_dir)
        findings += _command(request.config, request.config_dir)
    if request is not None:
        findings += [*_registry(request.config), *_disk("store", _store_of(request), private=True)]
    return [*findings, *_disk("report", out, private=False)]


# --- a service ------------------------------------------------------------------------------------------------------


def _alone(given: dict[str, Path | None]) -> None:
    if named := [option for option, value in given.items() if value is not None]:
        raise UsageError(f"{', '.join(named)}: the subscriptions name that for each model", "leave one of them out")


def examine_service(subscriptions: Path, test_delivery: bool) -> list[Examined]:
    """All findings about a service, and whether checks by its subscriptions could run here."""
    import time

    from privacy_gate.cli.serve import extra, there

    findings = [*installation(), _cores(), _telemetry()]
    if any(finding.status == "fail" for finding in findings):
        return [*findings, Examined("rest", "warn", "not looked at: the installation comes first")]
    try:
        with extra():
            from privacy_gate.registry import open_registry
            from privacy_gate.service import health
            from privacy_gate.service.coverage import coverage
            from privacy_gate.service.subscriptions import load, queue_url
        there(subscriptions)
        subscribed = load(subscriptions)
        url = queue_url(subscribed, os.environ)
    except GateError as error:
        return [*findings, _failed("subscriptions", error)]
    findings.append(Examined("subscriptions", "ok", f"{subscriptions}: {len(subscribed.requests)} in order"))
    for name, request in subscribed.requests.items():
        if request.config is None:
            continue
        own = [_environment, _command]
        if next(s.data for s in subscribed.value.subscriptions if s.name == name) == "config":
            own.append(_files)
        found = [found for part in own for found in part(request.config, request.config_dir)]
        findings += [replace(each, name=f"{name}: {each.name}") for each in found]
    looked = health.look(subscribed, url, os.environ, time.time())
    if any(finding.name == "registry" and finding.level == "ok" for finding in looked):
        looked += coverage(subscribed.value, lambda: open_registry(subscribed.tracking_uri, subscribed.registry_uri))
    if test_delivery:
        looked.append(_delivery(subscribed, url))
    return [*findings, *(Examined(f.name, f.level, f.detail, f.mend) for f in looked)]


def _delivery(subscribed: Subscribed, url: str) -> Finding:
    from privacy_gate.registry import open_registry
    from privacy_gate.service import health
    from privacy_gate.service.queue import open_queue

    try:
        registry = open_registry(subscribed.tracking_uri, subscribed.registry_uri)
        queue = open_queue(url)
    except GateError as error:
        return health.Finding("test delivery", "fail", error.what, error.hint)
    try:
        return health.try_delivery(subscribed, queue, registry)
    finally:
        queue.close()


# --- the installation -----------------------------------------------------------------------------------------------


def installation(distribution: str = DISTRIBUTION) -> list[Examined]:
    """Python and every required library against the ranges that the package itself states."""
    import platform
    from importlib.metadata import PackageNotFoundError, metadata, version

    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        stated = metadata(distribution)
    except PackageNotFoundError:
        mend = f"pip install {distribution}; then doctor can compare versions"
        return [Examined("installation", "warn", f"{distribution} is not installed as a package", mend)]
    asked = SpecifierSet(stated["Requires-Python"] or "")
    python = platform.python_version()
    ok = asked.contains(python, prereleases=True)
    mend = "" if ok else f"use a Python {asked}"
    findings = [Examined("python", "ok" if ok else "fail", f"{python} (supported: {asked})", mend)]
    for text in stated.get_all("Requires-Dist") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            findings.append(Examined(requirement.name, "fail", "not installed", f"pip install '{wanted}'"))
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            detail = f"{installed} (supported: {requirement.specifier})"
            findings.append(Examined(requirement.name, "fail", detail, f"pip install '{wanted}'"))
        elif requirement.name in ("mlflow", "torch", "scikit-learn"):
            findings.append(Examined(requirement.name, "ok", f"{installed} (supported: {requirement.specifier})"))
    return findings


def _cores() -> Examined:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    note = "; shadows train one after the other" if usable == 1 else ""
    return Examined("cores", "ok", f"{usable} usable{note}")


def _telemetry() -> Examined:
    asked = os.environ.get("MLFLOW_DISABLE_TELEMETRY", "").lower()
    if asked in ("false", "0"):
        detail = "MLFLOW_DISABLE_TELEMETRY is false: MLflow reports its use to its makers"
        return Examined("telemetry", "warn", detail, "unset it, or set it to true")
    return Examined("telemetry", "ok", "off, the gate's own and MLflow's")


# --- the configuration ----------------------------------------------------------------------------------------------


def _configuration(config: Path | None, store: Path | None) -> tuple[CheckRequest | None, list[Examined]]:
    from privacy_gate.build import CONFIG_FILE, build
    from privacy_gate.policy import resolve

    shown = str(config or CONFIG_FILE)
    try:
        request = build(config=config, store=store)
    except UsageError as error:
        return None, [_failed("config", error)]
    if request.config is None:
        mend = "privacy-gate init drafts one; without it only --observations can be judged"
        return request, [Examined("config", "warn", f"no {shown} in this folder", mend)]
    findings = [Examined("config", "ok", shown), *_unfinished(Path(shown))]
    named = request.config.policy
    try:
        policy = resolve(request.config_dir / named if named is not None else "standard")
    except GateError as error:
        return request, [*findings, _failed("policy", error)]
    return request, [*findings, Examined("policy", "ok", f"{policy.name}, sha256 {policy.digest[:16]}…")]


def _unfinished(config: Path) -> list[Examined]:
    """Lines that `init` drafted and left to a person, who has not taken the word away yet."""
    lines = config.read_text(encoding="utf-8-sig").splitlines()
    if not any(_DRAFTED in line for line in lines):
        return []
    left = [str(number) for number, line in enumerate(lines, start=1) if _OPEN in line]
    if not left:
        return []
    detail = f"{len(left)} line{'s' if len(left) != 1 else ''} of {config} still need{'s' * (len(left) == 1)} a person"
    mend = f"look at line{'s' if len(left) != 1 else ''} {', '.join(left)}, then take the word TODO away"
    return [Examined("TODO", "warn", detail, mend)]


def _failed(name: str, error: GateError) -> Examined:
    code = ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.FAILED
    return Examined(name, "fail", error.what, error.hint, code)


def _files(config: Config, folder: Path) -> list[Examined]:
    """Whether what the config names is there; what is in it `plan` will tell. Opens no URL, runs nothing."""
    findings = [found for name, source in _sources(config).items() for found in _source(name, source, folder)]
    findings += [] if any(found.status == "fail" for found in findings) else _images(config, folder)
    for name, path in _paths(config).items():
        if path is not None and not path.startswith("runs:/"):
            findings += _there(name, folder / path, folder=False)
    findings += _drafts(config, folder)
    failed = any(finding.status == "fail" for finding in findings)
    return findings if failed else [*findings, Examined("data", "ok", "every file that the config names is there")]


def _sources(config: Config) -> dict[str, Source]:
    """Every set of records that the config names."""
    data, load = config.data, config.shadows.recipe.load
    roles = {"members": data.members, "nonmembers": data.nonmembers, "population": data.population, "seen": data.seen}
    named = {f"data.{role}": source for role, source in roles.items() if source is not None}
    models = [] if load is None or isinstance(load, str) else load
    return named | {f"shadows.recipe.load[{i}].members": model.members for i, model in enumerate(models)}


def _paths(config: Config) -> dict[str, str | None]:
    """Every other file that the config names, of `path.py:function` the path."""
    recipe, training = config.shadows.recipe, config.shadows.recipe.training
    teacher = training.teacher if training else None
    functions = {
        "shadows.recipe.model": recipe.model,
        "shadows.recipe.python": recipe.python,
        "shadows.recipe.fit.callbacks": recipe.fit.callbacks if recipe.fit else None,
        "shadows.recipe.training.augment": training.augment if training else None,
        "shadows.recipe.training.teacher.model": teacher.model if teacher else None,
    }
    return {name: reference.rpartition(":")[0] if reference else None for name, reference in functions.items()} | {
        "shadows.recipe.load": recipe.load if isinstance(recipe.load, str) else None,
        "shadows.recipe.training.initial": training.initial if training else None,
        "shadows.recipe.training.teacher.weights": teacher.weights if teacher else None,
    }


def _source(name: str, source: Source, folder: Path) -> list[Examined]:
    from privacy_gate.sources import CATALOG, choose, functions, places, urls

    try:
        if source.format is not None:
            CATALOG[source.format]  # raises where there is none
        if source.dataset is not None:
            found = functions.locate(source.dataset, folder)
            return [Examined(name, "ok", f"{found.path.name}:{found.name}, run when used")]
        path = source.path or ""
        if urls.is_url(path):
            urls.examine(path)
            return [Examined(name, "ok", f"{urls.shown(path)}, looked at when used")]
        if path.startswith("runs:/"):
            return []
        place = folder / places.expanded(path)
        findings = _there(name, place, folder=True)
        if not findings:
            choose(source, place)
        return findings
    except GateError as error:
        return [_failed(name, error)]


def _drafts(config: Config, folder: Path) -> list[Examined]:
    """Recipes that are still as `init` drafted them: `plan` runs no such code, and a check would notice late."""
    import ast

    recipe, findings = config.shadows.recipe, []
    for name, reference in (("shadows.recipe.model", recipe.model), ("shadows.recipe.python", recipe.python)):
        path, _, function = (reference or "").rpartition(":")
        if not path or not (folder / path).is_file():
            continue
        try:
            body = ast.parse((folder / path).read_text(encoding="utf-8")).body
        except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
            continue  # whoever runs it will say why not
        named = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == function]
        last = named[-1].body[-1] if named else None
        if isinstance(last, ast.Raise) and last.exc and "NotImplementedError" in ast.unparse(last.exc):
            detail = f"{path}: {function}() is still the draft"
            mend = "write it, or name a function of your own training code"
            findings.append(Examined(name, "fail", detail, mend, ExitCode.USAGE))
    return findings


def _images(config: Config, folder: Path) -> list[Examined]:
    """Whether a folder of image files has a transform that fits its channels."""
    from privacy_gate.sources import choose, images, places, urls

    for name, source in _sources(config).items():
        path = source.path or ""
        if not path or urls.is_url(path) or path.startswith("runs:/"):
            continue
        place = folder / places.expanded(path)
        if choose(source, place).id == "images":
            try:
                images.declared(config.data, place)
            except GateError as error:
                return [_failed(name, error)]
    return []


def _there(name: str, place: Path, *, folder: bool) -> list[Examined]:
    """What is wrong with a file, or where one is allowed a folder, on this machine."""
    if not (place.is_file() or (folder and place.is_dir())):
        return [Examined(name, "fail", f"{place}: no such file", "paths start at the config", ExitCode.USAGE)]
    if not os.access(place, os.R_OK | os.X_OK if place.is_dir() else os.R_OK):
        return [Examined(name, "fail", f"{place}: not readable", "give this user read access")]
    return []


def _environment(config: Config, folder: Path) -> list[Examined]:
    """Whether the interpreter of model code is there and has what the gate's part in it needs; builds none."""
    import importlib.util

    from privacy_gate.sandbox import interpreters
    from privacy_gate.sandbox.choice import CURRENT, MODEL

    if config.environment == CURRENT:
        return []
    if config.environment == MODEL:
        if missing := [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]:
            mend = "install it (python3-venv on Debian), or name an interpreter: environment: /path/to/python"
            return [Examined("environment", "fail", f"this Python has no module {' and '.join(missing)}", mend)]
        return [Examined("environment", "ok", "the model's own, built when used")]
    try:
        python = interpreters.located(config.environment, folder)
        found = interpreters.versions(python)
    except GateError as error:
        return [_failed("environment", error)]
    return [Examined("environment", "ok", f"{python}, Python {found.get('python', 'of unknown version')}")]


def _command(config: Config, folder: Path) -> list[Examined]:
    """Whether program, script, inputs and variables of a `command:` recipe are there; runs nothing."""
    from privacy_gate.sandbox.choice import CURRENT
    from privacy_gate.shadows.recipes import command

    if config.shadows.recipe.command is None or config.environment != CURRENT:  # another PATH, known when it is built
        return []
    try:
        command.check(config.shadows.recipe, folder.resolve())
    except GateError as error:
        return [_failed("shadows.recipe.command", error)]
    return [Examined("shadows.recipe.command", "ok", command.named(config.shadows.recipe.command))]


# --- the registry ---------------------------------------------------------------------------------------------------


def _registry(config: Config | None) -> list[Examined]:
    from privacy_gate.registry import open_registry

    tracking, models, uri = (config.tracking_uri, config.registry_uri, config.model) if config else (None, None, None)
    try:
        probes = open_registry(tracking, models, uri).ping()
    except GateError as error:
        if config is None and isinstance(error, UsageError):  # nobody asked for a registry yet
            return [Examined("registry", "warn", error.what, error.hint)]
        return [_failed("registry", error)]
    # Without permission to write, a check still runs: it says that it could not log.
    levels: dict[str, Literal["warn", "fail"]] = {"write": "warn"}
    return [Examined(p.name, "ok" if p.ok else levels.get(p.name, "fail"), p.detail, p.mend) for p in probes]


# --- disks ----------------------------------------------------------------------------------------------------------


def _store_of(request: CheckRequest) -> Path:
    from privacy_gate.terms import store_path

    return store_path(request)


def _disk(name: str, folder: Path, *, private: bool) -> list[Examined]:
    """Whether the gate could write there: mode, owner and free space of the folder, or of where it would be made."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        return [Examined(name, "fail", f"{there} is a file, not a folder", "choose another folder")]
    if not os.access(there, os.W_OK | os.X_OK):
        return [Examined(name, "fail", f"{there}: this user may not write there", "choose a folder of your own")]
    free = shutil.disk_usage(there).free
    detail = f"{folder}, {free / GIGABYTE:.1f} GB free"
    findings = []
    if free < LEAST_FREE:
        findings.append(Examined(name, "fail", detail, "free some space or choose another disk"))
    elif free < COMFORTABLE_FREE:
        findings.append(Examined(name, "warn", detail, "many shadows of a large model may not fit"))
    else:
        findings.append(Examined(name, "ok", detail))
    status = there.stat()
    if private and there == folder.absolute() and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.filemode(status.st_mode)
        mend = f"chmod 700 {folder}; what is in it tells who was in the training data"
        findings.append(Examined(f"{name} mode", "warn", f"{mode}: others can look into it", mend))
    return findings
