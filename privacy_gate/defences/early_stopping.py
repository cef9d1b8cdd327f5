"""Stopping before the model knows its records by heart."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, model_validator

from privacy_gate.defences import Loop, TrainingDefence, defence
from privacy_gate.errors import RecipeFailed, UsageError
from privacy_gate.request import TorchTraining

# What the estimators call a round or an epoch.
_ROUNDS = {
    "AdaBoostClassifier": "n_estimators",
    "GradientBoostingClassifier": "n_estimators",
    "HistGradientBoostingClassifier": "max_iter",
    "LGBMClassifier": "n_estimators",
    "MLPClassifier": "max_iter",
    "SGDClassifier": "max_iter",
    "XGBClassifier": "n_estimators",
}
_BOOSTED = frozenset({"AdaBoostClassifier", "LGBMClassifier", "XGBClassifier"})
# Those that can hold records back and watch them; the others need the records handed to them.
_WATCH: dict[str, Mapping[str, Any]] = {
    "GradientBoostingClassifier": {},
    "HistGradientBoostingClassifier": {"early_stopping": True},
    "MLPClassifier": {"early_stopping": True},
    "SGDClassifier": {"early_stopping": True},
}


@defence(
    id="early_stopping",
    paper="Song & Mittal, USENIX Security 2021, section 4.2.2 (as a baseline for every other defence)",
    on="torch modules, boosting, perceptrons and SGD of scikit-learn, LightGBM, XGBoost",
)
class EarlyStopping(TrainingDefence):
    """Fewer epochs or rounds: a fixed number, or until held-out training records see no improvement.

    With `patience` a torch module goes back to its best epoch; an estimator does what its library does. A schedule of
    learning rates runs as if the training went on. Records held back are chosen by the shadow's seed.
    """

    epochs: Annotated[int, Field(ge=1)] | None = Field(None, description="epochs or boosting rounds, then stop")
    patience: Annotated[int, Field(ge=1)] | None = Field(
        None, description="stop after so many epochs or rounds without a better loss on the records held back"
    )
    fraction: float = Field(0.1, gt=0, lt=1, description="share of the training records held back for `patience`")

    @model_validator(mode="after")
    def _one_way(self) -> EarlyStopping:
        if not self.in_recipe and (self.epochs is None) == (self.patience is None):
            raise ValueError("set one of epochs and patience")
        return self

    @classmethod
    def suggestions(cls, estimator: str, training: TorchTraining | None) -> Sequence[Mapping[str, Any]]:
        """A half, a quarter, a tenth of the epochs; for boosting a few rounds."""
        if training is not None:
            return [{"epochs": n} for n in sorted({max(1, training.epochs // part) for part in (2, 4, 10)})]
        return [{"epochs": n} for n in (10, 30)] if "Boosting" in estimator or estimator in _BOOSTED else ()

    def parameters(self, estimator: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """A lower cap on the rounds, or the estimator's own early stopping."""
        if self.epochs is not None and estimator in _ROUNDS:
            name = _ROUNDS[estimator]
            self._must_be_fewer(params.get(name), f"{estimator}'s {name}")
            return {name: self.epochs}
        if self.patience is not None and estimator in _WATCH:
            return {**_WATCH[estimator], "n_iter_no_change": self.patience, "validation_fraction": self.fraction}
        if self.patience is not None and estimator in _ROUNDS:
            raise UsageError(
                f"early_stopping: a {estimator} cannot hold records back by itself",
                "set epochs instead of patience, or stop in your own recipe and say `in_recipe: true`",
            )
        raise self.misfit(estimator)

    def training(self, training: TorchTraining) -> TorchTraining:
        """As it is: the number of epochs also sets the pace of a schedule."""
        self._must_be_fewer(training.epochs, "shadows.recipe.training.epochs")
        return training

    def loop(self, loop: Loop) -> Loop:
        """Ends after `epochs`, or after `patience` epochs without improvement, and then at the best one."""
        if (epochs := self.epochs) is not None:
            return replace(loop, after=(*loop.after, lambda done: done >= epochs))
        return self._patient(loop, self.patience or 1)

    def _must_be_fewer(self, rounds: Any, what: str) -> None:
        if self.epochs is not None and isinstance(rounds, int) and self.epochs > rounds:
            raise UsageError(
                f"early_stopping.epochs {self.epochs} is more than {what}, which is {rounds}: it stops nothing",
                "set a smaller number, or remove the defence",
            )

    def _patient(self, loop: Loop, patience: int) -> Loop:
        import torch

        n = len(loop.x)
        held = max(1, round(self.fraction * n))
        if n - held < 2:
            raise RecipeFailed(
                f"early_stopping: {held} of {n} training records held back leave too few to train on",
                "lower fraction, or set epochs instead of patience",
            )
        rows = torch.randperm(n, generator=torch.Generator().manual_seed(loop.seed_of("early_stopping")))
        x, y = loop.x[rows[:held]], loop.y[rows[:held]]
        best: dict[str, Any] = {"loss": float("inf"), "epoch": 0, "state": None}

        def after(done: int) -> bool:
            loop.module.eval()
            with torch.no_grad():
                value = float(loop.loss(loop.module(x), y))
            loop.module.train()
            if value < best["loss"]:
                best.update(loss=value, epoch=done, state=copy.deepcopy(loop.module.state_dict()))
            return done - int(best["epoch"]) >= patience

        def finish() -> None:
            if best["state"] is not None:
                loop.module.load_state_dict(best["state"])

        kept = rows[held:].sort().values
        return replace(loop, x=loop.x[kept], y=loop.y[kept], after=(*loop.after, after), finish=(finish, *loop.finish))
