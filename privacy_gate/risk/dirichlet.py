"""A histogram per class, shrunk to that of all classes as far as the classes look alike (empirical Bayes)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import gammaln

from privacy_gate.datamodel import Bools, Floats, Ints
from privacy_gate.risk.curve import Option, Sample, clip, held_out_loss
from privacy_gate.risk.histogram import FEWEST, edges_at

BINS = 15
PSEUDO = 0.5  # records added to each bin of all classes together
STRENGTHS = 10.0 ** np.arange(-0.5, 4.1, 0.5)  # records that the histogram of all classes counts for in each class


@dataclass(frozen=True, slots=True, eq=False)
class ClassSteps:
    """A step function per class from attack score to P(member) at prior one half within the class."""

    edges: Floats  # [B - 1] inner edges, the same in all classes; the outer bins are open
    risk: Floats  # [K + 1, B]; the last row is that of all classes together, for classes never seen

    def at(self, scores: Floats, labels: Ints) -> Floats:
        """[n] the risk at scores [n] of class labels [n]."""
        rows = np.minimum(labels, len(self.risk) - 1)
        return np.asarray(self.risk[rows, np.searchsorted(self.edges, scores, side="right")])


def options(sample: Sample, held_out: Sequence[Bools]) -> Iterator[Option]:
    """The one curve with its loss over the folds; none where there is one class or where all scores are equal."""
    classes = int(sample.labels.max()) + 1
    if classes > 1 and len(edges_at(sample.scores, _masses(len(sample.scores)))):
        fit = partial(shrunk, classes=classes)
        yield Option("class histograms", fit, held_out_loss(fit, sample, held_out))


def _masses(n: int) -> list[float]:
    bins = min(BINS, max(n // FEWEST, 1))
    return [b / bins for b in range(1, bins)]


def shrunk(sample: Sample, classes: int) -> ClassSteps:
    """Counts per class and bin are Dirichlet-multinomial around those of all classes, one strength per side."""
    edges = edges_at(sample.scores, _masses(len(sample.scores)))
    bins = len(edges) + 1
    cells = sample.labels * bins + np.searchsorted(edges, sample.scores, side="right")
    density = []
    for side in (sample.member, ~sample.member):
        counts = np.bincount(cells[side], minlength=classes * bins).reshape(classes, bins).astype(np.float64)
        pooled = (counts.sum(axis=0) + PSEUDO) / (counts.sum() + PSEUDO * bins)
        strength = likeliest(counts, pooled)
        own = (counts + strength * pooled) / (counts.sum(axis=1, keepdims=True) + strength)
        density.append(np.vstack([own, pooled]))
    return ClassSteps(edges, clip(density[0] / (density[0] + density[1]), len(sample.scores)))


def likeliest(counts: Floats, pooled: Floats) -> float:
    """The strength at which counts [K, B] are most likely around the shares pooled [B], of STRENGTHS."""
    likelihoods = [log_likelihood(counts, pooled, m) for m in STRENGTHS]
    return float(STRENGTHS[int(np.argmax(likelihoods))])


def log_likelihood(counts: Floats, pooled: Floats, m: float) -> float:
    """Of counts [K, B] as Dirichlet-multinomial with parameters m times pooled [B], but for a term without m."""
    prior = m * pooled
    per_class = gammaln(m) - gammaln(m + counts.sum(axis=1)) + (gammaln(prior + counts) - gammaln(prior)).sum(axis=1)
    return float(per_class.sum())
