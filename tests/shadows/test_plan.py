import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_gate.errors import NotEvaluable, UsageError
from privacy_gate.shadows.plan import _greedy, _repair, balanced, disjoint, shadow_seeds


def world(members, nonmembers, population=0, per_person=None, seed=0):
    """Role masks, and persons who never appear in two roles."""
    n = members + nonmembers + population
    row = np.arange(n)
    member, spare = row < members, row >= members + nonmembers
    if per_person is None:
        persons = row.copy()
    else:
        rng = np.random.default_rng(seed)
        role = member * 1 + spare * 2
        persons = role * 10_000 + rng.integers(0, max(n // per_person, 1), n)
    return persons, member, ~member & ~spare, spare


def straddles(plan, persons):
    """The obvious check: some person with one record in and another out of the same shadow."""
    candidates = plan.pool
    return any(
        len({bool(mask[r]) for r in np.flatnonzero((persons == p) & candidates)}) > 1
        for mask in plan.member
        for p in np.unique(persons)
    )


@given(
    members=st.integers(4, 60),
    nonmembers=st.integers(4, 60),
    count=st.integers(4, 24),
    share=st.floats(0.05, 1.2),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_one_record_per_person(members, nonmembers, count, share, seed):
    persons, member, nonmember, spare = world(members, nonmembers)
    total = members + nonmembers
    size = max(1, round(share * total))
    plan = balanced(persons, member, nonmember, spare, count, size, seed)
    inside = plan.member.sum(axis=0)
    q = size / total
    if q <= (count - 2) / count:
        assert (plan.member.sum(axis=1) == size).all()  # exact when one record per person
        assert set(inside) <= {int(np.floor(q * count + 1e-9)), int(np.floor(q * count + 1e-9)) + 1}
    if q >= 2 / count:
        assert inside.min() >= 2
        assert not any("fewer than 2" in note for note in plan.notes)
    else:
        assert any("fewer than 2" in note for note in plan.notes)
    assert (count - inside).min() >= 2  # always: shadows are rather too small than without held-out records
    assert (plan.pool == (member | nonmember)).all()
    assert plan.train_size == size


@given(seed=st.integers(0, 2**32 - 1), per_person=st.integers(2, 8), count=st.integers(4, 12))
@settings(max_examples=60, deadline=None)
def test_persons_never_straddle_and_sizes_are_near(seed, per_person, count):
    persons, member, nonmember, spare = world(60, 60, per_person=per_person, seed=seed)
    plan = balanced(persons, member, nonmember, spare, count, 60, seed)
    assert not straddles(plan, persons)
    heaviest = np.bincount(persons).max()
    # A repair step exists while two shadows differ by more than the heaviest person has records.
    assert np.abs(plan.member.sum(axis=1) - 60).max() <= heaviest
    by_person = np.array([plan.member[:, persons == p][:, 0].sum() for p in np.unique(persons)])
    assert by_person.min() >= 2
    assert (count - by_person).min() >= 2


def test_each_person_is_as_likely_in_any_shadow():
    # 400 plans of 8 shadows, q = 1/2: each cell is in with probability 1/2, sd 0.025; 5 sd for 8 * 20 cells.
    persons, member, nonmember, spare = world(10, 10)
    share = np.mean([balanced(persons, member, nonmember, spare, 8, 10, seed).member for seed in range(400)], axis=0)
    assert np.abs(share - 0.5).max() < 5 * 0.025


def test_shadows_are_not_copies_of_each_other():
    persons, member, nonmember, spare = world(100, 100)
    plan = balanced(persons, member, nonmember, spare, 16, 100, 0)
    assert len(np.unique(plan.member, axis=0)) == 16


def test_deterministic_and_different_by_seed():
    arguments = (*world(30, 40, 10, per_person=3), 8, 35)
    one, same, other = (balanced(*arguments, seed) for seed in (1, 1, 2))
    assert (one.member == same.member).all()
    assert (one.seeds == same.seeds).all()
    assert (one.member != other.member).any()


def test_seeds_are_independent_of_the_count():
    assert (shadow_seeds(7, 32)[:4] == shadow_seeds(7, 4)).all()
    assert len(set(shadow_seeds(7, 1024).tolist())) == 1024
    assert len(shadow_seeds(7, 0)) == 0


def test_population_fills_up_only_what_half_of_the_audited_records_cannot_supply():
    persons, member, nonmember, spare = world(50, 50, 100)
    enough = balanced(persons, member, nonmember, spare, 8, 50, 0)
    assert not enough.member[:, spare].any()
    filled = balanced(persons, member, nonmember, spare, 8, 120, 0)
    assert (filled.member.sum(axis=1) == 120).all()
    assert filled.notes == ()
    assert ((~filled.member[:, ~spare]).sum(axis=0) >= 2).all()
    assert not filled.pool[spare].any()


@pytest.mark.parametrize(("population", "times"), [(1000, 4), (90, 4), (60, 5), (30, 6), (0, 6)])
def test_spare_records_keep_every_person_out_of_as_many_shadows_as_in(population, times):
    # 160 of 200 audited records would train each shadow: each of them 6 of 8. The answers of two models that do not
    # know a record are a weak reference.
    persons, member, nonmember, spare = world(100, 100, population)
    plan = balanced(persons, member, nonmember, spare, 8, 160, 0)
    inside = plan.member[:, ~spare].sum(axis=0)
    # Of 160 records the population gives what it has, the audited ones the rest: at most 6 of 8 times each.
    expected = 8 * min(max(100, 160 - population), 150) / 200
    assert set(inside) <= {int(np.floor(expected)), int(np.ceil(expected))}
    assert inside.max() <= max(times, np.ceil(expected))
    if population >= 10:
        assert (plan.member.sum(axis=1) == 160).all()


def test_who_is_a_member_says_nothing_of_which_shadows_a_person_is_in():
    persons, member, nonmember, spare = world(100, 100, 300)
    drawn = [balanced(persons, member, nonmember, spare, 8, 160, seed).member for seed in range(40)]
    share = np.mean(drawn, axis=0)
    # 40 plans of 8 shadows: the share of a side has sd sqrt(.25 / 32,000) = 0.003 at most; the sides differ by 5 sd of
    # the difference at most.
    assert abs(share[:, member].mean() - share[:, nonmember].mean()) < 5 * 0.003 * np.sqrt(2)


def test_a_training_set_as_large_as_the_data_leaves_two_out_and_says_so():
    persons, member, nonmember, spare = world(90, 10)
    plan = balanced(persons, member, nonmember, spare, 8, 100, 0)
    assert ((~plan.member).sum(axis=0) == 2).all()
    assert "train on 75 records where the target had 100" in plan.notes[0]


def test_population_of_an_audited_person_is_left_out():
    persons, member, nonmember, spare = world(10, 10, 10)
    persons[spare] = persons[member]
    plan = balanced(persons, member, nonmember, spare, 4, 20, 0)
    assert not plan.member[:, spare].any()


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_shadows(count):
    persons, member, nonmember, spare = world(20, 20)
    plan = balanced(persons, member, nonmember, spare, count, 20, 0)
    assert plan.member.shape == (count, 40)
    assert (plan.member.sum(axis=1) == 20).all()
    assert (count == 0) or "use at least 4" in plan.notes[0]


def test_nothing_audited():
    nothing = np.zeros(3, dtype=bool)
    with pytest.raises(NotEvaluable):
        balanced(np.arange(3), nothing, nothing, ~nothing, 4, 2, 0)


@given(
    weight=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    room=st.integers(0, 120),
    seed=st.integers(0, 1000),
)
def test_greedy_leaves_no_room_for_anybody_left(weight, room, seed):
    weight = np.array(weight)
    chosen = _greedy(weight, room, np.random.default_rng(seed))
    left = room - weight[chosen].sum()
    assert left >= 0
    assert chosen.all() or weight[~chosen].min() > left


@given(seed=st.integers(0, 10_000), shadows=st.integers(2, 6), people=st.integers(2, 25))
@settings(deadline=None)
def test_repair_never_makes_it_worse_and_keeps_each_person_s_count(seed, shadows, people):
    rng = np.random.default_rng(seed)
    weight, inside = rng.integers(1, 7, people), rng.random((shadows, people)) < 0.5
    target = rng.integers(0, weight.sum() + 1, shadows)
    repaired = inside.copy()
    _repair(repaired, weight, target, rng)
    assert (repaired.sum(axis=0) == inside.sum(axis=0)).all()
    assert (((repaired @ weight) - target) ** 2).sum() <= (((inside @ weight) - target) ** 2).sum()
    for a in range(shadows):  # the obvious check that no single move is left undone
        for b in range(shadows):
            excess, lack = repaired[a] @ weight - target[a], repaired[b] @ weight - target[b]
            if excess > 0 > lack:
                movable = weight[repaired[a] & ~repaired[b]]
                assert not (movable < excess - lack).any()


# --- disjoint -------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 6), per_person=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_disjoint_trains_on_half_of_the_population_by_person(seed, count, per_person):
    persons, member, nonmember, spare = world(20, 20, 80, per_person=per_person, seed=seed)
    labels = np.arange(120) % 3
    plan = disjoint(persons, spare, count, 1000, seed, labels)
    assert not plan.member[:, member | nonmember].any()
    assert (plan.pool == spare).all()
    assert not straddles(plan, persons)
    sizes = plan.member.sum(axis=1)
    assert (sizes <= 40).all()
    # Greedy stops only when the lightest person outside no longer fits.
    assert (sizes > 40 - np.bincount(persons[spare]).max()).all()
    assert "where the target had 1000" in plan.notes[0]


def test_disjoint_of_the_targets_size():
    persons, _, _, spare = world(10, 10, 100)
    plan = disjoint(persons, spare, 3, 30, 0, np.arange(120) % 2)
    assert (plan.member.sum(axis=1) == 30).all()
    assert plan.notes == ()
    assert len(np.unique(plan.member, axis=0)) == 3


def test_disjoint_names_missing_classes():
    persons, _, _, spare = world(10, 10, 20)
    labels = np.where(spare, np.arange(40) % 2, 2)
    assert "class index 2" in disjoint(persons, spare, 2, 10, 0, labels).notes[0]


def test_disjoint_without_population():
    persons, _, _, spare = world(10, 10)
    with pytest.raises(UsageError, match="population"):
        disjoint(persons, spare, 2, 10, 0, np.zeros(20, dtype=np.int64))


@pytest.mark.parametrize(("population", "classes"), [(2, 2), (30, 1)])
def test_disjoint_with_too_small_a_population(population, classes):
    persons, _, _, spare = world(10, 10, population)
    with pytest.raises(NotEvaluable, match="too small"):
        disjoint(persons, spare, 2, 10, 0, np.arange(20 + population) % classes)
