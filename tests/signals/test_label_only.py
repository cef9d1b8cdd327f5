"""Label-only probes against slow twins and against models whose answers are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage

from privacy_gate.datamodel import Outputs
from privacy_gate.errors import ModelOutputUnusable, NotEvaluable
from privacy_gate.signals import PROBES
from privacy_gate.signals import augmentation_robustness as augmenting
from privacy_gate.signals import boundary_distance as bounding
from privacy_gate.signals import noise_robustness as noising


@dataclass
class Asked:
    """A model that is a function to classes; counts the records it is asked about."""

    decide: Callable
    classes: int = 2
    records: int = 0

    def answers(self, features):
        self.records += len(features)
        return Outputs(np.eye(self.classes)[np.asarray(self.decide(features)).astype(np.int64)], "probabilities")

    def module(self):
        raise NotEvaluable("no torch module")


def noise(decide, features, labels, seed=0, classes=2):
    return PROBES["noise_robustness"].compute(Asked(decide, classes), features, np.asarray(labels), seed)


def augmented(decide, images, labels, classes=2):
    return PROBES["augmentation_robustness"].compute(Asked(decide, classes), images, np.asarray(labels), 0)


def distance(decide, features, labels, seed=0, classes=2):
    return PROBES["boundary_distance"].compute(Asked(decide, classes), features, np.asarray(labels), seed)


# --- noise robustness -------------------------------------------------------------------------------------------------


def typed_frame(n=60, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "amount": rng.lognormal(size=n),
            "amount32": rng.normal(size=n).astype(np.float32),
            "age": rng.integers(18, 90, size=n),
            "small": rng.integers(0, 256, size=n).astype(np.uint8),
            "rooms": rng.integers(1, 6, size=n),
            "member": rng.random(n) < 0.5,
            "maybe": pd.array(rng.integers(0, 500, size=n), dtype="Int64"),
            "city": pd.Categorical(rng.choice(["a", "b", "c"], size=n), categories=["c", "a", "unused", "b"]),
            "job": rng.choice(["x", "y", "z", "w"], size=n),
            "when": pd.to_datetime(rng.choice(["2020-01-01", "2021-01-01"], size=n)),
            "one": 1.0,
        }
    )
    frame.loc[3, ["amount", "maybe", "city", "job"]] = [np.nan, pd.NA, None, None]
    return frame


def changes_of(table, seed=0):
    rng = np.random.default_rng([41, seed])
    return [table.change(level, rng) for level in range(len(noising.NOISE)) for _ in range(noising.DRAWS)]


def test_scores_order_records_as_own_answer_then_count_then_small_changes():
    right = np.random.default_rng(1).random((25, 3000)) < np.random.default_rng(2).random(3000)
    counts = right[1:].reshape(4, 6, -1).sum(axis=1)
    ranks = [(bool(own), int(c.sum()), *map(int, c)) for own, c in zip(right[0], counts.T, strict=True)]
    scores = noising.robustness(right)
    by_rank = sorted(range(3000), key=ranks.__getitem__)
    for a, b in pairwise(by_rank):
        assert (scores[a] < scores[b]) == (ranks[a] < ranks[b])
        assert (scores[a] == scores[b]) == (ranks[a] == ranks[b])
    assert len(np.unique(scores)) == len(set(ranks)) > 500
    extremes = noising.robustness(np.array([[True, False]] * 25))
    np.testing.assert_array_equal(extremes, [1.0, 0.0])


def test_noise_robustness_is_the_naive_count():
    """One record and one copy at a time, statistics by sorting, values by look-up."""
    frame = typed_frame(24).drop(columns=["when", "maybe", "small", "amount32", "one"])
    labels = np.random.default_rng(3).integers(0, 2, size=24)

    def decide(table):
        city = table["city"].astype(object).map({"a": 0.7, "b": -0.4, "c": 0.1}).astype(float).fillna(0.0)
        job = table["job"].map({"x": 1.0, "y": -1.0, "z": 0.3}).fillna(0.2)
        score = np.log(table["amount"].fillna(1.0)) + city + job + table["member"] * 0.5 + (table["age"] - 54) / 30
        return (score - 0.1 * table["rooms"] > 0).to_numpy()

    order_of = {}  # discrete columns in the frame's order, each with its values in the order of (type, text)
    for j, name in enumerate(frame.columns):
        if name not in ("amount", "age"):
            values = {v for v in frame[name].tolist() if not pd.isna(v)}
            order_of[j] = sorted(values, key=lambda v: (type(v).__name__, str(v)))
    if frame["rooms"].nunique() > 2:  # whole numbers are told apart as float64
        order_of[frame.columns.get_loc("rooms")] = sorted(set(frame["rooms"].tolist()), key=lambda v: str(float(v)))
    discrete = list(order_of)
    bounds = {name: (frame[name].min(), frame[name].max()) for name in ("amount", "age")}
    right = np.zeros((25, 24), dtype=bool)
    for r in range(0, 24, 3):
        for c, change in enumerate([None, *changes_of(noising._table(frame))]):
            record = frame.iloc[[r]].copy()
            if change is not None:
                for name, added in zip(("amount", "age"), change.added, strict=True):
                    if not pd.isna(record[name].iloc[0]):
                        moved = min(max(record[name].iloc[0] + added, bounds[name][0]), bounds[name][1])
                        record[name] = moved if name == "amount" else int(np.rint(moved))
                for k, turn in zip(change.columns, change.turns, strict=True):
                    name, values = frame.columns[discrete[k]], order_of[discrete[k]]
                    old = record[name].iloc[0]
                    if not pd.isna(old):
                        at = (values.index(old) + 1 + int(turn * (len(values) - 1))) % len(values)
                        record[name] = pd.Series([values[at]], index=record.index, dtype=frame[name].dtype)
            right[c, r] = decide(record)[0] == bool(labels[r])
    np.testing.assert_array_equal(noise(decide, frame, labels)[::3], noising.robustness(right)[::3])
    assert 0.2 < right[:, ::3].mean() < 0.8


def test_a_changed_frame_keeps_types_levels_ranges_and_missing_values():
    frame = typed_frame()
    table = noising._table(frame)
    assert [frame.columns[c] for c in table.continuous.columns] == ["amount", "amount32", "age", "small", "maybe"]
    for change in changes_of(table):
        changed = table.changed(change)
        assert (changed.dtypes == frame.dtypes).all()
        assert changed.index.equals(frame.index)
        assert changed.columns.equals(frame.columns)
        pd.testing.assert_frame_equal(changed.isna(), frame.isna())
        for name in ("amount", "amount32", "age", "small", "maybe"):
            assert changed[name].min() >= frame[name].min()
            assert changed[name].max() <= frame[name].max()
        for name in ("rooms", "member", "city", "job", "when"):
            assert set(changed[name].dropna()) <= set(frame[name].dropna())
        swapped = {frame.columns[table.discrete[k].column] for k in change.columns}
        assert len(swapped) == 1  # at least one; a tenth of five is less
        for name in swapped:
            present = frame[name].notna()
            assert (changed[name][present].astype(object) != frame[name][present].astype(object)).all()
        for name in {"rooms", "member", "city", "job", "when", "one"} - swapped:
            pd.testing.assert_series_equal(changed[name], frame[name])


def test_noise_has_the_size_it_claims():
    """Columns as wide as 1 and 1000 with 5 % outliers: noise is 0.05, 0.1, 0.2 and 0.4 of the bulk's deviation."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(4000, 2)) * [1.0, 1000.0]
    x[:200] *= 100
    table = noising._table(x)
    # 5 % outliers move the quartiles of 4000 normal values by less than a tenth.
    np.testing.assert_allclose(table.continuous.spread, [1.0, 1000.0], rtol=0.12)
    added = np.array([change.added for change in changes_of(table)]) / table.continuous.spread
    for level, size in enumerate(noising.NOISE):
        scaled = added[6 * level : 6 * level + 6] / size
        assert 0 < np.abs(scaled).max() < 4  # 12 normal draws: beyond 4 in fewer than 1 of 1000 seeds


def test_spread_falls_back_where_most_values_are_one():
    assert noising._spread(np.r_[np.zeros(95), np.arange(1.0, 6.0)]) > 0
    assert noising._spread(np.r_[np.zeros(9999), 7.0]) == pytest.approx(np.r_[np.zeros(9999), 7.0].std())


def test_whole_numbers_stay_whole_and_in_range():
    rng = np.random.default_rng(5)
    x = np.stack([rng.integers(0, 256, 200), rng.integers(0, 2, 200)], axis=1).astype(np.uint8)
    table = noising._table(x)
    assert list(table.continuous.columns) == [0]
    for change in changes_of(table):
        changed = table.changed(change)
        assert changed.dtype == np.uint8
        assert (np.abs(changed[:, 0].astype(int) - x[:, 0]) < 250).all()  # 255 + 1 is not 0
        assert (changed[:, 1] == 1 - x[:, 1]).all()


def test_two_values_are_swapped_whatever_they_are():
    """A standardised flag is a flag."""
    x = np.where(np.random.default_rng(6).random((100, 30)) < 0.3, 1.527, -0.655)
    table = noising._table(x)
    for level, change in zip(np.repeat([1, 1, 2, 3], 6), changes_of(table), strict=True):
        differ = table.changed(change) != x
        assert differ.all(axis=0).sum() == differ.any(axis=0).sum() == level  # 1, 2, 5 and 10 % of 30, rounded up
    np.testing.assert_array_equal(np.unique(table.changed(changes_of(table)[-1])), np.unique(x))


def test_the_farther_from_the_threshold_the_more_robust():
    x = np.linspace(-3, 3, 400)[:, None]
    scores = noise(lambda t: t[:, 0] > 0, x, x[:, 0] > 0)
    outward = scores[200:]
    assert (np.diff(outward) >= 0).all()  # the same noise for all: exactly monotone
    assert outward[-1] == 1.0
    assert 0.5 < outward[0] < 0.9
    wrong = noise(lambda t: t[:, 0] > 0, x, x[:, 0] <= 0)
    assert wrong.max() < 0.5 < scores.min()


def test_noise_asks_as_often_as_it_says_and_in_few_batches():
    model = Asked(lambda t: t[:, 0] > 0)
    PROBES["noise_robustness"].compute(model, np.random.default_rng(7).normal(size=(50, 3)), np.ones(50, dtype=int), 0)
    assert model.records == 25 * 50
    assert PROBES["noise_robustness"].queries.startswith("25 ")


def test_noise_in_many_batches_is_the_same(monkeypatch):
    x = np.random.default_rng(8).normal(size=(30, 4))
    at_once = noise(lambda t: t.sum(axis=1) > 0, x, np.ones(30))
    monkeypatch.setattr(noising, "ROWS", 70)
    np.testing.assert_array_equal(noise(lambda t: t.sum(axis=1) > 0, x, np.ones(30)), at_once)


@pytest.mark.parametrize(
    ("features", "why"),
    [
        (np.zeros((5, 3, 8, 8)), "axes"),
        (np.ones((5, 3)), "constant"),
        (pd.DataFrame({"a": [[1], [2], [3]]}), "told apart"),
    ],
    ids=["images", "constant", "lists"],
)
def test_noise_says_where_it_does_not_fit(features, why):
    with pytest.raises(NotEvaluable, match=why) as caught:
        noise(lambda t: np.zeros(len(t)), features, np.zeros(len(features)))
    assert caught.value.hint


# --- augmentation robustness ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [1.0, -7.0, 15.0])
def test_turning_is_that_of_scipy(degrees):
    images = np.random.default_rng(9).random((4, 3, 12, 9))
    naive = [
        [scipy.ndimage.rotate(plane, degrees, reshape=False, order=1, mode="nearest") for plane in image]
        for image in images
    ]
    np.testing.assert_allclose(augmenting.changed(images, (degrees, 0, 0)), naive, atol=1e-12)


@pytest.mark.parametrize("change", [c for c in augmenting.CHANGES if c[0] == 0], ids=str)
def test_moving_repeats_the_edge(change):
    _, down, right = change
    images = np.random.default_rng(10).random((3, 9, 8))
    wide = np.pad(images, ((0, 0), (2, 2), (2, 2)), mode="edge")
    np.testing.assert_array_equal(
        augmenting.changed(images, change), wide[:, 2 - down : 11 - down, 2 - right : 10 - right]
    )


def test_changes_are_many_small_and_none_is_none():
    assert len(set(augmenting.CHANGES)) == len(augmenting.CHANGES) == 28
    assert all(0 < abs(d) <= 15 or 0 < abs(i) + abs(j) <= 2 for d, i, j in augmenting.CHANGES)
    assert all((-d, -i, -j) in augmenting.CHANGES for d, i, j in augmenting.CHANGES)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_layouts_agree_and_types_stay(dtype):
    plain = (np.random.default_rng(11).random((3, 10, 12)) * 255).astype(dtype)
    coloured = np.stack([plain, plain // 2, plain], axis=1)
    for change in augmenting.CHANGES:
        alone = augmenting.changed(plain, change)
        assert alone.dtype == dtype
        first = augmenting.changed(coloured, change)
        last = augmenting.changed(np.moveaxis(coloured, 1, 3).copy(), change)
        np.testing.assert_array_equal(first[:, 0], alone)
        np.testing.assert_array_equal(np.moveaxis(last, 3, 1), first)


def test_augmentation_counts_copies():
    """A model that wants the exact bright pixel, one that wants the bright half, and one that is always wrong."""
    images = np.zeros((2, 1, 16, 16))
    images[0, 0, 2:6, 2:6] = images[1, 0, 10:14, 2:6] = 1.0
    labels = np.array([0, 1])

    def exact(x):
        known = (x[:, None] == images[None]).reshape(len(x), 2, -1).all(axis=2)
        return np.where(known[:, 0], 0, np.where(known[:, 1], 1, 2))

    def half(x):
        return x[:, 0, 8:].sum(axis=(1, 2)) > x[:, 0, :8].sum(axis=(1, 2))

    np.testing.assert_allclose(augmented(exact, images, labels, 3), 29 / 57, rtol=1e-15)
    np.testing.assert_array_equal(augmented(half, images, labels), 1.0)
    np.testing.assert_array_equal(augmented(half, images, 1 - labels), 0.0)
    model = Asked(half)
    PROBES["augmentation_robustness"].compute(model, images, labels, 0)
    assert model.records == 29 * 2
    assert PROBES["augmentation_robustness"].queries.startswith("29 ")


@pytest.mark.parametrize(
    "features",
    [np.zeros((5, 64)), pd.DataFrame({"a": [1.0, 2.0]}), np.zeros((5, 7, 8)), np.zeros((5, 10, 12, 11))],
    ids=["table", "frame", "small", "no channels"],
)
def test_augmentation_says_where_it_does_not_fit(features):
    with pytest.raises(NotEvaluable) as caught:
        augmented(lambda t: np.zeros(len(t)), features, np.zeros(len(features)))
    assert caught.value.hint


# --- boundary distance ------------------------------------------------------------------------------------------------


def linear_world(width, n=150, seed=12):
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(size=width))
    x = rng.normal(size=(n, width)) * scale
    weights, offset = rng.normal(size=width) / scale, 0.3
    exact = np.abs(x @ weights + offset) / np.linalg.norm(weights * x.std(axis=0))
    return x, lambda t: t @ weights + offset > 0, exact


@pytest.mark.parametrize(("width", "most"), [(2, 1.05), (8, 1.12)])
def test_distance_to_a_plane_is_exact_from_above(width, most):
    """Every length was tried, so none is below the exact one.

    From above: the last stride is 1 / sqrt(6) of the length along a normal known to a cosine of about
    sqrt(1 / (1 + (pi / 2)(d - 1) / B)) from B = 49 signs. It leaves a sideways share of at most
    0.41 sin / (1 + 0.41 cos), and what earlier strides left shrinks by 1 / (1 + 0.41 cos) in each: a share of
    sin at most. The length is sqrt(1 + share^2) of the exact one: 1.02 at d = 2, 1.10 at d = 8, and 2 % for chance.
    """
    x, decide, exact = linear_world(width)
    found = distance(decide, x, decide(x))
    assert (found >= exact * (1 - 1e-9)).all()
    assert (found <= exact * most).all()


def test_wide_records_keep_their_order():
    """200 columns and 49 directions: lengths are too long, and rank records all the same."""
    x, decide, exact = linear_world(200, n=40)
    found = distance(decide, x, decide(x))
    assert np.corrcoef(found.argsort().argsort(), exact.argsort().argsort())[0, 1] > 0.98


def test_misclassified_records_are_at_distance_zero_and_others_are_not():
    x, decide, _ = linear_world(3)
    wrong = np.arange(len(x)) % 5 == 0
    found = distance(decide, x, decide(x) ^ wrong)
    np.testing.assert_array_equal(found == 0, wrong)


def naive_distance(decide, x, labels, seed):
    """HopSkipJump for one record after the other, in plain loops; the same directions."""
    middle, scale = x.mean(axis=0), x.std(axis=0)
    z = (x - middle) / scale
    own = [int(decide(row[None])[0]) for row in x]
    rng = np.random.default_rng([42, seed])
    directions = []
    for t in range(1, 7):
        drawn = rng.normal(size=(int(20 * t**0.5), x.shape[1]))
        directions.append([row / np.linalg.norm(row) for row in drawn])
    lengths = []
    for i, home in enumerate(z):
        if own[i] != labels[i]:
            lengths.append(0.0)
            continue

        def over(point, i=i):
            return int(decide((point * scale + middle)[None])[0]) != own[i]

        def back(point, home=home, over=over):
            near, far = 0.0, 1.0
            for _ in range(12):
                half = (near + far) / 2
                if over(home + half * (point - home)):
                    far = half
                else:
                    near = half
            return home + far * (point - home)

        others = sorted((j for j in range(len(z)) if own[j] != own[i]), key=lambda j: np.linalg.norm(z[j] - home))
        at = min((back(z[j]) for j in others[:4]), key=lambda point: np.linalg.norm(point - home))
        best = np.linalg.norm(at - home)
        for t, some in enumerate(directions, start=1):
            length = np.linalg.norm(at - home)
            signs = [1.0 if over(at + 0.05 * length * u) else -1.0 for u in some]
            mean = sum(signs) / len(signs)
            shift = mean if abs(mean) < 1 else 0.0
            normal = sum((sign - shift) * u for sign, u in zip(signs, some, strict=True))
            normal = normal / np.linalg.norm(normal)
            beyond = at
            for halvings in range(6):
                tried = at + length / t**0.5 / 2**halvings * normal
                if over(tried):
                    beyond = tried
                    break
            at = back(beyond)
            best = min(best, np.linalg.norm(at - home))
        lengths.append(best)
    return np.array(lengths)


def test_distance_is_that_of_one_record_at_a_time():
    rng = np.random.default_rng(13)
    x = rng.normal(size=(25, 3))

    def decide(t):
        return (t**2).sum(axis=1) + 0.5 * np.sin(3 * t[:, 0]) > 2.5

    labels = decide(x).astype(int)
    labels[4] = 1 - labels[4]
    np.testing.assert_allclose(distance(decide, x, labels, seed=5), naive_distance(decide, x, labels, 5), rtol=1e-9)


def test_distance_asks_no_more_than_it_says():
    x, decide, _ = linear_world(6, n=40)
    model = Asked(decide)
    PROBES["boundary_distance"].compute(model, x, decide(x).astype(int), 0)
    limit = next(int(word) for word in PROBES["boundary_distance"].queries.split() if word.isdigit())
    assert 100 * len(x) < model.records <= limit * len(x)
    assert 300 <= limit <= 600


def test_distance_in_small_batches_is_the_same(monkeypatch):
    x, decide, _ = linear_world(4, n=30)
    at_once = distance(decide, x, decide(x))
    monkeypatch.setattr(bounding, "ROWS", 64)
    monkeypatch.setattr(bounding, "_BLOCK", 7)
    np.testing.assert_allclose(distance(decide, x, decide(x)), at_once, rtol=1e-9)


def test_records_that_no_number_moves_are_the_farthest():
    """Rows of kind a are of class 1 whatever their numbers: nothing is known but that they are far."""
    rng = np.random.default_rng(14)
    frame = pd.DataFrame({"kind": rng.choice(["a", "b"], size=80), "x": rng.normal(size=80), "n": np.arange(80)})

    def decide(t):
        assert (t["kind"].isin(["a", "b"])).all()
        return ((t["kind"] == "a") | (t["x"] > 0)).to_numpy()

    found = distance(decide, frame, decide(frame))
    censored = (frame["kind"] == "a").to_numpy()
    assert (found[censored] == found[~censored].max()).all()
    exact = np.abs(frame["x"] / frame["x"].std(ddof=0))[~censored]
    assert (found[~censored] >= exact * (1 - 1e-9)).all()
    assert (found[~censored] <= exact * 1.05).all()


def test_images_are_points_too():
    rng = np.random.default_rng(15)
    images = rng.normal(size=(40, 1, 3, 3)).astype(np.float32)

    def decide(t):
        assert t.shape[1:] == (1, 3, 3)
        assert t.dtype == np.float32
        return t.mean(axis=(1, 2, 3)) > 0

    assert (distance(decide, images, decide(images)) > 0).all()


def refusing(t):
    if t.dtype.kind == "f":
        raise ModelOutputUnusable("expected whole numbers")
    return t[:, 0] > 2


@pytest.mark.parametrize(
    ("decide", "features", "why"),
    [
        (lambda t: np.zeros(len(t)), np.arange(12.0).reshape(6, 2), "same class"),
        (lambda t: np.arange(len(t)) % 2, pd.DataFrame({"a": list("xyxyxy")}), "numeric column"),
        (lambda t: np.arange(len(t)) % 2, np.ones((6, 2)), "numeric column"),
        (lambda t: np.arange(len(t)) % 2, np.array([["x"], ["y"]] * 3), "numbers"),
        (refusing, np.arange(12).reshape(6, 2), "fractions"),
        (lambda t: t["k"] == "x", pd.DataFrame({"k": list("xyxyxy"), "n": np.arange(6.0)}), "alters"),
    ],
    ids=["one class", "categories", "constant", "text", "refuses", "decided elsewhere"],
)
def test_distance_says_where_it_does_not_fit(decide, features, why):
    labels = np.arange(6) % 2 if why != "alters" else np.array([1, 0] * 3)
    with pytest.raises(NotEvaluable, match=why) as caught:
        distance(decide, features, labels)
    assert caught.value.hint
