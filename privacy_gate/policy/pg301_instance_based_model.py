"""PG301: some models are their training records; whoever gets the model gets the records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from privacy_gate.datamodel import Description, Evidence, RuleStatus
from privacy_gate.policy.contract import Decided, ReleaseContext, RuleSettings, rule
from privacy_gate.policy.examples import described, evidence

# Module -> estimators that keep training records as they are, read off what fit() leaves behind.
_KEEPS: Mapping[str, frozenset[str]] = {
    "neighbors": frozenset(
        {
            "KNeighborsClassifier",
            "KNeighborsRegressor",
            "KNeighborsTransformer",
            "RadiusNeighborsClassifier",
            "RadiusNeighborsRegressor",
            "RadiusNeighborsTransformer",
            "NearestNeighbors",
            "LocalOutlierFactor",
            "KernelDensity",
        }
    ),
    "svm": frozenset({"SVC", "NuSVC", "SVR", "NuSVR", "OneClassSVM"}),  # support vectors, with a linear kernel too
    "gaussian_process": frozenset({"GaussianProcessClassifier", "GaussianProcessRegressor"}),
    "kernel_ridge": frozenset({"KernelRidge"}),
    "kernel_approximation": frozenset({"Nystroem"}),
    "decomposition": frozenset({"KernelPCA"}),
    "semi_supervised": frozenset({"LabelPropagation", "LabelSpreading"}),
    "manifold": frozenset({"Isomap", "LocallyLinearEmbedding"}),
    "impute": frozenset({"KNNImputer"}),
}
_LIBRARIES = ("sklearn", "sklearnex", "daal4py.sklearn", "cuml")  # they share scikit-learn's layout and names
_KNOWN = (*_LIBRARIES, "lightgbm", "xgboost", "catboost")
_PARAMETRIC = {
    "pytorch": "a network of parameters; records in its buffers would not be noticed",
    "lightgbm": "trees that keep no training record",
    "xgboost": "trees that keep no training record",
}
_CHOICES = frozenset({"param_grid", "param_distributions"})  # a search keeps one of them, nobody can say which
_PARTS = frozenset({"steps", "estimators", "transformers", "transformer_list", "estimator", "base_estimator"})
_PARTS |= {"final_estimator", "regressor", "classifier", "remainder", "transformer"}


class Settings(RuleSettings):
    """Where such a model is out of the question, and what somebody has looked at."""

    warn_in: list[ReleaseContext] = Field(
        default=["internal"], description="release contexts in which the rule only warns: the model stays inside"
    )
    cleared: list[str] = Field(
        default=[], description="classes (module.Class) that a person has found to keep no training records"
    )

    def loosened(self, parent: Any) -> list[str]:
        """More contexts, or more classes."""
        more = ["warn_in"] if set(self.warn_in) - set(parent.warn_in) else []
        return super().loosened(parent) + more + (["cleared"] if set(self.cleared) - set(parent.cleared) else [])

    def in_effect(self, context: ReleaseContext | None, today: Any) -> Settings:
        """Warns where the model does not leave."""
        now = super().in_effect(context, today)
        if now.action == "block" and context in self.warn_in:
            return now._warning(f"only warns, because the release context is {context}")
        return now


def instance_based(name: str) -> bool:
    """Whether the class `module.Class` keeps training records."""
    module, _, kind = name.rpartition(".")
    for library in _LIBRARIES:
        rest = module.removeprefix(f"{library}.")
        if rest != module and kind in _KEEPS.get(rest.split(".")[0], ()):
            return True
    return False


def _known(name: str) -> bool:
    return name.rpartition(".")[0].startswith(tuple(f"{library}." for library in _KNOWN))


def estimators(recipe: Any, *, chosen: bool = True, part: bool = True) -> Iterator[tuple[str, bool]]:
    """(class, whether it is in the model for sure) of every estimator in a recipe; "" for one that hides its class."""
    if isinstance(recipe, Mapping):
        if isinstance(recipe.get("class"), str):
            yield recipe["class"], chosen
            params = recipe.get("params")
            for name, value in params.items() if isinstance(params, Mapping) else ():
                yield from estimators(value, chosen=chosen and name not in _CHOICES, part=name in _PARTS)
        elif part and set(recipe) == {"sha256"}:
            yield "", chosen
        else:
            for value in recipe.values():
                yield from estimators(value, chosen=chosen, part=part)
    elif isinstance(recipe, list | tuple):
        for value in recipe:
            yield from estimators(value, chosen=chosen, part=part)


@rule(
    id="PG301",
    title="instance-based model",
    metric="model.instance_based",
    settings=Settings,
    example_pass=evidence(model=described("sklearn.ensemble._forest.RandomForestClassifier")),
    example_fail=evidence(model=described("sklearn.neighbors._classification.KNeighborsClassifier")),
)
def instance_based_model(settings: Settings, evidence: Evidence) -> Decided:
    """The model does not carry training records with it, as nearest neighbours and support vectors do."""
    model = evidence.description
    if model is None:
        reason = "predictions were judged alone: whether the model itself carries training records is not known"
        return Decided(RuleStatus.NOT_APPLICABLE, reason)
    if model.recipe is None:
        return _without_recipe(model)
    found = list(estimators(model.recipe))
    sure = sorted({name for name, chosen in found if instance_based(name) and chosen})
    if sure:
        return Decided(RuleStatus.FAIL, f"{', '.join(sure)}: the model is made of training records")
    cleared = set(settings.cleared)
    open_ = {name for name, chosen in found if instance_based(name)} | {name for name, _ in found if not _known(name)}
    unknown = sorted(name or "a part that does not tell its class" for name in open_ - cleared)
    if unknown or not found:
        return Decided(
            RuleStatus.INCONCLUSIVE,
            f"nobody knows whether the model carries training records: {', '.join(unknown) or 'no estimator was found'}"
            "; after a look at what its fit() keeps, name the class in rules.PG301.cleared",
        )
    by_hand = sorted({name for name, _ in found if name in cleared})
    said = f"; cleared by the policy: {', '.join(by_hand)}" if by_hand else ""
    return Decided(RuleStatus.PASS, f"no part keeps training records ({found[0][0].rpartition('.')[2]}){said}")


def _without_recipe(model: Description) -> Decided:
    if model.flavor in _PARAMETRIC:
        return Decided(RuleStatus.PASS, f"{model.flavor}: {_PARAMETRIC[model.flavor]}")
    return Decided(
        RuleStatus.INCONCLUSIVE,
        f"the model (flavor {model.flavor}) does not tell what it is made of; log it with its own flavor",
    )
