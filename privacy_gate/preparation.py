"""Everything that is known before the first attack: the candidate, its records, its answers, its shadows.

`prepare` reads and asks and trains nothing; `gather` trains. Both are all effects; what they return is frozen.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from privacy_gate import manifest
from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.closing import Known
from privacy_gate.datamodel import (
    Audit,
    Bools,
    Candidate,
    Description,
    Estimand,
    Floats,
    Ints,
    Outputs,
    Role,
    ShadowPlan,
)
from privacy_gate.defences import NOTHING, Declared, Defences, declared
from privacy_gate.errors import NotEvaluable, UsageError
from privacy_gate.evaluate import Evaluation, evaluate
from privacy_gate.existing import Place, Subject, existing
from privacy_gate.features import Stored, take
from privacy_gate.inputs import coordinates
from privacy_gate.ladder import Facts, Kind
from privacy_gate.manifest import DUPLICATES, Dataset
from privacy_gate.observe import GIVEN, LABELS_ALONE, SHOWN_SIGNALS, Answers, Observed, from_shadows, of_labels
from privacy_gate.policy import CATALOG as RULES
from privacy_gate.policy import Policy
from privacy_gate.procedure import FEWEST_RUNS
from privacy_gate.registry import Registry, open_registry
from privacy_gate.reports import wording
from privacy_gate.request import CheckRequest, Config, LoadedModel
from privacy_gate.sandbox import examine, probe
from privacy_gate.sandbox.choice import MODEL, choose, explained, require_unchanged, warning
from privacy_gate.sandbox.declared import agreed, form_of, in_order, left_out
from privacy_gate.sandbox.mlmodel import flavors, read_mlmodel
from privacy_gate.sandbox.outputs import Form
from privacy_gate.sandbox.runtime import Runtime
from privacy_gate.shadows import pace
from privacy_gate.shadows import plan as plans
from privacy_gate.shadows.recipes import choose as recipe_of
from privacy_gate.shadows.recipes import wants_seen
from privacy_gate.shadows.recipes.clone import UNSAVED, require_params, unseen
from privacy_gate.shadows.recipes.command import ready as require_command
from privacy_gate.shadows.recipes.load import finished
from privacy_gate.shadows.store import Store
from privacy_gate.shadows.train import Columns, Shadows, TrainingTask, train, usable_cores
from privacy_gate.shadows.train import prepare as training_task
from privacy_gate.signals import PROBES, misfit
from privacy_gate.terms import Terms, seed_of, store_path
from privacy_gate.validity import Inputs

_TOO_LARGE = "the records do not fit into memory, and a probe changes them: score a sample (audit:)"
_ORDER_STREAM = 5  # keeps this draw apart from every other use of the run's seed


class Progress(Protocol):
    """Whoever watches: the console, or nobody."""

    def stage(self, text: str) -> None:
        """A step begins."""

    def shadows(self, done: int, total: int, cached: int, remaining: float | None) -> None:
        """`done` of `total` shadows are there."""

    def close(self) -> None:
        """Nothing more will come."""


class Silent:
    """Nobody watches."""

    def stage(self, text: str) -> None:
        """Nothing."""

    def shadows(self, done: int, total: int, cached: int, remaining: float | None) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What `plan` shows and `check` starts from. Nothing is trained yet.

    labels    [U] class indices
    classes   class values in the order of the candidate's columns
    target    [R, K] the candidate's answers
    form      how they, and those of its shadows, are read
    runtime   interpreter and device that they come from
    beside    [D, K] its answers on the records of its defence; None where that has none
    defences  the config's, or where it names none, those that the registry declares with their settings
    probes    probe -> [R] or [R, d] of the candidate
    given     signals of the records themselves
    absent    signal -> why the candidate does not give it
    failed    those of `absent` whose probe broke on it
    unfit     those of `absent` that are for another kind of record or model
    plan      None where no shadow is wanted
    task      what the shadows are trained with; None where they are loaded or not wanted
    plain     the same without the defence of the training; None where there is none
    loaded    answers of loaded shadows
    models    digests of the models that gave them; () for finished answers
    stops     (URI, model) of the checkpoints of the early-stopping benchmark, in the order of training
    score_seconds  that the candidate's process took, its start included; None: not measured
    """

    registry: Registry
    candidate: Candidate
    description: Description
    dataset: Dataset
    audit: Audit
    labels: Ints
    classes: tuple[Any, ...]
    target: Outputs
    form: Form
    runtime: Runtime
    beside: Outputs | None
    defences: Defences
    declared: Declared
    deterministic: bool
    plan: ShadowPlan | None
    task: TrainingTask | None
    plain: TrainingTask | None = None
    loaded: tuple[Outputs, ...] = ()
    models: tuple[str, ...] = ()
    probes: Mapping[str, Floats] = field(default_factory=dict)
    given: Mapping[str, Floats] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    unfit: frozenset[str] = frozenset()
    stops: tuple[tuple[str, Candidate], ...] = ()
    score_seconds: float | None = None


def prepare(
    request: CheckRequest, terms: Terms, work: Path, parts: Known, watch: Progress, others: Sequence[Defences] = ()
) -> Prepared:
    """Resolve, snapshot, read the records, score the target in a process of its own, plan the shadows.

    others  defences that the candidate will be compared with: their records are needed, too
    """
    config = config_of(request)
    uri = request.model or config.model
    if uri is None:
        raise UsageError("no model was named", "privacy-gate check models:/NAME@ALIAS, or model: in the config")
    parts.defences = terms.defences
    for note in request.notes:
        parts.warn(note)
    registry = open_registry(config.tracking_uri, config.registry_uri, uri)
    if request.trust == "data":
        _require_own_environment(config)
        registry = cast("Registry", _DataAlone(registry))
    parts.registry = registry
    watch.stage(f"resolving {uri}")
    candidate = registry.resolve(uri, work / "candidate")
    parts.add(candidate=candidate)
    runtime = choose(
        config.environment,
        request.device,
        candidate,
        folder=request.config_dir,
        store=store_path(request),
        stage=watch.stage,
    )
    if runtime.differs:
        parts.warn(warning(runtime))
        watch.stage(warning(runtime))  # now: what is loaded next may fail for that reason
    if config.shadows.count and config.shadows.recipe.command is not None:
        require_command(config.shadows.recipe, request.config_dir, runtime)  # before minutes of scoring, not after
    _require_params(config, candidate)
    stops = () if config.frontier is None else _stops(registry, config.frontier.checkpoints, work)
    tagged = declared(candidate.tags)
    defences = terms.defences or tagged.defences or NOTHING
    parts.defences = defences
    watch.stage("reading the records")
    dataset = manifest.load(
        config.data,
        request.config_dir,
        lambda source: registry.fetch(source, work / "fetched"),
        reference=any(each.reference for each in (defences, *others)) or wants_seen(config.shadows.recipe),
        work=work / "records",
        inputs=candidate.inputs,
        audit=config.audit,
        seed=seed_of(request),
        logs=store_path(request) / "logs",
    )
    for each in (defences, *others):
        _require_reference(each, dataset)
    unaudited = {"population": dataset.population, "seen": dataset.seen}
    parts.add(
        digests=dataset.digests,
        removed=dataset.removed,
        train_size=dataset.train_size,
        sampled={str(role): counts for role, counts in dataset.sampled.items()},
        others={role: count for role, count in unaudited.items() if count},
    )
    watch.stage(f"scoring {dataset.audited:,} records with {candidate.resolved_uri} in a process of its own")
    asked = np.concatenate([np.arange(dataset.audited), np.flatnonzero(dataset.role_mask(Role.SEEN))])
    # In an order that tells nothing: members first would tell a model whom it is asked about, batch by batch.
    order = np.random.default_rng([_ORDER_STREAM, seed_of(request)]).permutation(len(asked))
    form = form_of(config.output, config.data.classes, dataset.raw_labels)
    began = time.monotonic()
    with explained(runtime):
        description, scored = examine(
            candidate,
            take(dataset.features, asked[order]),
            work,
            form=form,
            logs=store_path(request) / "logs",
            runtime=runtime,
        )
    score_seconds = time.monotonic() - began
    answers = scored.outputs.values[np.argsort(order)]
    target = replace(scored.outputs, values=answers[: dataset.audited])
    beside = replace(scored.outputs, values=answers[dataset.audited :]) if dataset.reference else None
    parts.add(description=description)
    if scored.queries > 1:
        parts.warn(
            f"the model throws dice: each record was asked {scored.queries} times and its answers averaged, "
            f"as an attacker would; {scored.changed:.1%} of the top classes changed between two answers"
        )
    # Sixteen decisions of a model that throws dice have steps of a sixteenth: scores, but to be had from labels.
    labelled = target.kind == "probabilities" and target.resolution * scored.queries >= 1
    if description.recipe is not None and _clones(config):
        parts.add(limitations=(*parts.found.get("limitations", ()), *unseen(description.recipe, config.shadows.recipe)))
    parts.add(limitations=(*parts.found.get("limitations", ()), *left_out(config.output)))
    if target.labels_only:
        _tell_labels_alone(terms, parts)
    if dataset.twins:
        parts.warn(f"{dataset.twins:,} records are identical to another one; copies count as one person")
    agreed(config.output, config.data.classes, description.classes)
    classes = manifest.class_order(description.classes, form.classes, scored.outputs.values.shape[1])
    labels = manifest.encode(dataset.raw_labels, classes)
    audit = manifest.audit(dataset, labels, classes)
    in_order(target, audit)
    parts.add(audit=audit)
    _require_estimand(terms.policy, dataset, config.shadows.count)
    bare = Prepared(
        registry=registry,
        candidate=candidate,
        description=description,
        dataset=dataset,
        audit=audit,
        labels=labels,
        classes=classes,
        target=target,
        form=Form("labels" if labelled else target.kind, classes, form.positive, column=form.column),
        runtime=runtime,
        beside=beside,
        defences=defences,
        declared=tagged,
        deterministic=scored.deterministic,
        plan=None,
        task=None,
        stops=stops,
        score_seconds=score_seconds,
    )
    return _planned(request, terms, probed(request, terms, bare, work, parts, watch), work, watch)


class RunsCode(UsageError):
    """The model runs code when it is loaded, and only data was trusted."""


class _DataAlone:
    """A registry that gives no model that runs code when it is loaded: no candidate, checkpoint, baseline or shadow."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)

    def resolve(self, uri: str, into: Path) -> Candidate:
        """See Registry.resolve; raises RunsCode."""
        candidate = self._registry.resolve(uri, into)
        if candidate.executes_code:
            raise RunsCode(f"{candidate.resolved_uri} runs code when it is loaded, and only data is trusted", _TRUST)
        return candidate


_TRUST = "trust: code in the subscription (without a service: leave out --trust data), if you trust whoever logged it"


def _require_own_environment(config: Config) -> None:
    """Building an environment from a model's requirements runs what the packages bring."""
    if config.environment == MODEL:
        raise RunsCode(
            "environment: model installs what the model asks for, which runs code, and only data is trusted",
            f"environment: current, or {_TRUST}",
        )


def _tell_labels_alone(terms: Terms, parts: Known) -> None:
    """What cannot be run and decided without scores, for the report."""
    rules = {rule.id: rule.settings for rule in terms.policy.rules if rule.settings.action != "off"}
    metric = {id: RULES[id].metric for id in rules}
    asked = [getattr(rules[id], "attacks", None) or terms.attacks for id in rules if metric[id] == "attacks.required"]
    blind = [id for id in terms.attacks if _needs_scores(id)]
    parts.warn(
        f"{LABELS_ALONE}: {len(blind)} of {len(terms.attacks)} attacks need scores and were not run; "
        "what that leaves open is under the limitations"
    )
    text = wording.labels_alone(
        cannot_pass=[id for id in rules if metric[id].startswith("attack.tpr_at_fpr")],
        unmeasured=[id for id in rules if metric[id].startswith("risk.")],
        required=[id for ids in asked for id in ids if _needs_scores(id)],
    )
    parts.add(access=wording.LABELS_ACCESS, limitations=(*parts.found.get("limitations", ()), text))


def _clones(config: Config) -> bool:
    """Whether shadows are clones of the candidate."""
    recipe = config.shadows.recipe
    return config.shadows.count > 0 and recipe.load is None and recipe_of(recipe).id == "clone"


def _require_params(config: Config, candidate: Candidate) -> None:
    """UsageError where a clone would lack the settings that XGBoost's file loses: before minutes of scoring."""
    if candidate.flavor == "xgboost" and _clones(config):
        made = flavors(read_mlmodel(candidate.snapshot)).get(candidate.flavor, {}).get("model_class")
        if made in UNSAVED:
            require_params(config.shadows.recipe)


def _needs_scores(attack: str) -> bool:
    return attack in ATTACKS and not all(of_labels(name) for name in ATTACKS[attack].requires)


def config_of(request: CheckRequest) -> Config:
    """The configuration, without which nobody knows who the members were."""
    if request.config is None:
        raise UsageError(
            "no configuration: which records were members?",
            "give --config privacy-gate.yaml (privacy-gate init drafts one), or judge predictions with --observations",
        )
    return request.config


def _stops(registry: Registry, uris: Sequence[str], work: Path) -> tuple[tuple[str, Candidate], ...]:
    """The models of `frontier.checkpoints`: a misspelt one is told before hours are spent."""
    found = []
    for number, uri in enumerate(uris):
        try:
            found.append((uri, registry.resolve(uri, work / f"checkpoint-{number}")))
        except UsageError as error:
            raise type(error)(f"frontier.checkpoints: {error.what}", error.hint) from error
    return tuple(found)


def _require_reference(defences: Defences, dataset: Dataset) -> None:
    if defences.reference and not dataset.reference:
        raise UsageError(
            f"the defence {defences.name} was fitted to records of its own; the config names none",
            "name them under data.seen: they were seen by the defence, so they are neither members nor non-members",
        )


def _require_estimand(policy: Policy, dataset: Dataset, shadows: int) -> None:
    """What the policy asks about must be there before hours are spent."""
    missing = dataset.train_size - dataset.members - dataset.removed.get(DUPLICATES, 0)
    drawn, of = dataset.sampled.get(Role.MEMBERS, (0, 0))
    if policy.estimand is Estimand.CENSUS and (missing > 0 or drawn < of):  # duplicates may hide who was not drawn
        raise NotEvaluable(
            f"the policy asks for a census, but {dataset.members:,} of {dataset.train_size:,} training records are "
            "members here: not all members are audited",
            "list all training records under data.members, or set `estimand: artefact` in the policy",
        )
    if policy.estimand is Estimand.PROCEDURE and shadows < FEWEST_RUNS:
        raise NotEvaluable(
            f"the policy asks about the training procedure, which takes {FEWEST_RUNS} retrained models; "
            f"shadows.count is {shadows}",
            f"set shadows.count to {FEWEST_RUNS} or more, or `estimand: artefact` in the policy",
        )


# --- more than one answer per record ----------------------------------------------------------------------------------


def wanted(attacks: Sequence[str], names: frozenset[str] | set[str]) -> tuple[str, ...]:
    """Those of `names` that the attacks read."""
    return tuple(sorted(set[str]().union(*(ATTACKS[id].requires for id in attacks)) & set(names)))


def probed(request: CheckRequest, terms: Terms, ready: Prepared, work: Path, parts: Known, watch: Progress) -> Prepared:
    """With all that the attacks read beside one answer per record; what the candidate does not give is in `absent`."""
    names = wanted(terms.attacks, set(PROBES.names()))
    dataset, seed = ready.dataset, seed_of(request)
    given = {}
    if wanted(terms.attacks, GIVEN):
        given["coordinates"] = coordinates(dataset.features, dataset.audited)
    module = ready.candidate.flavor == "pytorch"
    misfits = {name: why for name in names if (why := misfit(PROBES[name], dataset.features, module))}
    unfit = frozenset(misfits)
    if ready.target.labels_only:
        # There are scores behind the labels: what asks for them is missing, and does not look as if it did not apply.
        misfits |= {name: LABELS_ALONE for name in names if name not in unfit and not of_labels(name)}
    names = tuple(name for name in names if name not in misfits)
    ready = replace(ready, given=given, probes={}, absent=misfits, failed=frozenset(), unfit=unfit)
    if isinstance(dataset.features, Stored):
        # They fit the model, and would find something: that they are missing must not look as if they did not apply.
        return replace(ready, absent={**misfits, **dict.fromkeys(names, _TOO_LARGE)})
    if not names:
        return ready
    watch.stage(f"probing the candidate: {', '.join(names)}")
    order = np.random.default_rng([_ORDER_STREAM, seed, 1]).permutation(dataset.audited)
    told = probe(
        ready.candidate,
        take(dataset.features, order),
        ready.audit.labels[order],
        names,
        work,
        form=ready.form,
        protect=ready.defences.document,
        classes=len(ready.classes),
        seed=seed,
        timeout=config_of(request).shadows.timeout,
        logs=store_path(request) / "logs",
        runtime=ready.runtime,
    )
    back = np.argsort(order)
    for name, kind in sorted(told.failed.items()):
        parts.warn(f"the probe {name} failed on the candidate ({kind}); the model's own words are in the store's logs")
    absent = {**misfits, **told.absent, **{name: f"the probe failed ({kind})" for name, kind in told.failed.items()}}
    probes = {name: values[back] for name, values in told.values.items()}
    return replace(ready, probes=probes, absent=absent, failed=frozenset(told.failed))


# --- shadows ----------------------------------------------------------------------------------------------------------


def _planned(request: CheckRequest, terms: Terms, ready: Prepared, work: Path, watch: Progress) -> Prepared:
    """With the plan of the shadows; of shadows that exist already also their answers. Trains nothing."""
    recipe = config_of(request).shadows.recipe
    named = recipe.load
    planned = _drawn(request, ready) if named is None else _loaded(request, ready, named, work, watch)
    _require_own_kind(terms.policy, planned.plan)
    return planned


def _drawn(request: CheckRequest, ready: Prepared) -> Prepared:
    """Shadows that are still to be trained, or are in the store."""
    config, dataset, labels = config_of(request), ready.dataset, ready.labels
    members, nonmembers = dataset.role_mask(Role.MEMBERS), dataset.role_mask(Role.NONMEMBERS)
    population = dataset.role_mask(Role.POPULATION)
    count, seed = config.shadows.count, seed_of(request)
    if count == 0:
        return ready
    if config.shadows.plan == "disjoint":
        plan = plans.disjoint(dataset.persons, population, count, dataset.train_size, seed, labels)
    else:
        plan = plans.balanced(dataset.persons, members, nonmembers, population, count, dataset.train_size, seed)
    plan = replace(plan, proxy=proxy_of(config))
    asked = plan.pool | members | nonmembers
    task = training(request, ready, ready.defences, probes=tuple(ready.probes), asked=asked)
    plain = training(request, ready, NOTHING) if ready.defences.training else None
    return replace(ready, plan=plan, task=task, plain=plain)


def _loaded(
    request: CheckRequest, ready: Prepared, named: str | list[LoadedModel], work: Path, watch: Progress
) -> Prepared:
    """Shadows that somebody else trained: their answers, or the models themselves, which are asked now."""
    config, dataset = config_of(request), ready.dataset
    if isinstance(named, str):
        if any(drawn < of for drawn, of in dataset.sampled.values()):
            raise UsageError(
                "shadows.recipe.load names finished answers in the order of the data; audit: puts records elsewhere",
                "leave out audit:, or name the models themselves and their members under shadows.recipe.load",
            )
        path, pool = request.config_dir / named, np.arange(len(ready.labels)) < dataset.audited
        plan, outputs = finished(path, len(ready.labels), len(ready.classes), pool, dataset.train_size)
        return replace(ready, plan=replace(plan, proxy=proxy_of(config)), loaded=tuple(outputs))
    subject = Subject(
        ready.candidate, ready.description, dataset, ready.audit, ready.classes, ready.form, ready.runtime
    )
    found = existing(
        named,
        config.data,
        subject,
        Place(
            ready.registry,
            Store(store_path(request)),
            request.config_dir,
            work,
            logs=store_path(request) / "logs",
            timeout=config.shadows.timeout,
            seed=seed_of(request),
            tell=watch.stage,
        ),
    )
    reasons = "; ".join(reason for reason in (proxy_of(config), found.plan.proxy) if reason)
    return replace(ready, plan=replace(found.plan, proxy=reasons), loaded=found.outputs, models=found.models)


def proxy_of(config: Config) -> str:
    """Why the configured shadows are not of the candidate's own kind, as far as the config alone tells; "" if not."""
    recipe = config.shadows.recipe
    own = None if recipe.load else recipe_of(recipe).proxy(recipe)
    return "; ".join(reason for reason in (config.shadows.proxy, own) if reason)


def _require_own_kind(policy: Policy, plan: ShadowPlan | None) -> None:
    """A policy about the training procedure judges the shadows themselves, each in the candidate's place."""
    if policy.estimand is not Estimand.PROCEDURE or plan is None or (plan.by_lot and not plan.proxy):
        return
    why = f"are of another kind than the candidate ({plan.proxy})" if plan.proxy else "were not drawn by lot"
    raise NotEvaluable(
        f"the policy asks about the training procedure, and the shadows {why}",
        "train shadows with the candidate's own recipe, or set `estimand: artefact` in the policy",
    )


def training(
    request: CheckRequest,
    ready: Prepared,
    defences: Defences,
    *,
    probes: Sequence[str] = (),
    asked: Bools | None = None,
    trace: bool = False,
) -> TrainingTask:
    """The candidate's recipe with the training defences of `defences`, checked and ready to run."""
    config, dataset = config_of(request), ready.dataset
    seen = defences.reference or wants_seen(config.shadows.recipe)
    return training_task(
        config.shadows.recipe,
        folder=request.config_dir,
        candidate=ready.candidate,
        description=ready.description,
        features=dataset.features,
        labels=ready.labels,
        class_values=ready.classes,
        # Shadows are read the way the target was: one of them must not be taken for probabilities by accident.
        form=ready.form,
        defences=defences.in_training,
        reference=dataset.role_mask(Role.SEEN) if seen else None,
        probes=tuple(name for name in probes if PROBES[name].shadows),
        protect=defences.document,
        asked=asked,
        trace=trace,
        weights=dataset.weights,
        persons=dataset.persons if dataset.has_persons else None,
        columns=Columns(config.data.label, config.data.weight, config.data.person),
        runtime=ready.runtime,
    )


def shadows_of(
    request: CheckRequest, plan: ShadowPlan, task: TrainingTask, store: Store, parts: Known, watch: Progress
) -> Shadows:
    """The plan's shadows, from the store or trained now; counts go into the report."""
    config = config_of(request)
    require_unchanged(task.context.runtime)
    began = time.monotonic()
    made = train(
        plan,
        task,
        store,
        jobs=request.jobs,
        timeout=config.shadows.timeout,
        retries=config.shadows.retries,
        progress=lambda p: watch.shadows(p.done, p.total, p.cached, p.remaining),
    )
    parts.trained, parts.cached = (parts.trained or 0) + made.trained, (parts.cached or 0) + made.cached
    if made.trained:
        workers = min(request.jobs or usable_cores(), made.trained)
        pace.remember(store, task, plan.train_size, (time.monotonic() - began) * workers / made.trained)
    return made


def facts(request: CheckRequest, terms: Terms, ready: Prepared, store: Store, cached: int) -> Facts:
    """What the ladder of evidence is worked out from; `cached` of the planned shadows are in the store."""
    config, dataset, plan = config_of(request), ready.dataset, ready.plan
    task, problem = ready.task, ""
    if config.shadows.recipe.load is not None:
        problem = "clone, model, python or command in place of load"
    elif task is None:
        try:
            task = training(request, ready, ready.defences)
        except UsageError as error:
            problem = error.what
    asked = {*SHOWN_SIGNALS, *(name for id in terms.attacks for name in ATTACKS[id].requires)}
    told_by_labels = {name: LABELS_ALONE for name in asked if ready.target.labels_only and not of_labels(name)}
    return Facts(
        attacks=terms.attacks,
        policy=terms.in_effect,
        members=len(np.unique(ready.audit.persons[ready.audit.member])),
        nonmembers=len(np.unique(ready.audit.persons[~ready.audit.member])),
        records=(dataset.members, dataset.nonmembers),
        train_size=dataset.train_size,
        jobs=request.jobs or usable_cores(),
        run_seconds=ready.candidate.run_seconds,
        shadow_seconds=None if task is None else pace.recall(store, task, dataset.train_size),
        score_seconds=ready.score_seconds,
        absent={**ready.absent, **told_by_labels},
        failed=ready.failed,
        unfit=ready.unfit,
        flavor=ready.candidate.flavor,
        description=ready.description,
        plan=config.shadows.plan,
        chosen=_chosen(config, ready),
        cached=cached,
        proxy="" if plan is None else plan.proxy,
        by_lot=plan is None or plan.by_lot,
        sizes=() if plan is None else plan.sizes,
        problem=problem,
        heads_own=config.shadows.recipe.head is not None and config.shadows.recipe.head.frozen,
    )


def _chosen(config: Config, ready: Prepared) -> tuple[Kind, int]:
    """The rung of the ladder that the config asks for."""
    if ready.plan is None:
        return "none", 0
    count, recipe = len(ready.plan.member), config.shadows.recipe
    if isinstance(recipe.load, list):
        # A registry's versions are named like the candidate; the models of folds seldom are.
        name = f"models:/{ready.candidate.name}/"
        return "versions" if all(one.model.startswith(name) for one in recipe.load) else "folds", count
    return "heads" if recipe.head is not None else "shadows", count


def of_candidate(ready: Prepared) -> Answers:
    """What the candidate itself says, and what it does not."""
    return Answers(
        ready.target,
        beside=ready.beside,
        probes=ready.probes,
        given=ready.given,
        absent=ready.absent,
        failed=ready.failed,
        unfit=ready.unfit,
    )


def gather(request: CheckRequest, ready: Prepared, store: Store, parts: Known, watch: Progress) -> Answers:
    """All that the candidate and its shadows say, on the audited records and on those of the defence."""
    own = of_candidate(ready)
    if ready.plan is None:
        return own
    if ready.task is None:
        return with_shadows(ready, own, ready.loaded)
    made = shadows_of(request, ready.plan, ready.task, store, parts, watch)
    answers = with_shadows(ready, answered_by_all(own, made, parts), made.outputs, made.probes)
    if ready.plain is None:
        return answers
    watch.stage("training the same shadows without the defence, for the attacker who does not know of it")
    plain = shadows_of(request, ready.plan, ready.plain, store, parts, watch)
    return replace(answers, undefended=with_shadows(ready, without_probes(own), plain.outputs))


def without_probes(own: Answers) -> Answers:
    """For the attacker who does not know the defence: probes are asked through it alone, and so not missed here."""
    names = dict.fromkeys(own.probes, "probes are asked through the defence alone")
    return replace(own, probes={}, absent={**own.absent, **names}, unfit=own.unfit | set(names))


def answered_by_all(own: Answers, made: Shadows, parts: Known) -> Answers:
    """The target's answers without the probes that its shadows do not give: there is nothing to compare them with."""
    for name, kind in sorted(made.failed.items()):
        parts.warn(f"the probe {name} failed on shadow models ({kind}); what they printed is in the store's logs")
    kept = {name: values for name, values in own.probes.items() if name not in made.absent}
    return replace(own, probes=kept, absent={**own.absent, **made.absent}, failed=own.failed | set(made.failed))


def with_shadows(
    ready: Prepared, own: Answers, outputs: Sequence[Outputs], probes: Sequence[Mapping[str, Floats]] | None = None
) -> Answers:
    """The target's answers among those of its shadows."""
    assert ready.plan is not None
    found = from_shadows(own.target, outputs, ready.plan, ready.labels, ready.dataset.persons, probes=probes)
    rows = np.flatnonzero(ready.dataset.role_mask(Role.SEEN))
    others = tuple(replace(o, values=o.values[rows]) for o in outputs) if len(rows) else ()
    return replace(
        own,
        shadows=found.shadows,
        pool=found.pool,
        reference_member=found.reference_member,
        shadow_probes=found.shadow_probes,
        beside_shadows=others,
        by_lot=found.by_lot,
    )


def evaluated(ready: Prepared, terms: Terms, observed: Observed, seed: int, inputs: Inputs) -> Evaluation:
    """Attacks, risk, validity and causes of what was observed."""
    return evaluate(
        observed,
        ready.audit,
        terms.attacks,
        seed,
        plan=ready.plan,
        duplicates=ready.dataset.removed.get(DUPLICATES, 0),
        candidates=ready.dataset.candidates,
        deterministic=ready.deterministic,
        declared=ready.declared,
        defences=ready.defences,
        train_size=ready.dataset.train_size,
        model=ready.description,
        policy=terms.in_effect,
        inputs=inputs,
    )
