"""Models as they come: some broken, some hostile. Pickled by value, since a child process cannot import tests."""

import os
import sys
import time

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin


class Fair(ClassifierMixin, BaseEstimator):
    """Two-class probabilities from the first feature."""

    def fit(self, x, y):
        self.classes_ = np.array([0, 1])
        self.n_features_in_ = x.shape[1]
        return self

    def predict_proba(self, x):
        p = 1 / (1 + np.exp(-np.asarray(x)[:, 0]))
        return np.stack([1 - p, p], axis=1)

    def predict(self, x):
        return self.predict_proba(x).argmax(axis=1)


class Chatty(Fair):
    """Prints on every channel, and what it can see of its surroundings."""

    def predict_proba(self, x):
        print("hello \x1b[31mred", "SECRET" in "".join(os.environ), sorted(os.environ))
        os.write(1, b"raw stdout\n")
        os.write(2, b"raw stderr\n")
        print("stdin:", repr(sys.stdin.read()))
        return super().predict_proba(x)


class Broken(Fair):
    """NaN for two records."""

    def predict_proba(self, x):
        p = super().predict_proba(x)
        p[:2] = np.nan
        return p


class Constant(Fair):
    def predict_proba(self, x):
        return np.full((len(x), 2), 0.5)


class Extra(Fair):
    """More columns than classes."""

    def predict_proba(self, x):
        return np.full((len(x), 3), 1 / 3) + 0 * np.asarray(x)[:, :1]


class Dice(Fair):
    """Another answer every time."""

    def predict_proba(self, x):
        p = np.random.default_rng().uniform(size=len(x))
        return np.stack([1 - p, p], axis=1)


class Sleeper(Fair):
    """Never answers; leaves a process behind."""

    def predict_proba(self, x):
        if os.fork() == 0:
            time.sleep(600)
        time.sleep(600)


class Orphaner(Fair):
    """Answers, and leaves a process that has a session of its own and no parent."""

    def predict_proba(self, x):
        if not hasattr(Orphaner, "left"):
            Orphaner.left = True
            if (child := os.fork()) == 0:
                os.setsid()
                if os.fork() == 0:
                    print("left behind:", os.getpid(), flush=True)
                    time.sleep(600)
                os._exit(0)
            os.waitpid(child, 0)
        return super().predict_proba(x)


class Quoter(Fair):
    """Quotes a record in the words of its error."""

    def predict_proba(self, x):
        print("Alice Secret", flush=True)
        return np.asarray([["Alice Secret"]]).astype(float)


class Quitter(Fair):
    def predict_proba(self, x):
        print("giving up", flush=True)
        os._exit(0)


class Raiser(Fair):
    def predict_proba(self, x):
        raise ValueError("bad \x1b]0;title\x07 thing\n::error::injected")


class Linker(Fair):
    """Answers, and replaces the answer by a link as the process ends."""

    def predict_proba(self, x):
        import atexit

        def swap():
            out = os.path.join(os.path.dirname(os.getcwd()), "out", "outputs.npy")
            os.unlink(out)
            os.symlink("/etc/hostname", out)

        if not hasattr(Linker, "armed"):
            Linker.armed = True
            atexit.register(swap)
        return super().predict_proba(x)


class Liar(Fair):
    """Replaces the answer by a header that claims a huge array."""

    def predict_proba(self, x):
        import atexit

        def swap():
            out = os.path.join(os.path.dirname(os.getcwd()), "out", "outputs.npy")
            with open(out, "wb") as stream:
                np.lib.format.write_array_header_1_0(
                    stream, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 2)}
                )

        if not hasattr(Liar, "armed"):
            Liar.armed = True
            atexit.register(swap)
        return super().predict_proba(x)


class Probing(Fair):
    """Brings probes of its own into the process that loads it."""

    def __setstate__(self, state):
        from privacy_gate.errors import NotEvaluable
        from privacy_gate.signals import PROBES, Probe

        self.__dict__.update(state)

        def confidence(access, features, labels, seed):
            return access.answers(features).values[np.arange(len(labels)), labels]

        def pair(access, features, labels, seed):
            return np.stack([np.full(len(labels), seed), np.random.random(len(labels))], axis=1)  # noqa: NPY002

        def weights(access, features, labels, seed):
            return access.module()

        def broken(access, features, labels, seed):
            raise KeyError("Alice Secret")

        def infinite(access, features, labels, seed):
            return np.full(len(labels), np.inf)

        def unfit(access, features, labels, seed):
            raise NotEvaluable("no \x1b[31mred here")

        def leave(access, features, labels, seed):
            os._exit(0)

        for compute in (confidence, pair, weights, broken, infinite, unfit, leave):
            name = f"test_{compute.__name__}"
            PROBES.add(name, Probe(name, "", "", "answers", "", compute, vector=compute is pair))
