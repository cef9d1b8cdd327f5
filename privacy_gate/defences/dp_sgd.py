"""Gradients that are clipped record by record and blurred."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, model_validator

from privacy_gate.defences import Loop, TrainingDefence, defence
from privacy_gate.errors import RecipeFailed
from privacy_gate.request import TorchTraining

if TYPE_CHECKING:
    import torch

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@defence(
    id="dp_sgd",
    paper="Abadi et al., CCS 2016, algorithm 1; accountant: Mironov et al., 2019 (arXiv 1908.10530)",
    on="torch modules without batch normalisation; needs opacus (pip install 'privacy-gate[dp]')",
)
class DpSgd(TrainingDefence):
    """Each record's gradient is clipped and noise added: (epsilon, delta) differential privacy towards each record.

    `training.batch_size` is the expected size: each record joins a batch by itself (Poisson sampling). Set the noise,
    or the epsilon that all epochs together may spend. The guarantee is that of the procedure: it covers neither
    settings that were tuned on the same records nor an epoch that was chosen by looking at some of them.
    """

    package: ClassVar[str] = "opacus"
    extra: ClassVar[str] = "dp"
    # The attacker of the other one hands what it learnt from some records to the gradients of others.
    conflicts: ClassVar[tuple[str, ...]] = ("adversarial_regularisation",)

    noise_multiplier: _Positive | None = Field(None, description="standard deviation of the noise per max_grad_norm")
    target_epsilon: _Positive | None = Field(None, description="spent after all epochs, at most; sets the noise")
    delta: float = Field(1e-5, gt=0, lt=1, description="probability that the guarantee fails; below 1 / records")
    max_grad_norm: _Positive = Field(1.0, description="L2 norm to which a record's gradient is clipped")

    @model_validator(mode="after")
    def _one_way(self) -> DpSgd:
        if not self.in_recipe and (self.noise_multiplier is None) == (self.target_epsilon is None):
            raise ValueError("set one of noise_multiplier and target_epsilon")
        return self

    def noise(self, records: int, training: TorchTraining) -> float:
        """The noise multiplier: as set, or the smallest that keeps to target_epsilon."""
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        found: float = importlib.import_module("opacus.accountants.utils").get_noise_multiplier(
            target_epsilon=self.target_epsilon,
            target_delta=self.delta,
            sample_rate=_rate(records, training),
            steps=_steps(records, training) * training.epochs,
            accountant="rdp",
        )
        return found

    def spent(self, records: int, training: TorchTraining) -> float:
        """Epsilon at `delta` that training on so many records for all epochs spends (Renyi accountant)."""
        accountant = importlib.import_module("opacus.accountants").create_accountant("rdp")
        steps = _steps(records, training) * training.epochs
        accountant.history = [(self.noise(records, training), _rate(records, training), steps)]
        return float(accountant.get_epsilon(self.delta))

    def loop(self, loop: Loop) -> Loop:
        """Poisson batches, gradients per record, a step that clips and adds noise."""
        import torch

        opacus = importlib.import_module("opacus")
        validator = importlib.import_module("opacus.validators").ModuleValidator
        if problems := validator.validate(loop.module, strict=False):
            raise RecipeFailed(
                f"dp_sgd: {str(problems[0]).partition('. ')[0]}",
                "use layers that treat each record by itself, such as GroupNorm in place of BatchNorm",
            )
        n = len(loop.x)
        draws = torch.Generator().manual_seed(loop.seed_of("dp_sgd"))
        module = opacus.GradSampleModule(loop.module)
        optimizer = importlib.import_module("opacus.optimizers").DPOptimizer(
            loop.optimizer,
            noise_multiplier=self.noise(n, loop.training),
            max_grad_norm=self.max_grad_norm,
            expected_batch_size=min(n, loop.training.batch_size),
            generator=torch.Generator().manual_seed(loop.seed_of("noise")),
        )
        rate, steps = _rate(n, loop.training), _steps(n, loop.training)

        def batches(rows: int) -> Iterator[torch.Tensor]:
            yield from ((torch.rand(rows, generator=draws) < rate).nonzero().squeeze(1) for _ in range(steps))

        def finish() -> None:
            module.to_standard_module()

        made: dict[str, Any] = {"module": module, "optimizer": optimizer, "batches": batches}
        return replace(loop, **made, finish=(*loop.finish, finish))


def _rate(records: int, training: TorchTraining) -> float:
    """The chance of a record to be in a batch."""
    return min(1.0, training.batch_size / records)


def _steps(records: int, training: TorchTraining) -> int:
    """Of one epoch."""
    return math.ceil(records / training.batch_size)
