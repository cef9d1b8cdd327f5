"""Quantile regression, population, difficulty calibration: against slow twins, known answers, and their promises."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from privacy_gate import inputs
from privacy_gate.attacks import CATALOG, population
from privacy_gate.attacks import quantile_regression as quantile
from privacy_gate.datamodel import NONMEMBER, WITHHELD, AttackResult, AttackSkipped, Observations, ThreatModel
from privacy_gate.errors import NotEvaluable
from privacy_gate.measure import View, measure
from tests.worlds import auc, auc_noise, gaussian_world, half_of_the_persons, location30


def seen_of(phi, x, labels, known, persons=None, classes=None):
    n = len(phi)
    return Observations(
        target={"logit_confidence": phi, "coordinates": x},
        labels=labels,
        known=known.astype(np.int8),
        persons=np.arange(n) if persons is None else persons,
        classes=int(labels.max()) + 1 if classes is None else classes,
    )


class TestRidge:
    """Closed forms, against solving the normal equations for every penalty and every record left out."""

    @staticmethod
    def table(seed, n=40, d=3, classes=4):
        rng = np.random.default_rng(seed)
        x, labels = rng.normal(size=(n, d)), rng.integers(classes, size=n)
        y = x @ rng.normal(size=d) + rng.normal(size=classes)[labels] + rng.normal(size=n)
        return y, x, labels, classes

    @staticmethod
    def solved(y, design, penalty):
        """Intercept, which is not penalised, and coefficients."""
        with_one = np.column_stack([np.ones(len(y)), design])
        weights = np.diag([0.0] + [penalty] * design.shape[1])
        return np.linalg.solve(with_one.T @ with_one + weights, with_one.T @ y)

    @pytest.mark.parametrize(("seed", "n"), [(0, 40), (1, 40), *((seed, 14) for seed in range(12))])
    def test_against_twin(self, seed, n):
        y, x, labels, classes = self.table(seed, n)
        design = np.column_stack([x, *((labels == k).astype(float) for k in range(classes))])
        one = np.column_stack([np.ones(len(y)), design])
        errors = {}
        for penalty in quantile.PENALTIES:
            weights = np.diag([0.0] + [penalty] * design.shape[1])
            hat = one @ np.linalg.inv(one.T @ one + weights) @ one.T
            errors[penalty] = ((y - hat @ y) ** 2).sum() / (len(y) - np.trace(hat)) ** 2
        chosen = min(errors, key=errors.get)
        coefficients = self.solved(y, design, chosen)
        line, residuals = quantile.ridge(y, x, labels, classes)
        np.testing.assert_allclose(line.at(x, labels), one @ coefficients, rtol=1e-8, atol=1e-8)
        left_out = [
            y[i] - one[i] @ self.solved(np.delete(y, i), np.delete(design, i, axis=0), chosen) for i in range(len(y))
        ]
        np.testing.assert_allclose(residuals, left_out, rtol=1e-8, atol=1e-8)

    def test_noise_is_shrunk_to_the_mean(self):
        rng = np.random.default_rng(0)
        y, x, labels = rng.normal(size=2000), rng.normal(size=(2000, 8)), rng.integers(5, size=2000)
        line, _ = quantile.ridge(y, x, labels, 5)
        # Unpenalised, 13 coefficients fit noise of variance 13 / 2000; shrunk, they fit a part of it.
        assert np.var(line.at(x, labels)) < 13 / 2000

    def test_no_coordinates_leave_the_classes(self):
        y, x, labels, classes = self.table(5, n=400)
        line, _ = quantile.ridge(y, x[:, :0], labels, classes)
        means = np.array([y[labels == k].mean() for k in range(classes)])
        assert np.corrcoef(line.effects, means)[0, 1] > 0.99


class TestTypical:
    @pytest.mark.parametrize("seed", range(2))
    def test_against_twin(self, seed):
        rng = np.random.default_rng(seed)
        x, labels = rng.normal(size=(30, 3)), rng.integers(3, size=30)
        shrunk = [x[labels == k].sum(axis=0) / ((labels == k).sum() + quantile.SHRINKAGE) for k in range(4)]
        covariance = sum(np.outer(a - shrunk[k], a - shrunk[k]) for a, k in zip(x, labels, strict=True)) / 30
        inverse = np.linalg.inv(covariance + 0.01 * np.eye(3))

        def log_odds(record, label, rows):
            """From the density of each class around its mean; the own class without the record, if it is in `rows`."""
            logs = []
            for k in range(4):
                of_class = [r for r in range(30) if labels[r] == k and (r in rows or k != label)]
                total = sum((x[r] for r in of_class), np.zeros(3))
                mean = total / (len(of_class) + quantile.SHRINKAGE)
                logs.append(np.log(len(of_class) + 0.5) - (record - mean) @ inverse @ (record - mean) / 2)
            rest = [value for k, value in enumerate(logs) if k != label]
            return logs[label] - np.log(np.sum(np.exp(rest)))

        typical = quantile.Typical.learnt(x, labels, 4)  # a class without records, too
        new, of_new = rng.normal(size=(6, 3)), np.array([0, 1, 2, 3, 0, 1])
        everyone = set(range(30))
        np.testing.assert_allclose(
            typical.of(new, of_new), [log_odds(a, k, everyone) for a, k in zip(new, of_new, strict=True)], rtol=1e-9
        )
        np.testing.assert_allclose(
            typical.without_itself(x, labels),
            [log_odds(x[i], labels[i], everyone - {i}) for i in range(30)],
            rtol=1e-9,
        )

    def test_a_record_does_not_vouch_for_itself(self):
        """Labels that have nothing to do with the coordinates: in its own mean, a record would look typical."""
        rng = np.random.default_rng(1)
        x, labels = rng.normal(size=(300, 20)), rng.integers(30, size=300)
        typical = quantile.Typical.learnt(x, labels, 30)
        fresh, own = typical.of(rng.normal(size=(300, 20)), labels), typical.without_itself(x, labels)
        error = np.sqrt((own.var() + fresh.var()) / 300)
        assert abs(own.mean() - fresh.mean()) < 4 * error
        assert typical.of(x, labels).mean() > fresh.mean() + 10 * error


def test_the_head_is_made_of_its_parts():
    rng = np.random.default_rng(2)
    x, labels = rng.normal(size=(120, 3)), rng.integers(4, size=120)
    phi = rng.normal(size=120) * np.exp(x[:, 0]) + x[:, 1] + labels
    typical = quantile.Typical.learnt(x, labels, 4)
    known = np.column_stack([x, typical.without_itself(x, labels)])
    mean, residuals = quantile.ridge(phi, known, labels, 4)
    squares = np.maximum(residuals**2, 1e-6 * np.mean(residuals**2))  # a residual of 0 has no logarithm
    spread, _ = quantile.ridge(np.log(squares), known, labels, 4)
    new, of_new = rng.normal(size=(50, 3)), rng.integers(4, size=50)
    asked = np.column_stack([new, typical.of(new, of_new)])
    variance = np.exp(np.clip(spread.at(asked, of_new), spread.middle - 3, spread.middle + 3))
    target = rng.normal(size=50)
    expected = (target - mean.at(asked, of_new)) / np.sqrt(variance)
    np.testing.assert_allclose(quantile.fit(phi, x, labels, 4).deviations(target, new, of_new), expected, rtol=1e-9)


class TestQuantileRegression:
    @staticmethod
    def world(n, seed, leak=0.0, members=True):
        """Half members; mean and spread of phi depend on coordinates and class, as `quantile.Head` has it."""
        rng = np.random.default_rng(seed)
        x, labels = rng.normal(size=(n, 4)), rng.integers(3, size=n)
        mean = 2.0 * x[:, 0] - x[:, 1] + np.array([0.0, 1.0, 3.0])[labels]
        sigma = np.exp((0.8 * x[:, 2] + np.array([0.0, 0.5, -0.5])[labels]) / 2)
        member = np.arange(n) % 2 == 0
        phi = mean + sigma * (rng.normal(size=n) + leak * member)
        return phi, x, labels, member, (phi - mean) / sigma

    def test_against_the_truth(self):
        phi, x, labels, member, truth = self.world(6000, 0, leak=1.0)
        revealed = np.random.default_rng(1).random(6000) < 0.5
        seen = seen_of(phi, x, labels, np.where(revealed, member, WITHHELD))
        hidden = ~revealed
        found = auc(CATALOG["quantile_regression"].score(seen)[hidden], member[hidden])
        # Known sigma and mean give Phi(1 / sqrt 2) = 0.760 but for the 3000 records' noise; learning them costs little.
        assert found == pytest.approx(auc(truth[hidden], member[hidden]), abs=0.01)
        assert auc(phi[hidden], member[hidden]) < found - 0.1

    def test_every_revealed_non_member_is_scored_by_models_without_its_person(self):
        phi, x, labels, member, _ = self.world(240, 2)
        persons = np.arange(240) // 4  # two members and two non-members each, which real data would not have
        known = np.where(persons < 40, member, WITHHELD).astype(np.int8)
        seen = seen_of(phi, x, labels, known, persons)
        scores = CATALOG["quantile_regression"].score(seen)
        fold_of = quantile._folds(seen, np.argsort(phi))
        assert all(len(np.unique(fold_of[persons == p])) == 1 for p in range(60))
        assert (fold_of >= 0).tolist() == (persons < 40).tolist()
        assert set(fold_of[persons < 40]) == set(range(quantile.FOLDS))
        each = []
        for fold in range(quantile.FOLDS):
            rows = np.flatnonzero((known == NONMEMBER) & (fold_of != fold))
            each.append(quantile.fit(phi[rows], x[rows], labels[rows], 3).deviations(phi, x, labels))
        own = [each[fold_of[r]][r] if fold_of[r] >= 0 else np.mean([e[r] for e in each]) for r in range(240)]
        np.testing.assert_allclose(scores, own, rtol=1e-8, atol=1e-8)

    def test_revealed_non_members_score_as_others_do(self):
        """Few records, many coordinates, no leak: a model that learnt them would find its own non-members ordinary."""
        shares, learnt = [], []
        for seed in range(30):
            rng = np.random.default_rng(seed)
            phi, x, labels = rng.normal(size=300), rng.normal(size=(300, 30)), rng.integers(3, size=300)
            phi = phi + x[:, :10].sum(axis=1)
            known = np.where(np.arange(300) < 100, NONMEMBER, WITHHELD)
            scores = CATALOG["quantile_regression"].score(seen_of(phi, x, labels, known))
            shares.append(np.std(scores[:100]) / np.std(scores[100:]))
            whole = quantile.fit(phi[:100], x[:100], labels[:100], 3).deviations(phi, x, labels)
            learnt.append(np.std(whole[:100]) / np.std(whole[100:]))
        # Means over 30 worlds, standard error 0.03. The others are scored by a mean of five models: slightly narrower.
        assert 0.9 < np.mean(shares) < 1.25
        assert np.mean(learnt) < 0.8

    @pytest.mark.parametrize("alpha", [0.1, 0.02])
    def test_a_threshold_from_other_non_members_keeps_its_false_positive_rate(self, alpha):
        """Split-conformal: a false positive has probability floor(alpha (n + 1)) / (n + 1), however bad the model.

        The world is one that the head cannot describe: skewed noise, and a mean that bends.
        """
        worlds, calibration, hits = 250, 99, []
        for seed in range(worlds):
            rng = np.random.default_rng([seed, 7])
            x, labels = rng.normal(size=(260, 2)), rng.integers(2, size=260)
            phi = x[:, 0] ** 2 + np.where(labels == 1, x[:, 1], -x[:, 1]) + rng.exponential(size=260)
            known = np.where(np.arange(260) < 100, NONMEMBER, WITHHELD)
            scores = CATALOG["quantile_regression"].score(seen_of(phi, x, labels, known))
            held = np.sort(scores[100 : 100 + calibration])
            threshold = held[calibration - int(alpha * (calibration + 1))]
            hits.append((scores[100 + calibration :] > threshold).mean())
        exact = int(alpha * (calibration + 1)) / (calibration + 1)
        error = np.std(hits, ddof=1) / np.sqrt(worlds)
        print(f"alpha {alpha}: false positives {np.mean(hits):.4f} +- {error:.4f}, promised {exact:.4f}")
        assert exact <= alpha
        assert abs(np.mean(hits) - exact) < 4 * error

    def test_too_few_non_members(self):
        phi, x, labels, _, _ = self.world(60, 3)
        known = np.where(np.arange(60) < quantile.FEWEST - 1, NONMEMBER, WITHHELD)
        with pytest.raises(NotEvaluable, match="24 persons among the revealed non-members, at least 25"):
            CATALOG["quantile_regression"].score(seen_of(phi, x, labels, known))

    def test_odd_inputs_are_scored(self):
        phi, x, labels, member, _ = self.world(200, 4)
        score = CATALOG["quantile_regression"].score
        everyone = np.where(np.arange(200) < 100, member, WITHHELD)
        same = seen_of(np.full(200, 2.0), x, labels, everyone)
        np.testing.assert_allclose(score(same), 0.0, atol=1e-9)  # nobody stands out
        assert np.isfinite(score(seen_of(phi, x[:, :0], labels, everyone))).all()  # all records are equal
        rare = np.where(np.arange(200) == 150, 3, labels)  # a class that no known non-member has
        assert np.isfinite(score(seen_of(phi, x, rare, everyone))).all()

    def test_without_coordinates_it_is_skipped(self):
        seen, audit = gaussian_world(100, 100, classes=3, leak=2.0, shadows=0, seed=5)
        attack = CATALOG["quantile_regression"]
        outcomes = measure(attack, View(seen, None), audit, 0)
        assert {type(o) for o in outcomes} == {AttackResult}
        assert {o.threat_model for o in outcomes} == {ThreatModel.KNOWN_SUBSET}
        bare = replace(seen, target={"logit_confidence": seen.target["logit_confidence"]})
        (skipped,) = measure(attack, View(bare, None, absent={"coordinates": "predictions alone"}), audit, 0)
        assert isinstance(skipped, AttackSkipped)
        assert "coordinates, which this candidate does not give: predictions alone" in skipped.reason

    @pytest.mark.reference
    def test_location30(self, reference_data):
        """The paper authors' model, with the records themselves: more than their confidences tell."""
        seen, _, audit = location30(reference_data, "undefended")
        records = np.load(reference_data / "location30" / "records.npz")
        rows = np.concatenate([records["order"][:1000], records["order"][2000:3000]])
        np.testing.assert_array_equal(records["y"][rows], audit.labels)
        given = {"coordinates": inputs.coordinates(records["x"][rows], 2000)}
        view = View(replace(seen, target={**seen.target, **given}), None)
        areas = {
            name: measure(CATALOG[name], view, audit, 0)[-1].auc.value
            for name in ("confidence", "population", "quantile_regression")
        }
        print("Location30, AUC under known-subset:", {name: round(value, 3) for name, value in areas.items()})
        assert areas["quantile_regression"] > areas["confidence"] + 0.01


class TestPopulation:
    @pytest.mark.parametrize("per_person", [1, 3])
    def test_against_twin(self, per_person):
        rng = np.random.default_rng(per_person)
        n = 90
        phi = np.round(rng.normal(size=n), 1)  # with ties
        labels, persons = rng.integers(4, size=n), np.arange(n) // per_person
        known = rng.integers(-1, 2, size=n)
        expected = []
        for r in range(n):
            below = count = below_all = count_all = 0.0
            for z in range(n):
                if known[z] != NONMEMBER or persons[z] == persons[r]:
                    continue
                less = float(phi[z] < phi[r]) + 0.5 * float(phi[z] == phi[r])
                below_all, count_all = below_all + less, count_all + 1
                if labels[z] == labels[r]:
                    below, count = below + less, count + 1
            prior = population.PRIOR
            expected.append((below + prior * below_all / count_all) / (count + prior))
        seen = seen_of(phi, np.empty((n, 0)), labels, known, persons)
        np.testing.assert_allclose(CATALOG["population"].score(seen), expected, rtol=1e-12)

    def test_a_rank_is_a_p_value(self):
        """Withheld non-members of one class: but for noise, alpha of them stand above 1 - alpha of the known."""
        rng = np.random.default_rng(0)
        labels, known = np.zeros(6000, dtype=np.int64), np.where(np.arange(6000) < 3000, NONMEMBER, WITHHELD)
        seen = seen_of(rng.gumbel(size=6000), np.empty((6000, 0)), labels, known, classes=2)
        scores = CATALOG["population"].score(seen)
        # Both samples are of 3000: the Kolmogorov-Smirnov distance exceeds 0.0503 in one of 1000.
        assert stats.kstest(scores[3000:], "uniform").statistic < 0.0503
        assert stats.kstest(scores[:3000], "uniform").statistic < 0.001  # ranked among themselves, without themselves

    def test_classes_are_made_comparable(self):
        rng = np.random.default_rng(1)
        labels, member = rng.integers(2, size=4000), np.arange(4000) % 2 == 0
        phi = rng.normal(size=4000) + 6.0 * labels + 1.0 * member
        revealed = rng.random(4000) < 0.5
        hidden = ~revealed
        seen = seen_of(phi, np.empty((4000, 0)), labels, np.where(revealed, member, WITHHELD))
        found = auc(CATALOG["population"].score(seen)[hidden], member[hidden])
        assert auc(phi[hidden], member[hidden]) < 0.64  # two classes far apart: Phi(1 / sqrt 2) / 2 + 1 / 4 = 0.630
        assert found == pytest.approx(stats.norm.cdf(1 / np.sqrt(2)), abs=4 * auc_noise(1000, 1000))

    def test_nobody_to_compare_with(self):
        seen, audit = gaussian_world(20, 20, classes=2, leak=1.0, shadows=0, seed=2, records_per_person=2)
        only = seen.reveal(audit.member, seen.persons == seen.persons[~audit.member][0])
        with pytest.raises(NotEvaluable, match="fewer than two persons"):
            CATALOG["population"].score(only)


class TestDifficultyCalibration:
    @staticmethod
    def calibrated(proxies, n=3000, leak=1.5, seed=0):
        rng = np.random.default_rng(seed)
        level = rng.normal(0, 5, size=n)
        inside = np.arange(n) % 2 == 0
        return Observations(
            target={"logit_confidence": level + rng.normal(size=n) + leak * inside},
            labels=np.zeros(n, dtype=np.int64),
            known=np.full(n, WITHHELD, dtype=np.int8),
            persons=np.arange(n),
            classes=2,
            references={"logit_confidence": level + rng.normal(size=(proxies, n))},
            reference_member=np.zeros((proxies, n), dtype=np.bool_),
        ), inside

    @pytest.mark.parametrize("proxies", [1, 3])
    def test_known_answer(self, proxies):
        """Target and proxies differ by noise of variance 1 each: AUC = Phi(leak / sqrt(2 (1 + 1 / k)))."""
        seen, inside = self.calibrated(proxies)
        expected = stats.norm.cdf(1.5 / np.sqrt(2 * (1 + 1 / proxies)))
        found = auc(CATALOG["difficulty_calibration"].score(seen), inside)
        assert found == pytest.approx(expected, abs=4 * auc_noise(1500, 1500))
        assert auc(seen.target["logit_confidence"], inside) < 0.62  # what is hard hides what is remembered

    def test_against_twin(self):
        rng = np.random.default_rng(3)
        seen, _ = self.calibrated(9, n=50)
        member = rng.random((9, 50)) < 0.6
        member[4] = False
        seen = replace(seen, reference_member=member)
        phi = seen.references["logit_confidence"]
        expected = []
        for r in range(50):
            without = [phi[s, r] for s in range(9) if not member[s, r]][:4]
            expected.append(seen.target["logit_confidence"][r] - sum(without) / len(without))
        np.testing.assert_allclose(CATALOG["difficulty_calibration"].score(seen), expected, rtol=1e-12)
        assert len({(~member[:, r]).sum() for r in range(50)} & {1, 2, 3}) >= 2, "some records have fewer than four"

    def test_no_proxy(self):
        attack = CATALOG["difficulty_calibration"]
        assert (attack.min_in, attack.min_out) == (0, 1)
        seen, _ = self.calibrated(2, n=10)
        with pytest.raises(NotEvaluable, match="no proxies"):
            attack.score(replace(seen, references={}, reference_member=None))
        with pytest.raises(NotEvaluable, match="in every reference model"):
            attack.score(replace(seen, reference_member=np.ones((2, 10), dtype=np.bool_)))


@pytest.mark.parametrize("name", ["population", "quantile_regression"])
def test_members_are_not_learnt_from(name):
    """Only the revealed non-members teach: what the revealed members score changes nobody else's score."""
    seen, audit = gaussian_world(150, 150, classes=3, leak=1.0, shadows=0, seed=6)
    seen = seen.reveal(audit.member, half_of_the_persons(audit, 7))
    inside = seen.known == 1
    phi = seen.target["logit_confidence"]
    other = replace(seen, target={**seen.target, "logit_confidence": np.where(inside, phi + 1.0, phi)})
    score = CATALOG[name].score
    np.testing.assert_allclose(score(other)[~inside], score(seen)[~inside], rtol=1e-9, atol=1e-12)
    assert (score(other)[inside] >= score(seen)[inside]).all()
    assert (score(other)[inside] > score(seen)[inside]).mean() > 0.5  # nothing stands above the highest rank
