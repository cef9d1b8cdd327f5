"""What people read, on stderr: the verdict as a table, progress as a bar on a terminal and as heartbeats elsewhere."""

from __future__ import annotations

import os
import re
import sys
import time
import unicodedata
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from privacy_gate.reports.document import Report

HEARTBEAT_SECONDS = 30.0

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_HIDDEN = {"Cc", "Cf", "Cs", "Co"}  # control, format (text direction), surrogate and private characters
_COMMAND = re.compile(r"(:)(:[a-zA-Z])|(#)(#\[|#vso\[)")  # GitHub's and Azure's log readers obey such lines

MARKS = {
    "pass": ("✔", "green"),
    "pass_with_warnings": ("✔", "green"),
    "pass_with_waivers": ("✔", "green"),
    "fail": ("✖", "bold red"),
    "inconclusive": ("?", "yellow"),
    "error": ("!", "bold red"),
    "waived": ("~", "yellow"),
    "not_applicable": ("–", "dim"),
}


def clean(text: object) -> str:
    """Text of strangers for a terminal or a log: it moves no cursor, colours nothing and commands no log reader."""
    plain = _COLOUR.sub("", str(text))
    plain = "".join(c for c in plain if c in "\n\t" or unicodedata.category(c) not in _HIDDEN)
    return _COMMAND.sub(lambda found: " ".join(part for part in found.groups() if part), plain)


def console() -> Console:
    """stderr; honours NO_COLOR, FORCE_COLOR, TERM=dumb by rich's own rules."""
    return Console(stderr=True, highlight=False, soft_wrap=False)


class ConsoleProgress:
    """Stages as lines; shadows as a bar on a terminal, as a line every 30 s in CI."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = console()
        self._quiet = quiet
        self._live = self._console.is_terminal and not os.environ.get("CI")
        self._bar: Progress | None = None
        self._last = 0.0

    def stage(self, text: str) -> None:
        """A step of the street begins."""
        if not self._quiet:
            self._console.print(Text(f"· {clean(text)}", style="dim"))

    def shadows(self, done: int, total: int, cached: int, remaining: float | None) -> None:
        """`done` of `total` shadows are there, `cached` of them from the store; `remaining` seconds if known."""
        if self._quiet:
            return
        if self._live:
            self._draw(done, total)
            return
        now = time.monotonic()
        if done in {cached, total} or now - self._last >= HEARTBEAT_SECONDS:
            self._last = now
            eta = "" if remaining is None or done == total else f", about {_duration(remaining)} left"
            self._console.print(Text(f"· shadows {done}/{total} ({cached} from the store){eta}", style="dim"))

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            columns = (TextColumn("· shadows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.start()
            self._bar.add_task("shadows", total=total, completed=done)
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)
        if done >= total:
            self.close()

    def close(self) -> None:
        """End a bar that is still drawn."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def show_verdict(report: Report, paths: dict[str, str]) -> None:
    """The verdict, the rules that matter, and where the report is."""
    from privacy_gate.reports import figures  # the same digits and units as in the files

    out = console()
    say = partial(out.print, soft_wrap=True)  # a log of 80 columns must not cut a path or a place in two
    verdict = report.verdict
    if report.rules:
        table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
        for name in ("rule", "what", "limit", "value", "bounds", "effect"):
            table.add_column(
                name, justify="right" if name in {"limit", "value", "bounds"} else "left", no_wrap=name != "what"
            )
        for rule in report.rules:
            if rule.action == "off":
                continue
            mark, style = MARKS[rule.status]
            effect = {"block": "blocks", "warn": "warns"}.get(rule.action, rule.action)
            if rule.enforce_from:
                effect += f" until {rule.enforce_from}"
            word = {
                "pass": "passes",
                "fail": effect,
                "inconclusive": f"undecided, {effect}",
                "waived": f"waived by {clean(rule.waiver)}",
            }.get(rule.status, rule.status.replace("_", " "))
            kind = figures.unit(rule.metric)
            table.add_row(
                Text(clean(rule.id)),
                Text(clean(rule.title)),
                figures.amount(rule.limit, kind),
                figures.amount(rule.value, kind, rule.limit),
                Text(figures.bounds(rule.low, rule.high, kind, rule.limit)),
                Text(f"{mark} {word}", style=style),
            )
        out.print(table)
    for waiver in (*report.waivers.expired, *report.waivers.refused, *report.waivers.unused):
        say(Text(f"waiver {clean(waiver.id)} has no effect: {clean(waiver.note or waiver.state)}", style="yellow"))
    if report.attempt is not None and report.attempt.number > 1:
        count = f"evaluation {report.attempt.number} of this model on other data, seeds or shadows"
        say(Text(f"{count}: each bound is at level {report.attempt.alpha_pass:.3g}", style="yellow"))
    for warning in report.warnings:
        say(Text(f"warning: {clean(warning)}", style="yellow"))
    if report.run.mlflow is not None and report.run.mlflow.warning:
        say(Text(f"warning: MLflow: {clean(report.run.mlflow.warning)}", style="yellow"))
    for error in report.errors:
        say(Text(f"error: {clean(error.what)}", style="bold red"))
        if error.hint:
            say(Text(f"  hint: {clean(error.hint)}"))
    mark, style = MARKS[verdict.status]
    say(Text(f"{mark} {verdict.status.replace('_', ' ').upper()}  {clean(verdict.headline)}", style=style))
    for text in report.would_decide:
        say(Text(f"  to decide: {clean(text)}"))
    if report.data is not None and report.data.coverage.startswith("sample"):
        say(Text(f"  audited: {clean(report.data.coverage)}"))
    if verdict.exit_zero and verdict.status == "fail":
        say(Text("--exit-zero: the policy is violated, the exit code is 0 because you asked for it", style="yellow"))
    for name, path in paths.items():
        say(Text(f"  {name}: {clean(path)}"))
    sys.stderr.flush()
