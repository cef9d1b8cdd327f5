"""Clone what was fitted: same class, same settings, as many rounds as the candidate was trained, fitted anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate.datamodel import Description
from privacy_gate.errors import RecipeFailed, UsageError
from privacy_gate.features import Features
from privacy_gate.request import Recipe
from privacy_gate.sandbox.boosters import ROUNDS
from privacy_gate.sandbox.fitted import ENDS, as_fitted, told_fit
from privacy_gate.sandbox.models import SEEDS, THREADS
from privacy_gate.sandbox.stages import class_of, known_class, last_step
from privacy_gate.sandbox.untrusted import clean
from privacy_gate.shadows import boosting, fitting, watching
from privacy_gate.shadows.recipes import Context, defended, recipe, training_defences
from privacy_gate.shadows.source import locate
from privacy_gate.storage import sha256_of_file

# Of MLflow's flavor xgboost, whose file of their own keeps the trees alone.
UNSAVED = frozenset({"xgboost.core.Booster", "xgboost.sklearn.XGBClassifier"})

_OTHER_WAYS = (
    "set shadows.recipe.python (path.py:train, called as train(features, labels, *, seed), returns a fitted model),"
    " or shadows.recipe.model (path.py:factory, returns an untrained torch module) with shadows.recipe.training"
)


def _identity(context: Context, description: Description | None) -> Mapping[str, Any]:
    if context.flavor == "pytorch":
        raise UsageError(
            "the PyTorch candidate cannot be cloned: an exported graph cannot be re-initialised, and weights do not"
            " say how they were trained",
            _OTHER_WAYS,
        )
    if context.snapshot is None or description is None or description.recipe is None:
        raise UsageError(
            f"the candidate (flavor {context.flavor}) has no scikit-learn estimator or Booster that could be cloned",
            _OTHER_WAYS,
        )
    described = description.recipe
    if isinstance(refused := described.get("refused"), list) and refused:
        raise UsageError(clean(refused[0], 300), clean(refused[-1], 300))  # what the model's own process told
    _check_fit(context, described)
    _check_defences(context, described)
    return {
        "estimator": dict(described),
        "code": _bundled_code(context.snapshot),
        "versions": dict(description.versions),
        **_fit_identity(context),
        **defended(context),
    }


def require_params(settings: Recipe) -> None:
    """UsageError where the settings that XGBoost's file has lost are not told: known before the model is loaded."""
    told = {} if settings.fit is None else settings.fit.keywords
    if not isinstance(told.get("params"), Mapping):
        raise UsageError(
            "XGBoost's file keeps the trees, not the settings that grew them: a clone would be trained with defaults",
            "tell them, as they were given to training: shadows.recipe.fit.keywords.params: {max_depth: ..., eta: ...}"
            " ({} if all are the defaults); or set shadows.recipe.python or shadows.recipe.command",
        )


def _check_fit(context: Context, described: Mapping[str, Any]) -> None:
    """UsageError where the settings that the file has lost are not told, or nothing takes what `fit:` gives."""
    given = context.settings.fit
    name = last_class(described)
    if described.get("unsaved"):
        require_params(context.settings)
    if given is None:
        return
    if given.eval_set is not None and name not in fitting.WATCHING:
        raise UsageError(
            f"shadows.recipe.fit.eval_set: a {name} takes no eval set",
            "leave it out (records that it holds back by itself are held back in shadows, too)",
        )
    if isinstance(given.eval_set, float) and not 0 < given.eval_set < 1:
        raise UsageError(f"shadows.recipe.fit.eval_set: {given.eval_set:g} is no share", "write one between 0 and 1")
    if given.callbacks is not None:
        if not name.startswith(("LGBM", "XGB", *ROUNDS)):
            raise UsageError(f"{fitting.CALLBACKS}: a {name} takes no callbacks", "leave them out")
        locate(given.callbacks, context.folder, fitting.CALLBACKS)


def _fit_identity(context: Context) -> dict[str, Any]:
    """What `fit:` adds: nothing where it is not used, so that shadows keep their names."""
    given = context.settings.fit
    if given is None:
        return {}
    source = locate(given.callbacks, context.folder, fitting.CALLBACKS).identity() if given.callbacks else {}
    return {"fit": given.model_dump(mode="json", exclude={"callbacks"}), "callbacks": dict(source)}


def _bundled_code(snapshot: Path) -> dict[str, str]:
    """Custom estimators come with their classes: file name -> sha256."""
    folder = snapshot / "code"
    return {p.relative_to(folder).as_posix(): sha256_of_file(p) for p in sorted(folder.rglob("*.py"))}


def _uses_seen(settings: Recipe) -> bool:
    return settings.fit is not None and settings.fit.eval_set == "seen"


def _splits(settings: Recipe) -> bool:
    return settings.fit is not None and isinstance(settings.fit.eval_set, float)


@recipe(
    id="clone",
    labels="values",
    imports=("scikit-learn",),
    identity=_identity,
    seen=_uses_seen,
    persons=_splits,
)
def clone(features: Features, labels: NDArray[Any], seed: int, context: Context) -> Any:
    """What the candidate was fitted as, with its own seed and one thread, fitted to the shadow's records.

    An eval set that stops each shadow by itself: see `fitting`. Preprocessing outside the model is not seen.
    """
    from privacy_gate.sandbox import boosters, models

    if context.snapshot is None:
        raise RecipeFailed("there is no candidate to clone")
    model = models.load(context.snapshot, context.flavor)
    unsaved = boosters.loses_settings(context.flavor)
    if boosters.is_booster(model):
        return _booster(boosters.described(model, unsaved=unsaved), features, labels, seed, context)
    given = fitting.gather(features, labels, seed, context)
    estimator, fitted = as_fitted(model, unsaved=unsaved)
    if unsaved and class_of(estimator) == "XGBClassifier":
        estimator.set_params(**given.keywords["params"])
        given = replace(given, keywords={key: value for key, value in given.keywords.items() if key != "params"})
    given = replace(given, keywords=_told_fit(model, estimator) | dict(given.keywords))
    estimator.set_params(**_unless_it_stops_itself(estimator, fitted, given))
    unfitted = seeded(_with_defences(estimator, context), seed)
    if class_of(last_step(unfitted)) != "XGBClassifier" or (numbered := fitting.numbered(given)) is None:
        return _fit(unfitted, given, context.watch)
    given, classes = numbered
    if len(classes) == 2 and str(last_step(unfitted).objective).startswith("multi:"):
        last_step(unfitted).set_params(num_class=2)  # XGBoost itself counts them from three upwards only
    watch = context.watch
    renamed = None if watch is None else lambda stage, step: watch(fitting.Renamed(stage, classes), step)
    return fitting.Renamed(_fit(unfitted, given, renamed), classes)


def _fit(unfitted: Any, given: fitting.Given, watch: Callable[[Any, int], None] | None) -> Any:
    return fitting.fit(unfitted, given) if watch is None else watching.fit(unfitted, given, watch)


def _booster(
    described: Mapping[str, Any], features: Features, labels: NDArray[Any], seed: int, context: Context
) -> Any:
    """A raw Booster: it knows class indices, and takes its settings with its records."""
    classes = context.class_values
    if context.positive == 0:  # the one column of its answers is about the first class
        classes = classes[::-1]
    if context.reference is not None:
        seen, seen_labels = context.reference
        context = replace(context, reference=(seen, fitting.indices(seen_labels, classes)))
    given = fitting.gather(features, fitting.indices(labels, classes), seed, context)
    changes = dict(given.keywords.get("params") or {})
    name, params = innermost(described)
    for defence in training_defences(context):
        changes |= defence.parameters(name, params | changes)
    return boosting.train(described, changes, given, seed, device=context.runtime.device, watch=context.watch)


def _told_fit(model: Any, estimator: Any) -> dict[str, Any]:
    """What the candidate itself knows of its `fit`, as keywords of the pipeline's or of its own."""
    final = last_step(getattr(model, "best_estimator_", model))
    prefix = f"{estimator.steps[-1][0]}__" if class_of(estimator) == "Pipeline" else ""
    return {f"{prefix}{key}": value for key, value in told_fit(final).items()}


def _unless_it_stops_itself(estimator: Any, fitted: Mapping[str, Any], given: fitting.Given) -> dict[str, Any]:
    """The settings that train what was fitted; the last step keeps its own where an eval set ends its training."""
    final = last_step(estimator)
    prefix = "" if final is estimator else f"{estimator.steps[-1][0]}__"
    own = {key.removeprefix(prefix): value for key, value in fitted.items() if key.startswith(prefix)}
    params = final.get_params(deep=False)
    if not fitting.stops_itself(given, params, own):
        return dict(fitted)
    ends = {f"{prefix}{key}" for key in ENDS if params.get(key) is not None}
    return {key: value for key, value in fitted.items() if key not in ends}


def seeded(estimator: Any, seed: int) -> Any:
    """The same estimator with every nested seed drawn from `seed`, one thread of the CPU, and one way of adding up."""
    names = sorted(estimator.get_params(deep=True))
    states = [name for name in names if name.rpartition("__")[2] in SEEDS]
    # One draw per parameter: two parts of a pipeline must not share their random numbers.
    draws = np.random.SeedSequence(seed).generate_state(max(len(states), 1)) >> 1  # some libraries want an int32
    changes: dict[str, Any] = dict(zip(states, map(int, draws), strict=False))
    changes |= {name: 1 for name in names if name.rpartition("__")[2] in THREADS}
    for name, part in [("", estimator), *estimator.get_params(deep=True).items()]:
        if isinstance(part, type) or (kind := class_of(part)) not in ("LGBMClassifier", "XGBClassifier"):
            continue
        own: dict[str, Any] = {"deterministic": True, "force_row_wise": True} if kind == "LGBMClassifier" else {}
        elsewhere = {"force_col_wise": False, "device": "cpu", "device_type": "cpu"}
        own |= {key: elsewhere[key] for key in elsewhere if part.get_params(deep=False).get(key) is not None}
        changes |= {f"{name}__{key}" if name else key: value for key, value in own.items()}
    return estimator.set_params(**changes)


# --- defences -------------------------------------------------------------------------------------------------------

# Wrappers that train what is inside with the settings that it has.
_WRAPPERS = ("CalibratedClassifierCV", "OneVsRestClassifier", "OneVsOneClassifier")


def _check_defences(context: Context, described: Mapping[str, Any]) -> None:
    """UsageError where a defence has no parameter to set, found from the description alone."""
    defences = training_defences(context)
    if not defences:
        return
    name, params = innermost(described)
    for defence in defences:
        params |= defence.parameters(name, params)


def innermost(described: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and parameters of the last step of a pipeline, of what a wrapper trains, or of the estimator itself.

    Parameters are those that a clone is trained with: the fitted rounds, not the ceiling.
    """
    return _innermost(described, dict(described.get("fitted") or {}))


def _innermost(described: Mapping[str, Any], fitted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    name, params = known_class(str(described.get("class"))), dict(described.get("params") or {})
    inner, part = (params.get("estimator"), "estimator") if name in _WRAPPERS else (None, "")
    if name == "Pipeline" and isinstance(steps := params.get("steps"), list) and steps:
        part, inner = steps[-1]
    if isinstance(inner, Mapping) and "class" in inner:
        prefix = f"{part}__"
        return _innermost(inner, {key.removeprefix(prefix): fitted[key] for key in fitted if key.startswith(prefix)})
    return name, params | dict(fitted)


def unseen(described: Mapping[str, Any], settings: Recipe) -> tuple[str, ...]:
    """What shadows of this recipe do not tell of the candidate's training, for the report."""
    found = []
    name, params = innermost(described)
    share = params.get("validation_fraction")
    stops = params.get("early_stopping") is True or (
        name == "GradientBoostingClassifier" and params.get("n_iter_no_change") is not None
    )
    if settings.fit is not None and isinstance(settings.fit.eval_set, float):
        stops, share = True, settings.fit.eval_set
    if stops and share:
        told = f"{share:.0%}" if isinstance(share, float) and share < 1 else "a part"
        found.append(
            f"Training held back {told} of its records to tell when to stop. Which ones is not known, so they count as "
            "members though the model was not fitted to them: by that share a leak of the others looks smaller."
        )
    if described.get("searched"):
        found.append(
            "The model's settings were chosen by a search on its own members. Shadows take them over: what the choice "
            "itself tells of the members is not measured."
        )
    return tuple(found)


def last_class(described: Mapping[str, Any]) -> str:
    """Name of the class of the last step of a pipeline, or of the estimator itself."""
    name, params = known_class(str(described.get("class"))), described.get("params")
    steps = params.get("steps") if name == "Pipeline" and isinstance(params, Mapping) else None
    return last_class(steps[-1][1]) if isinstance(steps, list) and steps else name


def _with_defences(estimator: Any, context: Context) -> Any:
    """The unfitted estimator with the parameters that the defences set on its innermost part."""
    for defence in training_defences(context):
        inner = _inside(estimator)
        inner.set_params(**defence.parameters(class_of(inner), inner.get_params(deep=False)))
    return estimator


def _inside(estimator: Any) -> Any:
    """The unfitted estimator that `innermost` describes."""
    inner = getattr(estimator, "estimator", None) if class_of(estimator) in _WRAPPERS else None
    if class_of(estimator) == "Pipeline":
        inner = estimator.steps[-1][1]
    return _inside(inner) if hasattr(inner, "get_params") else estimator
