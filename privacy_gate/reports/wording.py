"""Fixed texts. A report speaks of evidence for resistance to the attacks that it lists, and of nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from privacy_gate.datamodel import Estimand, VerdictStatus
from privacy_gate.reports.document import Attempt, OutOfScope, RecordSet

VERDICTS = {
    VerdictStatus.PASS: "Pass",
    VerdictStatus.PASS_WITH_WARNINGS: "Pass with warnings",
    VerdictStatus.PASS_WITH_WAIVERS: "Pass with waivers",
    VerdictStatus.FAIL: "Fail",
    VerdictStatus.INCONCLUSIVE: "Inconclusive",
    VerdictStatus.ERROR: "Error",
}

_PASS = (
    "Every attack in this report stayed within the limits of the policy, and so did the upper bounds. "
    "This is evidence for resistance to these attacks, on these records, and to no others."
)

READINGS = {
    VerdictStatus.PASS: _PASS,
    VerdictStatus.PASS_WITH_WARNINGS: _PASS + " Some rules that only warn did not hold.",
    VerdictStatus.PASS_WITH_WAIVERS: _PASS + " Rules that did not hold were waived by people, as listed below.",
    VerdictStatus.FAIL: (
        "At least one rule is proven broken: even the lower bound is beyond the limit, "
        "after correcting for the number of attacks tried. privacy-gate defences compare tries what would help."
    ),
    VerdictStatus.INCONCLUSIVE: (
        "The evidence neither shows that the model stays within the policy nor proves that it does not. "
        "Treat the model as not released."
    ),
    VerdictStatus.ERROR: "The evaluation broke, so nothing can be concluded about the model. Treat it as not released.",
}

STATUS = {
    "pass": "pass",
    "fail": "fail",
    "inconclusive": "undecided",
    "error": "error",
    "waived": "waived",
    "not_applicable": "does not apply",
    "warn": "warning",
    "executed": "run",
    "skipped": "skipped",
}

ESTIMANDS = {
    Estimand.ARTEFACT: "this model; its members stand for all records that it might have been trained on",
    Estimand.CENSUS: "this model and exactly these members: all of them were scored, only non-members are a sample",
    Estimand.PROCEDURE: "models that this training procedure makes: each shadow took the candidate's place in turn. "
    "Risk scores and validity checks are about this model",
}

EFFECTS = {"block": "blocks", "warn": "warns", "off": "off"}

OUT_OF_SCOPE = (
    OutOfScope(id="attribute inference", note="guessing unknown attributes of a person whose record is partly known"),
    OutOfScope(id="model inversion", note="reconstructing typical inputs of a class"),
    OutOfScope(id="data reconstruction", note="recovering training records from weights or gradients"),
    OutOfScope(id="property inference", note="learning statistics of the training set as a whole"),
    OutOfScope(id="poisoning", note="an attacker who plants training records to make others easier to find"),
    OutOfScope(id="model extraction", note="copying the model through its answers"),
)

LIMITATIONS = (
    "Only the attacks listed were run. Their failure is evidence for resistance to them, not to others.",
    "The figures hold for the audited records; people unlike them may be exposed more or less.",
    "Rates at low false-positive rates are averages over people; the risk of one person can be higher.",
    "Limits are a choice of the policy. No law or regulator names a number.",
)


def coverage(members: RecordSet, nonmembers: RecordSet, train_size: int | None, removed: int) -> str:
    """Census or sample: whether all that the model was trained on was scored; "" where nobody knows.

    removed  records left out of either side
    """
    if members.drawn_from is not None:
        said = f"sample: {members.n:,} of {members.drawn_from:,} members, whole persons drawn by lot within each class"
        if train_size is not None and train_size > members.drawn_from + removed:
            said += f"; the model was trained on {train_size:,}"
    elif train_size is None:
        return ""
    elif train_size <= members.n:
        said = f"census: all {train_size:,} training records"
    elif train_size <= members.n + removed:
        said = f"census: {members.n:,} of {train_size:,} training records; those left out are listed by reason"
    else:
        said = f"sample: {members.n:,} of {train_size:,} training records were given"
    if nonmembers.drawn_from is None:
        return said
    return f"{said}; {nonmembers.n:,} of {nonmembers.drawn_from:,} non-members, drawn in the same way"


LABELS_ACCESS = "the class label alone for chosen inputs, any number of queries"


def labels_alone(*, cannot_pass: Sequence[str], unmeasured: Sequence[str], required: Sequence[str]) -> str:
    """What labels leave undecided, and what would decide it.

    cannot_pass  rules that only attacks with reference models can let pass
    unmeasured   rules about the risk of single people
    required     attacks that the policy asks for, and that read scores
    """
    blind = []
    if cannot_pass:
        blind.append(f"{', '.join(cannot_pass)} cannot pass, since that takes an attack with reference models")
    if unmeasured:
        blind.append(f"{', '.join(unmeasured)} cannot be measured, since risk is learnt from the model's scores")
    if required:
        blind.append(f"the policy asks for attacks that read scores ({', '.join(dict.fromkeys(required))})")
    return (
        "The candidate answers with labels alone, so only attacks on labels were run: they can prove a leak. "
        + (f"From labels {'; '.join(blind)}. " if blind else "")
        + "One score per class would decide this: log the model so that it answers with probabilities, or let the "
        "gate audit the model that is behind the labels."
    )


@dataclass(frozen=True, slots=True)
class Advice:
    """What a metric means and what helps when it is beyond its limit."""

    meaning: str
    remedy: str


_ADVICE = {
    "accuracy_gap": Advice(
        "How much more often the model is right on its training records than on others. It explains leaks; a model "
        "without a gap can leak all the same.",
        "Regularise, stop earlier, or train on more records.",
    ),
    "accuracy_difference": Advice(
        "How much better the attacks do on this model than on the one that was approved.",
        "Find out what changed since then: fewer records, more epochs, a larger model, another defence.",
    ),
    "slice": Advice(
        "How often an attacker is right within one class, one group, or the records that are hardest to predict. "
        "What is harmless on average can expose a minority.",
        "Give the group more records or weight, regularise until its own gap closes, or train with differential "
        "privacy.",
    ),
    "calibration": Advice(
        "Whether a risk score of 80 % is right in four of five cases. Counts of people at high risk mean nothing "
        "if it is not.",
        "Provide more members and non-members; scores are learnt on one half of them and tested on the other.",
    ),
    "admissible": Advice(
        "Whether the evidence can be trusted at all: members and non-members must differ in membership alone.",
        "Draw members and non-members from the same source at random, without repeated records or people.",
    ),
    "accuracy": Advice(
        "How often an attacker who is shown one person, from the training data or not with even odds, tells which. "
        "Guessing gives 50 %.",
        "Narrow the gap between training and test behaviour: stronger regularisation, shallower trees, fewer epochs "
        "or early stopping; then an output defence, or training with differential privacy.",
    ),
    "auc": Advice(
        "The chance that a random training record looks more like a member than a random other record. "
        "Guessing gives 0.500.",
        "Regularise, stop earlier or train with differential privacy; rounding outputs alone rarely moves it.",
    ),
    "tpr": Advice(
        "The share of training records that an attacker names with confidence, while wrongly naming only a "
        "set share of other records. An average can look harmless while these people are exposed.",
        "Look for outliers and rare groups that the model memorises: remove duplicates, give leaves or cells more "
        "records, clip gradients, or train with differential privacy.",
    ),
    "risk": Advice(
        "People for whom an attacker would be nearly certain, beyond what chance would flag.",
        "Find out what they have in common (rare groups, wrong labels, outliers), then regularise, or leave such "
        "records out of training.",
    ),
    "instance_based": Advice(
        "Some model types, such as nearest neighbours and kernel machines, carry training records inside the artefact.",
        "Release a model type that does not store records, or keep the artefact behind an interface.",
    ),
    "attacks": Advice(
        "The policy names attacks that must have run; without them nothing can be said.",
        "Give the gate what the skipped attacks require, as their reasons say.",
    ),
    "validity": Advice(
        "Whether the evidence can be trusted at all: members and non-members must differ in membership alone.",
        "Draw members and non-members from the same source at random, without repeated records or people.",
    ),
    "": Advice(
        "A condition that the policy sets before release.",
        "Run `privacy-gate explain` with the rule's name for its definition and remedies.",
    ),
}


def attempt(made: Attempt) -> str:
    """How often the model was evaluated, and what that leaves."""
    levels = f"levels {made.alpha_pass:.3g} to pass, {made.alpha_fail:.3g} to fail"
    if not made.recorded:
        return f"nobody keeps earlier evaluations of this model; {levels}" + (f"; {made.note}" if made.note else "")
    count = "first evaluation" if made.number == 1 else f"evaluation {made.number} on other data, seeds or shadows"
    return f"{count} of this model; {levels}" + (f"; {made.note}" if made.note else "")


def advice(metric: str) -> Advice:
    """The advice for a policy metric such as `attack.accuracy`; a general one for metrics of plug-ins."""
    words = metric.lower()
    if words.startswith("risk.") and "calibration" not in words:
        return _ADVICE["risk"]
    return next((text for word, text in _ADVICE.items() if word and word in words), _ADVICE[""])
