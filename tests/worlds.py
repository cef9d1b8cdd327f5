"""Worlds with a planted leak: what models would answer if membership moved the true class's logit by `leak`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from privacy_gate.datamodel import WITHHELD, Audit, Bools, Floats, Ints, Observations, Outputs
from privacy_gate.signals import CATALOG as SIGNALS
from privacy_gate.signals import PROBES, collect


@dataclass(frozen=True, eq=False)
class Models:
    """Logits of the target [R, K] and of shadows [S, R, K] on the same records, and who was a member of what."""

    target: Floats
    shadows: Floats
    member: Bools  # [R]
    shadow_member: Bools  # [S, R]
    labels: Ints
    persons: Ints
    record: Floats | None = None  # [R, K] what the records are like, whoever answers


def gaussian_models(
    n_members: int,
    n_nonmembers: int,
    classes: int,
    leak: float | Floats,
    shadows: int,
    seed: int,
    records_per_person: int = 1,
    difficulty: float = 1.5,
) -> Models:
    """Logits = what the record is like + what the model is like + leak (scalar or [R]) on the true class of members.

    Every record differs in difficulty. Every person, with all its records, is in half of the shadows.
    """
    rng = np.random.default_rng(seed)
    n = n_members + n_nonmembers
    member = np.arange(n) < n_members
    of_members = np.arange(n_members) // records_per_person
    of_others = np.arange(n_nonmembers) // records_per_person + (of_members[-1] + 1 if n_members else 0)
    persons = np.concatenate([of_members, of_others]).astype(np.int64)
    labels = rng.integers(classes, size=n)
    true = np.arange(classes) == labels[:, None]
    record = rng.normal(size=(n, classes)) + true * rng.normal(1.0, difficulty, size=(n, 1))
    people = int(persons.max()) + 1
    ranks = rng.random((shadows, people)).argsort(axis=0).argsort(axis=0)
    shadow_member = (ranks < shadows // 2)[:, persons]
    memory = np.broadcast_to(leak, (n,))

    def answers(inside: Bools) -> Floats:
        shape = (*inside.shape, classes)
        return record + rng.normal(size=shape) + true * (memory * inside)[..., None]

    return Models(answers(member), answers(shadow_member), member, shadow_member, labels, persons, record)


def observe(models: Models, records_have_persons: bool = False) -> tuple[Observations, Audit]:
    """All signals of all models, coherent with each other; membership of the target withheld."""
    names = [*SIGNALS.names(), *PROBES.names()]
    each = [_asked(z, models.labels) for z in models.shadows]
    classes = models.target.shape[1]
    seen = Observations(
        target=_asked(models.target.copy(), models.labels) | _coordinates(models),
        labels=models.labels,
        known=np.full(len(models.labels), WITHHELD, dtype=np.int8),
        persons=models.persons,
        classes=classes,
        references={name: np.stack([one[name] for one in each]) for name in names} if each else {},
        reference_member=models.shadow_member if each else None,
    )
    audit = Audit(
        member=models.member,
        labels=models.labels,
        persons=models.persons,
        classes=tuple(f"class {k}" for k in range(classes)),
        has_persons=records_have_persons,
    )
    return seen, audit


def _asked(logits: Floats, labels: Ints) -> dict[str, Floats]:
    """Every signal; of a probe, what it would tell if the distance to the next class were all it could see."""
    signals = collect(Outputs(logits, "logits"), labels, SIGNALS.names())
    distance = np.tanh(signals["logit_confidence"] / 4)
    probes = {p.name: np.stack([distance, distance**3], axis=1) if p.vector else distance.copy() for p in PROBES}
    # Gradients shrink where distances grow.
    return signals | {name: -values if PROBES[name].needs == "weights" else values for name, values in probes.items()}


def _coordinates(models: Models) -> dict[str, Floats]:
    """The records themselves, where a world has them: what is hard about each, and something of no meaning."""
    if models.record is None:
        return {}
    own = models.record[np.arange(len(models.labels)), models.labels]
    return {"coordinates": np.stack([own, np.sin(7.0 * np.arange(len(own)))], axis=1)}


def gaussian_world(
    n_members: int,
    n_nonmembers: int,
    classes: int,
    leak: float | Floats,
    shadows: int,
    seed: int,
    records_per_person: int = 1,
) -> tuple[Observations, Audit]:
    """The target's and the shadows' signals, and the answer key. leak 0: chance; 3: obvious."""
    models = gaussian_models(n_members, n_nonmembers, classes, leak, shadows, seed, records_per_person)
    return observe(models, records_per_person > 1)


def pool_of(seen: Observations) -> Observations:
    """The shadows of a world in the target's place, records concatenated, membership known."""
    assert seen.reference_member is not None
    shadows = seen.shadows
    return Observations(
        target={name: values.reshape(-1, *values.shape[2:]) for name, values in seen.references.items()},
        labels=np.tile(seen.labels, shadows),
        known=seen.reference_member.ravel().astype(np.int8),
        persons=np.arange(shadows * seen.n, dtype=np.int64),
        classes=seen.classes,
    )


def half_of_the_persons(audit: Audit, seed: int) -> Bools:
    """[R] the records of a random half of the member persons and of the non-member persons."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(int(audit.persons.max()) + 1, dtype=np.bool_)
    for side in (audit.member, ~audit.member):
        people = np.unique(audit.persons[side])
        chosen[rng.permutation(people)[: len(people) // 2]] = True
    return chosen[audit.persons]


def reordered(seen: Observations, order: Ints) -> Observations:
    """The same observations with the records in another order."""
    return replace(
        seen,
        target={name: values[order] for name, values in seen.target.items()},
        labels=seen.labels[order],
        known=seen.known[order],
        persons=seen.persons[order],
        references={name: values[:, order] for name, values in seen.references.items()},
        reference_member=None if seen.reference_member is None else seen.reference_member[:, order],
    )


def auc(scores: Floats, member: Bools) -> float:
    """P(member scores higher) + half of P(tie), by comparing everyone with everyone."""
    inside, outside = scores[member][:, None], scores[~member][None, :]
    return float((inside > outside).mean() + 0.5 * (inside == outside).mean())


def auc_noise(n_members: int, n_nonmembers: int) -> float:
    """Standard deviation of the AUC of a score that knows nothing (Mann-Whitney, no ties: an upper bound)."""
    return float(np.sqrt((n_members + n_nonmembers + 1) / (12 * n_members * n_nonmembers)))


def observations_of(outputs: Outputs, labels: Ints, known: Ints | Literal[-1] = -1) -> Observations:
    """All signals of one model alone; membership withheld unless given."""
    n = len(labels)
    return Observations(
        target=collect(outputs, labels, SIGNALS.names()),
        labels=labels,
        known=np.broadcast_to(known, (n,)).astype(np.int8),
        persons=np.arange(n),
        classes=outputs.values.shape[1],
    )


def location30(folder: Path, model: str) -> tuple[Observations, Observations, Audit]:
    """The paper authors' own predictions, `undefended` or `memguard`: target, shadow records, answer key."""
    arrays = np.load(folder / "location30" / f"predictions_{model}.npz")

    def side(who: str) -> tuple[Outputs, Ints, Bools]:
        probs, labels = (
            np.concatenate([arrays[f"{who}_member_{what}"], arrays[f"{who}_nonmember_{what}"]])
            for what in ("probs", "labels")
        )
        member = np.arange(len(labels)) < len(arrays[f"{who}_member_labels"])
        return Outputs(probs, "probabilities"), labels.astype(np.int64), member

    outputs, labels, member = side("target")
    audit = Audit(member, labels, np.arange(len(labels)), tuple(str(k) for k in range(outputs.values.shape[1])))
    shadow, shadow_labels, shadow_member = side("shadow")
    pool = observations_of(shadow, shadow_labels, shadow_member.astype(np.int64))
    return observations_of(outputs, labels), pool, audit
