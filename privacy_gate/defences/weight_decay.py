"""Weights that are pulled towards zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from privacy_gate.defences import TrainingDefence, defence
from privacy_gate.errors import UsageError
from privacy_gate.request import TorchTraining

_ALPHA = {
    "HistGradientBoostingClassifier": "l2_regularization",
    "LGBMClassifier": "reg_lambda",
    "MLPClassifier": "alpha",
    "RidgeClassifier": "alpha",
    "SGDClassifier": "alpha",
    "XGBClassifier": "reg_lambda",
}
# C weighs the loss against the penalty: the other way round.
_INVERSE = ("LinearSVC", "LogisticRegression", "SVC")


@defence(
    id="weight_decay",
    paper="Shokri et al., S&P 2017, section VIII (regularisation)",
    on="torch modules; linear models, perceptrons, boosting of scikit-learn, LightGBM, XGBoost",
)
class WeightDecay(TrainingDefence):
    """An L2 penalty on the weights. `decay` is the number that the optimiser or the estimator itself takes.

    torch: the optimiser's weight_decay. MLP, Ridge, SGD: alpha. Boosting: the penalty on the values of the leaves.
    LogisticRegression, LinearSVC, SVC: C = 1 / decay; their penalty weighs against the sum of the losses.
    """

    decay: float = Field(gt=0, allow_inf_nan=False, description="strength; each library counts it in its own way")

    @classmethod
    def suggestions(cls, estimator: str, training: TorchTraining | None) -> Sequence[Mapping[str, Any]]:
        """One strength that is usual for modules."""
        return [{"decay": 1e-2}] if training is not None else ()

    def parameters(self, estimator: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """The estimator's own penalty, set to `decay`."""
        if estimator not in _ALPHA and estimator not in _INVERSE:
            raise self.misfit(estimator)
        # A penalty of another kind, or none, would take the number and do nothing of the sort.
        if params.get("penalty", "l2") not in ("l2", "elasticnet", "deprecated") or params.get("l1_ratio") == 1:
            raise UsageError(
                f"weight_decay: this {estimator} has the penalty {params.get('penalty')!r}, not an L2 one",
                "train the model with penalty l2, or choose another defence",
            )
        return {_ALPHA[estimator]: self.decay} if estimator in _ALPHA else {"C": 1 / self.decay}

    def training(self, training: TorchTraining) -> TorchTraining:
        """`weight_decay` set to decay, whatever it was."""
        return training.model_copy(update={"weight_decay": self.decay})
