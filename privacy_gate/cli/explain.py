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
    from privacy_gate.reports.document import HighRisk, Interval, Report
    from privacy_gate.reports.document import Rule as RuleRow
    from privacy_gate.reports.figures import Unit
    from privacy_gate.validity import ValidityCheck


@app.command(no_args_is_help=True)
def explain(
    name: Annotated[str, typer.Argument(metavar="NAME", help="PG101, lira, duplicates, ...", show_default=False)],
    report: Annotated[
        Path | None, typer.Option(help="A report.json: adds what that run found.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="RandomForestClassifier, ...: what to change for such a model.", show_default=False),
    ] = None,
) -> None:
    """Explain a rule, an attack or a validity check: meaning, formula, source of the limit, decision, mend."""
    from privacy_gate.reports.document import read

    topic = find(name)
    document = read(_read(report)) if report is not None else None
    found = findings(topic, document) if document is not None else []
    if topic.kind == "rule" and (model is not None or (document is not None and document.subject.flavor is not None)):
        flavor = document.subject.flavor if document is not None else None
        found += ["", *changes(flavor, model)] if found else changes(flavor, model)
    text = "\n".join(
        [f"# {topic.id}: {topic.title}" if topic.title else f"# {topic.id}", "", *topic.facts(), "", text_of(topic)]
    )
    if sys.stdout.isatty():
        _draw(text, found, document is not None)
    else:
        typer.echo("\n".join([text, *_section(found, document is not None)]).rstrip())


def _heading(of_report: bool) -> str:
    return "## In this report" if of_report else "## For this kind of model"


def _section(found: list[str], of_report: bool) -> list[str]:
    return [_heading(of_report), "", *found] if found else []


def _draw(text: str, found: list[str], of_report: bool) -> None:
    """Our own words as Markdown; those of a report as plain text, because anybody may have written them."""
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.text import Text

    out = Console(highlight=False)
    out.print(Markdown(text), width=min(out.width, 100))
    if found:
        out.print(Markdown(_heading(of_report)), width=min(out.width, 100))
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
    from privacy_gate.datamodel import threat_told
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
        lines += _origin(rule, report)
        if said := in_persons(rule, report):
            lines.append(f"- in persons: {said}")
        # A ranking is the same whatever the scope of the threshold: said once, with all the scopes it stands for.
        forms: dict[tuple[str, str], list[AttackRow]] = {}
        for attack in report.attacks:
            if (part := _part(attack, rule.metric)) is not None:
                who = ", ".join([attack.id, *threat_told(attack.threat_model, attack.threshold)])
                forms.setdefault((who, _interval(part, figures.unit(rule.metric))), []).append(attack)
        measured = [f"  - {who}{_scopes(rows)}: {shown}" for (who, shown), rows in forms.items()]
        lines += ["- of every attack (bounds not corrected for their number):", *measured] if measured else []
    return lines


def _origin(rule: RuleRow, report: Report) -> list[str]:
    """Where the limit was set, why, and what the built-in profile says."""
    from privacy_gate.policy import PROFILES, resolve
    from privacy_gate.reports import figures

    lines = []
    if rule.location is not None:
        lines.append(f"- set in: {rule.location.file}:{rule.location.line}")
    if report.policy is None:
        return lines
    rules = report.policy.resolved.get("rules")
    settings = rules.get(rule.id) if isinstance(rules, dict) else None
    if isinstance(settings, dict) and settings.get("reason"):
        lines.append(f"- reason given in the policy: {settings['reason']}")
    profile = report.policy.profile
    in_force = resolve(profile).rule(rule.id) if profile in PROFILES else None
    limit = getattr(in_force.settings, "max", None) if in_force is not None else None
    if limit is not None and rule.limit is not None:
        kind = figures.unit(rule.metric)
        how = "as" if rule.limit == limit else "tighter than" if rule.limit < limit else "looser than"
        lines.append(
            f"- policy {report.policy.name}: {how} profile {profile}, which says at most {figures.amount(limit, kind)}"
        )
    return lines


PRIOR = 0.01  # one in a hundred candidates is a member


def in_persons(rule: RuleRow, report: Report) -> str:
    """What the rule's number means for 1,000 people whom the attack names; "" where the report does not tell."""
    from privacy_gate.reports.assemble import rate_key

    key = rate_key(PRIOR)
    if rule.metric.startswith("risk.") and report.risk is not None and report.risk.high:
        high = _high_of(rule, report)
        share = high.precision_at.get(key)
        return _of_a_thousand(share, f"flagged at a risk score of {high.score:g}") if share is not None else ""
    attack = _deciding(rule, report)
    if attack is None or attack.metrics is None:
        return ""
    if rule.metric.startswith("attack.tpr_at_fpr_"):
        rate = rule.metric.removeprefix("attack.tpr_at_fpr_")
        reached = attack.metrics.tpr_at_fpr.get(rate)
        if reached is None:
            return ""
        from privacy_gate.reports.figures import rate_name

        who = f"whom {attack.id} names at a threshold that names {rate_name(rate)} of all others, too"
        return _of_a_thousand(_precision(reached, float(rate)), who)
    share = attack.metrics.precision.get(key)
    if rule.metric == "attack.accuracy" and share is not None:
        return _of_a_thousand(share, f"whom {attack.id} calls members")
    return ""


def _deciding(rule: RuleRow, report: Report) -> AttackRow | None:
    """The row of the attack that the rule names; of a ranking, any of the scopes it stands for."""
    from privacy_gate.reports.compare import cell_name

    rows = [row for row in report.attacks if row.metrics is not None]
    exact = [row for row in rows if cell_name(row) == rule.cell]
    return next(iter(exact or [row for row in rows if cell_name(row).startswith(f"{rule.cell},") and rule.cell]), None)


def _high_of(rule: RuleRow, report: Report) -> HighRisk:
    """The row of risk scores that the policy's rule is about; the first where it does not say."""
    assert report.risk is not None
    rules = report.policy.resolved.get("rules") if report.policy is not None else None
    settings = rules.get(rule.id) if isinstance(rules, dict) else None
    score = settings.get("score") if isinstance(settings, dict) else None
    return next((high for high in report.risk.high if high.score == score), report.risk.high[0])


def _precision(tpr: Interval, fpr: float) -> Interval:
    """Share of members among the named when a share PRIOR of all candidates are members; rises with the TPR."""
    from privacy_gate.reports.document import Interval

    def of(rate: float | None) -> float | None:
        return None if rate is None else PRIOR * rate / (PRIOR * rate + (1.0 - PRIOR) * fpr)

    return Interval(value=of(tpr.value), low=of(tpr.low), high=of(tpr.high))


def _of_a_thousand(share: Interval, who: str) -> str:
    if share.value is None:
        return ""
    about, low, high = (None if x is None else round(1000 * x) for x in (share.value, share.low, share.high))
    between = "" if low is None or high is None else f" ({low:,} to {high:,})"
    return (
        f"of 1,000 people {who}, about {about:,}{between} would rightly be named, if one in 100 candidates is a "
        "member; guessing would be right for 10"
    )


# --- what to change ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one kind, and what changes how much they remember of their training records."""

    title: str
    flavors: tuple[str, ...]
    estimators: tuple[str, ...]
    changes: tuple[str, ...]


def families() -> list[Family]:
    """As in templates/changes.yaml; the last one is for any model."""
    from privacy_gate.documents import parse
    from privacy_gate.resources import template

    written = parse(template("changes.yaml"), "templates/changes.yaml").tree["families"]
    return [Family(f["title"], *(tuple(f[key]) for key in ("flavors", "estimators", "changes"))) for f in written]


def changes(flavor: str | None, estimator: str | None) -> list[str]:
    """What to change, as Markdown lines: for that estimator, else for what the flavor may hold, and for any model."""
    known = families()
    named = [f for f in known if estimator is not None and any(e.lower() in estimator.lower() for e in f.estimators)]
    chosen = named or [f for f in known if flavor is not None and flavor in f.flavors]
    lines = ["What to change:"]
    for family in [*chosen, known[-1]]:
        lines += [f"- {family.title}", *(f"  - {change}" for change in family.changes)]
    lines.append(
        "- what effect to expect: no frontier of this model was measured, so nobody knows how far each change lowers "
        "the figures or what it costs in accuracy; train a variant and check it"
    )
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
    from privacy_gate.datamodel import threat_told

    return ", ".join([attack.id, *threat_told(attack.threat_model, attack.threshold)]) + _scopes([attack])


def _scopes(rows: list[AttackRow]) -> str:
    """What tells forms of an attack apart: the scopes of their thresholds, and whether they know the defence."""
    scopes = dict.fromkeys(row.threshold.value for row in rows if row.threshold is not None)
    non_adaptive = all(row.adaptive is False for row in rows)
    parts = [" / ".join(scopes)] * bool(scopes) + ["non-adaptive"] * non_adaptive
    return "".join(f", {part}" for part in parts)


def _interval(interval: Interval, kind: Unit) -> str:
    from privacy_gate.reports import figures

    return f"{figures.amount(interval.value, kind)} {figures.bounds(interval.low, interval.high, kind)}"
