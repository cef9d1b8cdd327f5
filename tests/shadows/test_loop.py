"""The training loop against slow and obvious twins, in float64 where that is possible."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from privacy_gate.defences import Loop
from privacy_gate.defences.adversarial_regularisation import AdversarialRegularisation
from privacy_gate.defences.dp_sgd import DpSgd
from privacy_gate.defences.early_stopping import EarlyStopping
from privacy_gate.errors import RecipeFailed, UsageError
from privacy_gate.request import Teacher, TorchTraining
from privacy_gate.shadows.loop import balanced, distillation, fit

RNG = np.random.default_rng(0)
X = torch.as_tensor(RNG.normal(size=(23, 4)))
Y = torch.as_tensor(RNG.integers(0, 3, 23))
OTHERS = torch.as_tensor(RNG.normal(size=(9, 4))), torch.as_tensor(RNG.integers(0, 3, 9))
TEACHER = Teacher(model="unused", weights="unused", temperature=2.5, share=0.4)
needs_opacus = partial(pytest.importorskip, "opacus", reason="opacus is an extra")


def net(seed=0, columns=3):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, columns)).double()


def normalised():
    torch.manual_seed(0)
    first = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU())
    second = torch.nn.Sequential(torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.3), torch.nn.Linear(6, 3))
    return torch.nn.Sequential(first, second)


def noise(batch, draws):
    return batch + 0.1 * torch.randn(batch.shape, generator=draws, dtype=batch.dtype)


def train(module, x=X, y=Y, imitate=None, **options):
    """imitate: the teacher, and the settings for it."""
    settings = {"epochs": 3, "batch_size": 5, "optimizer": "sgd", "learning_rate": 0.2}
    given = {name: options.pop(name) for name in ("defences", "reference", "augment", "seed") if name in options}
    teacher, settings["teacher"] = imitate or (None, None)
    torch.manual_seed(1)  # dropout
    order = torch.Generator().manual_seed(3)
    return fit(module, x, y, TorchTraining(**{**settings, **options}), order, teacher=teacher, **{"seed": 7, **given})


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


# --- everything at once, by hand ------------------------------------------------------------------------------------


def shares(logits, temperature=1.0):
    """Softmax of one record's logits, exponential by exponential."""
    e = [torch.exp(z / temperature) for z in logits]
    return [one / sum(e) for one in e]


def objective_by_hand(answers, told, labels, smoothing, temperature, share):
    """Mean over records of (1 - share) * smoothed cross-entropy + share * T^2 * KL, term by term."""
    total = torch.zeros((), dtype=torch.float64)
    for out, soft, label in zip(answers, told, labels.tolist(), strict=True):
        p, k = shares(out), len(out)
        wanted = [smoothing / k + (1 - smoothing) * (i == label) for i in range(k)]
        hard = -sum(w * torch.log(one) for w, one in zip(wanted, p, strict=True))
        student, teacher = shares(out, temperature), shares(soft, temperature)
        kl = sum(t * (torch.log(t) - torch.log(s)) for t, s in zip(teacher, student, strict=True))
        total = total + (1 - share) * hard + share * temperature**2 * kl
    return total / len(labels)


def draws_by_hand(labels, order):
    """One epoch of the balanced sampler: a class by lot, then one of its rows, written as loops."""
    n, rows_of = len(labels), {}
    for row, label in enumerate(labels.tolist()):
        rows_of.setdefault(label, []).append(row)
    classes = [rows_of[label] for label in sorted(rows_of)]
    drawn = torch.randint(len(classes), (n,), generator=order).tolist()
    places = torch.rand(n, generator=order, dtype=torch.float64).tolist()
    return [classes[c][math.floor(u * len(classes[c]))] for c, u in zip(drawn, places, strict=True)]


@pytest.mark.parametrize("sampler", ["shuffle", "balanced"])
@pytest.mark.parametrize("clip", [None, 0.3, 1e9])
def test_all_options_together_by_hand(sampler, clip):
    module, teacher = net(), net(5)
    told = teacher.state_dict()
    weights = [w.detach().clone() for w in module.parameters()]
    trained = train(
        module, imitate=(teacher, TEACHER), augment=noise, sampler=sampler, clip=clip, label_smoothing=0.2,
        frozen=["0.weight"],
    )  # fmt: skip
    order = torch.Generator().manual_seed(3)
    draws = torch.Generator().manual_seed(Loop(*[None] * 7, seed=7).seed_of("augment"))
    norms = []
    for _ in range(3):
        rows = draws_by_hand(Y, order) if sampler == "balanced" else torch.randperm(23, generator=order).tolist()
        for start in range(0, 23, 5):
            batch = rows[start : start + 5]
            inputs = noise(X[batch], draws)
            free = [w.clone().requires_grad_(i > 0) for i, w in enumerate(weights)]
            out = torch.tanh(inputs @ free[0].T + free[1]) @ free[2].T + free[3]
            with torch.no_grad():
                soft = torch.tanh(inputs @ told["0.weight"].T + told["0.bias"]) @ told["2.weight"].T + told["2.bias"]
            objective_by_hand(out, soft, Y[batch], 0.2, 2.5, 0.4).backward()
            norms.append(math.sqrt(sum(float((w.grad**2).sum()) for w in free[1:])))
            scale = 1.0 if clip is None else min(1.0, clip / (norms[-1] + 1e-6))
            weights = [weights[0], *(w - 0.2 * scale * f.grad for w, f in zip(weights[1:], free[1:], strict=True))]
    if clip == 0.3:
        assert min(norms) < 0.3 < max(norms)  # some batches are clipped, others are not
    # Float64, 15 steps of numbers around 1: 1e-12 is ten thousand units in the last place.
    for found, expected in zip(trained.parameters(), weights, strict=True):
        torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-12)


# --- batches --------------------------------------------------------------------------------------------------------


def test_the_balanced_sampler_draws_classes_and_their_rows_equally_often():
    labels = torch.tensor([0] * 89 + [2] * 10 + [5])  # no class 1, 3, 4
    order = torch.Generator().manual_seed(0)
    epochs = [torch.cat(list(balanced(labels, 7, order))) for _ in range(300)]
    assert {len(rows) for rows in epochs} == {100}
    counts = torch.bincount(torch.cat(epochs), minlength=100).double()
    by_class = torch.stack([counts[labels == label].sum() for label in (0, 2, 5)])
    # 30,000 draws, a third each: five standard deviations are 408.
    assert (by_class - 10000).abs().max() < 408
    for label, rows in ((0, 89), (2, 10)):
        mean = 10000 / rows
        assert (counts[labels == label] - mean).abs().max() < 5 * math.sqrt(mean) + mean / 20


def test_balanced_batches_leave_no_single_row():
    sizes = [len(b) for b in balanced(torch.arange(11) % 2, 5, torch.Generator().manual_seed(0))]
    assert sizes == [5, 6]


def test_an_augmentation_that_changes_nothing_changes_nothing():
    plain = state(train(normalised(), X.float()))
    assert same(plain, state(train(normalised(), X.float(), augment=lambda batch, draws: batch)))


def test_an_augmentation_comes_from_the_seed_and_leaves_the_records_alone():
    def shift(batch, draws):
        seen.append(batch.clone())
        batch += torch.rand(1, generator=draws, dtype=batch.dtype)
        return batch

    before, seen = X.clone(), []
    one = state(train(net(), augment=shift))
    assert torch.equal(X, before)
    assert len(seen) == 15
    assert all(any(torch.equal(row, x) for x in X) for batch in seen for row in batch)
    assert same(one, state(train(net(), augment=shift)))
    assert not same(one, state(train(net(), augment=shift, seed=8)))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda batch: batch[:, :2], r"float64 \[5, 2\]"),
        (lambda batch: batch[:3], r"float64 \[3, 4\]"),
        (lambda batch: batch.float(), r"torch.float32 \[5, 4\] for a batch of torch.float64 \[5, 4\]"),
        (lambda batch: batch.numpy(), "returned ndarray"),
        (lambda batch: None, "returned NoneType"),
    ],
)
def test_what_an_augmentation_returns_is_checked(made, said):
    with pytest.raises(RecipeFailed, match=said):
        train(net(), augment=lambda batch, draws: made(batch))


# --- precision, clipping, teacher -----------------------------------------------------------------------------------


def test_bfloat16_is_for_forward_and_loss_alone():
    class Seeing(torch.nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            seen.append((x.dtype, out.dtype, self.weight.dtype, self.training))
            return out

    def module():
        torch.manual_seed(0)
        return Seeing(4, 3)

    seen, short, x = [], torch.bfloat16, X.float()
    whole = {"epochs": 1, "batch_size": 23, "learning_rate": 1.0}
    half = train(module(), x, precision="bfloat16", **whole)
    half.eval()(x)
    full = torch.float32
    assert seen == [(full, short, full, True), (full, full, full, False)]
    step = (module().weight - half.weight).detach()
    exact = (module().weight - train(module(), x, **whole).weight).detach()
    assert not torch.equal(step, exact)
    # Each product is rounded to 8 bits: a mean of 23 of them is off by no more than a few times 2^-8 of its terms.
    assert (step - exact).abs().max() < 4 * 2**-8 * X.abs().max()


def test_bfloat16_computes_the_loss_in_float32():
    """Logits of 8 bits, then a softmax of float32: by hand from the rounded product."""
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 3)
    x = X.float()
    rounded = (x.bfloat16() @ module.weight.bfloat16().T + module.bias.bfloat16()).detach()
    p = torch.softmax(rounded.double(), dim=1)
    gradient = (p - functional.one_hot(Y, 3)) / len(Y)
    before = module.bias.detach().clone()
    train(module, x, precision="bfloat16", epochs=1, batch_size=23, learning_rate=1.0)
    # The gradient is handed back in 8 bits, 23 terms below 1/23; the product may be rounded once or twice.
    assert (before - module.bias.detach() - gradient.sum(0)).abs().max() < 2**-7


def blobs(seed, n):
    """Two overlapping clouds of the same size: nobody can be right much more often than five times in six."""
    draws = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    return torch.randn(n, 4, generator=draws) + y[:, None] - 0.5, y


def accuracy(module, x, y):
    with torch.no_grad():
        return float((module(x).argmax(dim=1) == y).double().mean())


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_float16_is_as_accurate_as_float32(optimizer):
    (x, y), (others, theirs), n = blobs(0, 600), blobs(1, 4000), 4000
    plan = {"epochs": 6, "batch_size": 50, "optimizer": optimizer, "learning_rate": 0.02, "clip": 1.0}
    found = {}
    for precision in ("float32", "float16"):
        trained = train(normalised_two(), x, y, precision=precision, **plan)
        assert all(weight.dtype == torch.float32 for weight in trained.parameters())
        found[precision] = accuracy(trained, others, theirs)
    # Guessing is 0.5, the best rule 0.84; three standard deviations of a difference of two shares of 4,000 records.
    assert found["float32"] > 0.8
    assert abs(found["float16"] - found["float32"]) < 3 * math.sqrt(2 * 0.84 * 0.16 / n)


def normalised_two():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(16, 2)
    )


def tiny_gradients(precision):
    """How far two weights move whose gradients are below 2^-24, the smallest number of float16."""
    module = torch.nn.Linear(1, 2, bias=False)
    torch.nn.init.zeros_(module.weight)
    x = torch.tensor([[2.0**-24], [2.0**-24]])
    train(module, x, torch.tensor([0, 0]), precision=precision, epochs=1, batch_size=2, learning_rate=1.0)
    return module.weight.detach().flatten()


def test_gradients_that_float16_has_no_number_for_are_not_lost():
    exact, short = tiny_gradients("float32"), tiny_gradients("float16")
    assert exact.tolist() == [2.0**-25, -(2.0**-25)]  # half of it would be 0 in float16
    torch.testing.assert_close(short, exact, rtol=2**-9, atol=0)


def test_clipping_sees_the_gradients_true_size():
    x, y = blobs(0, 40)
    whole = {"precision": "float16", "epochs": 1, "batch_size": 40, "learning_rate": 1.0}
    free, loose, tight = (state(train(net(1, 2).float(), x, y, clip=clip, **whole)) for clip in (None, 1e3, 1e-2))
    assert same(free, loose)  # scaled, every norm would be beyond 1,000
    start = state(net(1, 2).float())
    moved = math.sqrt(sum(float(((tight[name] - start[name]) ** 2).sum()) for name in start))
    assert moved == pytest.approx(1e-2, rel=1e-3)


class Overflowing(torch.nn.Module):
    """Answers with infinity in those of its training steps."""

    def __init__(self, steps):
        super().__init__()
        self.layer, self.steps, self.step, self.before = net(0, 2).float(), steps, 0, []

    def forward(self, x):
        answers = self.layer(x)
        if self.training:
            self.before.append(state(self.layer))
            answers = answers * (math.inf if self.step in self.steps else 1.0)
            self.step += 1
        return answers


def test_a_step_whose_gradients_overflow_changes_nothing_and_training_goes_on():
    x, y = blobs(0, 40)
    module = Overflowing({0, 1, 5})
    train(module, x, y, precision="float16", epochs=2, batch_size=10, clip=1.0, optimizer="adam")
    told = [*module.before, state(module.layer)]
    assert len(told) == 9
    assert [step for step in range(8) if same(told[step], told[step + 1])] == [0, 1, 5]
    assert all(bool(torch.isfinite(value).all()) for value in told[-1].values())


@pytest.mark.parametrize("steps", [1, 4, 200])
def test_a_training_without_a_single_step_is_told(steps):
    x, y = blobs(0, 4)
    plan = {"precision": "float16", "epochs": steps, "batch_size": 4}
    with pytest.raises(RecipeFailed, match=rf"step after step \({steps} in all\)") as caught:
        train(Overflowing(range(steps)), x, y, **plan)
    assert "bfloat16" in caught.value.hint
    train(Overflowing(range(steps - 1)) if steps < 100 else Overflowing({1}), x, y, **plan)  # one step is one


def test_a_clip_that_is_never_reached_changes_no_bit():
    assert same(state(train(net())), state(train(net(), clip=1e6)))


def test_a_share_of_nothing_changes_no_bit():
    nothing = TEACHER.model_copy(update={"share": 0.0})
    assert same(state(train(net())), state(train(net(), imitate=(net(5), nothing))))


def test_who_is_its_own_teacher_learns_nothing():
    alone = TEACHER.model_copy(update={"share": 1.0})
    found, before = state(train(net(), imitate=(net(), alone))), state(net())
    # Its gradient is the difference of two equal softmaxes: rounding of float64, 15 times.
    assert all((found[name] - before[name]).abs().max() < 1e-14 for name in found)


def test_the_teacher_stays_as_it_is_and_draws_nothing():
    teacher = normalised().double()
    before = state(teacher)
    train(net(), imitate=(teacher, TEACHER))
    assert same(before, state(teacher))
    assert not teacher.training
    assert not any(weight.requires_grad for weight in teacher.parameters())


def test_at_high_temperature_logits_are_matched():
    """Hinton, Vinyals & Dean 2015, equation 4, times T^2: the gradient tends to (z - v) / K for logits of mean zero."""
    z, v = (torch.as_tensor(RNG.normal(size=(1, 4))) for _ in range(2))
    z, v = (z - z.mean()).requires_grad_(), v - v.mean()
    (gradient,) = torch.autograd.grad(distillation(z, v, 1e4), z)
    # The next term of the expansion is of size 1 / T.
    assert torch.allclose(gradient, (z.detach() - v) / 4, rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", [(6, 1), (6,)])
def test_one_column_is_two_classes(shape):
    z, v = (torch.as_tensor(RNG.normal(size=shape)) for _ in range(2))
    p, q = (1 / (1 + torch.exp(-v / 3))).flatten(), (1 / (1 + torch.exp(-z / 3))).flatten()
    by_hand = 9 * (p * torch.log(p / q) + (1 - p) * torch.log((1 - p) / (1 - q))).mean()
    assert float(distillation(z, v, 3.0)) == pytest.approx(float(by_hand), rel=1e-12)
    both = torch.stack([torch.zeros(6, dtype=torch.float64), v.flatten()], dim=1)
    assert float(distillation(z, both, 3.0)) == pytest.approx(float(by_hand), rel=1e-12)


def test_a_teacher_of_other_classes():
    with pytest.raises(RecipeFailed, match="teacher answers with 4 columns, the module with 3"):
        train(net(), imitate=(net(5, columns=4), TEACHER))


# --- frozen weights -------------------------------------------------------------------------------------------------


def test_frozen_layers_are_a_function_of_the_records():
    """To train what is behind them is to train on what they give."""
    module = net()
    given = torch.tanh(module[0](X)).detach()
    rest = train(net()[2:], given)
    trained = train(net(), frozen=["0.*"])
    assert same(state(net()[0]), state(trained[0]))
    for one, other in zip(trained[2].parameters(), rest.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)  # float64, 15 steps


ADVERSARY = {
    "defences": (AdversarialRegularisation(strength=0.5, hidden=(4,)),),
    "reference": (OTHERS[0].float(), OTHERS[1]),
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"defences": (EarlyStopping(patience=1, fraction=0.2),)},
        ADVERSARY,
    ],
    ids=["alone", "early stopping", "adversary"],
)  # fmt: skip
@pytest.mark.parametrize("frozen", [["0.*"], ["0.0.*", "0.1.weight", "0.1.bias"]])
def test_statistics_of_frozen_normalisation_stay(options, frozen):
    """Whoever switches modes on the way: both defences ask the module in evaluation mode, and switch back."""
    before, trained = state(normalised()), train(normalised(), X.float(), frozen=frozen, **options)
    after = state(trained)
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("0."))
    moving = [name for name in before if "running" in name or name.endswith("tracked")]
    assert all(not torch.equal(after[name], before[name]) for name in moving if name.startswith("1."))
    assert not trained.training
    trained.train()
    trained(X.float())  # no hook is left behind
    assert not torch.equal(state(trained)["0.1.running_mean"], before["0.1.running_mean"])


@pytest.mark.parametrize(("frozen", "stays"), [(["0.*"], True), (["2.bias"], False)])
def test_normalisation_without_weights_is_frozen_by_its_statistics(frozen, stays):
    first = torch.nn.Sequential(torch.nn.BatchNorm1d(4, affine=False), torch.nn.Linear(4, 4))
    found = train(torch.nn.Sequential(first, torch.nn.Tanh(), torch.nn.Linear(4, 3)), X.float(), frozen=frozen)
    assert torch.equal(found[0][0].running_mean, torch.zeros(4)) == stays


def test_patterns_that_match_nothing_or_everything():
    with pytest.raises(RecipeFailed, match=r"no parameter matches '0\.wieght'") as caught:
        train(net(), frozen=["2.*", "0.wieght"])
    assert "0.weight" in caught.value.hint
    with pytest.raises(RecipeFailed, match="no parameter matches"):  # statistics alone are no parameters
        train(normalised(), X.float(), frozen=["*.running_mean"])
    with pytest.raises(RecipeFailed, match="leaves no parameter to train"):
        train(net(), frozen=["*"])


# --- with training defences -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"augment": "net.py:noise"}, "augment: a function of the whole batch may mix records"),
        ({"sampler": "balanced"}, "sampler: its batches are drawn by Poisson sampling"),
        ({"precision": "bfloat16"}, "precision: its clipping"),
        ({"precision": "float16"}, "precision: its clipping"),
        ({"clip": 1.0}, "clip: it clips each record's gradient itself"),
        ({"teacher": TEACHER}, "teacher: its guarantee does not cover"),
    ],
)
def test_dp_sgd_refuses_what_breaks_its_guarantee(settings, said):
    plan, defences = TorchTraining(epochs=1, **settings), (DpSgd(noise_multiplier=1.0),)
    with pytest.raises(UsageError, match=said) as caught:
        fit(net(), X, Y, plan, torch.Generator(), defences=defences)
    assert "in_recipe: true" in caught.value.hint


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_dp_sgd_trains_what_is_not_frozen():
    needs_opacus()
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 3))
    before = state(module)
    after = state(train(module, X.float(), frozen=["0.*", "1.*"], defences=(DpSgd(noise_multiplier=0.5),)))
    assert all(torch.equal(after[name], before[name]) == (name[0] in "01") for name in before)


def test_the_sampler_draws_from_what_early_stopping_leaves():
    drawn = []
    module = net()
    module[0].register_forward_pre_hook(lambda layer, given: drawn.append(given[0]) if layer.training else None)
    x = torch.arange(92, dtype=torch.float64).reshape(23, 4) / 92
    train(module, x, sampler="balanced", defences=(EarlyStopping(patience=50, fraction=0.3),), epochs=20)
    seen = {float(row[0]) for batch in drawn for row in batch}
    assert len(seen) == 23 - 7  # a third of them is held back, and never trained on


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_all_defences_go_with_all_options(precision):
    adversary, given = ADVERSARY["defences"], ADVERSARY["reference"]

    def once():
        trained = train(
            normalised(), X.float(), imitate=(net(5).float(), TEACHER), augment=noise, sampler="balanced",
            precision=precision, clip=0.5, frozen=["0.*"], defences=(*adversary, EarlyStopping(patience=2)),
            reference=given,
        )  # fmt: skip
        return state(trained)

    one = once()
    assert same(one, once())
    assert all(bool(torch.isfinite(value).all()) for value in one.values())
