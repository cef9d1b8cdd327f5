"""Where the stages of the early-stopping benchmark come from, without registry: what is asked and what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from privacy_gate import comparison
from privacy_gate.comparison import MOST_STAGES, thinned
from privacy_gate.datamodel import Outputs, Role
from privacy_gate.defences import configure
from privacy_gate.errors import ModelOutputUnusable, NotEvaluable, RecipeFailed
from privacy_gate.request import CheckRequest, Config
from privacy_gate.sandbox.outputs import Form
from privacy_gate.sandbox.runtime import HERE

RNG = np.random.default_rng(0)
AUDITED, ALL, CLASSES = 40, 60, ("cat", "dog", "elk")
FEATURES = RNG.normal(size=(ALL, 4))
MEMBER = np.arange(ALL) < 20


def answers(rows: Any, step: int) -> Any:
    """[n, 3] what a model of `step` rounds says of these records: it depends on the record, not on its place."""
    x = step * np.asarray(rows)[:, :3]
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


TARGET = Outputs(answers(FEATURES[:AUDITED], 3), "probabilities")


class Records(SimpleNamespace):
    def role_mask(self, role: Role) -> Any:
        other = (np.arange(ALL) >= 20) & (np.arange(ALL) < AUDITED)
        return {Role.MEMBERS: MEMBER, Role.NONMEMBERS: other}.get(role, np.zeros(ALL, bool))


def prepared(**changes: Any) -> Any:
    dataset = Records(features=FEATURES, audited=AUDITED, members=20, train_size=20)
    known = {
        "candidate": "c",
        "target": TARGET,
        "form": Form(TARGET.kind),
        "runtime": HERE,
        "classes": CLASSES,
        "dataset": dataset,
        "stops": (),
    }
    if "target" in changes:
        known["form"] = Form(changes["target"].kind)
    return SimpleNamespace(**{**known, "defences": configure({}), **changes})


@pytest.fixture
def request_(tmp_path: Path) -> CheckRequest:
    data = {"members": "m.csv", "nonmembers": "n.csv"}
    return CheckRequest(config=Config.model_validate({"data": data}), store=tmp_path / "store")


# --- which stages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, MOST_STAGES, MOST_STAGES + 1, 30, 100, 5000])
def test_a_frontier_has_few_stops_the_first_ones_and_always_the_last(count: int) -> None:
    chosen = thinned(count)
    assert chosen == sorted(set(chosen))
    assert (chosen[0], chosen[-1]) == (0, count - 1)
    assert len(chosen) <= MOST_STAGES
    if count <= MOST_STAGES:
        assert chosen == list(range(count))
    else:
        assert chosen[:3] == [0, 1, 2]
        # Each stop is followed by one at `ratio` as many epochs, up to rounding: none is skipped where a model learns.
        ratio = count ** (1 / (MOST_STAGES - 1))
        assert all(later + 1 <= ratio * (first + 1) + 1 for first, later in pairwise(chosen))


def test_the_retrained_model_learns_the_candidates_own_records_and_asks_about_the_others() -> None:
    plan = comparison._alone(prepared(), 7)
    assert (plan.member == MEMBER).all()
    assert plan.member.shape == (1, ALL)
    assert (plan.pool == (np.arange(ALL) < AUDITED)).all()
    assert plan.train_size == 20
    # Its seed is no shadow's: neither of this run nor of one with another seed nearby.
    from privacy_gate.shadows.plan import shadow_seeds

    assert not set(plan.seeds.tolist()) & {int(s) for seed in range(20) for s in shadow_seeds(seed, 1024)}


def test_what_a_reader_must_know_of_the_stages() -> None:
    assert comparison._incomplete("retraining", prepared()) == []
    sample = prepared(dataset=Records(members=20, train_size=500))
    (note,) = comparison._incomplete("retraining", sample)
    assert "20 members" in note
    assert "500" in note
    assert comparison._incomplete("checkpoints", sample) == []
    trained = prepared(defences=configure({"weight_decay": {"decay": 0.01}, "output_coarsening": {"decimals": 1}}))
    (note,) = comparison._incomplete("staged", trained)
    assert note.endswith("trained with weight_decay")


# --- the candidate's own rounds ---------------------------------------------------------------------------------------


def rounds(monkeypatch: pytest.MonkeyPatch, *, last: int = 3) -> list[Any]:
    asked: list[Any] = []

    def staged(candidate: Any, features: Any, work: Path, **options: Any) -> Any:
        asked.append((candidate, features, options))
        outputs = tuple(Outputs(answers(features, step), "probabilities") for step in (1, 2, last))
        return SimpleNamespace(total=3, steps=(1, 2, 3), outputs=outputs)

    monkeypatch.setattr(comparison, "staged", staged)
    return asked


def test_rounds_come_back_in_the_order_of_the_records(
    request_: CheckRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = rounds(monkeypatch)
    stages = comparison._staged(request_, prepared(), tmp_path)
    assert [stage.name for stage in stages] == ["round 1 of 3", "round 2 of 3", "round 3 of 3"]
    for step, stage in enumerate(stages, start=1):
        np.testing.assert_array_equal(stage.outputs.values, answers(FEATURES[:AUDITED], step))
    ((candidate, features, options),) = asked
    assert (candidate, options["form"].kind, options["classes"]) == ("c", "probabilities", 3)
    # The model is asked about the audited records only, and not about the members first.
    assert sorted(map(tuple, features)) == sorted(map(tuple, FEATURES[:AUDITED]))
    assert not (features == FEATURES[:AUDITED]).all()


def test_rounds_of_another_model_than_the_candidate_are_refused(
    request_: CheckRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rounds(monkeypatch, last=4)
    with pytest.raises(NotEvaluable, match="answers otherwise"):
        comparison._staged(request_, prepared(), tmp_path)
    rounds(monkeypatch)
    as_logits = replace(TARGET, kind="logits")
    with pytest.raises(NotEvaluable, match="answers otherwise"):
        comparison._staged(request_, prepared(target=as_logits), tmp_path)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def checkpoints(monkeypatch: pytest.MonkeyPatch, **answered: Any) -> Any:
    """Models by name: (their classes, features -> what they say, or the error that they raise)."""

    def examine(model: str, features: Any, work: Path, **options: Any) -> Any:
        assert options["form"].kind == TARGET.kind
        classes, says = answered[model]
        if isinstance(says, Exception):
            raise says
        return SimpleNamespace(classes=classes), SimpleNamespace(outputs=Outputs(says(features), "probabilities"))

    monkeypatch.setattr(comparison, "examine", examine)
    return prepared(stops=tuple((f"models:/m/{name}", name) for name in answered))


def test_checkpoints_in_the_candidates_order_of_classes_and_records(
    request_: CheckRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ready = checkpoints(
        monkeypatch,
        same=(CLASSES, lambda x: answers(x, 1)),
        silent=(None, lambda x: answers(x, 1)),
        turned=(CLASSES[::-1], lambda x: answers(x, 1)[:, ::-1]),
        fewer=(("dog", "elk"), lambda x: np.full((len(x), 2), 0.5)),
        flat=(CLASSES, NotEvaluable("the same answer to all")),
    )
    stages = comparison._checkpoints(request_, ready, tmp_path)
    assert [stage.name for stage in stages] == [f"models:/m/{n}" for n in ("same", "silent", "turned", "fewer", "flat")]
    for stage in stages[:3]:
        np.testing.assert_array_equal(stage.outputs.values, answers(FEATURES[:AUDITED], 1))
    assert (stages[3].outputs.values == [0, 0.5, 0.5]).all()  # a class that it has not met yet
    assert np.ptp(stages[4].outputs.values) == 0  # `frontier` leaves it out, and says so


@pytest.mark.parametrize(
    ("classes", "says", "error", "told"),
    [
        (("cat", "dog", "fox"), lambda x: answers(x, 1), ModelOutputUnusable, "'fox'"),
        (None, lambda x: np.full((len(x), 2), 0.5), ModelOutputUnusable, "2 columns, expected 3"),
        (CLASSES, RecipeFailed("broken", "mend it"), RecipeFailed, "broken"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named(
    request_: CheckRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    classes: Any,
    says: Any,
    error: Any,
    told: str,
) -> None:
    ready = checkpoints(monkeypatch, good=(CLASSES, lambda x: answers(x, 1)), bad=(classes, says))
    with pytest.raises(error, match=f"the checkpoint models:/m/bad: .*{told}"):
        comparison._checkpoints(request_, ready, tmp_path)


def test_probabilities_are_not_taken_for_logits(
    request_: CheckRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    logits = Outputs(FEATURES[:AUDITED, :3], "logits")

    def examine(model: str, features: Any, work: Path, **options: Any) -> Any:
        outputs = Outputs(answers(features, 1), options["form"].kind)
        return SimpleNamespace(classes=None), SimpleNamespace(outputs=outputs)

    monkeypatch.setattr(comparison, "examine", examine)
    ready = prepared(target=logits, stops=(("models:/m/1", "m"),))
    with pytest.raises(NotEvaluable, match="models:/m/1 answers with probabilities"):
        comparison._checkpoints(request_, ready, tmp_path)


# --- what cannot be had -----------------------------------------------------------------------------------------------


def test_a_benchmark_that_fails_is_a_warning_with_its_mend(
    request_: CheckRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    warned: list[str] = []
    parts: Any = SimpleNamespace(warn=warned.append, seed=0)
    watch: Any = SimpleNamespace(stage=lambda text: None)
    nothing: Any = None

    def run(asked: Any) -> Any:
        assert request_.config is not None
        config = request_.config.model_copy(update={"frontier": asked})
        asking = request_.model_copy(update={"config": config})
        return comparison.benchmark(asking, prepared(), nothing, nothing, tmp_path, parts, watch)

    def broken(*_: Any) -> Any:
        raise NotEvaluable("no rounds", "retrain it")

    monkeypatch.setattr(comparison, "_stages", broken)
    assert run(None) is None
    assert warned == []
    assert run(SimpleNamespace(source="staged")) is None
    assert warned == ["the early-stopping benchmark could not be run: no rounds (retrain it)"]
