"""What a check would do, found out without training anything: for `plan`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from privacy_gate.closing import known
from privacy_gate.datamodel import Candidate, DatasetHint
from privacy_gate.manifest import Dataset
from privacy_gate.policy import decidability
from privacy_gate.preparation import Progress, Silent, prepare
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
            f"shadows  {self.shadows} of {self.train_size:,} records each: {self.cached} in the store, "
            f"{self.shadows - self.cached} to train with {self.jobs} workers"
        )
        if self.shadows > self.cached:
            yield f"         {_time(self.minutes)}"
        for note in self.notes:
            yield f"         {note}"
        for _, decidable, sentence in self.rules:
            yield f"{'decides ' if decidable else 'CANNOT  '} {sentence}"


def _time(minutes: float | None) -> str:
    if minutes is None:
        return "time unknown: the training run did not log its duration"
    return f"about {minutes:.1f} minutes, going by the training run's own time"


def preview(request: CheckRequest, progress: Progress | None = None) -> Preview:
    """Resolve everything and train nothing. Errors as in `check`, but raised: there is no report."""
    watch = progress or Silent()
    terms = settle(request)
    policy, attacks = terms.in_effect, terms.attacks
    store = Store(store_path(request))
    try:
        with store.workdir() as work:
            ready = prepare(request, terms, work, known(request, policy), watch)
            there = 0
            if ready.task is not None and ready.plan is not None:
                there = sum(key in store for key in keys(ready.plan, ready.task))
    finally:
        watch.close()
    persons = [len(np.unique(ready.audit.persons[side])) for side in (ready.audit.member, ~ready.audit.member)]
    blocking = {rule.id for rule in policy.rules if rule.settings.action == "block"}
    limits = sum(rule.id in blocking and hasattr(rule.settings, "max") for rule in policy.rules)
    rules = tuple(decidability(policy, persons[0], persons[1], max(1, len(attacks) * limits)))
    count = 0 if ready.plan is None else len(ready.plan.member)
    cached = count if ready.loaded else there
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
        minutes=_minutes(ready.candidate, count - cached, jobs),
        notes=ready.plan.notes if ready.plan else (),
        hints=tuple(_hints(ready.candidate, ready.dataset)),
        rules=rules,
        undecidable=tuple(rule for rule, decidable, _ in rules if not decidable and rule in blocking),
    )


def _minutes(candidate: Candidate, missing: int, jobs: int) -> float | None:
    """The training run's own duration, where the registry knows it, times the shadows still to train."""
    if missing == 0:
        return 0.0
    seconds = candidate.run_seconds
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
