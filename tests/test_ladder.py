"""The ladder says of each kind of evidence what runs on it and what it can decide; nobody wrote that down by name."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.datamodel import (
    AttackResult,
    AttackSkipped,
    Audit,
    Finding,
    Invalidates,
    Outputs,
    RuleStatus,
    ShadowPlan,
    ThreatModel,
)
from privacy_gate.ladder import Facts, rungs, would_decide
from privacy_gate.measure import measure
from privacy_gate.observe import LABELS_ALONE, from_shadows, observe, of_labels
from privacy_gate.policy import decidability, resolve, suite
from privacy_gate.preview import table
from privacy_gate.signals import PROBES

TABULAR = dict.fromkeys(ATTACKS["augmentation"].requires, "copies of images")
SCORES = [
    name
    for name in sorted({"logit_confidence"}.union(*(ATTACKS[id].requires for id in suite("full"))))
    if not of_labels(name)
]
REFERENCE = {"lira", "rmia", "difficulty_calibration"}
LEARNT = {"shokri_nn", "salem_nn"}  # they have no other threat model than that of shadows


def facts(**changes):
    given = {
        "attacks": suite("full"),
        "policy": resolve("standard"),
        "members": 2000,
        "nonmembers": 2000,
        "records": (2000, 2000),
        "train_size": 2000,
        "absent": TABULAR,
        "unfit": frozenset(TABULAR),
    }
    return Facts(**{**given, **changes})


def by_id(**changes):
    return {rung.id: rung for rung in rungs(facts(**changes))}


LADDER = by_id()


def test_the_rungs_of_the_issue_are_there_and_the_chosen_one_is_marked():
    assert list(LADDER) == ["none", "folds", "versions", "heads", "4", "16", "64"]
    assert [rung.id for rung in LADDER.values() if rung.chosen] == ["16"]
    assert [rung.id for rung in rungs(facts(chosen=("shadows", 7))) if rung.chosen] == ["7"]
    assert [rung.id for rung in rungs(facts(chosen=("none", 0))) if rung.chosen] == ["none"]
    (folds,) = [rung for rung in rungs(facts(chosen=("folds", 10))) if rung.chosen]
    assert (folds.title, folds.shadows) == ("10 fold models", 10)


def test_what_runs_without_shadows_with_models_not_drawn_by_lot_and_with_shadows():
    everything = set(suite("full")) - {"augmentation"}
    assert set(LADDER["none"].runs) == everything - REFERENCE - LEARNT
    assert list(LADDER["none"].attacks) == [ThreatModel.KNOWN_SUBSET]
    for id in ("folds", "versions"):
        # Thresholds carry over; references and learning from these records do not.
        assert set(LADDER[id].runs) == set(LADDER["none"].runs)
        assert set(LADDER[id].attacks[ThreatModel.SHADOW]) == {"confidence", "entropy", "modified_entropy"}
        assert ThreatModel.REFERENCE not in LADDER[id].attacks
    for id in ("4", "16", "64"):
        assert set(LADDER[id].runs) == everything
        assert set(LADDER[id].attacks[ThreatModel.REFERENCE]) == REFERENCE


def test_a_pass_needs_references_and_a_failure_does_not():
    for id in ("none", "versions"):
        rung = LADDER[id]
        assert {"PG103", "PG104", "PG501"} == set(rung.leaves)
        assert not rung.decides
        assert {"PG101", "PG102", "PG201", "PG202"} <= set(rung.passes) & set(rung.fails)
        assert "PG103" in rung.fails
    assert LADDER["4"].decides
    assert not LADDER["4"].leaves


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_than_four_shadows_give_no_pass_by_references(count):
    rung = by_id(chosen=("shadows", count))[str(count)]
    # One shadow is a reference for nobody; two and three are, and a check says that they are too few.
    assert not {"PG103", "PG104", *(["PG101", "PG502"] if count > 1 else [])} & set(rung.passes)
    assert "PG101" in rung.fails
    assert not rung.decides


def test_five_folds_are_too_small_to_pass_and_twenty_are_not():
    assert not LADDER["folds"].passes or set(LADDER["folds"].passes) <= {"PG501"}
    assert "PG101" in LADDER["folds"].fails
    assert "PG101" in by_id(chosen=("folds", 20), by_lot=False, sizes=(1900,) * 20)["folds"].passes
    assert "PG101" not in by_id(chosen=("folds", 20), by_lot=False, sizes=(1500,) * 20)["folds"].passes


def test_strict_does_not_take_four_shadows():
    many = {"policy": resolve("strict"), "members": 20_000, "nonmembers": 20_000}
    strict = by_id(**many, records=(20_000, 20_000), train_size=20_000)
    assert "PG103" not in strict["4"].passes
    assert {"PG101", "PG103"} <= set(strict["16"].passes)
    # Of twenty times as many non-members most are in fewer than two of sixteen shadows.
    thin = by_id(**many, records=(1_000, 20_000), train_size=1_000)
    assert "PG103" not in thin["16"].passes


def test_too_few_records_are_too_few_on_every_rung():
    few = by_id(members=300, nonmembers=300, records=(300, 300))
    assert all("PG104" not in rung.passes for rung in few.values())
    assert "PG103" not in few["16"].fails


def test_proxies_fail_and_never_pass():
    proxies = by_id(proxy="a quicker recipe", chosen=("shadows", 8))
    assert proxies["proxies"].chosen
    assert not proxies["proxies"].passes or set(proxies["proxies"].passes) == {"PG501"}
    assert set(proxies["proxies"].fails) == set(proxies["16"].fails)
    assert "8" not in proxies
    heads = by_id(flavor="pytorch", chosen=("heads", 8), proxy="heads of a model that was trained as a whole")["heads"]
    assert heads.shadows == 8
    assert heads.proxy
    assert "PG101" not in heads.passes
    assert "PG101" in heads.fails
    assert "PG101" in by_id(flavor="pytorch", heads_own=True)["heads"].passes
    assert not by_id(flavor="sklearn")["heads"].attacks


def test_labels_alone_leave_the_attacks_on_labels():
    asked = {"logit_confidence", *(name for id in suite("full") for name in ATTACKS[id].requires)}
    scores = dict.fromkeys(asked - {"correctness", *PROBES.names()}, "labels alone")
    rung = by_id(absent={**TABULAR, **scores})["16"]
    assert "correctness" in rung.runs
    assert not REFERENCE & set(rung.runs)
    assert not {"PG103", "PG201", "PG501"} & set(rung.passes)


def test_a_model_that_breaks_under_an_attack_passes_on_no_rung():
    broken = by_id(absent={**TABULAR, "noise_robustness": "the probe failed"}, failed=frozenset({"noise_robustness"}))
    assert all("PG501" not in rung.passes for rung in broken.values())


# --- minutes ----------------------------------------------------------------------------------------------------------


def test_minutes_are_measured_or_unknown():
    assert by_id()["16"].minutes is None
    known = by_id(run_seconds=90.0, jobs=2, score_seconds=6.0)
    assert known["none"].minutes == 0
    assert known["16"].minutes == pytest.approx(16 * 90 / 2 / 60)
    assert known["folds"].minutes == pytest.approx(5 * 6 / 60)
    assert known["heads"].minutes is None
    # What was measured on shadows is better than what the candidate took.
    assert by_id(run_seconds=90.0, shadow_seconds=30.0)["4"].minutes == pytest.approx(2.0)
    assert by_id(run_seconds=60.0, cached=12)["16"].minutes == pytest.approx(4.0)
    assert by_id(run_seconds=60.0, cached=16)["16"].minutes == 0


# --- the same as what happens -----------------------------------------------------------------------------------------


def observed(member, plan):
    rng = np.random.default_rng(0)
    n = len(member)
    audit = Audit(member, np.arange(n) % 2, np.arange(n), ("a", "b"))
    outputs = [Outputs(rng.normal(size=(n, 2)), "logits") for _ in range(1 + (0 if plan is None else len(plan.member)))]
    answers = from_shadows(outputs[0], outputs[1:], plan, audit.labels) if plan is not None else None
    given = answers or SimpleNamespace()
    if answers is None:
        from privacy_gate.observe import Answers

        given = Answers(outputs[0])
    return observe(given, audit, QUICK), audit


QUICK = ("correctness", "confidence", "modified_entropy", "population", "logistic", "lira", "rmia")
N = 40


def planned(count, by_lot=True):
    inside = np.zeros((count, 2 * N), dtype=bool)
    if by_lot:
        inside[: count // 2, ::2] = inside[count // 2 :, 1::2] = True
        return ShadowPlan("balanced", inside, np.ones(2 * N, bool), np.arange(count), N)
    inside[:, :N] = np.arange(N) % count != np.arange(count)[:, None]
    return ShadowPlan("loaded", inside, np.arange(2 * N) < N, np.arange(count), N, by_lot=False)


@pytest.mark.parametrize(
    ("chosen", "plan"),
    [
        (("none", 0), None),
        (("folds", 5), planned(5, by_lot=False)),
        (("shadows", 2), planned(2)),
        (("shadows", 4), planned(4)),
    ],
    ids=["none", "folds", "2", "4"],
)
def test_a_rung_runs_what_the_real_code_runs(chosen, plan):
    """Two shadows of which each record is in one are too few for LiRA, which wants two that it is not in."""
    seen, audit = observed(np.arange(2 * N) < N, plan)
    ran = {ThreatModel.SHADOW: [], ThreatModel.KNOWN_SUBSET: [], ThreatModel.REFERENCE: []}
    for id in QUICK:
        for outcome in measure(ATTACKS[id], seen.views[0], audit, 0):
            assert isinstance(outcome, AttackResult | AttackSkipped)
            place = outcome.threat_model if ATTACKS[id].thresholded else ThreatModel.KNOWN_SUBSET
            if isinstance(outcome, AttackResult) and id not in ran[place]:
                ran[place].append(id)
    given = facts(attacks=QUICK, records=(N, N), train_size=N, chosen=chosen, by_lot=plan is None or plan.by_lot)
    (rung,) = [rung for rung in rungs(given) if rung.chosen]
    assert rung.attacks == {model: tuple(ids) for model, ids in ran.items() if ids}


# --- what people read -------------------------------------------------------------------------------------------------


def rule(id, status=RuleStatus.INCONCLUSIVE, action="block", needed=None):
    return SimpleNamespace(id=id, status=status, action=action, needed=needed or {})


def test_the_report_names_the_cheapest_evidence_that_decides():
    bare = facts(chosen=("none", 0), run_seconds=60.0)
    (text,) = would_decide(bare, [rule("PG103"), rule("PG501"), rule("PG101", RuleStatus.FAIL)])
    assert text.startswith("4 shadows of the candidate's own recipe (about 4 minutes) can decide PG103 and PG501")
    assert "lira, rmia" in text
    assert "16 shadows (about 16 minutes)" in text
    assert would_decide(bare, [rule("PG101", RuleStatus.FAIL), rule("PG103", RuleStatus.PASS)]) == ()
    assert would_decide(bare, [rule("PG103", action="warn")]) == ()


def test_more_records_are_named_where_models_do_not_help():
    assert would_decide(facts(), [rule("PG101")]) == ()
    (text,) = would_decide(facts(), [rule("PG101", needed={"members": 4600, "nonmembers": 4600})])
    assert text == "PG101: about 4,600 members and 4,600 non-members"


def test_where_no_shadow_can_be_trained_the_report_says_so():
    first, second = would_decide(facts(chosen=("none", 0), problem="it cannot be cloned"), [rule("PG103")])
    assert "minutes unknown" in first
    assert second.endswith("it cannot be cloned")
    (text,) = would_decide(
        facts(problem="it cannot be cloned"), [rule("PG101", needed={"members": 9, "nonmembers": 9})]
    )
    assert text.startswith("PG101")


def test_proxies_are_told_to_take_the_candidates_own_recipe():
    proxies = facts(chosen=("shadows", 16), proxy="declared")
    (text,) = would_decide(proxies, [rule("PG101", needed={"members": 4600, "nonmembers": 4600}), rule("PG502")])
    assert text.startswith("4 shadows of the candidate's own recipe")


LABELS = {**TABULAR, **dict.fromkeys(SCORES, LABELS_ALONE)}
PLENTY = {"members": 2000, "nonmembers": 2000}
FEW = {"members": 171, "nonmembers": 170, "records": (400, 400), "train_size": 400}
COUNTED = {"PG102": (2913, 2913), "PG103": (342, 298), "PG104": (1368, 844)}


def opened(*ids):
    """These rules, open; with as many records as the verdict suggested."""
    counts = {id: dict(zip(("members", "nonmembers"), COUNTED[id], strict=True)) for id in ids if id in COUNTED}
    return [rule(id, needed=counts.get(id)) for id in ids]


def test_two_attacks_without_shadows_are_told_what_is_missing():
    short = facts(chosen=("none", 0), attacks=("correctness", "confidence"), **FEW)
    first, *counts = would_decide(short, opened("PG103", "PG104", "PG501"))
    assert first.startswith(
        "4 shadows of the candidate's own recipe (minutes unknown), with entropy, modified_entropy and lira added to "
        "attacks, can decide PG103, PG104 and PG501, which no number of records alone lets pass"
    )
    assert counts == [
        "PG103: also about 342 members and 298 non-members",
        "PG104: also about 1,368 members and 844 non-members",
    ]
    plenty = replace(short, **PLENTY)
    assert len(would_decide(plenty, opened("PG103", "PG104", "PG501"))) == 1


def test_with_shadows_an_attack_with_references_is_enough():
    metric = facts(attacks=("correctness", "confidence", "entropy", "modified_entropy"))
    assert would_decide(metric, opened("PG103", "PG104", "PG501")) == (
        "lira added to attacks can decide PG103, PG104 and PG501, which no number of records alone lets pass",
    )
    # Two shadows are too few for it: with lira alone nothing would pass any more.
    (text,) = would_decide(replace(metric, chosen=("shadows", 2)), opened("PG103"))
    assert text.startswith("4 shadows of the candidate's own recipe (minutes unknown), with lira added to attacks, ")


def test_evidence_that_would_cost_a_pass_is_not_named():
    """Four shadows let the required attacks run, and `strict` then takes nothing for a pass."""
    many = {"members": 20_000, "nonmembers": 20_000, "records": (20_000, 20_000), "train_size": 20_000}
    (text,) = would_decide(facts(policy=resolve("strict"), chosen=("none", 0), **many), opened("PG501"))
    assert text.startswith("16 shadows of the candidate's own recipe")


def test_labels_alone_are_told_to_become_scores():
    known = facts(chosen=("shadows", 2), absent=LABELS, **FEW)
    said = would_decide(known, opened("PG102", "PG103", "PG104", "PG201", "PG501"))
    assert said[0].startswith(
        "4 shadows of the candidate's own recipe (minutes unknown), with one score per class instead of labels, can "
        "decide PG103, PG104, PG201 and PG501, which no number of records alone lets pass: confidence, entropy"
    )
    assert said[1:4] == (
        "PG102: about 2,913 members and 2,913 non-members",
        "PG103: also about 342 members and 298 non-members",
        "PG104: also about 1,368 members and 844 non-members",
    )
    (text,) = would_decide(replace(known, chosen=("shadows", 16), **PLENTY), opened("PG103", "PG201"))
    assert text.startswith("one score per class instead of labels can decide PG103 and PG201")
    # An attack that nobody asked for does not get the scores either.
    (text,) = would_decide(facts(attacks=("correctness",), absent=LABELS), [rule("PG103")])
    assert text.startswith("lira added to attacks and one score per class instead of labels can decide PG103")


def test_what_nothing_mends_is_said_and_what_must_be_mended_first():
    why = {"absent": {**TABULAR, "noise_robustness": "the probe failed"}, "failed": frozenset({"noise_robustness"})}
    (text,) = would_decide(facts(**why), [rule("PG501")])
    assert text == "no evidence of this kind lets PG501 pass: the finding says why"
    fired = [
        Finding("duplicates", "fail", Invalidates.BOTH, 0.2, "a fifth"),
        Finding("power", "fail", Invalidates.PASS, 0.0, "too few", informs=True),
        Finding("two_sample", "warn", Invalidates.BOTH, 0.0, "perhaps"),
    ]
    several = [rule("PG101", needed={"members": 4600, "nonmembers": 4600}), rule("PG502")]
    first, second = would_decide(facts(), several, fired)
    assert first == "nothing passes before that is mended which duplicates found"
    assert second.startswith("PG101: about")
    strict = replace(facts(), policy=resolve("strict"))
    assert would_decide(strict, [rule("PG502")], fired)[0].endswith("duplicates and two_sample found")
    # What the rung itself makes fire is mended by another rung.
    proxies = facts(proxy="declared")
    fired = [Finding("proxy_shadows", "fail", Invalidates.PASS, None, "declared")]
    assert len(would_decide(proxies, [rule("PG502")], fired)) == 1


def followed(given, said):
    """The facts as they are once everything was done that the report says."""
    for text in said:
        if counts := re.fullmatch(r"PG\d+: (?:also )?about ([\d,]+) members and ([\d,]+) non-members", text):
            members, others = (int(count.replace(",", "")) for count in counts.groups())
            given = replace(given, members=max(given.members, members), nonmembers=max(given.nonmembers, others))
            continue
        what, _, _ = text.partition(" can decide ")
        if shadows := re.match(r"(\d+) shadows of the candidate's own recipe", what):
            given = replace(given, chosen=("shadows", int(shadows[1])), proxy="", by_lot=True, sizes=())
        if "added to attacks" in what:
            words = re.findall(r"[a-z_]+", what.partition(" added to attacks")[0])
            added = [word for word in words if word in ATTACKS.names() and word not in given.attacks]
            given = replace(given, attacks=(*given.attacks, *added))
        if "one score per class" in what:
            given = replace(given, absent={name: why for name, why in given.absent.items() if why != LABELS_ALONE})
    return given


@pytest.mark.parametrize("absent", [TABULAR, LABELS], ids=["scores", "labels"])
@pytest.mark.parametrize(
    "attacks", [suite("full"), suite("fast"), ("correctness", "confidence")], ids=["full", "fast", "two"]
)
@pytest.mark.parametrize(
    "place",
    [
        {"chosen": ("none", 0)},
        {"chosen": ("folds", 5), "by_lot": False, "sizes": (1600,) * 5},
        {"chosen": ("shadows", 2)},
        {"chosen": ("shadows", 16), "proxy": "declared"},
        {"chosen": ("shadows", 16), "members": 150, "nonmembers": 90},
    ],
    ids=["none", "folds", "2", "proxies", "few"],
)
def test_whoever_does_as_the_report_says_can_pass_and_nothing_that_can_be_had_is_left_out(absent, attacks, place):
    """Each open rule: named with evidence on which the ladder lets it pass, or it passes on no rung at all."""
    given = facts(absent=absent, attacks=attacks, **place)
    (now,) = [rung for rung in rungs(given) if rung.chosen]
    lacking = [id for id, can, _ in decidability(given.policy, given.members, given.nonmembers) if not can]
    # Any number is a suggestion of the verdict, whether or not records help: it does not know what else is missing.
    wrong = {"members": 3, "nonmembers": 3}
    said = would_decide(given, [rule(id, needed={} if id in lacking else wrong) for id in now.leaves])
    stuck = [text for text in said if text.startswith("no evidence")]
    assert not any(" 3 members" in text for text in said)
    then = followed(given, [text for text in said if text not in stuck])
    (after,) = [rung for rung in rungs(then) if rung.chosen]
    assert set(now.passes) <= set(after.passes)
    for id in now.leaves:
        assert (id in after.passes) == any(id in text for text in said if text not in stuck), id
        assert (id in after.passes) != any(id in text for text in stuck), id


def test_the_table_fits_a_terminal_and_marks_the_rung():
    worst = facts(policy=resolve("strict"), flavor="pytorch", run_seconds=1e5, chosen=("versions", 12), by_lot=False)
    for given in (facts(), worst, facts(proxy="x", chosen=("shadows", 1024))):
        lines = list(table(rungs(given)))
        rows = [line for line in lines if line.startswith("         ") and line[11] != " "]
        assert all(len(line) <= 80 for line in lines[: 1 + len(rungs(given))]), max(lines, key=len)
        assert sum(line.startswith("         >") for line in lines) == 1
        assert rows
    assert list(table(())) == []


def test_facts_without_a_single_scores_attack_have_no_risk():
    bare = facts(attacks=("correctness",), absent={"logit_confidence": "labels alone"})
    assert not {"PG201", "PG202"} & {id for rung in rungs(replace(bare, unfit=frozenset())) for id in rung.passes}
