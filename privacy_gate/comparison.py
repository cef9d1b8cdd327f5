"""What else could be released: the undefended model stopped early, and the same recipe with other defences.

Nothing here decides: the verdict is about the candidate. What is found is for the people who have to mend it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from privacy_gate.closing import Known, spent
from privacy_gate.datamodel import (
    Alternative,
    AttackResult,
    Evidence,
    Frontier,
    Ints,
    Measurement,
    Outputs,
    Role,
    ShadowPlan,
    Verdict,
)
from privacy_gate.defences import CATALOG as DEFENCES
from privacy_gate.defences import NOTHING, Declared, Defences, TrainingDefence, configure
from privacy_gate.errors import GateError, NotEvaluable, UsageError
from privacy_gate.evaluate import HIGH_SCORE
from privacy_gate.features import take
from privacy_gate.frontier import Stage, frontier
from privacy_gate.manifest import DUPLICATES
from privacy_gate.observe import Answers, Observed, observe
from privacy_gate.policy import judge
from privacy_gate.policy.cells import name_of
from privacy_gate.preparation import (
    Prepared,
    Progress,
    answered_by_all,
    config_of,
    evaluated,
    gather,
    of_candidate,
    probed,
    shadows_of,
    training,
    with_shadows,
    without_probes,
)
from privacy_gate.request import CheckRequest, Config
from privacy_gate.sandbox import SAME, examine, staged
from privacy_gate.sandbox.outputs import checked, difference
from privacy_gate.shadows.plan import shadow_seeds
from privacy_gate.shadows.recipes.clone import innermost
from privacy_gate.shadows.store import Store
from privacy_gate.shadows.worker import align
from privacy_gate.terms import Terms, seed_of, store_path
from privacy_gate.validity import Inputs

AS_IT_IS = "as it is"
_UNDECLARED = "undeclared_defence"  # the check that fires where the registry knows of a defence that nobody named
MOST_STAGES = 24
_ORDER_STREAM = 71  # keeps this draw apart from every other use of the run's seed
_RETRAINED = 2**20  # number of the retrained target among the seeds: far from any shadow's


# --- the early-stopping benchmark -------------------------------------------------------------------------------------


def benchmark(
    request: CheckRequest, ready: Prepared, observed: Observed, store: Store, work: Path, parts: Known, watch: Progress
) -> Frontier | None:
    """The frontier that the config asks for; what cannot be had is a warning, since no rule rests on it."""
    asked = config_of(request).frontier
    if asked is None:
        return None
    watch.stage("the early-stopping benchmark")
    try:
        stages = _stages(asked.source, request, ready, store, work, parts, watch)
        found = frontier(observed.views[0].seen, stages, ready.audit, parts.seed, asked.source)
    except GateError as error:
        parts.warn(
            f"the early-stopping benchmark could not be run: {error.what}{f' ({error.hint})' if error.hint else ''}"
        )
        return None
    return replace(found, notes=(*found.notes, *_incomplete(asked.source, ready)))


def _incomplete(source: str, ready: Prepared) -> list[str]:
    """What a reader of the frontier has to know of its stages."""
    known, all_of_them = ready.dataset.members, ready.dataset.train_size
    if source == "retraining" and known < all_of_them:
        return [f"retrained on the {known:,} members that are audited, of {all_of_them:,} training records"]
    inside = [id for id, item in ready.defences.items if isinstance(item, TrainingDefence)]
    if source == "staged" and inside:
        return [f"the rounds are the candidate's own, which was trained with {' + '.join(inside)}"]
    return []


def _stages(
    source: Literal["retraining", "staged", "checkpoints"],
    request: CheckRequest,
    ready: Prepared,
    store: Store,
    work: Path,
    parts: Known,
    watch: Progress,
) -> list[Stage]:
    match source:
        case "checkpoints":
            return _checkpoints(request, ready, work)
        case "staged":
            return _staged(request, ready, work)
        case "retraining":
            return _retrained(request, ready, store, parts, watch)


def _retrained(request: CheckRequest, ready: Prepared, store: Store, parts: Known, watch: Progress) -> list[Stage]:
    """One training of the undefended recipe on the candidate's own records, watched."""
    task = training(request, ready, NOTHING, trace=True)
    made = shadows_of(request, _alone(ready, parts.seed), task, store, parts, watch)
    trace = made.traces[0]
    if trace is None or not len(trace):
        raise NotEvaluable(
            "this recipe cannot be watched while it trains", "give `frontier: {checkpoints: [...]}` instead"
        )
    unit = "epoch" if task.recipe == "model" else "round"
    return [
        Stage(f"{unit} {made.trace_steps[e]}", replace(ready.target, values=trace[e][: ready.dataset.audited]))
        for e in thinned(len(trace))
    ]


def thinned(count: int, most: int = MOST_STAGES) -> list[int]:
    """Indices of at most `most` of `count` stages: dense at the start, where a model learns, and always the last."""
    if count <= most:
        return list(range(count))
    spaced = np.unique(np.round(np.geomspace(1, count, most)).astype(int)) - 1
    return [int(index) for index in spaced]


def _alone(ready: Prepared, seed: int) -> ShadowPlan:
    """A plan of one model: the target's own training set, with a seed of its own."""
    members = ready.dataset.role_mask(Role.MEMBERS)
    return ShadowPlan(
        "retrained",
        members[None].copy(),
        members | ready.dataset.role_mask(Role.NONMEMBERS),
        shadow_seeds(seed, 1) + _RETRAINED,
        int(members.sum()),
    )


def _staged(request: CheckRequest, ready: Prepared, work: Path) -> list[Stage]:
    """What the candidate itself answers after a part of its rounds."""
    rows, back = _shuffled(ready, request)
    found = staged(
        ready.candidate,
        take(ready.dataset.features, rows),
        work,
        form=ready.form,
        runtime=ready.runtime,
        classes=len(ready.classes),
        logs=store_path(request) / "logs",
    )
    outputs = [_part(each, back) for each in found.outputs]
    if outputs[-1].kind != ready.target.kind or difference(outputs[-1], ready.target) > SAME:
        raise NotEvaluable(
            "after all its rounds the model answers otherwise than it does when it is asked as a whole",
            "what it does to the answers of its rounds is not known; give `frontier: retraining` instead",
        )
    return [Stage(f"round {step} of {found.total}", o) for step, o in zip(found.steps, outputs, strict=True)]


def _checkpoints(request: CheckRequest, ready: Prepared, work: Path) -> list[Stage]:
    """Models that the training run logged on its way, each scored like the candidate."""
    rows, back = _shuffled(ready, request)
    features, logs = take(ready.dataset.features, rows), store_path(request) / "logs"
    kind: Literal["logits", "probabilities"] = ready.target.kind
    stages = []
    for uri, model in ready.stops:
        try:
            description, scored = examine(model, features, work, form=ready.form, logs=logs, runtime=ready.runtime)
            outputs = align(scored.outputs, description.classes, ready.classes)
        except NotEvaluable:  # the same answer to everything: what a model may say before it has learned anything
            flat = np.zeros((ready.dataset.audited, len(ready.classes)))
            stages.append(Stage(uri, Outputs(flat, "logits")))
            continue
        except GateError as error:
            raise type(error)(f"the checkpoint {uri}: {error.what}", error.hint) from error
        if checked(outputs.values, "auto", len(rows)).kind != kind:
            raise NotEvaluable(
                f"the checkpoint {uri} answers with probabilities, the candidate with logits", "log them alike"
            )
        stages.append(Stage(uri, _part(outputs, back)))
    return stages


def _shuffled(ready: Prepared, request: CheckRequest) -> tuple[Ints, Ints]:
    """The audited records in an order that tells nothing of who is a member, and the way back."""
    order = np.random.default_rng([_ORDER_STREAM, seed_of(request)]).permutation(ready.dataset.audited)
    return order, np.argsort(order)


# --- other defences ---------------------------------------------------------------------------------------------------


def suggested(ready: Prepared, config: Config) -> tuple[Defences, ...]:
    """What the defences themselves would try on a model like this one; those that need records of their own do not.

    For a candidate with a defence of its own also none at all: what that defence is worth.
    """
    recipe = config.shadows.recipe
    own = (recipe.model, recipe.python, recipe.command, recipe.head, recipe.load)
    cloned = None if any(own) else ready.description.recipe
    estimator = "" if cloned is None else innermost(cloned)[0]
    found = [NOTHING] if ready.defences else []
    for kind in DEFENCES:
        suggest = getattr(kind.settings, "suggestions", None)
        if suggest is not None and not kind.reference:
            found += [configure({kind.id: settings}) for settings in suggest(estimator, recipe.training)]
    return tuple(one for one in found if _another(ready.defences, one))


def _another(own: Defences, other: Defences) -> bool:
    try:
        in_place(own, other)
    except UsageError:
        return False
    return True


def alternatives(
    request: CheckRequest,
    terms: Terms,
    ready: Prepared,
    evidence: Evidence,
    observed: Observed,
    inputs: Inputs,
    others: Sequence[Defences],
    store: Store,
    work: Path,
    parts: Known,
    watch: Progress,
) -> tuple[Alternative, ...]:
    """The candidate as it is, then its recipe with each of `others` in place of its own defence.

    One that breaks is left out with a warning: the verdict on the candidate stands without it. Waivers were granted to
    the candidate: they are no help to a model that is trained again.
    """
    policy = spent(terms.policy, evidence.attempt)

    def verdict(of: Evidence, retrained: bool) -> Verdict:
        waivers = () if retrained else terms.waivers
        numbered = replace(of, attempt=evidence.attempt)
        return judge(policy, numbered, waivers=waivers, model=parts.model, today=terms.today)

    found = [_alternative(AS_IT_IS, ready.defences, evidence, verdict(evidence, False), observed, False, observed)]
    known = any(finding.check == _UNDECLARED and finding.status == "fail" for finding in evidence.findings)
    for given in {one.digest: one for one in others}.values():
        name = described(given)
        try:
            defences = in_place(ready.defences, given)
            name = described(defences)
            retrained = bool(defences.training or ready.defences.training)
            watch.stage(f"with {name}{', trained again' if retrained else ''}")
            # What the registry says of the candidate's own defence is no word on another one; but a defence that it
            # declares and nobody configured is in the candidate's answers all the same.
            other = ready if known and not retrained else replace(ready, declared=Declared())
            other, answers = _remade(request, terms, other, defences, store, work, parts, watch)
            seen = observe(answers, other.audit, terms.attacks, defences, parts.seed)
            judged = evaluated(other, terms, seen, parts.seed, inputs).evidence
        except GateError as error:
            parts.warn(f"{name} could not be compared: {error.what}{f' ({error.hint})' if error.hint else ''}")
            continue
        found.append(_alternative(name, defences, judged, verdict(judged, retrained), seen, retrained, observed))
    _caveats(request, terms, ready, found, parts)
    return tuple(found)


def _caveats(request: CheckRequest, terms: Terms, ready: Prepared, found: Sequence[Alternative], parts: Known) -> None:
    """Warnings about all rows at once, each of them once."""
    dataset = ready.dataset
    unaudited = dataset.train_size - dataset.members - dataset.removed.get(DUPLICATES, 0)
    if unaudited > 0 and any(one.retrained for one in found):
        parts.warn(
            f"models that were trained again learned from {dataset.members:,} records, the candidate from "
            f"{dataset.train_size:,}: list all training records under data.members for a fair comparison"
        )
    if terms.baseline is not None and len(found) > 1:
        parts.warn("the other defences were not compared with the approved model: PG401 is about the candidate alone")
    parts.add(warnings=tuple(dict.fromkeys(parts.found.get("warnings", ()))))


def in_place(own: Defences, other: Defences) -> Defences:
    """`other` in place of the candidate's own defences; what its recipe, or the model itself, has inside stays.

    A model that is trained again does not answer through what is inside the candidate's file.
    Raises UsageError where that would be nothing else, or one defence twice.
    """
    for id, item in other.items:
        if _inside(item):
            raise UsageError(f"{id} is said to be inside already: nothing would be put on", "leave that setting out")
    again = bool(other.training or own.training)
    stays = tuple((id, item) for id, item in own.items if _inside(item) and not (again and _in_model(item)))
    if twice := sorted({id for id, _ in stays} & {id for id, _ in other.items}):
        raise UsageError(
            f"the candidate has {twice[0]} inside already", "other settings of it take another recipe, or another model"
        )
    placed = Defences((*stays, *other.items))
    if placed.digest == own.digest:
        raise UsageError("that is what the candidate is like already", "it is the first row")
    return placed


def _inside(item: Any) -> bool:
    """Whether a defence is in the recipe or in the model already: nobody can take it off."""
    return bool(getattr(item, "in_recipe", False)) or _in_model(item)


def _in_model(item: Any) -> bool:
    return bool(getattr(item, "in_model", False))


def described(defences: Defences) -> str:
    """Names and settings in one line: tree_limits (min_samples_leaf 50) + output_coarsening (decimals 1)."""
    if not defences:
        return "no defence"

    def one(id: str, item: Any) -> str:
        given = item.model_dump(mode="json", exclude_defaults=True, exclude={"in_recipe", "in_model"})
        told = ", ".join(key if value is True else f"{key} {value}" for key, value in given.items())
        return f"{id} ({told})" if told else id

    return " + ".join(one(id, item) for id, item in defences.items)


def _remade(
    request: CheckRequest,
    terms: Terms,
    ready: Prepared,
    defences: Defences,
    store: Store,
    work: Path,
    parts: Known,
    watch: Progress,
) -> tuple[Prepared, Answers]:
    """The candidate behind another output defence, or trained again with another defence; and its shadows."""
    plan = ready.plan
    other = replace(ready, defences=defences, probes={}, absent={}, failed=frozenset(), task=None, plain=None)
    if not (defences.training or ready.defences.training):
        other = probed(request, terms, other, work, parts, watch)
        if plan is not None and not ready.loaded:
            asked = plan.pool | _audited(ready)
            other = replace(other, task=training(request, other, defences, probes=tuple(other.probes), asked=asked))
        return other, gather(request, other, store, parts, watch)
    if ready.loaded:
        raise UsageError(
            "the shadows were loaded: without a recipe nothing can be trained again", "compare output defences"
        )
    names = tuple(ready.probes)
    own = _alone(ready, parts.seed)
    both = own
    if plan is not None:
        both = replace(plan, member=np.vstack([own.member, plan.member]), seeds=np.concatenate([own.seeds, plan.seeds]))
    asked = both.pool | _audited(ready)
    task = training(request, other, defences, probes=names, asked=asked)
    made = shadows_of(request, both, task, store, parts, watch)
    rows, beside = slice(ready.dataset.audited), np.flatnonzero(ready.dataset.role_mask(Role.SEEN))
    target = _part(made.outputs[0], rows)
    of_target = {name: values[rows] for name, values in made.probes[0].items()} if made.probes else {}
    missing = {name: "it is not asked of models that were trained again" for name in names if name not in of_target}
    other = replace(
        other,
        target=target,
        beside=_part(made.outputs[0], beside) if len(beside) else None,
        probes=of_target,
        absent={**ready.absent, **missing},
        failed=ready.failed,
        unfit=ready.unfit | set(missing),
    )
    answers = of_candidate(other)
    if plan is None:
        return other, answers
    answers = answered_by_all(answers, made, parts)
    known = with_shadows(other, answers, made.outputs[1:], made.probes[1:])
    if defences.training:
        watch.stage("the same shadows without the defence, for the attacker who does not know of it")
        plain = shadows_of(request, plan, training(request, ready, NOTHING), store, parts, watch)
        known = replace(known, undefended=with_shadows(other, without_probes(answers), plain.outputs))
    return other, known


def _audited(ready: Prepared) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return ready.dataset.role_mask(Role.MEMBERS) | ready.dataset.role_mask(Role.NONMEMBERS)


def _part(outputs: Outputs, rows: Any) -> Outputs:
    return replace(outputs, values=outputs.values[rows])


def _alternative(
    name: str,
    defences: Defences,
    evidence: Evidence,
    verdict: Verdict,
    observed: Observed,
    retrained: bool,
    candidate: Observed,
) -> Alternative:
    results = [outcome for outcome in evidence.attacks if isinstance(outcome, AttackResult)]
    worst = max(results, key=lambda outcome: outcome.accuracy.value, default=None)
    tpr: dict[float, Measurement] = {}
    for outcome in results:
        for rate, measured in outcome.tpr_at_fpr.items():
            if rate not in tpr or measured.value > tpr[rate].value:
                tpr[rate] = measured
    high = [] if evidence.risk is None else [high for high in evidence.risk.high if high.score == HIGH_SCORE]
    correct, before = observed.target_correct, candidate.target_correct
    inside = np.arange(len(correct)) < evidence.members
    return Alternative(
        name=name,
        settings=defences.document,
        verdict=verdict,
        train_accuracy=float(correct[inside].mean()),
        test_accuracy=float(correct[~inside].mean()),
        attack="" if worst is None else name_of(worst, scope=True),
        accuracy=None if worst is None else worst.accuracy,
        tpr_at_fpr=dict(sorted(tpr.items(), reverse=True)),
        high_risk=high[0] if high else None,
        retrained=retrained,
        gain=float(correct[~inside].mean() - before[~inside].mean()),
    )
