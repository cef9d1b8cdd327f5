"""`privacy-gate explain`: what a rule, an attack or a validity check means, and what this run found."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privacy_gate.cli import app

if TYPE_CHECKING:
    from privacy_gate.attacks import Attack
    from privacy_gate.policy import Rule
    from privacy_gate.reports.document import Attack as AttackRow
    from privacy_gate.reports.document import Interval, Report
    from privacy_gate.reports.figures import Unit
    from privacy_gate.validity import ValidityCheck


@app.command(no_args_is_help=True)
def explain(
    name: Annotated[str, typer.Argument(metavar="NAME", help="PG101, lira, duplicates, ...", show_default=False)],
    report: Annotated[
        Path | None, typer.Option(help="A report.json: adds what that run found.", show_default=False)
    ] = None,
) -> None:
    """Explain a rule, an attack or a validity check: meaning, formula, source of the limit, decision, mend."""
    from privacy_gate.reports.document import read

    topic = find(name)
    found = findings(topic, read(_read(report))) if report is not None else []
    text = "\n".join(
        [f"# {topic.id}: {topic.title}" if topic.title else f"# {topic.id}", "", *topic.facts(), "", text_of(topic)]
    )
    if sys.stdout.isatty():
        _draw(text, found)
    else:
        typer.echo("\n".join([text, *_section(found)]).rstrip())


def _section(found: list[str]) -> list[str]:
    return ["## In this report", "", *found] if found else []


def _draw(text: str, found: list[str]) -> None:
    """Our own words as Markdown; those of a report as plain text, because anybody may have written them."""
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.text import Text

    out = Console(highlight=False)
    out.print(Markdown(text), width=min(out.width, 100))
    if found:
        out.print(Markdown("## In this report"), width=min(out.width, 100))
        out.print(Text("\n" + "\n".join(found)))


def _read(path: Path) -> bytes:
    from privacy_gate.errors import UsageError

    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}", "give the report.json that `check` wrote") from error


# --- what there is to explain ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Topic:
    """Something that can be explained.

    kind      rule, attack or check
    facts     gives the lines of Markdown that the program knows by itself
    fallback  the module's own words, for a plug-in without a text among the templates
    """

    kind: str
    id: str
    title: str
    facts: Callable[[], list[str]]
    fallback: str


def find(name: str) -> Topic:
    """The topic of that name, in whatever case; UsageError with a suggestion if there is none."""
    from privacy_gate.catalog import did_you_mean
    from privacy_gate.errors import UsageError

    topics = {topic.id.lower(): topic for topic in everything()}
    wanted = name.strip().lower().replace("-", "_")
    if wanted not in topics:
        guess = wanted.upper() if wanted.startswith("pg") else wanted
        hint = did_you_mean(guess, [topic.id for topic in topics.values()])
        raise UsageError(f"there is no rule, attack or validity check called {name!r}", hint)
    return topics[wanted]


def everything() -> Iterator[Topic]:
    """All rules, attacks and validity checks."""
    from privacy_gate.attacks import CATALOG as ATTACKS
    from privacy_gate.policy import CATALOG as RULES
    from privacy_gate.validity import CATALOG as CHECKS

    for rule in RULES:
        yield Topic("rule", rule.id, rule.title, partial(_rule_facts, rule), _words_of(rule.examine))
    for attack in ATTACKS:
        yield Topic("attack", attack.id, "", partial(_attack_facts, attack), _words_of(attack.score))
    for check in CHECKS:
        yield Topic("check", check.id, check.title, partial(_check_facts, check), _words_of(check.run))


def text_of(topic: Topic) -> str:
    """The explanation: a file of templates/explain, else what the module says of itself."""
    from privacy_gate.resources import templates

    path = templates() / "explain" / f"{topic.id}.md"
    return path.read_text(encoding="utf-8") if path.is_file() else f"{topic.fallback}\n"


def _words_of(function: object) -> str:
    """Docstrings of the plug-in's module and function."""
    module = sys.modules.get(getattr(function, "__module__", ""))
    parts = [(getattr(thing, "__doc__", None) or "").strip() for thing in (module, function)]
    return "\n\n".join(part for part in parts if part)


def _rule_facts(rule: Rule) -> list[str]:
    from privacy_gate.policy import PROFILES, resolve
    from privacy_gate.policy.plan import limit_text

    facts = [rule.summary, ""]
    for profile in PROFILES:
        in_force = resolve(profile).rule(rule.id)
        if in_force is None:
            facts.append(f"- {profile}: not in force")
            continue
        limit = getattr(in_force.settings, "max", None)
        at_most = "" if limit is None else f"at most {limit_text(limit, rule.unit)}, "
        facts.append(f"- {profile}: {at_most}{_ACTIONS[in_force.settings.action]}")
    return facts


_ACTIONS = {"block": "blocks", "warn": "warns", "off": "off"}


def _attack_facts(attack: Attack) -> list[str]:
    references = attack.min_in or attack.min_out
    return [
        attack.summary,
        "",
        f"- from: {attack.paper}",
        f"- decided as: {', '.join(attack.threat_models)}",
        f"- needs: {', '.join([*sorted(attack.requires), *(['reference models'] if references else [])])}",
        f"- cost beside one scoring of the model: {attack.cost}",
    ]


def _check_facts(check: ValidityCheck) -> list[str]:
    takes = {"pass": "a pass", "both": "a pass and a failure"}[check.invalidates.value]
    summary = " ".join((check.run.__doc__ or "").split())
    return [summary, "", f"- when it fires it takes away {takes}"]


# --- what a run found -----------------------------------------------------------------------------------------------


def findings(topic: Topic, report: Report) -> list[str]:
    """What the report says about the topic, as Markdown lines."""
    from privacy_gate.cli.console import clean

    lines = {"rule": _rule_lines, "attack": _attack_lines, "check": _check_lines}[topic.kind](topic.id, report)
    return [clean(line) for line in lines] or [f"The report says nothing about {topic.id}."]


def _rule_lines(id: str, report: Report) -> list[str]:
    from privacy_gate.reports import figures

    lines = []
    for rule in report.rules:
        if rule.id != id:
            continue
        lines.append(f"- status: {rule.status.value.replace('_', ' ')} ({_ACTIONS[rule.action]})")
        if rule.limit is not None:
            kind = figures.unit(rule.metric)
            value, limit = figures.amount(rule.value, kind, rule.limit), figures.amount(rule.limit, kind)
            lines.append(f"- measured: {value} {figures.bounds(rule.low, rule.high, kind, rule.limit)}; limit {limit}")
        if rule.cell:
            lines.append(f"- decided by: {rule.cell}")
        lines.append(f"- reason: {rule.reason}")
        if rule.needed:
            needed = " and ".join(f"{count:,} {side}" for side, count in rule.needed.items())
            lines.append(f"- would decide: about {needed.replace('nonmembers', 'non-members')}")
        if rule.location is not None:
            lines.append(f"- set in: {rule.location.file}:{rule.location.line}")
        # A ranking is the same whatever the scope of the threshold: said once, with all the scopes it stands for.
        forms: dict[tuple[str, str], list[AttackRow]] = {}
        for attack in report.attacks:
            if (part := _part(attack, rule.metric)) is not None:
                who = f"{attack.id}, {attack.threat_model.value}"
                forms.setdefault((who, _interval(part, figures.unit(rule.metric))), []).append(attack)
        measured = [f"  - {who}{_scopes(rows)}: {shown}" for (who, shown), rows in forms.items()]
        lines += ["- of every attack (bounds not corrected for their number):", *measured] if measured else []
    return lines


def _part(attack: AttackRow, metric: str) -> Interval | None:
    """What a rule's metric, e.g. attack.tpr_at_fpr_0.01, is of one attack; None for other metrics."""
    if attack.metrics is None or not metric.startswith("attack."):
        return None
    name = metric.removeprefix("attack.")
    if name.startswith("tpr_at_fpr_"):
        return attack.metrics.tpr_at_fpr.get(name.removeprefix("tpr_at_fpr_"))
    return {"accuracy": attack.metrics.accuracy, "auc": attack.metrics.auc}.get(name)


def _attack_lines(id: str, report: Report) -> list[str]:
    from privacy_gate.reports.figures import rate_name

    lines = []
    for attack in report.attacks:
        if attack.id != id:
            continue
        if attack.metrics is None:
            lines.append(f"- {_who(attack)}: {attack.status}: {attack.reason or ''}".rstrip(": "))
            continue
        shown = [f"accuracy {_interval(attack.metrics.accuracy, 'percent')}"]
        if attack.metrics.auc is not None:
            shown.append(f"AUC {_interval(attack.metrics.auc, 'decimal')}")
        shown += [
            f"TPR at {rate_name(fpr)} FPR {_interval(i, 'percent')}" for fpr, i in attack.metrics.tpr_at_fpr.items()
        ]
        lines.append(f"- {_who(attack)}: {'; '.join(shown)}")
    return lines


def _check_lines(id: str, report: Report) -> list[str]:
    return [
        f"- {finding.status.replace('_', ' ')}: {finding.reason}" for finding in report.validity if finding.check == id
    ]


def _who(attack: AttackRow) -> str:
    return f"{attack.id}, {attack.threat_model.value}{_scopes([attack])}"


def _scopes(rows: list[AttackRow]) -> str:
    """What tells forms of an attack apart: the scopes of their thresholds, and whether they know the defence."""
    scopes = dict.fromkeys(row.threshold.value for row in rows if row.threshold is not None)
    non_adaptive = all(row.adaptive is False for row in rows)
    parts = [" / ".join(scopes)] * bool(scopes) + ["non-adaptive"] * non_adaptive
    return "".join(f", {part}" for part in parts)


def _interval(interval: Interval, kind: Unit) -> str:
    from privacy_gate.reports import figures

    return f"{figures.amount(interval.value, kind)} {figures.bounds(interval.low, interval.high, kind)}"
