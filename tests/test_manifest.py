"""The data manifest: roles, persons, removals, and what bad files get."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from privacy_gate.datamodel import Role
from privacy_gate.errors import DataError, NotEvaluable
from privacy_gate.features import Stored, is_frame
from privacy_gate.manifest import (
    DUPLICATES,
    SHARED_PERSONS,
    Dataset,
    _identities,
    audit,
    class_order,
    draw,
    encode,
    load,
)
from privacy_gate.request import AuditSample, DataManifest
from privacy_gate.shadows.plan import balanced
from privacy_gate.storage import sha256_of_file


def refuse(uri: str) -> Path:
    raise AssertionError(f"nothing is to be fetched, got {uri}")


def table(n: int, start: int = 0, persons: int | None = None, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng([seed, start])
    return pd.DataFrame(
        {
            "age": rng.normal(size=n),
            "town": rng.choice(["a", "b"], n),
            "y": np.arange(n) % 2,
            "who": start + np.arange(n) // (1 if persons is None else n // persons),
        }
    )


def csv(folder: Path, **sets: pd.DataFrame) -> dict[str, Any]:
    for name, frame in sets.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    return {name: f"{name}.csv" for name in sets}


def read(folder: Path, **manifest: Any) -> Dataset:
    return load(DataManifest.model_validate(manifest), folder, refuse)


def test_members_come_first_and_only_features_are_left(tmp_path: Path) -> None:
    files = csv(tmp_path, members=table(30), nonmembers=table(20, 1000))
    data = read(tmp_path, **files, person="who")
    assert (data.members, data.nonmembers, data.population) == (30, 20, 0)
    assert is_frame(data.features)
    assert list(data.features.columns) == ["age", "town"]
    assert data.role_mask(Role.MEMBERS).tolist() == [True] * 30 + [False] * 20
    assert data.train_size == 30


def test_npz_and_csv_of_the_same_records_agree(tmp_path: Path) -> None:
    members, nonmembers = table(30), table(20, 1000)
    files = csv(tmp_path, members=members, nonmembers=nonmembers)
    for name, frame in (("members", members), ("nonmembers", nonmembers)):
        np.savez(tmp_path / f"{name}.npz", x=frame[["age"]].to_numpy(), y=frame.y.to_numpy(), who=frame.who.to_numpy())
    a = read(tmp_path, **files, person="who", features=["age"])
    b = read(tmp_path, members="members.npz", nonmembers="nonmembers.npz", person="who")
    np.testing.assert_allclose(np.asarray(a.features), np.asarray(b.features))
    np.testing.assert_array_equal(a.persons, b.persons)
    np.testing.assert_array_equal(a.raw_labels, b.raw_labels)


def test_nonmembers_of_member_persons_are_removed_and_counted(tmp_path: Path) -> None:
    nonmembers = table(20, 1000)
    nonmembers.loc[:4, "who"] = 3
    data = read(tmp_path, **csv(tmp_path, members=table(30), nonmembers=nonmembers), person="who")
    assert data.nonmembers == 15
    assert data.removed == {SHARED_PERSONS: 5}


def test_seen_records_are_neither_member_nor_nonmember(tmp_path: Path) -> None:
    nonmembers = table(20, 1000)
    seen = nonmembers.iloc[:6].copy()
    by_record = read(tmp_path, **csv(tmp_path, members=table(30), nonmembers=nonmembers, seen=seen), drop=["who"])
    assert by_record.nonmembers == 14
    assert by_record.seen == 6
    by_person = read(tmp_path, **csv(tmp_path, members=table(30), nonmembers=nonmembers, seen=seen), person="who")
    assert by_person.nonmembers == 14
    assert len(by_person.raw_labels) == 44


def test_exact_duplicates_across_sets_leave_both(tmp_path: Path) -> None:
    members, nonmembers = table(30), table(20, 1000)
    nonmembers.loc[:2, ["age", "town", "y"]] = members.loc[:2, ["age", "town", "y"]].to_numpy()
    data = read(tmp_path, **csv(tmp_path, members=members, nonmembers=nonmembers), drop=["who"])
    assert (data.members, data.nonmembers, data.candidates) == (27, 17, 50)
    assert data.removed == {DUPLICATES: 6}


def test_same_features_with_another_label_are_no_duplicate(tmp_path: Path) -> None:
    members, nonmembers = table(30), table(20, 1000)
    nonmembers.loc[0, ["age", "town"]] = members.loc[0, ["age", "town"]].to_numpy()
    nonmembers.loc[0, "y"] = 1 - members.loc[0, "y"]
    data = read(tmp_path, **csv(tmp_path, members=members, nonmembers=nonmembers), drop=["who"])
    assert data.removed == {}


def test_population_never_holds_audited_persons_or_records(tmp_path: Path) -> None:
    population = pd.concat([table(10, 5000), table(30).iloc[:3]])
    data = read(
        tmp_path, **csv(tmp_path, members=table(30), nonmembers=table(20, 1000), population=population), person="who"
    )
    assert data.population == 10


def test_a_changed_file_is_refused_by_its_sha256(tmp_path: Path) -> None:
    files = csv(tmp_path, members=table(30), nonmembers=table(20, 1000))
    good = sha256_of_file(tmp_path / "members.csv")
    manifest = {**files, "members": {"path": "members.csv", "sha256": good}, "person": "who"}
    assert read(tmp_path, **manifest).members == 30
    (tmp_path / "members.csv").write_text((tmp_path / "members.csv").read_text() + "\n")
    with pytest.raises(DataError, match="sha256"):
        read(tmp_path, **manifest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "income"}, "no label column 'income'"),
        ({"person": "pid"}, "no person column 'pid'"),
        ({"drop": ["zip"]}, "no dropped column 'zip'"),
        ({"features": ["age", "zip"]}, "no feature column 'zip'"),
        ({"members": "nowhere.csv"}, "no such file"),
        ({"members": "members.txt"}, "unknown kind of file"),
    ],
)
def test_what_the_manifest_names_must_exist(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    files = csv(tmp_path, members=table(30), nonmembers=table(20, 1000))
    (tmp_path / "members.txt").write_text("x")
    with pytest.raises(DataError, match=message):
        read(tmp_path, **{**files, "drop": ["who"], **change})


def test_infinite_and_missing_values_name_their_column(tmp_path: Path) -> None:
    members = table(30)
    members.loc[3, "age"] = np.inf
    with pytest.raises(DataError, match="feature 'age' has 1 infinite"):
        read(tmp_path, **csv(tmp_path, members=members, nonmembers=table(20, 1000)), person="who")
    members.loc[3, "age"] = np.nan
    files = csv(tmp_path, members=members, nonmembers=table(20, 1000))
    with pytest.raises(DataError, match="feature 'age' has 1 missing"):
        read(tmp_path, **files, person="who")
    assert read(tmp_path, **files, person="who", missing="allow").members == 30


def test_a_truncated_npz_and_one_with_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", x=np.zeros((4, 2)), y=np.zeros(4, int))
    (tmp_path / "n.npz").write_bytes((tmp_path / "m.npz").read_bytes()[:100])
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        read(tmp_path, members="m.npz", nonmembers="n.npz")
    np.savez(tmp_path / "n.npz", x=np.array([[{"a": 1}]], dtype=object), y=np.zeros(1, int))
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        read(tmp_path, members="m.npz", nonmembers="n.npz")


def test_columns_must_agree_across_sets(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="differ in their feature columns: age"):
        read(
            tmp_path,
            **csv(tmp_path, members=table(30), nonmembers=table(20, 1000).drop(columns="age")),
            person="who",
        )


def test_an_empty_side_is_not_evaluable(tmp_path: Path) -> None:
    with pytest.raises(NotEvaluable, match="there are no nonmembers"):
        read(tmp_path, **csv(tmp_path, members=table(30), nonmembers=table(20, 1000).iloc[:0]), person="who")
    same = table(30)
    with pytest.raises(NotEvaluable, match="no nonmembers are left"):
        read(tmp_path, **csv(tmp_path, members=same, nonmembers=same), person="who")


def test_labels_follow_the_models_class_order() -> None:
    raw = np.array(["no", "yes", "no"], dtype=object)
    assert encode(raw, class_order(("yes", "no"), None, 2)).tolist() == [1, 0, 1]
    assert encode(np.array([0.0, 1.0]), class_order(None, None, 2)).tolist() == [0, 1]
    assert encode(np.array([True, False]), (0, 1)).tolist() == [1, 0]
    with pytest.raises(DataError, match="1 labels are out of range: 7"):
        encode(np.array([0, 7]), (0, 1))
    with pytest.raises(DataError, match="3 classes are declared"):
        class_order(None, [0, 1, 2], 2)


def test_labels_that_are_text_are_no_numbers_and_the_message_says_so() -> None:
    with pytest.raises(DataError, match="2 labels are text and the classes are numbers: 0, 1 are among both") as caught:
        encode(np.array(["1", "0"]), range(2))
    assert 'classes: ["0", "1"]' in caught.value.hint
    with pytest.raises(DataError, match="3 labels are numbers and the classes are text: 1 are among both"):
        encode(np.array([1, 1, 1]), ("0", "1"))


def test_a_class_without_nonmembers_is_not_evaluable(tmp_path: Path) -> None:
    nonmembers = table(20, 1000)
    nonmembers["y"] = 0
    data = read(tmp_path, **csv(tmp_path, members=table(30), nonmembers=nonmembers), person="who")
    with pytest.raises(NotEvaluable, match="class 1 has no non-members"):
        audit(data, encode(data.raw_labels, (0, 1)), (0, 1))


def test_too_few_persons_are_counted_as_persons(tmp_path: Path) -> None:
    files = csv(tmp_path, members=table(30, persons=5), nonmembers=table(20, 1000))
    data = read(tmp_path, **files, person="who")
    with pytest.raises(NotEvaluable, match="5 persons among the members are too few"):
        audit(data, encode(data.raw_labels, (0, 1)), (0, 1))


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    files = csv(tmp_path, members=table(30), nonmembers=table(20, 1000))
    first = read(tmp_path, **files, person="who").digest
    assert read(tmp_path, **files, person="who").digest == first
    changed = table(20, 1000)
    changed.loc[7, "age"] += 1e-9
    assert read(tmp_path, **csv(tmp_path, members=table(30), nonmembers=changed), person="who").digest != first


@pytest.mark.parametrize(
    "written", [lambda who: who.astype(float), lambda who: who.map("{:06d}".format), lambda who: who.astype(str) + " "]
)
def test_a_person_is_the_same_however_a_file_writes_the_name(tmp_path: Path, written: Any) -> None:
    members = table(30)
    members.loc[0, "who"] = 12345  # and one whose name is no number, so that the reader makes text of all
    members["who"] = members["who"].astype(object)
    members.loc[1, "who"] = "x1"
    nonmembers = table(20, 20)  # persons 20..29 are members
    files = csv(tmp_path, members=members, nonmembers=nonmembers.assign(who=written(nonmembers["who"])))
    data = read(tmp_path, **files, person="who")
    assert data.removed == {"non-members sharing a person with members or seen records": 10}
    assert len(np.unique(data.persons)) == 40


def test_a_person_that_is_a_feature_too_keeps_its_type(tmp_path: Path) -> None:
    files = csv(tmp_path, members=table(30), nonmembers=table(20, 1000))
    data = read(tmp_path, **files, person="who", features=["who", "age"])
    assert is_frame(data.features)
    assert data.features["who"].dtype == np.int64


def test_duplicates_are_found_across_types(tmp_path: Path) -> None:
    """5 in a file of whole numbers is 5.0 in a file with a fraction in it, and of another width in an array."""
    members = table(30).assign(age=np.arange(30))
    nonmembers = table(20, 1000).assign(age=np.arange(20) + 0.5)
    nonmembers.loc[:3, ["age", "town", "y"]] = members.loc[:3, ["age", "town", "y"]]
    data = read(tmp_path, **csv(tmp_path, members=members, nonmembers=nonmembers))
    assert data.removed == {}  # persons are features here, and differ
    data = read(tmp_path, **csv(tmp_path, members=members, nonmembers=nonmembers), drop=["who"])
    assert data.removed == {"exact duplicates across members and non-members": 8}
    for name, frame, kind in (("members", members, np.float32), ("nonmembers", nonmembers, np.float64)):
        np.savez(tmp_path / f"{name}.npz", x=frame[["age"]].to_numpy(kind), y=frame.y.to_numpy())
    data = read(tmp_path, members="members.npz", nonmembers="nonmembers.npz")
    assert data.removed == {"exact duplicates across members and non-members": 8}


def test_identical_records_are_one_person_and_are_counted(tmp_path: Path) -> None:
    """Oversampled rows: a copy on the other side of a split would tell the answer there."""
    members = pd.concat([table(30), table(30).iloc[:10]])
    data = read(tmp_path, **csv(tmp_path, members=members, nonmembers=table(20, 1000)), drop=["who"])
    assert (data.members, data.twins) == (40, 20)
    np.testing.assert_array_equal(data.persons[:10], data.persons[30:40])
    assert len(np.unique(data.persons)) == 50


def test_copies_join_the_persons_that_share_them(tmp_path: Path) -> None:
    members = table(30, persons=15)  # two rows a person
    copy = members.iloc[[0]].assign(who=14)  # a row of person 0, again under person 14
    data = read(
        tmp_path,
        **csv(tmp_path, members=pd.concat([members, copy]), nonmembers=table(20, 1000)),
        person="who",
    )
    of_0, of_14 = set(data.persons[:2].tolist()), set(data.persons[28:31].tolist())
    assert of_0 == of_14
    assert len(of_0) == 1
    assert len(np.unique(data.persons[:31])) == 14


# --- typed columns ----------------------------------------------------------------------------------------------------


def test_a_schema_gives_order_types_and_levels_to_all_sets(tmp_path: Path) -> None:
    members, nonmembers = table(30), table(20, 1000).assign(town="c")
    files = csv(tmp_path, members=members, nonmembers=nonmembers)
    schema = {"town": {"dtype": "category", "levels": ["c", "b", "a"]}, "age": "float32"}
    data = read(tmp_path, **files, schema=schema, person="who")
    assert is_frame(data.features)
    assert list(data.features.columns) == ["town", "age"]
    assert data.features["town"].cat.categories.tolist() == ["c", "b", "a"]
    assert data.features["age"].dtype == np.float32
    schema["town"]["levels"] = ["a", "b"]  # type: ignore[index]
    with pytest.raises(DataError, match="nonmembers: column 'town' is declared category, 20 values are not among"):
        read(tmp_path, **files, schema=schema, person="who")


def test_the_signature_says_which_columns_are_features(tmp_path: Path) -> None:
    files = csv(tmp_path, members=table(30), nonmembers=table(20, 1000))
    manifest = DataManifest.model_validate({**files, "person": "who"})
    inputs = (("town", "string"), ("age", "double"))
    data = load(manifest, tmp_path, refuse, inputs=inputs)
    assert is_frame(data.features)
    assert list(data.features.columns) == ["town", "age"]
    with pytest.raises(DataError, match=r"members\.csv: no feature column 'income', which the model's signature names"):
        load(manifest, tmp_path, refuse, inputs=(*inputs, ("income", "double")))


def test_a_person_that_the_signature_names_keeps_its_type(tmp_path: Path) -> None:
    files = csv(tmp_path, members=table(30), nonmembers=table(20, 1000))
    manifest = DataManifest.model_validate({**files, "person": "who"})
    data = load(manifest, tmp_path, refuse, inputs=(("who", "long"), ("age", "double")))
    assert is_frame(data.features)
    assert data.features["who"].dtype == np.int64


def test_categories_of_parquet_have_one_set_of_levels(tmp_path: Path) -> None:
    for name, frame, town in (("members", table(30), "north"), ("nonmembers", table(20, 1000), "east")):
        frame.assign(town=pd.Categorical([town] * len(frame))).to_parquet(tmp_path / f"{name}.parquet")
    data = read(tmp_path, members="members.parquet", nonmembers="nonmembers.parquet", person="who")
    assert is_frame(data.features)
    assert data.features["town"].cat.categories.tolist() == ["east", "north"]


def test_nullable_labels_are_numbers_and_missing_ones_are_counted(tmp_path: Path) -> None:
    for name, frame in (("members", table(30)), ("nonmembers", table(20, 1000))):
        frame.astype({"y": "Int64"}).to_parquet(tmp_path / f"{name}.parquet")
    sets = {"members": "members.parquet", "nonmembers": "nonmembers.parquet"}
    assert read(tmp_path, **sets, person="who").raw_labels.dtype == np.int64
    odd = table(20, 1000).astype({"y": "Int64"})
    odd.loc[:2, "y"] = None
    odd.to_parquet(tmp_path / "nonmembers.parquet")
    with pytest.raises(DataError, match="3 labels are missing"):
        read(tmp_path, **sets, person="who")


def test_a_schema_for_arrays_is_refused(tmp_path: Path) -> None:
    for name in ("members", "nonmembers"):
        np.savez(tmp_path / f"{name}.npz", x=np.ones((4, 2)), y=np.zeros(4, int))
    with pytest.raises(DataError, match="arrays, whose columns have no names"):
        read(tmp_path, members="members.npz", nonmembers="nonmembers.npz", schema={"a": "float"})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_arrays_in_files_of_their_own_are_checked_and_left_there(
    tmp_path: Path, bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privacy_gate.features.LARGE", 1000)
    rng = np.random.default_rng(0)
    for name in ("members", "nonmembers"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", rng.normal(size=(40, 3, 2)))
        np.save(tmp_path / name / "y.npy", np.arange(40) % 2)
    data = load(DataManifest(members="members", nonmembers="nonmembers"), tmp_path, refuse, work=tmp_path / "work")
    assert isinstance(data.features, Stored)
    assert data.features.shape == (80, 3, 2)
    x = np.load(tmp_path / "members" / "x.npy")
    np.testing.assert_array_equal(data.features[:40], x)
    x[17, 2, 1] = bad
    np.save(tmp_path / "members" / "x.npy", x)
    with pytest.raises(DataError, match=r"feature array x has 1 (infinite|missing)"):
        load(DataManifest(members="members", nonmembers="nonmembers"), tmp_path, refuse, work=tmp_path / "work")


# --- weights ----------------------------------------------------------------------------------------------------------


def test_weights_follow_their_records_and_are_no_feature(tmp_path: Path) -> None:
    members, nonmembers = (f.assign(w=f.who + 1.5) for f in (table(30), table(20, 1000)))
    nonmembers.loc[0, ["age", "town", "y"]] = members.loc[29, ["age", "town", "y"]].to_numpy()  # leaves both sets
    data = read(tmp_path, **csv(tmp_path, members=members, nonmembers=nonmembers), drop=["who"], weight="w")
    assert is_frame(data.features)
    assert list(data.features.columns) == ["age", "town"]
    assert data.weights is not None
    np.testing.assert_array_equal(data.weights, [*np.arange(29) + 1.5, *np.arange(1001, 1020) + 1.5])
    for name, frame in (("members", members), ("nonmembers", nonmembers)):
        np.savez(tmp_path / f"{name}.npz", x=frame[["age"]].to_numpy(), y=frame.y.to_numpy(), w=frame.w.to_numpy())
    arrays = read(tmp_path, members="members.npz", nonmembers="nonmembers.npz", weight="w")
    np.testing.assert_array_equal(arrays.weights, data.weights)
    assert read(tmp_path, members="members.npz", nonmembers="nonmembers.npz").weights is None
    assert read(tmp_path, members="members.npz", nonmembers="nonmembers.npz").digest != arrays.digest


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_a_weight_that_is_none_is_counted(tmp_path: Path, bad: float) -> None:
    members, nonmembers = (f.assign(w=1.0) for f in (table(30), table(20, 1000)))
    members.loc[[3, 4], "w"] = bad
    with pytest.raises(DataError, match=r"members\.csv: 2 weights are missing, infinite, or not above 0"):
        read(tmp_path, **csv(tmp_path, members=members, nonmembers=nonmembers), weight="w")
    members["w"] = "much"
    with pytest.raises(DataError, match="something else than numbers"):
        read(tmp_path, **csv(tmp_path, members=members, nonmembers=nonmembers), weight="w")


# --- a sample of persons ----------------------------------------------------------------------------------------------


def people(n: int, start: int, seed: int = 0) -> pd.DataFrame:
    """Persons of one to four rows, a tenth of class 2, the rest of 0 and 1; some with one row of another class."""
    rng = np.random.default_rng([seed, start])
    size = rng.integers(1, 5, n)
    kind = np.where(np.arange(n) % 10 == 0, 2, np.arange(n) % 2)
    frame = pd.DataFrame({"who": np.repeat(start + np.arange(n), size), "y": np.repeat(kind, size)})
    odd = np.cumsum(size)[size >= 3] - 1
    frame.loc[odd[::3], "y"] = 1 - np.minimum(frame.loc[odd[::3], "y"], 1)
    return frame.assign(age=rng.normal(size=len(frame)), w=rng.uniform(1, 2, len(frame)))


def sampled(folder: Path, inside: pd.DataFrame, outside: pd.DataFrame, seed: int = 0, **audit: int) -> Dataset:
    manifest = DataManifest.model_validate(
        {**csv(folder, members=inside, nonmembers=outside), "person": "who", "weight": "w", "id": "row"}
    )
    return load(manifest, folder, refuse, audit=AuditSample(**audit), seed=seed)


def both() -> tuple[pd.DataFrame, pd.DataFrame]:
    frames = [people(400, 0), people(300, 1000)]
    return tuple(f.assign(row=[f"{i}:{r}" for r in range(len(f))]) for i, f in enumerate(frames))  # type: ignore[return-value]


def test_whole_persons_are_drawn_and_the_others_become_population(tmp_path: Path) -> None:
    members, nonmembers = both()
    data = sampled(tmp_path, members, nonmembers, members=300, nonmembers=200)
    assert data.people is not None
    drawn = set(data.people[: data.members].tolist())
    assert data.members == int(members.who.astype(str).isin(drawn).sum())  # all rows of each of them
    assert data.sampled == {
        Role.MEMBERS: (data.members, len(members)),
        Role.NONMEMBERS: (data.nonmembers, len(nonmembers)),
    }
    # Persons have 2.5 rows on average, between 1 and 4: 120 of them are 300 rows, give or take 5 standard errors.
    assert abs(data.members - 300) < 5 * 1.12 * np.sqrt(120)
    assert data.population == len(members) + len(nonmembers) - data.audited
    assert data.train_size == len(members)
    outside = set(data.persons[data.role_mask(Role.POPULATION)].tolist())
    assert not outside & set(data.persons[: data.audited].tolist())
    # Every record is still there, with its own weight.
    assert data.weights is not None
    assert is_frame(data.features)
    whole = pd.concat([members, nonmembers])
    weight = dict(zip(whole.age, whole.w, strict=True))
    assert sorted(data.features["age"]) == sorted(whole.age)
    np.testing.assert_array_equal([weight[age] for age in data.features["age"]], data.weights)


def test_each_class_keeps_its_share_of_persons(tmp_path: Path) -> None:
    members, nonmembers = both()
    data = sampled(tmp_path, members, nonmembers, members=300)
    assert data.people is not None
    assert data.nonmembers == len(nonmembers)
    assert list(data.sampled) == [Role.MEMBERS]
    drawn = set(data.people[: data.members].tolist())
    mode = members.groupby("who").y.agg(lambda y: y.value_counts().sort_index().idxmax())
    share = 300 / len(members)
    for kind, count in mode.value_counts().items():
        there = sum(str(who) in drawn for who in mode.index[mode == kind])
        assert abs(there - count * share) < 1, kind


def test_the_draw_is_the_seeds_and_not_the_files(tmp_path: Path) -> None:
    members, nonmembers = both()
    names = [
        set(sampled(tmp_path, m, nonmembers, seed, members=300).ids.tolist())
        for m, seed in (
            (members, 0),
            (members.sample(frac=1, random_state=1), 0),
            (members, 1),
        )
    ]
    assert names[0] == names[1]
    assert names[0] != names[2]


def test_each_person_of_a_class_has_the_same_chance() -> None:
    """Over 400 seeds: each of 20 persons, whatever their number of rows, is drawn in 400 * 0.5 of them."""
    persons = np.repeat(np.arange(20), np.arange(20) % 4 + 1)
    keys = np.random.default_rng(0).integers(0, 2**63, len(persons)).astype(np.uint64)
    counts = np.zeros(20)
    for seed in range(400):
        rows = draw(persons, np.zeros(len(persons), np.int64), keys, len(persons) // 2, np.random.default_rng(seed))
        counts[np.unique(persons[rows])] += 1
    # Each count is binomial(400, 0.5): 5 standard deviations, of which 20 persons exceed none but once in 80,000.
    assert np.abs(counts - 200).max() < 5 * 10


def test_where_fewer_are_there_all_are_audited(tmp_path: Path) -> None:
    members, nonmembers = both()
    data = sampled(tmp_path, members, nonmembers, members=10**6, nonmembers=len(nonmembers))
    assert (data.members, data.nonmembers, data.population) == (len(members), len(nonmembers), 0)
    assert data.sampled[Role.MEMBERS] == (len(members), len(members))


def test_a_rare_class_keeps_somebody() -> None:
    classes = np.array([0] * 99 + [1])
    rows = draw(np.arange(100), classes, np.arange(100, dtype=np.uint64), 10, np.random.default_rng(0))
    assert rows[99]
    assert rows.sum() in (10, 11)


def test_shadows_of_a_sample_are_balanced_and_as_large_as_the_target(tmp_path: Path) -> None:
    data = sampled(tmp_path, *both(), members=300, nonmembers=300)
    members, nonmembers, population = (data.role_mask(r) for r in (Role.MEMBERS, Role.NONMEMBERS, Role.POPULATION))
    plan = balanced(data.persons, members, nonmembers, population, 8, data.train_size, 0)
    assert not (plan.pool & population).any()
    inside = plan.member[:, : data.audited].sum(axis=0)
    assert set(inside) == {4}  # there are spare records enough for as many models without a person as with it
    sizes = plan.member.sum(axis=1)
    assert np.abs(sizes - data.train_size).max() <= 4  # a person has at most 4 rows


def test_a_person_is_one_person_whatever_type_the_column_has() -> None:
    for values in ([7, 10**16, 3 * 10**17], [7.0, 1e16, 3e17], ["007", " 10000000000000000", "300000000000000000.0"]):
        assert _identities(np.array(values)).tolist() == ["7", "1" + "0" * 16, "3" + "0" * 17]
