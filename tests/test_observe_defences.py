"""What attackers see of a defended model: adaptive means that the shadows went through the same."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.datamodel import AttackResult, Audit, Bools, Floats, Outputs, ShadowPlan
from privacy_gate.defences import configure
from privacy_gate.errors import NotEvaluable
from privacy_gate.measure import View, measure
from privacy_gate.observe import Answers, from_shadows, observe
from privacy_gate.signals import collect
from tests.worlds import Models, gaussian_models

ATTACK = ["modified_entropy"]
SMALL: dict[str, Any] = {"hidden": [8], "iterations": 60, "c3": [0.1, 1.0]}
SHADOWS, RESERVE = 4, 150


def world(leak: float = 3.0) -> tuple[Answers, Audit, Models]:
    """300 audited records, half of them members, four shadows, and 150 records of the defence's own."""
    models = gaussian_models(150, 150, 4, leak, SHADOWS, seed=1)
    audit = Audit(models.member, models.labels, models.persons, tuple("abcd"))
    plan = ShadowPlan("balanced", models.shadow_member, np.ones(300, dtype=bool), np.arange(SHADOWS), 150)
    answers = from_shadows(
        Outputs(models.target, "logits"), [Outputs(z.copy(), "logits") for z in models.shadows], plan, models.labels
    )
    rng = np.random.default_rng(2)
    beside = [Outputs(rng.normal(size=(RESERVE, 4)) * 1.5, "logits") for _ in range(1 + SHADOWS)]
    return replace(answers, beside=beside[0], beside_shadows=tuple(beside[1:])), audit, models


def views(answers: Answers, audit: Audit, seed: int = 0, **defences: dict[str, Any]) -> tuple[View, ...]:
    return observe(answers, audit, ATTACK, configure(defences), seed).views


def confidence(view: View, of: str = "target") -> Floats:
    """[R], or [S, R]."""
    return view.seen.target["logit_confidence"] if of == "target" else view.seen.references["logit_confidence"]


def test_each_shadow_has_a_memguard_of_its_own_fitted_to_its_own_members():
    answers, audit, models = world()
    fits: list[tuple[Outputs, Bools, int]] = []
    settings = configure({"memguard": SMALL})
    item = settings.items[0][1]

    class Watched:
        def fitted(self, known: Outputs, member: Bools, seed: int) -> Any:
            fits.append((known, member, seed))
            return item.fitted(known, member, seed)

    adaptive, naive = observe(answers, audit, ATTACK, replace(settings, items=(("memguard", Watched()),))).views
    assert len(fits) == 1 + SHADOWS
    assert len({seed for _, _, seed in fits}) == 1 + SHADOWS
    inside = [models.target[models.member], *(z[m] for z, m in zip(models.shadows, models.shadow_member, strict=True))]
    reserves = [answers.beside, *answers.beside_shadows]
    for (known, member, _), mine, reserve in zip(fits, inside, reserves, strict=True):
        assert reserve is not None
        np.testing.assert_array_equal(known.values[member], mine)
        np.testing.assert_array_equal(known.values[~member], reserve.values)
    # The adaptive attacker's shadows answer as these do; the other one's as they were trained.
    for s, (known, member, seed) in enumerate(fits[1:]):
        outputs = answers.shadows[s]
        for view, seen in ((adaptive, item.fitted(known, member, seed)(outputs)), (naive, outputs)):
            expected = collect(seen, audit.labels, ["logit_confidence"])["logit_confidence"]
            np.testing.assert_allclose(confidence(view, "shadows")[s], expected, rtol=1e-9)
            assert view.pool is not None
            assert view.pool.answered_by is not None
            pooled = view.pool.target["logit_confidence"][view.pool.answered_by == s]
            np.testing.assert_allclose(pooled, expected, rtol=1e-9)
    np.testing.assert_array_equal(confidence(adaptive), confidence(naive))
    assert (adaptive.adaptive, naive.adaptive) == (True, False)


def test_the_defence_s_own_records_are_judged_by_nobody():
    answers, audit, _ = world()
    for view in views(answers, audit, memguard=SMALL):
        assert view.seen.n == 300
        assert view.pool is not None
        assert view.pool.n == 300 * SHADOWS


def test_the_same_run_gives_the_same_views_and_another_seed_others():
    answers, audit, _ = world()
    one, two, other = (views(answers, audit, seed, output_noise={"scale": 1.0, "queries": 16})[0] for seed in (0, 0, 1))
    for of in ("target", "shadows"):
        np.testing.assert_array_equal(confidence(one, of), confidence(two, of))
        assert (confidence(one, of) != confidence(other, of)).all()


@pytest.mark.parametrize("missing", ["beside", "beside_shadows"])
def test_without_reference_records_nothing_is_fitted(missing):
    answers, audit, _ = world()
    with pytest.raises(NotEvaluable, match="neither members nor non-members") as error:
        views(replace(answers, **{missing: None if missing == "beside" else ()}), audit, memguard=SMALL)
    assert "data.seen" in error.value.hint


def test_a_candidate_that_answers_through_it_already_is_not_guarded_twice():
    answers, audit, _ = world()
    adaptive, naive = views(answers, audit, memguard={**SMALL, "in_model": True})
    (bare,) = views(answers, audit)
    np.testing.assert_array_equal(confidence(adaptive), confidence(bare))
    np.testing.assert_array_equal(confidence(naive, "shadows"), confidence(bare, "shadows"))
    assert (confidence(adaptive, "shadows") != confidence(bare, "shadows")).mean() > 0.3
    # So its own answers on the reference records are not needed.
    views(replace(answers, beside=None), audit, memguard={**SMALL, "in_model": True})


def test_answers_of_few_values_get_other_noise_from_every_model():
    """Else the shadows would tell what the noise does to each value, and it would hide nothing."""
    _, audit, models = world()
    same = Outputs(np.round(models.target), "logits")
    same_everywhere = from_shadows(
        same,
        [same] * SHADOWS,
        ShadowPlan("balanced", models.shadow_member, np.ones(300, dtype=bool), np.arange(SHADOWS), 150),
        models.labels,
    )
    (adaptive, _) = views(same_everywhere, audit, output_noise={"scale": 1.0, "one_time": True})
    seen = np.vstack([confidence(adaptive)[None], confidence(adaptive, "shadows")])
    assert min(np.abs(a - b).min() for i, a in enumerate(seen) for b in seen[:i]) > 0


def accuracy(view: View, audit: Audit) -> float:
    results = [r for r in measure(ATTACKS["modified_entropy"], view, audit, 0) if isinstance(r, AttackResult)]
    return max(float(r.accuracy.value) for r in results)


def test_noise_that_is_drawn_anew_hides_less_than_noise_that_stays():
    """Who may ask without limit averages it away; without noise the leak of 5 is seen best."""
    answers, audit, _ = world(leak=5.0)
    once, again = (
        accuracy(views(answers, audit, output_noise={"scale": 6.0, "one_time": kind})[0], audit)
        for kind in (True, False)
    )
    (bare,) = views(answers, audit)
    assert once + 0.05 < again <= accuracy(bare, audit) + 0.02


def test_knowing_of_the_defence_tells_more():
    """Thresholds of undefended shadows do not fit a target that is guarded; those of guarded ones do."""
    answers, audit, _ = world()
    adaptive, naive = views(answers, audit, output_coarsening={"temperature": 8.0})
    assert accuracy(naive, audit) + 0.1 < accuracy(adaptive, audit)
