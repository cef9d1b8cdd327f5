"""Coordinates of the charts: pure functions from the document to numbers that the SVG macros draw.

Lengths are user units of a viewBox, rounded to a tenth; `share` positions are percentages of the width, so that
bars stretch with the page while their text keeps its size.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from privacy_gate.datamodel import VerdictStatus
from privacy_gate.reports import figures
from privacy_gate.reports.document import Alternative, Attack, Frontier, Histogram, ReliabilityBin, Roc, Rule, Stop

LETTERS = "ABCDE"  # one per curve, with its own colour and dash pattern
LEGEND_RATE = 0.01
TABLE_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Frame:
    """The plotting area in a viewBox of width x height."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float

    def x(self, share: float) -> float:
        """From 0 (left) to 1 (right)."""
        return round(self.left + share * (self.right - self.left), 1)

    def y(self, share: float) -> float:
        """From 0 (bottom) to 1 (top)."""
        return round(self.bottom - share * (self.bottom - self.top), 1)


# --- ROC ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Curve:
    """One attack's curve, with the place of its letter."""

    letter: str
    name: str
    points: str
    x: float
    y: float
    at_rates: tuple[float | None, ...]  # TPR at TABLE_RATES; None where the curve does not reach that low
    legend: float | None  # TPR at LEGEND_RATE: as printed beside the chart, else read off the curve


@dataclass(frozen=True, slots=True)
class RocChart:
    """Curves on two logarithmic axes, from where the curves begin to 1."""

    frame: Frame
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    summary: str


def tpr_at(roc: Roc, rate: float) -> float | None:
    """The highest TPR at an FPR of at most `rate`; None where the curve starts later."""
    index = bisect_right(roc.fpr, rate) - 1
    return None if index < 0 else roc.tpr[index]


def _log(value: float, decades: float) -> float:
    return min(1.0, max(0.0, 1 + math.log10(max(value, 1e-12)) / decades))


def roc(attacks: Sequence[Attack], table: Sequence[Attack] = ()) -> RocChart | None:
    """The curves of at most five attacks, as given; None without any.

    Where `table`, the forms that are printed beside the chart, has a TPR at 1 %, that number is the legend's, too: the
    thinned curve alone would say a little less.
    """
    drawn = [attack for attack in attacks if attack.roc is not None and attack.roc.fpr][: len(LETTERS)]
    if not drawn:
        return None
    lowest = min(attack.roc.fpr[0] for attack in drawn if attack.roc is not None)
    decades = min(5.0, max(2.0, -math.log10(lowest)))
    frame = Frame(420, 400, 62, 408, 12, 352)
    ticks = [Tick(_log(10.0**-power, decades), f"{10.0 ** (2 - power):g} %") for power in range(int(decades), -1, -1)]
    printed = {attack.id: attack for attack in table}
    curves = tuple(
        _curve(letter, attack, printed.get(attack.id, attack), frame, decades)
        for letter, attack in zip(LETTERS, drawn, strict=False)
    )
    best = max(curves, key=lambda c: c.legend or 0.0)
    reached = best.legend
    summary = (
        "No curve reaches down to a false-positive rate of 1 %."
        if reached is None
        else f"At a false-positive rate of 1 % the best of these attacks, {best.name}, "
        f"finds {figures.percent(reached)} of the members; chance finds 1 %."
    )
    return RocChart(
        frame,
        curves,
        tuple(Tick(frame.x(t.at), t.label) for t in ticks),
        tuple(Tick(frame.y(t.at), t.label) for t in ticks),
        summary,
    )


def _measured(attack: Attack, rate: float) -> float | None:
    """The attack's TPR at exactly that rate, if it was measured."""
    rates = {} if attack.metrics is None else attack.metrics.tpr_at_fpr
    return next((found.value for key, found in rates.items() if math.isclose(float(key), rate)), None)


def _curve(letter: str, attack: Attack, printed: Attack, frame: Frame, decades: float) -> Curve:
    line, exact = attack.roc, _measured(printed, LEGEND_RATE)
    assert line is not None
    places = [
        (frame.x(_log(f, decades)), frame.y(_log(t, decades)))
        for f, t in zip(line.fpr, line.tpr, strict=True)
        if f >= 10.0**-decades * 0.999
    ]
    # Letters are staggered along the curves: where curves coincide, their letters still stand side by side.
    at = places[min(len(places) - 1, round((0.08 + 0.11 * LETTERS.index(letter)) * (len(places) - 1)))]
    return Curve(
        letter,
        attack.id,
        " ".join(f"{x:g},{y:g}" for x, y in places),
        *at,
        tuple(tpr_at(line, rate) for rate in TABLE_RATES),
        tpr_at(line, LEGEND_RATE) if exact is None else exact,
    )


# --- histograms -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bar:
    """A filled cell."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class HistogramChart:
    """Members as filled bars, non-members as an outline; both as shares of their own total."""

    name: str
    frame: Frame
    bars: tuple[Bar, ...]
    outline: tuple[str, ...]  # one path for each unbroken run of visible cells
    hidden: tuple[Bar, ...]  # cells of which a count is withheld
    ticks: tuple[Tick, ...]
    rows: tuple[tuple[str, int | None, int | None], ...]
    summary: str


def histogram(counts: Histogram, wide: bool = False) -> HistogramChart:
    """Both sides of one histogram."""
    frame = Frame(640, 220, 12, 628, 12, 192) if wide else Frame(360, 180, 10, 350, 10, 152)
    totals = [sum(c or 0 for c in side) for side in (counts.members, counts.nonmembers)]
    shares = [
        [None if c is None or not total else c / total for c in side]
        for side, total in zip((counts.members, counts.nonmembers), totals, strict=True)
    ]
    tallest = max((s for side in shares for s in side if s is not None), default=0.0) or 1.0
    cells = len(counts.members)
    lefts = [frame.x(i / cells) for i in range(cells + 1)]

    def tops(side: int) -> list[float | None]:
        return [None if share is None else frame.y(share / tallest) for share in shares[side]]

    bars = tuple(
        Bar(lefts[i] + 0.5, top, round(lefts[i + 1] - lefts[i] - 1, 1), round(frame.bottom - top, 1))
        for i, top in enumerate(tops(0))
        if top is not None
    )
    hidden = tuple(
        Bar(lefts[i] + 0.5, frame.bottom - 4, round(lefts[i + 1] - lefts[i] - 1, 1), 4)
        for i in range(cells)
        if counts.members[i] is None or counts.nonmembers[i] is None
    )
    step = max(1, cells // 4)
    edges = counts.edges
    return HistogramChart(
        counts.name,
        frame,
        bars,
        _outlines(tops(1), lefts, frame.bottom),
        hidden,
        tuple(Tick(lefts[i], _edge(edges, i, 2)) for i in range(0, cells + 1, step)),
        tuple(
            (f"{_edge(edges, i, 3)} to {_edge(edges, i + 1, 3)}", counts.members[i], counts.nonmembers[i])
            for i in range(cells)
        ),
        _overlap(shares),
    )


def _edge(edges: Sequence[float], index: int, digits: int) -> str:
    """An edge with as many decimals as the whole span is worth."""
    span = edges[-1] - edges[0]
    places = max(0, digits - math.ceil(math.log10(span))) if span > 0 else digits
    return figures.signed(f"{edges[index]:.{min(places, 9)}f}")


def _outlines(tops: Sequence[float | None], lefts: Sequence[float], bottom: float) -> tuple[str, ...]:
    paths: list[str] = []
    path = ""
    for i, top in enumerate([*tops, None]):
        if top is not None:
            path += f"{'' if path else f'M{lefts[i]:g} {bottom:g}'}V{top:g}H{lefts[i + 1]:g}"
        elif path:
            paths.append(f"{path}V{bottom:g}")
            path = ""
    return tuple(paths)


def _overlap(shares: Sequence[Sequence[float | None]]) -> str:
    both = [min(a, b) for a, b in zip(*shares, strict=True) if a is not None and b is not None]
    if not both:
        return "Too few records in each cell to compare."
    return f"The two overlap by about {100 * sum(both):.0f} % of the records shown."


# --- reliability ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dot:
    """One bin: where it lies and how much it weighs."""

    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class ReliabilityChart:
    """Predicted probability against observed share."""

    frame: Frame
    dots: tuple[Dot, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    summary: str


def reliability(bins: Sequence[ReliabilityBin]) -> ReliabilityChart | None:
    """None when no bin has enough records to be shown."""
    frame = Frame(300, 290, 44, 288, 12, 248)
    shown = [(b.score, b.members, b.n) for b in bins if b.members is not None and b.n is not None]
    if not shown:
        return None
    most = max(n for _, _, n in shown)
    worst = max(abs(score - share) for score, share, _ in shown)
    quarters = (0.0, 0.25, 0.5, 0.75, 1.0)
    return ReliabilityChart(
        frame,
        tuple(Dot(frame.x(s), frame.y(m), round(3 + 6 * math.sqrt(n / most), 1)) for s, m, n in shown),
        tuple(Tick(frame.x(q), f"{q:g}") for q in quarters),
        tuple(Tick(frame.y(q), f"{q:g}") for q in quarters),
        f"The largest gap between predicted and observed is {figures.percent(worst)}.",
    )


# --- privacy against utility ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mark:
    """One model: its number in the table beside the chart, and whether it is the candidate.

    x, y        where its numbers lie
    at_x, at_y  where its label stands: there, or beside it where another label is in the way
    label       "" for a point that has none
    """

    x: float
    y: float
    at_x: float
    at_y: float
    label: str
    name: str
    tone: str


@dataclass(frozen=True, slots=True)
class TradeOff:
    """Accuracy on unseen records against the strongest attack's accuracy: the lower right is where one wants to be."""

    frame: Frame
    marks: tuple[Mark, ...]
    line: str  # points of the polyline through the marks of one training; "" for none
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    summary: str


_Point = tuple[str, str, float | None, float | None, str]  # label, name, test accuracy, attack accuracy, tone


def _trade_off(points: Sequence[_Point], summary: str, joined: int = 0) -> TradeOff | None:
    """`joined`: how many of the first points are one training, in order."""
    placed = [(label, name, x, y, tone) for label, name, x, y, tone in points if x is not None and y is not None]
    if not placed:
        return None
    frame = Frame(460, 320, 76, 446, 16, 272)  # narrow: on a phone its text shrinks with it
    left, right = _span([x for _, _, x, _, _ in placed], 0.01)
    low, high = _span([0.5, *(y for _, _, _, y, _ in placed)], 0.02)
    places = [(frame.x((x - left) / (right - left)), frame.y((y - low) / (high - low))) for _, _, x, y, _ in placed]
    # The candidate's label comes first: it is the one that must not be led away from its place.
    labelled = sorted((n for n, (label, *_) in enumerate(placed) if label), key=lambda n: placed[n][0] != "C")
    at = dict(zip(labelled, _apart([places[n] for n in labelled], frame), strict=True))
    marks = tuple(
        Mark(*places[n], *at.get(n, places[n]), label, name, tone) for n, (label, name, _, _, tone) in enumerate(placed)
    )
    return TradeOff(
        frame,
        marks,
        " ".join(f"{mark.x:g},{mark.y:g}" for mark in marks[:joined]) if joined > 1 else "",
        tuple(Tick(frame.x(share), figures.percent(left + share * (right - left), 1)) for share in _QUARTERS),
        tuple(Tick(frame.y(share), figures.percent(low + share * (high - low), 1)) for share in _QUARTERS),
        summary,
    )


_QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
_LABEL = 20.0  # a label's disc with a little room
_RINGS = [(0.0, 0.0)] + [
    (ring * _LABEL * math.cos(turn * math.pi / 8), ring * _LABEL * math.sin(turn * math.pi / 8))
    for ring in (1, 2, 3, 4, 5)
    for turn in (0, 8, 12, 4, 14, 10, 2, 6, 15, 9, 13, 11, 1, 7, 3, 5)  # beside, above, below, then askew
]


def _apart(places: Sequence[tuple[float, float]], frame: Frame) -> list[tuple[float, float]]:
    """A place for each label, near its own and clear of those before it; models that answer alike lie in one spot."""
    taken: list[tuple[float, float]] = []
    for x, y in places:
        tried = [(round(x + right, 1), round(y + down, 1)) for right, down in _RINGS]
        inside = [
            (a, b)
            for a, b in tried
            if (frame.left + 9 <= a <= frame.right - 9 and frame.top <= b <= frame.bottom - 9) or (a, b) == (x, y)
        ]
        clear = (at for at in inside if all(math.dist(at, other) >= _LABEL - 1 for other in taken))
        taken.append(next(clear, (x, y)))
    return taken


def _span(values: Sequence[float], margin: float) -> tuple[float, float]:
    """A little more than the values take."""
    low, high = min(values), max(values)
    room = max(margin, 0.06 * (high - low))
    return max(0.0, low - room), min(1.0, high + room) if high + room > low else 1.0


def _worst(stop: Stop) -> float | None:
    return max((found.value for found in stop.attacks.values() if found.value is not None), default=None)


def number(place: int, stop: Stop) -> str:
    """What a stop is called in the chart: its epoch or round, else its place in the table."""
    told = re.match(r"(?:epoch|round) (\d{1,6})\b", stop.name)
    return told[1] if told else str(place + 1)


def frontier(found: Frontier) -> TradeOff | None:
    """The stops of one training, joined, and the candidate; of the stops, only those that count have a label."""
    told = {0, len(found.stops) - 1, found.matched, *found.dominated_by[:1]}
    stops: list[_Point] = [
        (number(n, stop) if n in told else "", stop.name, stop.test_accuracy, _worst(stop), "stop")
        for n, stop in enumerate(found.stops)
    ]
    own = (found.candidate.name, found.candidate.test_accuracy, _worst(found.candidate))
    matched = found.stops[found.matched]
    summary = (
        f"The candidate answers {figures.percent(own[1], 1)} of unseen records correctly and the strongest attack of "
        f"this benchmark reaches {figures.percent(own[2], 1)}; the undefended model stopped at {matched.name} answers "
        f"{figures.percent(matched.test_accuracy, 1)} and leaks {figures.percent(_worst(matched), 1)}."
    )
    return _trade_off([*stops, ("C", own[0], own[1], own[2], "candidate")], summary, joined=len(stops))


_TONES = {
    VerdictStatus.PASS: "pass",
    VerdictStatus.PASS_WITH_WARNINGS: "pass",
    VerdictStatus.PASS_WITH_WAIVERS: "pass",
    VerdictStatus.FAIL: "fail",
}


def alternatives(found: Sequence[Alternative]) -> TradeOff | None:
    """The candidate and its alternatives, each with the look of its verdict."""
    points: list[_Point] = [
        (
            "C" if n == 0 else str(n),
            one.name,
            one.test_accuracy,
            None if one.accuracy is None else one.accuracy.value,
            tone,
        )
        for n, one in enumerate(found)
        for tone in [_TONES.get(one.status, "open")]
    ]
    return _trade_off(points, said_of(found))


def said_of(found: Sequence[Alternative]) -> str:
    """Which of them one would release, in a sentence, and what it costs."""
    passing = [one for one in found if _TONES.get(one.status) == "pass"]
    if not passing:
        if len(found) == 1:
            return "Nothing else was compared."
        still = sum(one.status is VerdictStatus.INCONCLUSIVE for one in found)
        return f"None of them passes this policy{f'; still open for want of evidence: {still}' if still else ''}."
    best = max(passing, key=lambda one: one.test_accuracy or 0.0)  # the candidate where another one is only as good
    if best is found[0]:
        return "The candidate passes as it is; nothing else that passes is more accurate on unseen records."
    return (
        f"Of those that pass, {best.name} is the most accurate on unseen records: "
        f"{figures.percent(best.test_accuracy, 1)}, {figures.points(best.gain)} against the candidate."
    )


# --- bars that stretch with the page --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scale:
    """Percentages of the width: where the limit, the value and its bounds lie; None where there is none."""

    limit: float | None
    value: float | None
    low: float
    high: float
    first: str
    last: str


def _position(value: float, start: float, end: float) -> float:
    return round(100 * min(1.0, max(0.0, (value - start) / (end - start))), 2)


def scale(rule: Rule) -> Scale | None:
    """A rule's measured bounds beside its limit; None when there is nothing to draw."""
    known = [number for number in (rule.value, rule.low, rule.high) if number is not None]
    if rule.limit is None or not known:
        return None
    kind = figures.unit(rule.metric)
    # Guessing gives one half for these two: an axis from zero would waste half the room on the impossible.
    start = 0.5 if rule.metric.endswith(("accuracy", "auc")) else 0.0
    start = min(start, *known, rule.limit)
    end = max(*known, rule.limit)
    roomy = start + (end - start) * 1.15 if end > start else start + 1.0
    end = min(roomy, 1.0) if end <= 1.0 else roomy  # no rate and no AUC goes beyond 1
    low, high = (known[0] if bound is None else bound for bound in (rule.low, rule.high))
    return Scale(
        _position(rule.limit, start, end),
        None if rule.value is None else _position(rule.value, start, end),
        _position(low, start, end),
        _position(high, start, end),
        figures.amount(start, kind),
        figures.amount(end, kind),
    )


def accuracy_bar(attack: Attack) -> Scale | None:
    """An attack's balanced accuracy between 40 % and 100 %."""
    if attack.metrics is None or attack.metrics.accuracy.value is None:
        return None
    measured = attack.metrics.accuracy
    value = attack.metrics.accuracy.value
    low, high = (value if bound is None else bound for bound in (measured.low, measured.high))
    return Scale(
        _position(0.5, 0.4, 1.0),
        _position(value, 0.4, 1.0),
        _position(low, 0.4, 1.0),
        _position(high, 0.4, 1.0),
        "40 %",
        "100 %",
    )
