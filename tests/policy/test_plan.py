"""What can be decided is said before anything is trained, and with the published sample sizes."""

import math

import pytest

from privacy_gate.policy import CATALOG, decidability, resolve
from privacy_gate.policy.contract import Effort, LimitSettings
from privacy_gate.policy.plan import limit_text


def answers(profile, members, nonmembers):
    return {
        id: (decidable, sentence) for id, decidable, sentence in decidability(resolve(profile), members, nonmembers)
    }


@pytest.mark.parametrize(
    ("gap", "power", "alpha", "records"),
    [  # n = ((z_a + z_b) / distance)^2 / 8, rounded to whole records
        (0.05, 0.8, 0.05, 310),
        (0.05, 0.9, 0.05, 429),
        (0.05, 0.95, 0.05, 542),
        (0.05, 0.8, 0.05 / 8, 558),
        (0.03, 0.8, 0.05, 859),
        (0.02, 0.8, 0.05, 1933),
    ],
)
def test_published_sample_sizes(gap, power, alpha, records):
    needed = CATALOG["PG101"].needed(LimitSettings(max=0.5 + gap), Effort(None, alpha, power, 1, 1))
    assert abs(needed["members"] - records) <= 1
    assert needed["members"] == needed["nonmembers"]


def test_auc_at_chance_needs_its_null_variance():
    # Var = 1/(6 n) at chance, so n = (z/.05)^2 / 6, plus the record for the smaller term.
    needed = CATALOG["PG102"].needed(LimitSettings(max=0.55), Effort(None, 0.05, 0.8, 1, 1))
    assert needed["members"] == pytest.approx((2.4865 / 0.05) ** 2 / 6 + 1, abs=1)


def test_few_records_cannot_decide_low_false_positive_rates():
    standard = answers("standard", 1000, 1000)
    assert standard["PG101"][0]
    assert standard["PG103"][0]
    assert not standard["PG104"][0]
    assert "cannot pass with 1,000 and 1,000, even if no attack beats guessing" in standard["PG104"][1]
    assert (
        "PG101 attack accuracy ≤ 60 %: can pass if no attack beats guessing (about 78 members" in standard["PG101"][1]
    )
    assert answers("standard", 5000, 5000)["PG104"][0]


def test_strict_needs_more_than_standard():
    strict, standard = answers("strict", 2000, 2000), answers("standard", 2000, 2000)
    assert sum(decidable for decidable, _ in strict.values()) < sum(decidable for decidable, _ in standard.values())


def test_what_was_asked_for_is_enough():
    for profile in ("strict", "standard", "internal"):
        policy = resolve(profile)
        for rule in policy.rules:
            foresee = CATALOG[rule.id].needed
            needed = foresee(rule.settings, Effort(None, 0.05, 0.8, 100, 100)) if foresee else {}
            if needed and rule.settings.action != "off":
                again = {id: decidable for id, decidable, _ in decidability(policy, *needed.values())}
                assert again[rule.id]


def test_a_limit_at_chance_is_never_proven():
    needed = CATALOG["PG101"].needed(LimitSettings(max=0.5), Effort(None, 0.05, 0.8, 100, 100))
    assert needed == {}
    assert CATALOG["PG103"].needed(LimitSettings(max=0.01), Effort(None, 0.05, 0.8, 100, 100)) == {}


def test_rules_without_a_limit_are_left_out():
    assert "PG501" not in answers("standard", 100, 100)


def test_rules_of_which_nobody_can_say_beforehand_are_left_out():
    assert not {"PG202", "PG203", "PG204", "PG401"} & set(answers("standard", 100, 100))


def test_what_proves_a_violation_at_a_low_rate_is_said_beside_what_passes():
    # (1 - fpr)^n <= alpha / 2: 368 non-members for 1 %, 3,688 for 0.1 %; 586 of them for ten hypotheses at 1 %.
    few = answers("standard", 1000, 500)
    assert few["PG103"][1].endswith("; can prove a violation (about 368 non-members needed)")
    assert few["PG104"][1].endswith("; cannot prove a violation (about 3,688 non-members needed)")
    assert "violation" not in few["PG101"][1]
    ten = {id: sentence for id, _, sentence in decidability(resolve("standard"), 1000, 500, hypotheses=10)}
    needed = math.ceil(math.log(0.005 / 2) / math.log1p(-0.01))
    assert ten["PG103"].endswith(f"; cannot prove a violation (about {needed} non-members needed)")


def test_limits_are_written_in_the_rules_unit():
    assert limit_text(0.05, "percent") == "5 %"
    assert limit_text(0.58, "percent") == "58 %"
    assert limit_text(0.6, "number") == "0.60"
    assert limit_text(0.655, "number") == "0.655"
    assert limit_text(100, "persons") == "100"
    assert limit_text(1500, "persons") == "1,500"
