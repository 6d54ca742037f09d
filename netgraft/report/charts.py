"""Where the marks of a scatter chart go, in percent of the plot, so that the page can stretch it to any width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, floor, isfinite, log10

from netgraft.candidate import Trial, TrialState
from netgraft.study import Study

from . import words
from .summary import Row, Scale, Summary, estimated_time

NARROW, HEIGHT = 290.0, 320.0
"""The narrowest plot in pixels, for which labels are kept apart."""
CHARACTER, TEXT_HEIGHT = 7.5, 15.0
COLOURS = 6
"""How many colours there are for finalists' lines; more begin again with the first."""


@dataclass(frozen=True)
class Tick:
    """A grid line: its number as text, and its place in percent."""

    text: str
    at: float


@dataclass(frozen=True)
class Point:
    """A mark, its error bars (all places in percent) and its label (offsets in pixels from the mark).

    ``kind`` is ``original``, ``pick``, ``finalist`` or ``trial``.
    """

    kind: str
    x: float
    y: float
    left: float
    right: float
    top: float
    bottom: float
    title: str
    label: str = ""
    dx: float = 0.0
    dy: float = 0.0
    anchor: str = "start"


@dataclass(frozen=True)
class Chart:
    """A scatter chart; ``one`` is where the x axis reads 1, if it does."""

    points: tuple[Point, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    one: float | None


@dataclass(frozen=True)
class Line:
    """A network's line: its colour of :data:`COLOURS` (0: the original's), an SVG path in percent, and its label."""

    colour: int
    path: str
    label: str


@dataclass(frozen=True)
class Curves:
    """A chart of lines; ``heat`` is where the heat of the finals ended, if there was one (in percent)."""

    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    heat: float | None


@dataclass(frozen=True)
class _Mark:
    kind: str
    x: tuple[float, float, float]
    y: tuple[float, float, float]
    title: str
    label: str = ""


def finalists_chart(summary: Summary) -> Chart:
    """Measured time relative to the original against test quality."""
    return _chart([_finalist(row, summary) for row in summary.rows])


def _finalist(row: Row, summary: Summary) -> _Mark:
    kind = "original" if row.is_original else "pick" if row == summary.pick else "finalist"
    label = " ".join([row.label, *summary.names(row)[:1]])
    time, low, high = words.factors([row.time, row.low, row.high])
    unit = summary.quality.unit
    differing = words.difference(row.difference, row.difference_error, unit)
    title = (
        f"{label}: time {time}x [{low}, {high}], {summary.quality.name} "
        f"{words.quality(row.test, row.test_error, unit)} {words.error(row.test_error)}"
    ) + (f" ({differing} beside the original)" if differing else "")
    return _Mark(
        kind,
        (row.low, row.time, row.high),
        (row.test - row.test_error, row.test, row.test + row.test_error),
        title,
        label,
    )


def trials_chart(study: Study, quality: Scale) -> Chart | None:
    """Estimated time relative to the original against validation quality, of the complete trials; None where there are
    fewer than two to show.
    """
    marks = []
    for trial in study.trials.values():
        time, value = estimated_time(study, trial), trial.scores.get("quality")
        if trial.state is TrialState.COMPLETE and time is not None and value is not None:
            marks.append(_trial(trial, time, value, quality))
    return _chart(marks) if len(marks) > 1 else None


def _trial(trial: Trial, time: float, value: float, quality: Scale) -> _Mark:
    shown = words.quality(value, trial.scores.get("quality_error"), quality.unit)
    title = f"#{trial.number} ({trial.origin}): about {words.ratio(time)} the time, {quality.name} {shown} (validation)"
    kind, label = ("trial", "") if trial.number else ("original", "original")
    return _Mark(kind, (time, time, time), (value, value, value), title, label)


def curves_chart(study: Study, summary: Summary) -> Curves | None:
    """The training loss of the original and the finalists during the finals, in windows of steps, against the epochs
    since the run began. A training that follows another one begins a new line. None where the run kept no losses.
    """
    found = [(row, trainings) for row in summary.rows if (trainings := _trainings(study, row.number))]
    everything = [point for _, trainings in found for training in trainings for point in training]
    if not everything:
        return None
    x_low, x_high, x_ticks = _axis([x for x, _ in everything], most=8)
    y_low, y_high, y_ticks = _axis([y for _, y in everything], most=6)

    def across(value: float) -> float:
        return 100 * (value - x_low) / (x_high - x_low)

    def down(value: float) -> float:
        return 100 * (y_high - value) / (y_high - y_low)

    finalists = [row for row, _ in found if not row.is_original]
    lines = []
    for row, trainings in found:
        paths = [" L".join(f"{across(x):.2f} {down(y):.2f}" for x, y in training) for training in trainings]
        colour = 0 if row.is_original else 1 + finalists.index(row) % COLOURS
        label = " ".join([row.label, *summary.names(row)[:1]])
        lines.append(Line(colour, "".join(f"M{path}" for path in paths), label))
    heat = study.note("heat")
    return Curves(
        tuple(lines),
        tuple(Tick(text, across(value)) for text, value in x_ticks),
        tuple(Tick(text, down(value)) for text, value in y_ticks),
        across(heat["epochs"]) if heat else None,
    )


def _trainings(study: Study, number: int) -> list[list[tuple[float, float]]]:
    """For each training of a network in the finals its points: the epochs in the middle of a window, and its loss."""
    found = []
    for note in study.notes:
        if note["note"] == "trained" and note["number"] == number and note.get("losses"):
            losses = note["losses"]
            window = note["epochs"] / len(losses)
            begun = note["until"] - note["epochs"]
            found.append([(begun + (i + 0.5) * window, loss) for i, loss in enumerate(losses)])
    return found


def _chart(marks: Sequence[_Mark]) -> Chart:
    marks = [mark for mark in marks if all(map(isfinite, (*mark.x, *mark.y)))]
    x_low, x_high, x_ticks = _axis([value for mark in marks for value in mark.x], most=5)
    y_low, y_high, y_ticks = _axis([value for mark in marks for value in mark.y], most=6)

    def across(value: float) -> float:
        return 100 * (value - x_low) / (x_high - x_low)

    def down(value: float) -> float:
        return 100 * (y_high - value) / (y_high - y_low)

    # What is drawn last lies on top: the picks.
    order = sorted(marks, key=lambda mark: ("trial", "finalist", "original", "pick").index(mark.kind))
    places = [(across(mark.x[1]), down(mark.y[1])) for mark in order]
    labels = _labels(places, [mark.label for mark in order])
    points = tuple(
        Point(
            mark.kind,
            *place,
            left=across(mark.x[0]),
            right=across(mark.x[2]),
            top=down(mark.y[2]),
            bottom=down(mark.y[0]),
            title=mark.title,
            label=mark.label,
            dx=dx,
            dy=dy,
            anchor=anchor,
        )
        for mark, place, (dx, dy, anchor) in zip(order, places, labels, strict=True)
    )
    return Chart(
        points,
        tuple(Tick(text, across(value)) for text, value in x_ticks),
        tuple(Tick(text, down(value)) for text, value in y_ticks),
        across(1.0) if x_low <= 1.0 <= x_high else None,
    )


def _axis(values: Sequence[float], most: int) -> tuple[float, float, list[tuple[str, float]]]:
    """Ends of an axis that holds the values with some air, and at most ``most`` round numbers on it."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - margin, high + margin
    raw = (high - low) / most
    unit = 10.0 ** floor(log10(raw))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= raw)
    places = max(0, -floor(log10(step)))
    ticks = [n * step for n in range(ceil(low / step), floor(high / step) + 1)]
    return low, high, [(f"{tick:.{places}f}", tick) for tick in ticks]


def _labels(places: Sequence[tuple[float, float]], labels: Sequence[str]) -> list[tuple[float, float, str]]:
    """For each label its offset from the mark and its anchor: of four corners the one with the least in its way."""
    taken = [_Rectangle(x / 100 * NARROW - 6, y / 100 * HEIGHT - 6, 12, 12) for x, y in places]
    chosen: list[tuple[float, float, str]] = []
    for (x, y), label in zip(places, labels, strict=True):
        corners = {
            (right, below): _Rectangle(
                x / 100 * NARROW + (9 if right else -9 - CHARACTER * len(label)),
                y / 100 * HEIGHT + (4 if below else -4 - TEXT_HEIGHT),
                CHARACTER * len(label),
                TEXT_HEIGHT,
            )
            for right, below in product((True, False), (False, True))
        }
        troubles = {corner: box.outside() + sum(map(box.overlap, taken)) for corner, box in corners.items()}
        right, below = min(troubles, key=troubles.__getitem__)
        taken.append(corners[right, below])
        chosen.append((9.0 if right else -9.0, 15.0 if below else -8.0, "start" if right else "end"))
    return chosen


@dataclass(frozen=True)
class _Rectangle:
    x: float
    y: float
    width: float
    height: float

    def overlap(self, other: _Rectangle) -> float:
        """The area that both cover."""
        width = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        height = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return max(0.0, width) * max(0.0, height)

    def outside(self) -> float:
        """The area that lies beside the plot."""
        return self.width * self.height - self.overlap(_Rectangle(0, 0, NARROW, HEIGHT))
