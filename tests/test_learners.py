"""What trained attacks share: nobody is scored by what learned from them; and each learner against a slow twin."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from privacy_gate.attacks import CATALOG as ATTACKS
from privacy_gate.datamodel import Observations, Outputs
from privacy_gate.errors import NotEvaluable
from privacy_gate.learners import Material, canonical_order, cross_fitted, first_seen, logistic, networks, standardised
from privacy_gate.learners.boosting import boosting
from privacy_gate.learners.tables import class_centre, class_odds, signal_table
from tests.worlds import auc, gaussian_world, half_of_the_persons, observations_of


def observed(values, known, persons=None, labels=None, answered_by=None):
    n = len(values)
    return Observations(
        target={"x": np.asarray(values, dtype=np.float64)},
        labels=np.zeros(n, dtype=np.int64) if labels is None else np.asarray(labels),
        known=np.asarray(known, dtype=np.int8),
        persons=np.arange(n) if persons is None else np.asarray(persons),
        classes=5,
        answered_by=None if answered_by is None else np.asarray(answered_by),
    )


def some(n=120, seed=0, **more):
    """Two thirds known, half of those members; values all different."""
    rng = np.random.default_rng(seed)
    return observed(rng.permutation(n) / 7, rng.permutation(np.arange(n) % 3) - 1, **more)


def material(x, member, group=None):
    n = len(x)
    group = np.zeros(n, dtype=np.int64) if group is None else group
    return Material({"logit_confidence": x[:, 0].copy()}, member, np.arange(n), group, int(group.max()) + 1, 5)


# --- cross-fitting --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("records_per_person", [1, 3])
def test_nobody_is_scored_by_what_learned_from_them(records_per_person):
    seen = some(persons=np.arange(120) // records_per_person)
    calls = []

    def learn(m, rows, asked):
        calls.append((m, rows, asked))
        return [np.full(len(a), float(fold)) for fold, a in enumerate(asked)]

    scores = cross_fitted(seen, ["x"], learn)
    ((m, rows, asked),) = calls
    for learned, scored in zip(rows, asked, strict=True):
        assert not set(m.persons[learned]) & set(m.persons[scored])
    taught = np.unique(np.concatenate(rows))
    # A record that any fold learned from is scored by one fold alone, all others by the mean of all three.
    times = np.bincount(np.concatenate(asked), minlength=seen.n)
    assert set(times[taught]) == {1}
    assert set(scores[seen.known >= 0]) == {0.0, 1.0, 2.0}
    if records_per_person == 1:
        assert len(taught) == (seen.known >= 0).sum()
        assert set(times) == {1, 3}
        assert set(scores[seen.known < 0]) == {1.0}


def test_memory_is_of_no_use():
    """A learner that remembers whom it learned from has nothing to remember about those that it scores."""

    def remembers(m, rows, asked):
        return [np.where(m.member[a] & np.isin(a, r), 1.0, 0.0) for r, a in zip(rows, asked, strict=True)]

    assert not cross_fitted(some(), ["x"], remembers).any()


def test_only_known_records_teach_and_only_named_signals_are_there():
    seen = some()
    seen = replace(seen, target=dict(seen.target) | {"y": np.zeros(seen.n)})

    def learn(m, rows, asked):
        assert set(m.signals) == {"x"}
        for r in rows:
            assert np.isin(m.signals["x"][r], seen.target["x"][seen.known >= 0]).all()
            assert m.member[r].any()
            assert not m.member[r].all()
        return [np.zeros(len(a)) for a in asked]

    cross_fitted(seen, ["x"], learn)


def test_the_cap_leaves_persons_out_whole():
    seen = some(n=900, persons=np.arange(900) // 3)

    def learn(m, rows, asked):
        taught = np.unique(np.concatenate(rows))
        assert 200 <= len(taught) <= 240
        known = np.concatenate([np.flatnonzero(seen.known[canonical_order(seen)] >= 0)])
        persons = set(m.persons[taught])
        assert len(taught) == np.isin(m.persons[known], list(persons)).sum()
        return [np.full(len(a), 1.0) for a in asked]

    np.testing.assert_allclose(cross_fitted(seen, ["x"], learn, cap=240), 1.0)


def test_one_model_teaches_alone():
    """The model in the middle of three, however they are numbered; persons of all are kept apart all the same."""
    rng = np.random.default_rng(1)
    level = np.repeat([5.0, 1.0, 3.0], 60)
    values = level + rng.permutation(180) / 1000
    known, persons = rng.permutation(180) % 2, np.tile(np.arange(60), 3)
    results = []
    for numbers in ([0, 1, 2], [2, 0, 1]):
        seen = observed(values, known, persons, answered_by=np.repeat(numbers, 60))

        def learn(m, rows, asked):
            assert all((np.floor(m.signals["x"][r]) == 3).all() for r in rows)
            assert all(not set(m.persons[r]) & set(m.persons[a]) for r, a in zip(rows, asked, strict=True))
            return [m.signals["x"][a] * (1 + fold) for fold, a in enumerate(asked)]

        results.append(cross_fitted(seen, ["x"], learn, one_model=True))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("kept", ["members", "non-members"])
def test_too_few_to_learn_from(kept):
    known = np.where(np.arange(60) < 9, 1, 0) if kept == "members" else np.where(np.arange(60) < 9, 0, 1)
    with pytest.raises(NotEvaluable, match=f"9 persons among the known {kept}"):
        cross_fitted(observed(np.arange(60.0), known), ["x"], lambda m, r, a: [np.zeros(len(x)) for x in a])


# --- canonical order ------------------------------------------------------------------------------------------------

COARSE = st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 1), st.integers(0, 4), st.integers(0, 2)), min_size=2)


@given(COARSE, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_canonical_order_sees_content_only(rows, random):
    """Shuffled and renamed, the same contents come out in the same order, as far as they can be told apart."""
    names, classes = random.sample(range(5), 5), random.sample(range(3), 3)
    shuffled = random.sample(range(len(rows)), len(rows))

    def build(table):
        values, known, persons, labels = (np.array(column) for column in zip(*table, strict=True))
        return observed(values, known, persons, labels)

    def in_order(seen):
        """Slow twin: a record is its content, then how its person's records rank, then how its class's do."""
        content = list(zip(seen.target["x"], seen.known, strict=True))
        ranks = [sorted(set(content)).index(c) for c in content]

        def standing(labels, i):
            alike = [rank for rank, label in zip(ranks, labels, strict=True) if label == labels[i]]
            return len(alike), sum(alike)

        keys = [(content[i], standing(seen.persons, i), standing(seen.labels, i)) for i in range(seen.n)]
        found = [keys[i] for i in canonical_order(seen)]
        assert found == sorted(keys)
        return found

    renamed = [(rows[i][0], rows[i][1], names[rows[i][2]], classes[rows[i][3]]) for i in shuffled]
    assert in_order(build(rows)) == in_order(build(renamed))


@given(st.lists(st.integers(0, 6), min_size=1), st.data())
def test_names_by_first_appearance(names, data):
    among = data.draw(st.lists(st.integers(0, len(names) - 1), unique=True, min_size=1).map(sorted))
    number, count = first_seen(np.array(names), np.array(among))
    twin: dict[int, int] = {}
    for row in among:
        twin.setdefault(names[row], len(twin))
    assert count == len(twin)
    assert list(number) == [twin.get(name, len(twin)) for name in names]


def test_standardised():
    x = np.array([[1.0, 7.0], [3.0, 7.0], [9.0, 8.0]])
    np.testing.assert_allclose(standardised(x, np.array([0, 1])), [[-1, 0], [1, 0], [7, 0]])


# --- networks -------------------------------------------------------------------------------------------------------

SIZES = (4, 6, 5, 1)


def of_torch(flat):
    """The same network in torch, its numbers as one leaf."""
    import torch

    return torch.tensor(flat, dtype=torch.float64, requires_grad=True)


def forward(numbers, x, sizes=SIZES):
    import torch

    place, h = 0, torch.tensor(x)
    for layer, (inner, outer) in enumerate(pairwise(sizes)):
        w = numbers[place : place + inner * outer].reshape(inner, outer)
        b = numbers[place + inner * outer : place + inner * outer + outer]
        place += inner * outer + outer
        h = h @ w + b
        h = h.relu() if layer < len(sizes) - 2 else h
    return h[:, 0]


def two_networks(seed=0):
    rng = np.random.default_rng(seed)
    nets = networks.Networks(rng.normal(size=(2, networks.width(SIZES))), SIZES)
    return nets, rng.normal(size=(2, 9, 4)), rng.random(9) < 0.5


@pytest.mark.parametrize("offset", [None, np.linspace(-2, 1, 18).reshape(2, 9)], ids=["plain", "offset"])
def test_gradient_against_autograd(offset):
    import torch

    nets, x, y = two_networks()
    out = networks.Networks(np.empty_like(nets.flat), SIZES)
    networks.gradient(nets, x, y, out, offset)
    for g in range(2):
        numbers = of_torch(nets.flat[g])
        z = forward(numbers, x[g])
        np.testing.assert_allclose(networks.logits(nets, x)[g], z.detach(), rtol=1e-12)
        z = z if offset is None else z + torch.tensor(offset[g])
        torch.nn.functional.binary_cross_entropy_with_logits(z, torch.tensor(y, dtype=torch.float64)).backward()
        np.testing.assert_allclose(out.flat[g], numbers.grad, rtol=1e-9, atol=1e-12)


def test_loss_against_torch():
    import torch

    rng = np.random.default_rng(2)
    z, y = rng.normal(0, 30, size=(1, 50)), rng.random((1, 50)) < 0.5
    weights = np.full((1, 50), 1 / 50)
    truth = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(z), torch.tensor(y, dtype=torch.float64))
    np.testing.assert_allclose(networks.loss(z, y, weights), [float(truth)], rtol=1e-12)


def test_adam_against_torch():
    import torch

    nets, x, y = two_networks(3)
    numbers = of_torch(nets.flat[0])
    theirs = torch.optim.AdamW([numbers], lr=0.01, weight_decay=0.5)
    ours = networks.Adam(0.01, 0.5, np.zeros_like(nets.flat), np.zeros_like(nets.flat))
    grad = networks.Networks(np.empty_like(nets.flat), SIZES)
    for _ in range(30):
        theirs.zero_grad()
        z = forward(numbers, x[0])
        torch.nn.functional.binary_cross_entropy_with_logits(z, torch.tensor(y, dtype=torch.float64)).backward()
        theirs.step()
        networks.gradient(nets, x, y, grad)
        ours.step(nets.flat, grad.flat)
    # The constants are rounded to single precision (6e-8); thirty steps of at most 0.01 carry that into the numbers.
    np.testing.assert_allclose(nets.flat[0], numbers.detach(), rtol=1e-5, atol=1e-6)


def ring(n=900, seed=4):
    """Members lie around the centre: no line tells them apart."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    return x, (x[:, :2] ** 2).sum(axis=1) < 1.4  # the median of chi squared with 2 degrees of freedom is 1.39


def halves(n):
    return [np.arange(0, n, 2), np.arange(1, n, 2)], [np.arange(1, n, 2), np.arange(0, n, 2)]


def test_a_network_learns_what_no_line_can_tell():
    x, member = ring()
    learn, ask = halves(len(x))
    by_network = networks.one_network(material(x, member), x, learn, ask)
    by_line = logistic.logistic(material(x, member), x, learn, ask)
    for rows, net, line in zip(ask, by_network, by_line, strict=True):
        assert auc(net, member[rows]) > 0.9
        # A line knows nothing: 0.5 with a standard deviation of 0.027.
        assert abs(auc(line, member[rows]) - 0.5) < 4.5 * 0.027


def test_log_odds_are_at_prior_one_half():
    """Nine of ten are members and nothing tells who: the log odds are about 0, not log 9."""
    rng = np.random.default_rng(5)
    x, member = rng.normal(size=(600, 3)), rng.random(600) < 0.9
    m = material(x, member)
    for learner in (networks.one_network, logistic.logistic, boosting):
        for scores in learner(m, x, *halves(600)):
            # Thirty non-members teach: the log odds of the sides vary by 0.2; boosting learns some of them by heart.
            assert abs(np.median(scores)) < 1.1


def test_training_stops_where_the_held_back_rows_are_best():
    """On noise a network that goes on learns its rows by heart: stopped, it is no worse than chance on the others."""
    rng = np.random.default_rng(6)
    x, member = rng.normal(size=(80, 10)), rng.random(80) < 0.5
    rows = np.arange(80)
    inside, outside = rows[member], rows[~member]
    lesson = networks.Lesson(inside[:20], outside[:20], inside[20:], outside[20:])
    held = np.concatenate([lesson.check_inside, lesson.check_outside])

    def held_loss(trained):
        z = trained.scores(np.array([0]), x[held])
        sides = [z[:, : len(lesson.check_inside)], z[:, len(lesson.check_inside) :]]
        return np.mean([np.logaddexp(0, -sides[0]).mean(), np.logaddexp(0, sides[1]).mean()])

    zero = np.zeros(1, dtype=np.int64)
    stopped = held_loss(networks.train(x, [lesson], zero, zero))
    stopping_at_itself = networks.Lesson(lesson.inside, lesson.outside, lesson.inside, lesson.outside)
    to_the_end = held_loss(networks.train(x, [stopping_at_itself], zero, zero))
    assert stopped < to_the_end
    assert stopped < np.log(2) + 0.2


def test_starting_weights_are_the_same_for_every_class_and_fold():
    x, member = ring(200)
    inside, outside = np.flatnonzero(member), np.flatnonzero(~member)
    lesson = networks.Lesson(inside[:50], outside[:50], inside[50:], outside[50:])
    trained = networks.train(x, [lesson, lesson, lesson], np.array([0, 1, 0]), np.arange(3))
    np.testing.assert_array_equal(trained.networks.flat[0], trained.networks.flat[2])
    assert not np.array_equal(trained.networks.flat[0], trained.networks.flat[1])


def test_a_class_with_few_records_is_scored_by_the_network_for_all():
    x, member = ring(800)
    group = np.where(np.arange(800) % 40 < 2, 1, 0)  # forty records
    m = material(x, member, group)
    learn, ask = halves(800)
    for rows, own, pooled in zip(
        ask, networks.network_per_class(m, x, learn, ask), networks.one_network(m, x, learn, ask), strict=True
    ):
        few = group[rows] == 1
        np.testing.assert_array_equal(own[few], pooled[few])
        assert (own[~few] != pooled[~few]).all()


@pytest.mark.parametrize(("counts", "own"), [((10, 10, 2, 2), True), ((9, 10, 2, 2), False), ((10, 10, 1, 2), False)])
def test_what_is_enough_for_a_network_of_its_own(counts, own):
    """Beside a class that has plenty, one with so many known members, non-members, and both to stop at."""
    sides = [np.arange(side * 100, side * 100 + 20 + count) for side, count in enumerate(counts)]
    group = np.where(np.arange(400) % 100 < 20, 0, 1)
    m = material(np.zeros((400, 1)), np.zeros(400, dtype=np.bool_), group)
    assert list(networks._own_classes(m, [networks.Lesson(*sides)])) == ([0, 1] if own else [0])


def test_rows_to_stop_at_are_like_all_that_are_held_back():
    """They come in an order of their content: the first ones would be the most confident."""
    inside, outside = np.arange(0, 4000, 2), np.arange(1, 300, 2)
    table, truth, weights = networks._held_back([networks.Lesson(inside, outside, inside, outside)])
    used = [table[0][truth[0]], table[0][~truth[0]]]
    assert len(used[0]) == networks.CHECKED // 2
    assert set(used[0]) <= set(inside)
    assert abs(np.median(used[0]) - np.median(inside)) < 10
    np.testing.assert_array_equal(used[1], outside)
    np.testing.assert_allclose([weights[0][truth[0]].sum(), weights[0][~truth[0]].sum()], 0.5, rtol=1e-5)


# --- the mix of classes ---------------------------------------------------------------------------------------------


def test_class_odds_by_hand():
    member = np.array([True, True, True, False, True, False, False])
    group = np.array([0, 0, 1, 1, 2, 2, 3])
    m = Material({}, member, np.arange(7), group, 3, 5)
    # Members 2 + 1 + 0 and half of one each, others 0 + 1 + 0; the rows 4 to 6 were not learned from.
    expected = [np.log(2.5 / 4.5) - np.log(0.5 / 2.5), np.log(1.5 / 4.5) - np.log(1.5 / 2.5)]
    expected += [np.log(0.5 / 4.5) - np.log(0.5 / 2.5), 0.0]
    np.testing.assert_allclose(class_odds(m, np.arange(4)), expected)


def test_the_same_mix_of_classes_on_both_sides_is_no_handicap():
    """Where a class has more members in one half of the persons it has fewer in the other: who learned that mix would
    be worse than chance.
    """
    classes, each = 30, 40
    n = 2 * classes * each
    member, labels = np.arange(n) < n // 2, np.arange(n) % classes
    found = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        outputs, half = Outputs(rng.normal(size=(n, classes)), "logits"), rng.random(n) < 0.5
        for revealed in (half, ~half):
            known = np.where(revealed, member.astype(np.int64), -1)
            scores = ATTACKS["logistic"].score(observations_of(outputs, labels, known))
            found.append(auc(scores[~revealed], member[~revealed]))
    # Two halves of 600 a side that learn from each other vary like one, by 0.017; eight worlds by 0.006. The mix of
    # classes, learned, gives 0.45.
    assert abs(np.mean(found) - 0.5) < 4.5 * 0.006


# --- logistic regression --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, np.sin(np.arange(150.0))], ids=["plain", "offset"])
def test_logistic_against_a_general_optimiser(offset):
    rng = np.random.default_rng(7)
    x, group = rng.normal(size=(150, 3)), rng.integers(4, size=150)
    y = rng.random(150) < 1 / (1 + np.exp(-2 * x[:, 0] + group - 0.5))
    line = logistic.fit(x, y, group, 4, ridge=0.7, offset=offset)
    weights = np.where(y, 75 / y.sum(), 75 / (~y).sum())

    def objective(b):
        z = b[0] + x @ b[1:4] + b[4:][group] + offset
        return (weights * np.logaddexp(0, np.where(y, -z, z))).sum() + 0.35 * (b[1:] ** 2).sum()

    twin = minimize(objective, np.zeros(8), method="BFGS", options={"gtol": 1e-7})
    found = np.concatenate([[line.intercept], line.slopes, line.effects[:-1]])
    # The optimiser takes differences of the objective: good to the square root of the precision, 1e-5 here.
    np.testing.assert_allclose(found, twin.x, atol=2e-5)
    assert objective(found) <= twin.fun + 1e-9
    assert line.scores(x[:1], np.array([4]))[0] == pytest.approx(line.intercept + x[0] @ line.slopes)


def test_logistic_of_records_that_a_line_parts():
    """Without the ridge the slope would be infinite."""
    x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    line = logistic.fit(x, x[:, 0] > 0, np.zeros(4, dtype=np.int64), 1)
    assert 0 < line.slopes[0] < 3
    assert abs(line.intercept) < 1e-9


# --- tables ---------------------------------------------------------------------------------------------------------


def test_signal_table_by_hand():
    seen, _ = gaussian_world(20, 20, 4, 1.0, 0, seed=8)
    m = Material(seen.target, np.zeros(40, dtype=np.bool_), seen.persons, seen.labels, 4, 4)
    t = seen.target
    for i, row in enumerate(signal_table(m)):
        expected = [t["logit_confidence"][i], t["loss"][i], t["entropy"][i], -np.log(t["modified_entropy"][i])]
        np.testing.assert_allclose(row, [*expected, *t["top_margins"][i]], rtol=1e-12)


def test_class_centre_by_hand():
    phi = np.array([[1.0], [3.0], [8.0], [5.0], [2.0]])
    m = Material(
        {"logit_confidence": phi[:, 0]}, np.zeros(5, dtype=np.bool_), np.arange(5), np.array([0, 0, 1, 2, 1]), 2, 4
    )
    mean = (1 + 3 + 8) / 3
    of_first, of_second = (4 + 10 * mean) / 12, (8 + 10 * mean) / 11
    found = class_centre(m, np.array([0, 1, 2]))
    np.testing.assert_allclose(found, [of_first, of_first, of_second, mean, of_second])


# --- all of them ----------------------------------------------------------------------------------------------------


def test_boosting_finds_what_no_line_can_tell():
    x, member = ring()
    for rows, scores in zip(halves(len(x))[1], boosting(material(x, member), x, *halves(len(x))), strict=True):
        assert auc(scores, member[rows]) > 0.9


def test_folds_do_not_depend_on_what_is_withheld():
    seen, audit = gaussian_world(60, 60, 3, 1.0, 0, seed=9)
    revealed = half_of_the_persons(audit, 1)
    given_rows = []

    def learn(m, rows, asked):
        given_rows.append([m.signals["loss"][r] for r in rows])
        return [np.zeros(len(a)) for a in asked]

    for member in (audit.member, np.where(revealed, audit.member, ~audit.member)):
        cross_fitted(seen.reveal(member, revealed), ["loss"], learn)
    for one, other in zip(*given_rows, strict=True):
        np.testing.assert_array_equal(one, other)
