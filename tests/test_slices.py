"""Parts of the records: which there are, and that the target has no say in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from privacy_gate.datamodel import Audit, Observations, Slice
from privacy_gate.slices import difficulty, left_out, slices
from tests.worlds import gaussian_world


def world(persons: int = 1, shadows: int = 8) -> tuple[Observations, Audit]:
    seen, audit = gaussian_world(300, 240, classes=3, leak=2.0, shadows=shadows, seed=0, records_per_person=persons)
    regions = np.array(["north", "south", "west"])[np.arange(540) % 3]
    return seen, replace(audit, groups={"region": regions, "sex": np.array(["f", "m"])[np.arange(540) // 5 % 2]})


def same(one: tuple[Slice, ...], other: tuple[Slice, ...]) -> bool:
    names = [[(s.by, s.value) for s in found] for found in (one, other)]
    return names[0] == names[1] and all(np.array_equal(a.rows, b.rows) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("persons", [1, 2])
def test_every_part_by_hand(persons: int) -> None:
    seen, audit = world(persons)
    found = {(s.by, s.value): s for s in slices(audit, seen, fewest=1)}
    expected = {("class", name): audit.labels == k for k, name in enumerate(audit.classes)}
    for group, values in audit.groups.items():
        expected |= {(group, value): values == value for value in set(values.tolist())}
    means = [
        np.mean([seen.references["logit_confidence"][s, r] for s in range(8) if not seen.reference_member[s, r]])
        for r in range(540)
    ]
    assert difficulty(seen) == pytest.approx(means)
    expected["difficulty", "hardest tenth"] = np.isin(np.arange(540), np.argsort(means)[:54])
    assert set(found) == set(expected)
    for name, rows in expected.items():
        assert np.array_equal(found[name].rows, rows)
        assert found[name].members == len(set(audit.persons[rows & audit.member].tolist()))
        assert found[name].nonmembers == len(set(audit.persons[rows & ~audit.member].tolist()))
    assert list(found) == sorted(found)


def test_the_target_has_no_say() -> None:
    seen, audit = world()
    rng = np.random.default_rng(1)
    permuted = replace(seen, target={name: rng.permutation(values) for name, values in seen.target.items()})
    assert same(slices(audit, seen), slices(audit, permuted))


def test_membership_has_no_say_in_the_rows() -> None:
    seen, audit = world()
    member = np.random.default_rng(2).permutation(audit.member)
    assert same(slices(audit, seen, 1), slices(replace(audit, member=member), seen, 1))


def test_references_that_saw_a_record_have_no_say() -> None:
    seen, audit = world()
    noisy = {
        name: np.where(
            seen.reference_member.reshape(values.shape[:2] + (1,) * (values.ndim - 2)),
            np.random.default_rng(3).normal(size=values.shape),
            values,
        )
        for name, values in seen.references.items()
    }
    assert same(slices(audit, seen), slices(audit, replace(seen, references=noisy)))


def test_the_hardest_tenth_is_harder_than_all_others() -> None:
    seen, _ = world()
    ease = difficulty(seen)
    (hard,) = [s for s in slices(*world()[::-1]) if s.by == "difficulty"]
    assert ease[hard.rows].max() < ease[~hard.rows].min()


def test_small_parts_and_the_whole_are_none() -> None:
    seen, audit = world()
    few = np.where(np.arange(540) < 9, "few", "many")
    one_sided = np.where(audit.member, "in", "out")
    grouped = replace(audit, groups={"size": few, "all": np.full(540, "all"), "side": one_sided})
    names = {(s.by, s.value) for s in slices(grouped, seen)}
    assert ("size", "many") in names
    assert not names & {("size", "few"), ("all", "all"), ("side", "in"), ("side", "out")}
    assert ("size", "few") not in {(s.by, s.value) for s in slices(grouped, seen, 1)}  # it has no non-members at all


def test_what_is_too_small_to_be_measured_is_returned_with_its_counts() -> None:
    seen, audit = world()
    # Members come first, 300 of them: 9 of the other records are `b`, none `d`, and no member is `c`.
    wards = np.repeat(["d", "b", "a", "a", "b", "c"], [4, 40, 256, 100, 9, 131])
    grouped = replace(audit, groups={"ward": wards})
    found = {s.value: (s.members, s.nonmembers) for s in left_out(grouped, seen) if s.by == "ward"}
    assert found == {"b": (40, 9), "d": (4, 0)}
    assert "a" in {s.value for s in slices(grouped, seen)}
    both = [(s.by, s.value) for s in (*slices(grouped, seen), *left_out(grouped, seen))]
    assert len(set(both)) == len(both)


def test_persons_are_counted_not_records() -> None:
    seen, audit = world(persons=10)
    assert all(s.members <= 30 for s in slices(audit, seen, 1))
    assert slices(audit, seen, 31) == ()


def test_a_record_that_every_reference_saw_is_not_among_the_hardest() -> None:
    seen, audit = world()
    hardest = int(np.nanargmin(difficulty(seen)))
    member = seen.reference_member.copy()
    member[:, hardest] = True
    changed = replace(seen, reference_member=member)
    assert np.isnan(difficulty(changed)[hardest])
    (part,) = [s for s in slices(audit, changed) if s.by == "difficulty"]
    assert not part.rows[hardest]
    assert part.rows.sum() == 53  # a tenth of the other 539


def test_ties_are_not_broken_by_place() -> None:
    """Members stand first: taking the first of equals would take members."""
    seen, audit = world()
    level = {name: np.zeros_like(values) for name, values in seen.references.items()}
    assert not [s for s in slices(audit, replace(seen, references=level)) if s.by == "difficulty"]  # all or nothing


def test_without_references_there_is_no_hardest_tenth() -> None:
    seen, audit = world(shadows=0)
    assert difficulty(seen) is None
    assert {s.by for s in slices(audit, seen)} == {"class", "region", "sex"}


def test_a_group_may_be_called_class() -> None:
    seen, audit = world()
    renamed = replace(audit, groups={"class": audit.groups["sex"]})
    names = [(s.by, s.value) for s in slices(renamed, seen)]
    assert ("group class", "f") in names
    assert len(set(names)) == len(names)
