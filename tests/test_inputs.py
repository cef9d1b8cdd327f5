"""What records tell without any model: shifts and near copies are seen, odd tables do no harm."""

import numpy as np
import pandas as pd
import pytest

from privacy_gate import inputs, metrics
from privacy_gate.features import load, save
from privacy_gate.inputs import coordinates, look


def sides(n):
    return np.arange(2 * n) < n


def table(n=500, columns=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2 * n, columns)), rng.integers(0, 3, 2 * n), sides(n), np.arange(2 * n)


def auc(found):
    return metrics.auc(found.scores, found.member, found.persons)


class TestBlindClassifier:
    def test_scores_are_of_held_out_persons_only(self):
        features, labels, member, _ = table(n=300)
        persons = np.arange(600) // 3
        found = look(features, labels, member, persons, 0)
        assert len(found.scores) == len(found.member) == len(found.persons)
        # Half of the 100 persons a side; each with all of its records or none.
        assert [len(np.unique(found.persons[found.member == kind])) for kind in (True, False)] == [50, 50]
        assert set(np.unique(found.persons, return_counts=True)[1]) == {3}

    def test_nothing_is_found_where_nothing_is(self):
        # Held-out p-values have their nominal size. 40 worlds at 10 %: at most 10 reject with probability .998.
        rejected = 0
        for seed in range(40):
            features, labels, member, persons = table(n=150, columns=5, seed=seed)
            found = auc(look(features, labels, member, persons, seed))
            rejected += found.lower(0.05) > 0.5 or found.upper(0.05) < 0.5
        assert rejected <= 10

    @pytest.mark.parametrize("columns", [8, 300])  # boosted trees and a linear model; a linear model alone
    def test_a_shift_is_found(self, columns):
        features, labels, member, persons = table(n=1000, columns=columns)
        features[member, :2] += 0.5
        assert auc(look(features, labels, member, persons, 0)).lower(0.01) > 0.53

    def test_a_difference_in_spread_is_found(self):
        features, labels, member, persons = table(n=1000)
        features[member, 0] *= 3  # no linear model sees it
        assert auc(look(features, labels, member, persons, 0)).lower(0.01) > 0.55

    def test_the_label_is_an_input(self):
        features, labels, member, persons = table(n=1000)
        labels[member & (np.arange(2000) % 2 == 0)] = 0
        assert auc(look(features, labels, member, persons, 0)).lower(0.01) > 0.55

    def test_more_members_than_others_are_no_shift(self):
        features, labels, _, persons = table(n=600)
        found = auc(look(features, labels, np.arange(1200) < 1000, persons, 0))
        assert found.lower(0.001) < 0.5 < found.upper(0.001)

    def test_images_are_looked_at(self):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 200, (400, 32, 32, 3), dtype=np.uint8)  # 3,072 columns: thinned
        member = sides(200)
        images[member] += 40
        assert auc(look(images, np.zeros(400, dtype=np.int64), member, np.arange(400), 0)).value > 0.9

    def test_columns_of_frames(self):
        rng = np.random.default_rng(0)
        n = 400
        member = sides(n)
        columns = {
            "number": np.where(rng.random(2 * n) < 0.1, np.nan, rng.normal(size=2 * n) + member),
            "category": pd.Categorical(
                np.where(member & (rng.random(2 * n) < 0.5), "x", rng.choice(list("xyz"), 2 * n))
            ),
            "text": [
                f"word{i} {'inside' if m and i % 2 else 'plain'}" for i, m in zip(range(2 * n), member, strict=True)
            ],
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, 2 * n) + 150 * member, unit="D"),
            "flag": pd.array(np.where(member, rng.random(2 * n) < 0.8, rng.random(2 * n) < 0.3), dtype="boolean"),
        }
        for name, values in columns.items():
            frame = pd.DataFrame({name: values, "noise": rng.normal(size=2 * n)})
            assert auc(look(frame, np.zeros(2 * n, dtype=np.int64), member, np.arange(2 * n), 0)).value > 0.6, name


class TestNearCopies:
    def test_against_the_slow_twin(self):
        rng = np.random.default_rng(3)
        points = rng.normal(size=(60, 3)).astype(np.float32)
        exact, persons = rng.integers(0, 2, 60), np.arange(60) // 2
        rows, references = rng.permutation(60)[:20], rng.permutation(60)[:40]
        slow = [
            any(
                exact[q] == exact[r] and persons[q] != persons[r] and np.square(points[q] - points[r]).sum() <= 0.5
                for r in references
            )
            for q in rows
        ]
        assert 0 < sum(slow) < 20
        assert inputs._has_near(points, exact, persons, rows, references, 0.5).tolist() == slow

    def test_numeric_copies(self):
        features, labels, member, persons = table(n=500, columns=20)
        features[500:600] = features[:100] + 0.01 * np.random.default_rng(1).normal(size=(100, 20))
        found = look(features, labels, member, persons, 0)
        assert (found.near, found.expected, found.compared) == (100, 0.0, 500)

    @pytest.mark.parametrize(("flipped", "near"), [(2, 50), (3, 0)])  # 1 % of 200 columns
    def test_binary_copies(self, flipped, near):
        bits = (np.random.default_rng(0).random((600, 200)) < 0.3).astype(np.int8)
        bits[300:350] = bits[:50]
        bits[300:350, :flipped] ^= 1
        assert look(bits, np.zeros(600, dtype=np.int64), sides(300), np.arange(600), 0).near == near

    def test_mixed_copies_must_have_equal_text(self):
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({f"n{j}": rng.normal(size=400) for j in range(4)})
        frame["city"] = rng.choice(["Rome", "Oslo", "Lima"], 400)
        frame.iloc[200:240] = frame.iloc[:40].to_numpy()
        frame = frame.infer_objects()
        labels = np.zeros(400, dtype=np.int64)
        assert look(frame, labels, sides(200), np.arange(400), 0).near == 40
        frame.loc[200:239, "city"] = "Cairo"
        assert look(frame, labels, sides(200), np.arange(400), 0).near == 0

    def test_dense_data_have_near_records_by_nature(self):
        rng = np.random.default_rng(0)
        found = look(rng.integers(0, 4, (2000, 3)), np.zeros(2000, dtype=np.int64), sides(1000), np.arange(2000), 0)
        assert found.near == found.expected == found.compared == 1000

    def test_records_of_one_person_are_no_copies(self):
        features, labels, member, _ = table(n=200, columns=10)
        features[1:200:2] = features[:200:2]
        found = look(features, labels, member, np.arange(400) // 2, 0)
        assert (found.near, found.expected) == (0, 0.0)


ODD = {
    "constant": np.ones((200, 3)),
    "no columns": np.empty((200, 0)),
    "one column": np.arange(200.0)[:, None],
    "one dimension": np.arange(200.0),
    "booleans": np.arange(200)[:, None] % 2 == 0,
    "missing": np.where(np.arange(600).reshape(200, 3) % 3 == 0, np.nan, np.arange(600.0).reshape(200, 3)),
    "infinite": np.where(np.arange(600).reshape(200, 3) % 7 == 0, np.inf, np.arange(600.0).reshape(200, 3)),
    "text": np.array([f"row {i}" for i in range(200)])[:, None],
    "nothing but missing": pd.DataFrame({"a": [None] * 200, "b": pd.array([pd.NA] * 200, dtype="Int64")}),
    "empty text": pd.DataFrame({"a": [" "] * 200}),
    "mixed objects": pd.DataFrame({"a": [1, "x", None, 2.5] * 50}),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("error")
def test_odd_tables(name):
    labels, member = np.zeros(200, dtype=np.int64), sides(100)
    found = look(ODD[name], labels, member, np.arange(200), 0)
    assert np.isfinite(found.scores).all()
    assert len(found.scores) == 100
    one_side = look(ODD[name], labels, np.ones(200, dtype=np.bool_), np.arange(200), 0)
    assert len(one_side.scores) == 0
    assert one_side.near is None


def test_few_persons():
    found = look(np.zeros((20, 2)), np.zeros(20, dtype=np.int64), sides(10), np.arange(20) // 5, 0)
    assert len(found.scores) == 0
    assert found.near is None


def test_a_memory_map_with_more_rows_than_are_audited(tmp_path):
    features, labels, member, persons = table(n=200)
    path = save(np.concatenate([features, np.full((50, 8), 9.0)]), tmp_path / "features")
    for more in (load(path), pd.DataFrame(load(path))):
        found, plain = look(more, labels, member, persons, 0), look(features, labels, member, persons, 0)
        assert np.array_equal(found.scores, plain.scores)
        assert found.near == plain.near


def test_is_deterministic_and_bounded(monkeypatch):
    features, labels, member, persons = table(n=400)
    monkeypatch.setattr(inputs, "MOST_PERSONS", 200)
    first, second = (look(features, labels, member, persons, 5) for _ in range(2))
    assert np.array_equal(first.scores, second.scores)
    assert (len(first.scores), first.compared) == (100, 100)
    assert "200 of 800 records" in first.note
    monkeypatch.setattr(inputs, "MOST_RECORDS", 50)
    assert len(look(features, labels, member, persons, 5).scores) <= 50


class TestCoordinates:
    """The records as numbers for attackers: nothing but the records is in them."""

    def test_few_columns_are_themselves(self):
        rng = np.random.default_rng(0)
        table = rng.normal(3.0, [1.0, 20.0, 0.1], size=(400, 3)).astype(np.float32)
        found = coordinates(table, 400)
        wide = table.astype(np.float64)
        # Kept to six decimals; float32 noise would need a seventh.
        np.testing.assert_allclose(found, (wide - wide.mean(axis=0)) / wide.std(axis=0), atol=1e-6)

    def test_many_columns_become_main_components(self):
        rng = np.random.default_rng(1)
        hidden = rng.normal(size=(600, 3))
        table = hidden @ rng.normal(size=(3, 100)) + 0.01 * rng.normal(size=(600, 100))
        found = coordinates(table, 600)
        assert found.shape == (600, 32)
        np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(found.std(axis=0), 1, atol=1e-5)
        standard = (table - table.mean(axis=0)) / table.std(axis=0)
        left, _, _ = np.linalg.svd(standard, full_matrices=False)
        for mine, theirs in zip(found.T[:3], left.T[:3], strict=True):
            assert abs(np.corrcoef(mine, theirs)[0, 1]) == pytest.approx(1, abs=1e-6)

    def test_records_in_few_dimensions(self):
        rng = np.random.default_rng(2)
        table = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 80))
        # Five directions, not five and 27 of rounding errors blown up to variance 1 (float32 leaves some of its own).
        assert coordinates(table, 300).shape[1] == 5
        assert coordinates(np.ones((50, 80)), 50).shape == (50, 0)
        assert coordinates(rng.normal(size=(10, 80)), 10).shape[1] <= 10

    def test_the_audited_records_come_first(self):
        rng = np.random.default_rng(3)
        table = rng.normal(size=(500, 6))
        np.testing.assert_array_equal(coordinates(table, 200), coordinates(table[:200], 200))

    def test_frames(self):
        rng = np.random.default_rng(4)
        n = 300
        colour = rng.choice(["red", "green", "blue"], n, p=[0.6, 0.3, 0.1])
        frame = pd.DataFrame(
            {"age": rng.normal(40, 10, n), "colour": colour, "gone": np.where(colour == "red", np.nan, 1)}
        )
        found = coordinates(frame, n)
        assert np.isfinite(found).all()
        assert found.shape == (n, 5)  # age, how many numbers are missing, three colours; a constant is left out
        # Each colour, and whether a number is missing, is there to be read off.
        with_one = np.column_stack([np.ones(n), found])
        for wanted in (colour == "red", colour == "blue", frame["gone"].isna().to_numpy()):
            fitted = with_one @ np.linalg.lstsq(with_one, wanted.astype(float), rcond=None)[0]
            np.testing.assert_allclose(fitted, wanted, atol=1e-4)

    def test_a_category_weighs_as_much_as_a_number(self):
        """A hundred one-hot columns of one category must not crowd out the numbers."""
        rng = np.random.default_rng(5)
        number = rng.normal(size=1000)
        frame = pd.DataFrame({"number": number, "code": [f"code_{k}" for k in rng.integers(100, size=1000)]})
        found = coordinates(frame, 1000)
        assert found.shape == (1000, 32)
        assert np.abs([np.corrcoef(number, column)[0, 1] for column in found.T]).max() > 0.95

    def test_far_off_values_are_cut_off(self):
        table = np.zeros((1000, 2))
        table[:, 1] = np.arange(1000)
        table[0, 0] = 1e30
        assert np.abs(coordinates(table, 1000)).max() == 10

    def test_names_of_categories_and_order_of_records_do_not_matter(self):
        rng = np.random.default_rng(6)
        code = rng.choice(4, 200, p=[0.4, 0.3, 0.2, 0.1])
        frame = pd.DataFrame({"x": rng.normal(size=200), "code": np.array(list("abcd"))[code]})
        other = frame.assign(code=np.array(["north", "south", "east", "west"])[code])
        np.testing.assert_array_equal(coordinates(frame, 200), coordinates(other, 200))
        order = rng.permutation(200)
        turned = coordinates(frame.iloc[order].reset_index(drop=True), 200)
        np.testing.assert_allclose(turned, coordinates(frame, 200)[order], atol=2e-6)

    @pytest.mark.parametrize("kind", ["uint8", "bool", "object"])
    def test_arrays_of_any_kind(self, kind, tmp_path):
        rng = np.random.default_rng(7)
        images = rng.integers(0, 2, (60, 40, 40, 3)).astype(np.uint8)
        table = images[:, 0, :5, 0].astype(object) if kind == "object" else images.astype(kind)
        found = coordinates(table, 60)
        assert found.shape == (60, 5 if kind == "object" else 32)
        assert np.isfinite(found).all()
        if kind != "object":
            np.testing.assert_array_equal(coordinates(load(save(table, tmp_path / "x")), 60), found)

    def test_texts_are_read(self):
        rng = np.random.default_rng(8)
        happy = rng.random(300) < 0.5
        words = np.where(happy, "what a fine sunny day", "it rains and it is cold")
        frame = pd.DataFrame({"note": [f"{w} {k}" for k, w in enumerate(words)], "x": rng.normal(size=300)})
        found = coordinates(frame, 300)
        assert np.abs([np.corrcoef(happy, column)[0, 1] for column in found.T]).max() > 0.95
