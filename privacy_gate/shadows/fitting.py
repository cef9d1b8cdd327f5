"""What is given to `fit` beside the records and their labels: an eval set, weights, callbacks, keywords.

An eval set can stop each shadow by itself, as it stopped the target: then the settings are the candidate's own, with
the candidate's ceiling, since when to stop is a part of what is trained. That takes an eval set and something that
stops: the candidate's own setting, or an early-stopping callback of the library among those declared. In all other
cases the fitted number of rounds is trained, and an eval set is only watched.

Runs model code: in shadow workers only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_gate import features as tables
from privacy_gate.errors import RecipeFailed
from privacy_gate.features import Features
from privacy_gate.request import Fit
from privacy_gate.sandbox.fitted import LIGHTGBM_STOPS, stops
from privacy_gate.sandbox.stages import class_of, last_step
from privacy_gate.shadows.recipes import Context
from privacy_gate.shadows.source import failed, locate

CALLBACKS = "shadows.recipe.fit.callbacks"
XGBOOST_STOP = "early_stopping_rounds"  # xgboost.train takes it as a keyword
# Classes whose `fit` takes records to watch.
WATCHING = ("LGBMClassifier", "XGBClassifier", "HistGradientBoostingClassifier", "lightgbm.Booster", "xgboost.Booster")


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """Everything that one shadow is fitted to.

    labels      [n] as `fit` takes them
    weights     [n]; None: all the same
    evaluation  records and labels to watch; None: there are none
    callbacks   of LightGBM or XGBoost
    keywords    further arguments of `fit`, as they are
    """

    features: Features
    labels: NDArray[Any]
    weights: NDArray[np.float64] | None = None
    evaluation: tuple[Features, NDArray[Any]] | None = None
    callbacks: list[Any] = field(default_factory=list)
    keywords: Mapping[str, Any] = field(default_factory=dict)


def gather(features: Features, labels: NDArray[Any], seed: int, context: Context) -> Given:
    """All that `fit:` declares for the shadow's records. Weights that the data declares are used: training used them.

    Raises RecipeFailed where records or weights that are asked for are not there, or a callback's file raises.
    """
    settings = context.settings.fit or Fit()
    weights = context.weights
    if settings.sample_weight == "weight" and weights is None:
        raise RecipeFailed("fit.sample_weight is weight, and the data declares none", "name the column: data.weight")
    evaluation = None
    if settings.eval_set == "seen":
        evaluation = context.reference
        if evaluation is None:
            raise RecipeFailed("fit.eval_set is seen, and the data names no such records", "name them: data.seen")
    elif settings.eval_set is not None:
        held = held_back(len(labels), settings.eval_set, seed, context.persons)
        if len(np.unique(labels[~held])) < 2:
            raise RecipeFailed(
                f"without the {held.sum()} records of its eval set a shadow has records of one class only",
                "lower fit.eval_set",
            )
        evaluation = tables.take(features, held), labels[held]
        features, labels = tables.take(features, ~held), labels[~held]
        weights = None if weights is None else weights[~held]
    if settings.sample_weight == "balanced":
        from sklearn.utils.class_weight import compute_sample_weight

        weights = compute_sample_weight("balanced", labels)
    return Given(features, labels, weights, evaluation, _callbacks(settings, context), settings.keywords)


def held_back(n: int, share: float, seed: int, persons: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
    """[n] about that share of the records, drawn by lot from the seed; one at least, and never all.

    persons  [n] all records of a person are held back, or none; None: each record is somebody else's
    """
    _, person = np.unique(np.arange(n) if persons is None else persons, return_inverse=True)
    count = int(person.max()) + 1
    # A stream of its own: what the model draws from the seed is another matter.
    order = np.random.default_rng([seed, 0x5E7]).permutation(count)
    return np.isin(person, order[: min(max(1, round(share * count)), count - 1)])


def _callbacks(settings: Fit, context: Context) -> list[Any]:
    if settings.callbacks is None:
        return []
    make = locate(settings.callbacks, context.folder, CALLBACKS).load()
    try:
        made = make()
    except (Exception, SystemExit) as error:
        raise failed(CALLBACKS, error, context.folder) from error
    if not isinstance(made, list | tuple) or not all(callable(one) or hasattr(one, "after_iteration") for one in made):
        raise RecipeFailed(f"{CALLBACKS} returns no list of callbacks", "return [lightgbm.early_stopping(50)]")
    return list(made)


def stops_itself(given: Given, params: Mapping[str, Any], fitted: Mapping[str, Any]) -> bool:
    """Whether each shadow finds its own end: it has records to watch, and its settings or a callback stop it.

    params  settings of the estimator or Booster itself
    fitted  those that would train what was fitted in their place
    """
    if given.evaluation is None:
        return False
    if "validation_fraction" in params:  # scikit-learn: the target did, or did not
        return fitted.get("early_stopping") is True
    settings = [params.get(name) for name in LIGHTGBM_STOPS]  # XGBoost's name is one of them
    wished = any(isinstance(value, int) and value > 0 for value in [*settings, given.keywords.get(XGBOOST_STOP)])
    return wished or any(map(stops, [*given.callbacks, *(params.get("callbacks") or [])]))


def fit(estimator: Any, given: Given) -> Any:
    """The estimator, fitted; what is beside the records goes to the last step of a pipeline."""
    final = last_step(estimator)
    prefix = "" if final is estimator else f"{estimator.steps[-1][0]}__"
    if given.callbacks and class_of(final) == "XGBClassifier":
        final.set_params(callbacks=[*(final.callbacks or []), *given.callbacks])
    given = _watching_known(given)
    beside = _beside(final, given)
    if given.evaluation is None or not prefix:
        return estimator.fit(
            given.features, given.labels, **{f"{prefix}{key}": value for key, value in beside.items()}, **given.keywords
        )
    return _fit_behind(estimator, prefix, beside, given)


def _watching_known(given: Given) -> Given:
    """The same without records to watch of a class that this shadow has none of: no library takes those."""
    if given.evaluation is None:
        return given
    features, labels = given.evaluation
    known = np.isin(labels, given.labels)
    return given if known.all() else replace(given, evaluation=(tables.take(features, known), labels[known]))


def _beside(final: Any, given: Given) -> dict[str, Any]:
    """The keywords of the last step's own `fit`."""
    from sklearn.utils.validation import has_fit_parameter

    name = class_of(final)
    beside: dict[str, Any] = {}
    if given.weights is not None:
        if not has_fit_parameter(final, "sample_weight"):
            raise RecipeFailed(
                f"a {type(final).__name__} takes no sample weights",
                "leave out fit.sample_weight and data.weight, if training did not use them",
            )
        beside["sample_weight"] = given.weights
    if given.callbacks and name == "LGBMClassifier":
        beside["callbacks"] = given.callbacks
    if given.evaluation is not None:
        if name == "HistGradientBoostingClassifier":
            if not has_fit_parameter(final, "X_val"):
                raise RecipeFailed(
                    "this version of scikit-learn gives a HistGradientBoostingClassifier no eval set",
                    "install scikit-learn 1.7 or later",
                )
            return beside | dict(zip(("X_val", "y_val"), given.evaluation, strict=True))
        if has_fit_parameter(final, "eval_X"):  # LightGBM's newer words for it
            watched, labels = given.evaluation
            # Other than those of `eval_set`, it takes these labels as they are: numbers of classes, or nonsense.
            return beside | {"eval_X": watched, "eval_y": np.searchsorted(np.unique(given.labels), labels)}
        beside["eval_set"] = [given.evaluation]
        if name == "XGBClassifier" and "verbose" not in given.keywords:
            beside["verbose"] = False
    return beside


def _fit_behind(pipeline: Any, prefix: str, beside: Mapping[str, Any], given: Given) -> Any:
    """Fit the steps before the last, and show the last one the eval set as it comes out of them."""
    from sklearn.pipeline import Pipeline

    assert given.evaluation is not None
    own = {key.removeprefix(prefix): value for key, value in given.keywords.items() if key.startswith(prefix)}
    others = {key: value for key, value in given.keywords.items() if not key.startswith(prefix)}
    name, final = pipeline.steps[-1]
    head = Pipeline(pipeline.steps[:-1])
    moved = head.fit_transform(given.features, given.labels, **others)
    watched = head.transform(given.evaluation[0])
    shown: dict[str, Any] = {key: watched for key in ("X_val", "eval_X") if key in beside}
    shown |= {"eval_set": [(watched, given.evaluation[1])]} if "eval_set" in beside else {}
    final.fit(moved, given.labels, **{**beside, **shown}, **own)
    return Pipeline([*head.steps, (name, final)])


# --- labels ---------------------------------------------------------------------------------------------------------


def indices(labels: NDArray[Any], class_values: tuple[Any, ...]) -> NDArray[np.int64]:
    """[n] the class index of each label value."""
    position = {value: k for k, value in enumerate(class_values)}
    return np.array([position[value] for value in labels.tolist()], dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Renamed:
    """A model that was trained on the numbers of its classes, and answers with their values."""

    model: Any
    classes: NDArray[Any]

    @property
    def classes_(self) -> NDArray[Any]:
        """[K] the label values behind the columns."""
        return self.classes

    def predict_proba(self, features: Features) -> NDArray[Any]:
        """[n, K] probabilities."""
        return np.asarray(self.model.predict_proba(features))

    def predict(self, features: Features) -> NDArray[Any]:
        """[n] label values."""
        return np.asarray(self.classes[np.asarray(self.model.predict(features), dtype=np.int64)])


def numbered(given: Given) -> tuple[Given, NDArray[Any]] | None:
    """The same with labels 0..K-1, and what they stand for; None where they are such numbers already.

    XGBoost takes no other labels, and none with gaps: a class that a shadow never saw leaves one.
    """
    present, numbers = np.unique(given.labels, return_inverse=True)
    if present.dtype.kind in "iub" and (present == np.arange(len(present))).all():
        return None
    evaluation = given.evaluation
    if evaluation is not None:
        known = np.isin(evaluation[1], present)
        evaluation = tables.take(evaluation[0], known), np.searchsorted(present, evaluation[1][known])
    return replace(given, labels=numbers, evaluation=evaluation), present
