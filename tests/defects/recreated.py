"""Defects of public tools, re-created in a few lines each so that the tests can show the wrong number beside ours."""

from __future__ import annotations

import math

import numpy as np
from scipy import special
from scipy.stats import beta, norm


def five_bins(members, others, values):
    """A risk score by five equal bins of the logarithm per class, closed at both ends; None where nothing fell."""
    logs = np.log10(np.concatenate([members, others]))
    edges = 10 ** np.linspace(logs.min(), logs.max(), 6)
    inside, _ = np.histogram(members, edges)
    outside, _ = np.histogram(others, edges)
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, 4)
    shares = inside / len(members), outside / len(others)
    both = shares[0] + shares[1]
    scores = [float(shares[0][b] / both[b]) if both[b] > 0 else None for b in place]
    return scores, int(inside.sum() + outside.sum())


def first_best_threshold(members, others):
    """Tries every score in the order of the data and keeps the first best; 0 if there is nothing to compare."""
    best, threshold = -1.0, 0.0
    for t in [*members, *others]:
        with np.errstate(invalid="ignore"):
            accuracy = (np.sum(members >= t) / max(len(members), math.nan) + np.mean(others < t)) / 2
        if accuracy > best:
            best, threshold = accuracy, float(t)
    return threshold


def best_on_the_evaluated(scores, member):
    """Accuracy of the threshold that is best on the very records it is counted on."""
    order = np.argsort(-scores)
    hits = np.cumsum(member[order]) / member.sum()
    alarms = np.cumsum(~member[order]) / (~member).sum()
    return float((1 + np.max(hits - alarms)) / 2)


def best_on_the_evaluated_per_class(scores, member, labels):
    """The same with a threshold per class of its own."""
    correct = 0.0
    for c in np.unique(labels):
        here = labels == c
        correct += best_on_the_evaluated(scores[here], member[here]) * here.sum()
    return correct / len(scores)


def best_epsilon_of_all_thresholds(scores, member, alpha=0.05):
    """Largest bound on epsilon over all thresholds and both directions, each at level alpha as if it were alone."""
    ordered = member[np.argsort(-scores)]
    n1, n0 = int(member.sum()), int((~member).sum())
    hits, alarms = np.cumsum(ordered), np.cumsum(~ordered)
    best = 0.0
    for a, n, b, m in ((hits, n1, alarms, n0), (alarms, n0, hits, n1), (n1 - hits, n1, n0 - alarms, n0),
                       (n0 - alarms, n0, n1 - hits, n1)):  # fmt: skip
        low = np.where(a > 0, special.betaincinv(np.maximum(a, 1e-9), n - a + 1, alpha / 2), 0.0)
        high = np.where(b < m, special.betainccinv(b + 1, np.maximum(m - b, 1e-9), alpha / 2), 1.0)
        with np.errstate(divide="ignore"):
            best = max(best, float(np.max(np.log(low / high))))
    return best


def membership_by_bins_of_the_target(losses, member, labels_ignored=None, bins=15):
    """P(member) from bins of the target's own losses, told of the same records, all classes in one."""
    edges = np.quantile(losses, np.linspace(0, 1, bins + 1)[1:-1])
    place = np.searchsorted(edges, losses, side="right")
    inside = np.bincount(place[member], minlength=bins) / member.sum()
    outside = np.bincount(place[~member], minlength=bins) / (~member).sum()
    return (inside / (inside + outside))[place]


def some_number_of_guesses_beats(truth, scores, included, counts, level=0.05):
    """Whether the largest of the bounds on epsilon over many numbers of guesses, each at the full level, exceeds it."""
    order = np.argsort(scores)
    lows, highs = np.meshgrid(counts, counts)
    right_low = np.concatenate([[0], np.cumsum(~included[order])])[lows]
    right_high = np.concatenate([[0], np.cumsum(included[order][::-1])])[highs]
    made, correct = lows + highs, right_low + right_high
    # A bound exceeds the truth just when so many correct guesses are rare under the truth.
    p_values = special.bdtrc(correct[correct > 0] - 1, made[correct > 0], special.expit(truth))
    return bool((p_values < level).any())


def gaussian_one_run_with_a_grid(made, correct, canaries, delta, sigmas):
    """Epsilon of the noisiest Gaussian mechanism of a grid that is not ruled out: never below its end."""
    from privacy_gate.epsilon import Guesses, _ruled_out, gaussian_epsilon

    guesses = Guesses(canaries, made, correct)
    kept = [sigma for sigma in sigmas if not _ruled_out(guesses, 1 / sigma, 0.05)]
    return gaussian_epsilon(1 / max(kept), delta)


def epsilon_at_upper_bounds(hits_members, n_members, hits_nonmembers, n_nonmembers, alpha=0.05):
    """The largest epsilon that the rates do not exclude: an upper end, whatever it is called in a headline."""
    tpr = beta.ppf(1 - alpha / 2, hits_members + 1, n_members - hits_members)
    fpr = beta.ppf(alpha / 2, hits_nonmembers, n_nonmembers - hits_nonmembers + 1)
    return math.log(tpr / fpr)


def offline_lira_pdf(phi, references_out):
    """Minus the log density under the models without the record: far below them counts as much as far above."""
    return -norm.logpdf(phi, references_out.mean(axis=0), references_out.std())


def rmia_of_sorted_halves(p_target, p_references, member):
    """Ratio to the OUT models: models sorted by membership, the first half taken. Right if exactly half are OUT."""
    order = np.argsort(member, axis=0, kind="stable")  # models without the record first
    half = len(member) // 2
    out = np.take_along_axis(p_references, order, axis=0)[:half]
    return p_target / out.mean(axis=0)
