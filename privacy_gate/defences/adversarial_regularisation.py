"""Training against an attacker that is trained along."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from privacy_gate.defences import Loop, TrainingDefence, defence
from privacy_gate.errors import UsageError

if TYPE_CHECKING:
    import torch


@defence(
    id="adversarial_regularisation",
    paper="Nasr, Shokri & Houmansadr, CCS 2018, equation 3 and algorithm 1",
    on="torch modules",
    reference=True,
)
class AdversarialRegularisation(TrainingDefence):
    """The loss gets a term for what a membership attacker, trained in turns with the model, learns from its answers.

    The attacker I reads a probability vector and the label as one-hot. Its step maximises E[log I] / 2 over a batch of
    training records plus E[log(1 - I)] / 2 over as many reference records; the model's step minimises its loss
    + strength * E[log I]. With `gain: probability` it is + strength * E[I], which has a floor: log I has none, and a
    model that is too busy fooling the attacker stops learning its task. The attacker is asked as a caller would ask,
    in evaluation mode. The reference records are the defence's own (`data.seen`): the model is trained against them,
    so they are no non-members.
    """

    strength: float = Field(gt=0, allow_inf_nan=False, description="weight of the attacker's gain in the loss (lambda)")
    hidden: tuple[Annotated[int, Field(ge=1, le=8192)], ...] = Field(
        (256, 64), min_length=1, description="hidden layers of the attacker's network"
    )
    learning_rate: float = Field(1e-3, gt=0, allow_inf_nan=False, description="of the attacker, with Adam")
    gain: Literal["log", "probability"] = Field(
        "log", description="what of the attacker's belief in membership is held down: equation 3, or the belief itself"
    )
    steps: int = Field(1, ge=1, le=1000, description="steps of the attacker before each step of the model")

    def loop(self, loop: Loop) -> Loop:
        """Attacker's steps before each step of the model, and the penalty."""
        import torch
        from torch.nn import functional

        if loop.reference is None or len(loop.reference[0]) == 0:
            raise UsageError(
                "adversarial_regularisation needs reference records of its own",
                "name records that the model was not trained on under data.seen; they are then never non-members",
            )
        x_other, y_other = loop.reference
        draws = torch.Generator().manual_seed(loop.seed_of("adversarial_regularisation"))
        attacker = self._attacker(_answers(loop.module, loop.x[:2]).shape[1], loop.seed_of("attacker"))
        optimizer = torch.optim.Adam(attacker.parameters(), lr=self.learning_rate, fused=True)

        def logit(p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            one_hot = functional.one_hot(y, p.shape[1]).to(p.dtype)
            return attacker(torch.cat([p, one_hot], dim=1)).squeeze(1)  # type: ignore[no-any-return]

        def attack(rows: torch.Tensor) -> None:
            for _ in range(self.steps):
                others = torch.randint(len(x_other), (len(rows),), generator=draws)
                inside = _answers(loop.module, loop.x[rows]), loop.y[rows]
                outside = _answers(loop.module, x_other[others]), y_other[others]
                optimizer.zero_grad(set_to_none=True)
                gain = functional.logsigmoid(logit(*inside)).mean() + functional.logsigmoid(-logit(*outside)).mean()
                (-gain / 2).backward()  # type: ignore[no-untyped-call]
                optimizer.step()

        def penalty(answers: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            belief = functional.logsigmoid if self.gain == "log" else torch.sigmoid
            return self.strength * belief(logit(probabilities(answers), y)).mean()

        return replace(loop, before=(*loop.before, attack), penalties=(*loop.penalties, penalty))

    def _attacker(self, classes: int, seed: int) -> torch.nn.Sequential:
        import torch

        widths = (2 * classes, *self.hidden)
        layers: list[torch.nn.Module] = []
        # Its weights come from a seed of their own; the model's dropout goes on as if there were no attacker.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for width, following in zip(widths, self.hidden, strict=False):
                layers += [torch.nn.Linear(width, following), torch.nn.ReLU()]
            layers.append(torch.nn.Linear(widths[-1], 1))
        return torch.nn.Sequential(*layers)


def probabilities(answers: torch.Tensor) -> torch.Tensor:
    """[n, K] of logits or log-probabilities; one column of logits means two classes."""
    import torch

    if answers.ndim == 1 or answers.shape[1] == 1:
        p = torch.sigmoid(answers.reshape(-1))
        return torch.stack([1 - p, p], dim=1)
    return torch.softmax(answers, dim=1)


def _answers(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """[n, K] what a caller sees: no dropout, and nothing that batch normalisation would learn from the asking."""
    import torch

    training = module.training
    module.eval()
    with torch.no_grad():
        p = probabilities(module(x))
    module.train(training)
    return p
