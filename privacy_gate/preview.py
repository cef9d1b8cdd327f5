"""What a check would do, found out without training anything: for `plan`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from privacy_gate.closing import known
from privacy_gate.datamodel import Candidate, DatasetHint
from privacy_gate.ladder import Facts, Rung, rungs
from privacy_gate.manifest import Dataset
from privacy_gate.policy import decidability
from privacy_gate.preparation import Progress, Silent, facts, prepare
from privacy_gate.request import CheckRequest
from privacy_gate.shadows.store import Store
from privacy_gate.shadows.train import keys, usable_cores
from privacy_gate.terms import settle, store_path

# What people call the records of training, and those held out; compared without case.
_TRAINING = frozenset({"train", "training", "fit"})
_HELD_OUT = frozenset({"eval", "evaluate", "evaluation", "test", "testing", "holdout", "heldout", "held-out"})


@dataclass(frozen=True, slots=True)
class Preview:
    """What would run.

    minutes      to train what is missing, going by the training run's own time; None: it did not log it
    rules        (rule id, whether it can pass, sentence)
    undecidable  blocking rules that cannot pass with these numbers of records
    hints        what the training run says of its data, and whether the manifest agrees
    ladder       which evidence there could be, and what it would decide
    warnings     what was noticed on the way: versions that differ from the model's own, and the like
    each         records that a shadow is trained on; 0: as many as the target was
    measured     whether the minutes go by shadows of this recipe that were trained here
    """

    model: str
    digest: str
    flavor: str
    executes_code: bool
    policy: str
    policy_sha256: str
    attacks: tuple[str, ...]
    members: int
    nonmembers: int
    member_persons: int
    nonmember_persons: int
    removed: dict[str, int]
    shadows: int
    cached: int
    train_size: int
    jobs: int
    minutes: float | None
    notes: tuple[str, ...]
    hints: tuple[str, ...]
    rules: tuple[tuple[str, bool, str], ...]
    undecidable: tuple[str, ...]
    ladder: tuple[Rung, ...] = ()
    warnings: tuple[str, ...] = ()
    measured: bool = False
    each: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        code = "loading it executes code that came with it" if self.executes_code else "loading it executes no code"
        yield f"model    {self.model} ({self.flavor}, sha256 {self.digest[:12]}; {code})"
        yield f"policy   {self.policy} (sha256 {self.policy_sha256[:12]})"
        yield (
            f"records  {self.members:,} members of {self.member_persons:,} persons, "
            f"{self.nonmembers:,} non-members of {self.nonmember_persons:,}"
        )
        for why, count in self.removed.items():
            yield f"         {count:,} left out: {why}"
        for hint in self.hints:
            yield f"         {hint}"
        yield f"attacks  {', '.join(self.attacks)}"
        yield (
            "shadows  none: shadows.count is 0"
            if not self.shadows
            else (
                f"shadows  {self.shadows} of {self.each or self.train_size:,} records each: {self.cached} in the "
                f"store, {self.shadows - self.cached} to train with {self.jobs} workers"
            )
        )
        if self.shadows > self.cached:
            yield f"         {_time(self.minutes, self.measured)}"
        for note in self.notes:
            yield f"         {note}"
        yield from table(self.ladder)
        for warning in self.warnings:
            yield f"warning  {warning}"
        chosen = next((rung for rung in self.ladder if rung.chosen), None)
        for id, decidable, sentence in self.rules:
            elsewhere = decidable and chosen is not None and id not in chosen.passes
            also = "; for a pass this rung lacks more than records: see the ladder" if elsewhere else ""
            yield f"{'decides ' if decidable and not elsewhere else 'CANNOT  '} {sentence}{also}"


def table(ladder: Sequence[Rung]) -> Iterator[str]:
    """The ladder in 80 columns, a line per rung; nothing for none."""
    if not ladder:
        return
    every = [id for rung in ladder for id in (*rung.passes, *rung.leaves)]
    shown = [f"ladder   {'':2}{'evidence':21}{'attacks':14}{'rules that can pass':24}{'minutes':>9}"]
    for rung in ladder:
        counts = " ".join(f"{model.value[0]}{len(ids)}" for model, ids in rung.attacks.items() if ids)
        rules = _passing(rung) if rung.attacks else rung.note
        mark = ">" if rung.chosen else " "
        shown.append(f"         {mark} {rung.title:21}{counts:14}{rules:24}{_minutes_text(rung):>9}")
    yield from shown
    yield "         k, s, r: attacks with a threshold of known records, of shadows; with references"
    first, most = ladder[0].runs, max((rung.runs for rung in ladder), key=len)
    if more := [id for id in most if id not in first]:
        yield f"         not without shadows: {', '.join(more)}"
    can = [set(rung.fails) for rung in ladder if rung.attacks]
    if every and (fails := sorted(set.intersection(*can))):
        yield f"         can be failed on every rung: {', '.join(fails)}"


def _passing(rung: Rung) -> str:
    """Blocking rules that an innocent model would pass, in as few words as say it."""
    if not rung.leaves:
        return "all that block"
    passing = [id for id in rung.passes if id not in rung.leaves]
    if not passing:
        return "none: proxies" if rung.proxy else "none: smaller sets" if rung.kind == "folds" else "none"
    few, word = (rung.leaves, "all but") if len(rung.leaves) <= len(passing) else (passing, "only")
    return f"{word} {' '.join(id.removeprefix('PG') for id in few)}"


def _minutes_text(rung: Rung) -> str:
    if rung.minutes is None:
        return "unknown" if rung.attacks else "–"
    return "0" if rung.minutes == 0 else "< 1" if rung.minutes < 1 else f"{rung.minutes:,.0f}"


def _time(minutes: float | None, measured: bool) -> str:
    if minutes is None:
        return "time unknown: the training run did not log its duration"
    by = "shadows that were trained here" if measured else "the training run's own time"
    return f"about {minutes:.1f} minutes, going by {by}"


def preview(request: CheckRequest, progress: Progress | None = None) -> Preview:
    """Resolve everything and train nothing. Errors as in `check`, but raised: there is no report."""
    watch = progress or Silent()
    terms = settle(request)
    policy, attacks = terms.in_effect, terms.attacks
    store = Store(store_path(request))
    try:
        with store.workdir() as work:
            parts = known(request, policy)
            ready = prepare(request, terms, work, parts, watch)
            there = 0
            if ready.task is not None and ready.plan is not None:
                there = sum(key in store for key in keys(ready.plan, ready.task))
            count = 0 if ready.plan is None else len(ready.plan.member)
            cached = count if ready.loaded else there
            evidence = facts(request, terms, ready, store, cached)
    finally:
        watch.close()
    persons = [len(np.unique(ready.audit.persons[side])) for side in (ready.audit.member, ~ready.audit.member)]
    blocking = {rule.id for rule in policy.rules if rule.settings.action == "block"}
    limits = sum(rule.id in blocking and hasattr(rule.settings, "max") for rule in policy.rules)
    rules = tuple(decidability(policy, persons[0], persons[1], max(1, len(attacks) * limits)))
    jobs = request.jobs or usable_cores()
    return Preview(
        model=ready.candidate.resolved_uri,
        digest=ready.candidate.digest,
        flavor=ready.candidate.flavor,
        executes_code=ready.candidate.executes_code,
        policy=policy.name,
        policy_sha256=policy.digest,
        attacks=tuple(attacks),
        members=ready.dataset.members,
        nonmembers=ready.dataset.nonmembers,
        member_persons=persons[0],
        nonmember_persons=persons[1],
        removed=dict(ready.dataset.removed),
        shadows=count,
        cached=cached,
        train_size=ready.dataset.train_size,
        jobs=jobs,
        minutes=_minutes(evidence, count - cached, jobs),
        notes=ready.plan.notes if ready.plan else (),
        hints=tuple(_hints(ready.candidate, ready.dataset)),
        rules=rules,
        undecidable=tuple(rule for rule, decidable, _ in rules if not decidable and rule in blocking),
        ladder=tuple(rungs(evidence)),
        warnings=tuple(parts.found.get("warnings", ())),
        measured=evidence.shadow_seconds is not None,
        each=0 if ready.plan is None else ready.plan.size,
    )


def _minutes(known: Facts, missing: int, jobs: int) -> float | None:
    """What shadows took here before, or else the training run's own duration, times the shadows still to train."""
    if missing == 0:
        return 0.0
    seconds = known.run_seconds if known.shadow_seconds is None else known.shadow_seconds
    return None if seconds is None else seconds * missing / jobs / 60


def _hints(candidate: Candidate, dataset: Dataset) -> Iterator[str]:
    """What the training run said of its data, beside the manifest: never an error, contexts are free text."""
    for hint in candidate.datasets:
        said = f"the training run logged data set {hint.name!r} as {hint.context or 'input'}"
        yield f"{said}: {_agreement(hint, dataset)}"


def _agreement(hint: DatasetHint, dataset: Dataset) -> str:
    rows = hint.rows
    context = hint.context.strip().lower()
    if rows is None:
        return "its number of rows was not logged"
    if context in _TRAINING:
        side, least, most = "members", dataset.train_size, dataset.train_size
    elif context in _HELD_OUT:
        # The records that were left out may all have been non-members.
        side, least, most = "non-members", dataset.nonmembers, dataset.nonmembers + sum(dataset.removed.values())
    else:
        return f"{rows:,} rows; a hint, not compared"
    if least <= rows <= most:
        return f"agrees ({rows:,} rows)"
    return f"DIFFERS: {rows:,} rows logged, {least:,} {side} in the manifest"
