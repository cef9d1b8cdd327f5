"""Policy files: read, folded into what they extend, checked, and digested. Every mistake is shown at its line."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from privacy_gate.catalog import did_you_mean
from privacy_gate.datamodel import Estimand, Location
from privacy_gate.documents import Document, Trail, in_order, parse
from privacy_gate.errors import ConfigError, Diagnostic
from privacy_gate.policy.contract import (
    CATALOG,
    STRENGTH,
    Day,
    Policy,
    ReleaseContext,
    RuleInForce,
    RuleSettings,
    Sensitivity,
    WaiverTerms,
)
from privacy_gate.resources import template
from privacy_gate.storage import sha256_of_json

PROFILES = ("strict", "standard", "internal")

# Up to one half a lower bound is not above an upper one, so no rule can pass and fail at once.
Alpha = Annotated[float, Field(strict=True, gt=0, lt=0.5, allow_inf_nan=False)]


class Levels(BaseModel):
    """The risks of being wrong that the policy accepts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    to_pass: Alpha = Field(
        0.05, alias="pass", description="one-sided level of each upper bound, for every attack alone"
    )
    to_fail: Alpha = Field(0.05, alias="fail", description="one-sided level of all lower bounds together")


class Terms(BaseModel):
    """What waivers may do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str | None = Field(None, min_length=1, description="waivers that apply; relative to the policy file")
    max_days: Annotated[int, Field(strict=True, gt=0, le=366)] = Field(
        30, description="a waiver ends at most so many days after it was created"
    )
    approvers: Annotated[int, Field(strict=True, gt=0, le=20)] = Field(1, description="different people who agreed")
    never: list[str] = Field(default=[], description="rules that cannot be waived, besides PG501 and PG502")


class PolicyFile(BaseModel):
    """What a person writes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    api_version: Literal["privacy-gate/v1"] = Field(alias="apiVersion")
    name: str | None = Field(None, min_length=1, max_length=100, description="default: the file's name")
    owner: str | None = Field(None, min_length=1, max_length=200, description="who answers for the limits")
    fixed_on: Day | None = Field(None, description="the day on which the limits were fixed: before testing")
    extends: str | None = Field(
        None,
        min_length=1,
        description="strict, standard, internal, or the path of another policy, relative to this one",
    )
    release_context: ReleaseContext | None = Field(None, description="who can query the model, or hold it")
    data_sensitivity: Sensitivity | None = Field(None, description="whose data, and of what kind, it was trained on")
    estimand: Estimand = Field(
        Estimand.ARTEFACT,
        description="what the numbers must be about: this model (artefact; artefact-census: with every one of its "
        "members scored), or the models that its procedure makes",
    )
    alpha: Levels = Field(default_factory=lambda: Levels.model_validate({}), description="levels of the bounds")
    valid_days: int = Field(90, strict=True, gt=0, le=3650, description="how long a pass may be relied on")
    equivalence: bool = Field(
        False, strict=True, description="a validity check that merely warns takes the pass away, too"
    )
    waivers: Terms = Field(default_factory=lambda: Terms.model_validate({}), description="what waivers may do")
    rules: dict[str, dict[str, Any]] = Field(default_factory=dict, description="rule id -> settings")


# Of a file alone: what it extends was fixed by others, on another day.
_OF_ONE_FILE = ("owner", "fixed_on")
_INHERITED = ("release_context", "data_sensitivity", "estimand", "alpha", "valid_days", "equivalence", "waivers")
_GROUPS = ("alpha", "waivers")
_OWN = (
    *_OF_ONE_FILE,
    "release_context",
    "data_sensitivity",
    "estimand",
    "alpha.pass",
    "alpha.fail",
    "valid_days",
    "equivalence",
    *(f"waivers.{key}" for key in Terms.model_fields),
)


@dataclass(frozen=True, slots=True)
class _Link:
    """One file of the chain from a policy to what it extends."""

    document: Document
    profile: str | None


def resolve(policy: str | Path) -> Policy:
    """A profile by name, or a policy file by path, with all that it extends; ConfigError with every finding."""
    chain = _chain(policy)
    files = tuple(link.document.file for link in reversed(chain))
    findings = [finding for link in chain for finding in _findings(link.document)]
    merged = _Merged.of(chain)
    rules, found = merged.checked()
    findings += found
    if findings:
        raise ConfigError.at(in_order(findings, files), "`privacy-gate policy schema` lists every key")
    values = merged.values
    own = PolicyFile.model_validate({"apiVersion": "privacy-gate/v1", **values})
    resolved: dict[str, Any] = {
        "apiVersion": own.api_version,
        "owner": own.owner,
        "fixed_on": None if own.fixed_on is None else own.fixed_on.isoformat(),
        "release_context": own.release_context,
        "data_sensitivity": own.data_sensitivity,
        "estimand": own.estimand.value,
        "alpha": {"pass": own.alpha.to_pass, "fail": own.alpha.to_fail},
        "valid_days": own.valid_days,
        "equivalence": own.equivalence,
        "waivers": own.waivers.model_dump(mode="json"),
        "rules": {rule.id: rule.settings.model_dump(mode="json") for rule in rules},
    }
    top = chain[-1]
    return Policy(
        name=str(top.document.tree.get("name") or Path(top.document.file).stem),
        profile=next((link.profile for link in chain if link.profile), None),
        digest=sha256_of_json(resolved),
        resolved=resolved,
        origins=merged.origins(rules),
        rules=tuple(rules),
        alpha_pass=own.alpha.to_pass,
        alpha_fail=own.alpha.to_fail,
        valid_days=own.valid_days,
        release_context=own.release_context,
        equivalence=own.equivalence,
        files=files,
        data_sensitivity=own.data_sensitivity,
        fixed_on=own.fixed_on,
        owner=own.owner or "",
        estimand=own.estimand,
        waivers=WaiverTerms(
            file=merged.beside(("waivers", "file"), own.waivers.file),
            max_days=own.waivers.max_days,
            approvers=own.waivers.approvers,
            never=tuple(own.waivers.never),
        ),
    )


def notes(policy: Policy, today: datetime.date) -> list[str]:
    """What a reader should know about a policy besides its limits; decides nothing."""
    said = []
    if policy.fixed_on is not None and policy.fixed_on > today:
        said.append(f"the policy says that its limits are fixed on {policy.fixed_on}, which is in the future")
    reasons = [
        *([f"{policy.data_sensitivity} data"] if policy.data_sensitivity in ("special-category", "children") else []),
        *([f"the release context {policy.release_context}"] if policy.release_context in ("open-weights",) else []),
    ]
    wider = _looser_than(policy, resolve("strict")) if reasons and policy.profile != "strict" else []
    if wider:
        said.append(f"for {' and '.join(reasons)} the profile strict is meant; {', '.join(wider)} allow more than it")
    return said


def _looser_than(policy: Policy, other: Policy) -> list[str]:
    found = []
    for theirs in other.rules:
        ours = policy.rule(theirs.id)
        if ours is None or set(ours.settings.loosened(theirs.settings)) - {"floor", "limits"}:
            found.append(theirs.id)
    return found


def looser(policy: str | Path) -> list[Diagnostic]:
    """Settings of a resolvable policy that allow more than what it extends does: permitted, and worth a line each."""
    merged = _Merged.of(_chain(policy))
    found: dict[Trail, Diagnostic] = {}
    above = merged.parent
    while above is not None:  # the nearest first: one line for what several ancestors say
        for trail, finding in merged.loosened(above):
            found.setdefault(trail, finding)
        above = above.parent
    return list(found.values())


# --- the chain ------------------------------------------------------------------------------------------------------


def _chain(policy: str | Path) -> list[_Link]:
    """The files from the one that extends nothing to the one that was asked for."""
    links: list[_Link] = []
    seen: list[Path] = []
    target: str | Path = policy
    asked_in: Document | None = None
    while True:
        profile = str(target) if isinstance(target, str) and target in PROFILES else None
        path, shown = _place(target, profile, asked_in)
        if path.resolve() in seen:
            raise _at_extends(asked_in, "cycle", f"{shown} is extended by itself")
        seen.append(path.resolve())
        if asked_in is not None and not path.is_file():
            known = f"there is no file {shown}; {did_you_mean(str(target), list(PROFILES))}"
            raise _at_extends(asked_in, "no-such-policy", known)
        document = parse(path, shown)
        links.insert(0, _Link(document, profile))
        extends = document.tree.get("extends")
        if not isinstance(extends, str) or not extends:  # absent, or reported by the schema
            return links
        target, asked_in = extends, document


def _place(target: str | Path, profile: str | None, asked_in: Document | None) -> tuple[Path, str]:
    if profile is not None:
        return template("policies", f"{profile}.yaml"), f"templates/policies/{profile}.yaml"
    # A path in a file is relative to that file; what is shown is what the caller could type.
    path = Path(target) if asked_in is None else Path(asked_in.file).parent / target
    return path, path.as_posix()


def _at_extends(document: Document | None, code: str, message: str) -> ConfigError:
    if document is None:
        return ConfigError(message)
    return ConfigError.at([document.finding(("extends",), code, message, at_value=True)])


def _findings(document: Document) -> list[Diagnostic]:
    """What is wrong with one file by itself."""
    found = list(document.findings)
    try:
        PolicyFile.model_validate(document.tree)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        unbraced = [_unbraced(document, detail["loc"], detail["type"]) for detail in details]
        found += [finding for findings in unbraced for finding in findings]
        found += document.explain([d for d, told in zip(details, unbraced, strict=True) if not told], PolicyFile)
    if document.tree.get("extends") is None and not document.tree.get("rules"):
        found.append(document.finding((), "empty-policy", "the policy extends nothing and has no rules"))
    terms = document.tree.get("waivers")
    never = terms.get("never") if isinstance(terms, dict) else None
    found += [
        document.finding(
            ("waivers", "never", index),
            "unknown-rule",
            f"there is no such rule ({did_you_mean(str(id), CATALOG.names())})",
        )
        for index, id in enumerate(never if isinstance(never, list) else ())
        if isinstance(id, str) and id not in CATALOG
    ]
    found += [
        document.finding(("rules", id), "unknown-rule", f"there is no such rule ({did_you_mean(id, CATALOG.names())})")
        for id in _rules(document)
        if id not in CATALOG
    ]
    return found


def _rules(document: Document) -> dict[str, dict[str, Any]]:
    """The rules of a file that are shaped like rules; others are reported by the schema."""
    rules = document.tree.get("rules")
    if not isinstance(rules, dict):
        return {}
    return {id: settings for id, settings in rules.items() if isinstance(settings, dict)}


# --- merging --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Merged:
    """The settings of a chain, the last file winning, and which file set what.

    values     release_context, alpha, ... as set
    rules      id -> settings as set
    setters    trail -> the document that set it last; a rule's own trail too
    steps      the same for the chain without its last file, without its last two, ...
    """

    values: Mapping[str, Any]
    rules: Mapping[str, Mapping[str, Any]]
    setters: Mapping[Trail, Document]
    parent: _Merged | None

    @classmethod
    def of(cls, chain: Sequence[_Link]) -> _Merged:
        """Fold the chain, the base first."""
        merged = cls({}, {}, {}, None)
        for link in chain:
            merged = merged.extended(link.document)
        return merged

    def extended(self, document: Document) -> _Merged:
        """With one more file folded in."""
        values = {key: value for key, value in self.values.items() if key not in _OF_ONE_FILE}
        setters = {trail: setter for trail, setter in self.setters.items() if trail[0] not in _OF_ONE_FILE}
        for key in (*_OF_ONE_FILE, *_INHERITED):
            if key not in document.tree:
                continue
            value = document.tree[key]
            if key in _GROUPS and isinstance(value, dict):
                values[key] = {**values.get(key, {}), **value}
                setters |= {(key, part): document for part in value}
            else:
                values[key] = value
                setters[key,] = document
        rules = dict(self.rules)
        for id, settings in _rules(document).items():
            if id in CATALOG:
                rules[id] = _folded(rules.get(id, {}), settings)
                setters["rules", id] = document
                for key in settings:
                    setters["rules", id, key] = document
        return _Merged(values, rules, setters, self)

    def settings(self, id: str) -> RuleSettings | None:
        """A rule's settings; None if they are absent or wrong, which is reported where they are checked."""
        try:
            return CATALOG[id].settings.model_validate(self.rules[id]) if id in self.rules else None
        except ValidationError:
            return None

    def checked(self) -> tuple[list[RuleInForce], list[Diagnostic]]:
        """All rules in force, or what is wrong with them."""
        rules: list[RuleInForce] = []
        found: list[Diagnostic] = []
        for id in sorted(self.rules):
            document = self.setters["rules", id]
            try:
                settings = CATALOG[id].settings.model_validate(self.rules[id])
            except ValidationError as error:
                for detail in error.errors(include_url=False, include_input=False):
                    setter = self.setters.get(("rules", id, *detail["loc"][:1]), document)
                    found += _percentage(setter, ("rules", id, *detail["loc"][:1])) or _as_share(
                        setter.explain([detail], CATALOG[id].settings, ("rules", id)),
                        detail["type"],
                        self.rules[id].get(str(detail["loc"][0])) if len(detail["loc"]) == 1 else None,
                    )
                continue
            rules.append(RuleInForce(id, settings, document.location(("rules", id))))
            found += self._below_the_floor(id, settings)
        if rules and not found and all(rule.settings.action != "block" for rule in rules):
            first = rules[0]
            document = self.setters["rules", first.id]
            found.append(
                document.finding(("rules",), "nothing-blocks", "no rule has `action: block`: every model would pass")
            )
        unsaid = [rule for rule in CATALOG if rule.always and rule.id not in self.rules]
        rules += [RuleInForce(rule.id, rule.settings(), None) for rule in unsaid]
        return sorted(rules, key=lambda rule: rule.id), found + self._looser_levels()

    def loosened(self, above: _Merged) -> Iterator[tuple[Trail, Diagnostic]]:
        """Every setting that allows more than it does in `above`, and what to say of it."""
        for id in sorted(self.rules):
            now, then = self.settings(id), above.settings(id)
            if now is None or then is None:
                continue
            where = _named(above.setters["rules", id])
            for key in now.loosened(then):
                trail: Trail = ("rules", id, key)
                document = self.setters.get(trail, self.setters["rules", id])
                message = f"{getattr(now, key)} is looser than {getattr(then, key)} in {where}"
                yield trail, document.finding(trail, "looser", message, at_value=True)
        before, after = _levels(above.values), _levels(self.values)
        if above.rules and before is not None and after is not None:
            for trail in [*_loosened_levels(before, after), *self._loosened_context(above, before, after)]:
                if trail in self.setters:
                    message = f"is looser than in what {_named(self.setters[trail])} extends"
                    yield trail, self.setters[trail].finding(trail, "looser", message, at_value=True)

    def _below_the_floor(self, id: str, settings: RuleSettings) -> list[Diagnostic]:
        ancestor = self.parent
        while ancestor is not None:
            above = ancestor.settings(id)
            if above is not None and above.floor and (loosened := settings.loosened(above)):
                place = ancestor.setters["rules", id].location(("rules", id))
                message = f"is looser than the floor set in {place.file}:{place.line}:{place.column}"
                return [
                    self.setters.get(("rules", id, key), self.setters["rules", id]).finding(
                        ("rules", id, key), "floor", message, at_value=True
                    )
                    for key in loosened
                ]
            ancestor = ancestor.parent
        return []

    def _looser_levels(self) -> list[Diagnostic]:
        """Levels and equivalence carry every rule: a floor holds them, too."""
        ancestor, found = self.parent, []
        while ancestor is not None:
            floors = [id for id in ancestor.rules if (s := ancestor.settings(id)) is not None and s.floor]
            before, after = _levels(ancestor.values), _levels(self.values)
            if floors and before is not None and after is not None:
                loosened = [*_loosened_levels(before, after), *self._loosened_context(ancestor, before, after, floors)]
                found = [
                    self.setters[trail].finding(trail, "floor", f"is looser than {floors[0]}'s floor", at_value=True)
                    for trail in loosened
                    if trail in self.setters
                ]
            ancestor = ancestor.parent
        return found

    def _loosened_context(
        self, above: _Merged, before: PolicyFile, after: PolicyFile, only: Sequence[str] | None = None
    ) -> list[Trail]:
        """The release context, if a rule blocked in the one above and does not in this one."""
        for id in above.rules if only is None else only:
            now, then = self.settings(id), above.settings(id)
            if now is None or then is None:
                continue
            # In the same context, and after every date, the rule by itself is not weaker: the context is.
            actions = [
                STRENGTH[settings.in_effect(context, datetime.date.max).action]
                for settings, context in (
                    (then, before.release_context),
                    (now, before.release_context),
                    (now, after.release_context),
                )
            ]
            if actions[2] < min(actions[:2]):
                return [("release_context",)]
        return []

    def beside(self, trail: Trail, file: str | None) -> Path | None:
        """A path as it is meant: relative to the file that names it."""
        setter = self.setters.get(trail)
        return None if file is None or setter is None else Path(setter.file).parent / file

    def origins(self, rules: Sequence[RuleInForce]) -> dict[str, Location | None]:
        """Dotted name of every setting -> where it was set; None for the program's defaults."""
        trails: list[Trail] = [tuple(name.split(".")) for name in _OWN]
        trails += [("rules", rule.id, key) for rule in rules for key in type(rule.settings).model_fields]
        return {".".join(map(str, trail)): self._origin(trail) for trail in trails}

    def _origin(self, trail: Trail) -> Location | None:
        setter = self.setters.get(trail)
        return None if setter is None else setter.location(trail)


_PERCENT = re.compile(r"\s*(\d{1,3}(?:\.\d{1,6})?)\s*%\s*")


def _percentage(document: Document, trail: Trail) -> list[Diagnostic]:
    """A number written as `5 %`: YAML reads text; a more helpful answer than "not a number"."""
    value: Any = document.tree
    for part in trail:
        value = value.get(part) if isinstance(value, dict) else None
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return []
    share = Decimal(match[1]).scaleb(-2).normalize()
    return [document.finding(trail, "percent", f"{value.strip()!r} is text to YAML: write {share:f}", at_value=True)]


def _unbraced(document: Document, trail: Trail, kind: str) -> list[Diagnostic]:
    """A rule's limit or action in the place of its settings: `PG103: 0.05`."""
    if kind != "dict_type" or trail[:1] != ("rules",) or len(trail) != 2 or trail[1] not in CATALOG:
        return []
    id, value = str(trail[1]), document.tree["rules"][trail[1]]
    percent = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if percent is not None:
        value = float(Decimal(percent[1]).scaleb(-2))
    setting = "action: off"
    if isinstance(value, str) and value in STRENGTH:
        setting = f"action: {value}"
    elif "max" in CATALOG[id].settings.model_fields:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        setting = f"max: {value if number else 0.05}"
    return [document.finding(trail, kind, f"settings stand in braces: write {id}: {{{setting}}}", at_value=True)]


def _as_share(found: list[Diagnostic], kind: str, value: Any) -> list[Diagnostic]:
    """With the mend where a share was written as a percentage: `max: 58`."""
    if kind != "less_than_equal" or not isinstance(value, int | float) or not 1 < value <= 100:
        return found
    share = Decimal(str(value)).scaleb(-2).normalize()
    return [replace(finding, message=f"{finding.message}; {value} % is written {share:f}") for finding in found]


def _named(document: Document) -> str:
    """What a person calls a policy: its name, else its file."""
    name = document.tree.get("name")
    return str(name) if isinstance(name, str) and name else Path(document.file).stem


def _folded(above: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """Settings over settings; mappings among them are folded as well."""
    folded = dict(above)
    for key, value in below.items():
        before = folded.get(key)
        folded[key] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    return folded


# What is asked of the evidence, the weaker first.
_ESTIMANDS = (Estimand.CENSUS, Estimand.ARTEFACT, Estimand.PROCEDURE)


def _loosened_levels(before: PolicyFile, after: PolicyFile) -> list[Trail]:
    sensitive = ("special-category", "children")
    looser: dict[Trail, bool] = {
        ("data_sensitivity",): before.data_sensitivity in sensitive and after.data_sensitivity not in sensitive,
        ("estimand",): _ESTIMANDS.index(after.estimand) < _ESTIMANDS.index(before.estimand),
        ("valid_days",): after.valid_days > before.valid_days,
        ("waivers", "max_days"): after.waivers.max_days > before.waivers.max_days,
        ("waivers", "approvers"): after.waivers.approvers < before.waivers.approvers,
        ("waivers", "never"): bool(set(before.waivers.never) - set(after.waivers.never)),
        ("alpha", "pass"): after.alpha.to_pass > before.alpha.to_pass,
        ("alpha", "fail"): after.alpha.to_fail < before.alpha.to_fail,
        ("equivalence",): before.equivalence and not after.equivalence,
    }
    return [trail for trail, is_looser in looser.items() if is_looser]


def _levels(values: Mapping[str, Any]) -> PolicyFile | None:
    try:
        return PolicyFile.model_validate({"apiVersion": "privacy-gate/v1", **values})
    except ValidationError:
        return None


# --- schema ---------------------------------------------------------------------------------------------------------


def schema() -> dict[str, Any]:
    """JSON schema (2020-12) of a policy file, for editors; built from the rules' own settings."""
    whole = PolicyFile.model_json_schema(by_alias=True)
    whole["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    whole["title"] = "privacy-gate policy"
    whole["anyOf"] = [{"required": ["extends"]}, {"required": ["rules"]}]
    rules: dict[str, Any] = {}
    for rule in CATALOG:
        part = rule.settings.model_json_schema()
        part.pop("required", None)  # what is not given is inherited
        rules[rule.id] = {**part, "title": rule.title, "description": rule.summary}
    whole["properties"]["rules"] = {
        "type": "object",
        "description": "rule id -> settings; what is not given is inherited",
        "additionalProperties": False,
        "minProperties": 1,
        "properties": rules,
    }
    return whole
