"""Candidates that are not what they should be. Pickled by value: the process that loads them cannot import tests."""

import os
import sys

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier


class Fair(ClassifierMixin, BaseEstimator):
    """Two-class probabilities from the first feature; scikit-learn's way of saying what it is."""

    def fit(self, x, y):
        self.classes_ = np.array(["no", "yes"])
        self.n_features_in_ = 3
        return self

    def predict_proba(self, x):
        p = 1 / (1 + np.exp(-np.asarray(x)[:, 0]))
        return np.stack([1 - p, p], axis=1)

    def predict(self, x):
        return self.classes_[self.predict_proba(x).argmax(axis=1)]


class NotANumber(Fair):
    def predict_proba(self, x):
        p = super().predict_proba(x)
        p[:3] = np.nan
        return p


class Unnormalised(Fair):
    def predict_proba(self, x):
        return 3 * super().predict_proba(x)


class Constant(Fair):
    def predict_proba(self, x):
        return np.full((len(x), 2), 0.5)


class Narrow(Fair):
    """Takes two features, and says so."""

    def fit(self, x, y):
        super().fit(x, y)
        self.n_features_in_ = 2
        return self

    def predict_proba(self, x):
        return super().predict_proba(np.asarray(x) @ np.ones((2, 1)))


class ThreeColumns(Fair):
    """No classes_: the data decide what the columns mean, and there are more columns than classes."""

    def fit(self, x, y):
        super().fit(x, y)
        del self.classes_
        return self

    def predict_proba(self, x):
        p = super().predict_proba(x)
        return np.concatenate([p * 0.9, np.full((len(p), 1), 0.1)], axis=1)


class ChattyForest(RandomForestClassifier):
    """A forest that prints wherever it can."""

    def __setstate__(self, state):
        super().__setstate__(state)
        print("loaded \x1b[31m")
        os.write(1, b"::set-output name=verdict::pass\n")

    def predict_proba(self, x):
        print("predicting")
        os.write(1, b"raw stdout\n")
        os.write(2, b"raw stderr\n")
        sys.stderr.write("::error::not from the gate\n")
        return super().predict_proba(x)
