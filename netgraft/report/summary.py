"""The numbers of a run in one place: a row for each finalist, the picks among them, lineages and the headline.

The page and the terminal both show what stands here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Literal, Protocol, TypeVar

from netgraft.candidate import Trial, TrialState
from netgraft.errors import StudyError
from netgraft.search.pareto import front
from netgraft.study import Finalist, Study

from . import words
from .prediction import Prediction, prediction

Verdict = Literal["faster", "slower", "no difference shown"]


@dataclass(frozen=True)
class Scale:
    """What quality is measured in: its name, its unit, and which way is better."""

    name: str
    unit: str
    higher_is_better: bool

    def __str__(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(frozen=True)
class Row:
    """A finalist as it is reported.

    ``test`` and ``validation`` are in the task's unit, with standard errors; ``difference`` is how far ``test`` lies
    above the original's, with the standard error of that, which both being judged on the same examples makes smaller
    (None where it was not kept; ``validation_paired_error`` is the same of the validation split). ``time`` is the
    measured latency as a multiple of the original's with its 99 % interval (``low``, ``high``); ``speedup`` is its
    inverse, with the interval turned round. FLOPs, parameters and memory (bytes of activations) are counted; their
    ratios are to the original. ``estimate`` is what the search estimated of the time. ``expected`` is the validation
    quality after the short fine-tuning that a predictor let expect, with its deviation, ``tuned`` the one that came
    out. ``inherited`` is the product of the shares of inherited weights along the lineage. ``origins`` says how it came
    about, step by step.
    """

    number: int
    label: str
    digest: str
    test: float
    test_error: float
    validation: float
    validation_error: float
    time: float
    low: float
    high: float
    latency_ms: float
    flops: int
    parameters: int
    memory: int
    flops_ratio: float
    parameters_ratio: float
    memory_ratio: float
    inherited: float
    epochs: float
    origins: tuple[str, ...]
    estimate: float | None = None
    expected: float | None = None
    expected_deviation: float | None = None
    tuned: float | None = None
    breaks: str = ""
    difference: float | None = None
    difference_error: float | None = None
    validation_paired_error: float | None = None

    @property
    def is_original(self) -> bool:
        """Whether this is the network that the run began with."""
        return self.number == 0

    @property
    def speedup(self) -> float:
        """How many times as fast as the original."""
        return 1 / self.time

    @property
    def speedup_interval(self) -> tuple[float, float]:
        """The 99 % interval of the speed-up."""
        return 1 / self.high, 1 / self.low

    @property
    def verdict(self) -> Verdict:
        """What the measurement allows to say; nothing as long as the interval holds 1."""
        if self.is_original:
            return "no difference shown"
        if self.high < 1:
            return "faster"
        return "slower" if self.low > 1 else "no difference shown"

    @property
    def is_faster(self) -> bool:
        """Whether it was measured to be faster than the original."""
        return self.verdict == "faster"


@dataclass(frozen=True)
class Stopped:
    """A network that began the finals and was stopped after ``epochs`` since the run began, with its ``validation``
    quality there.
    """

    label: str
    digest: str
    validation: float
    validation_error: float
    epochs: float
    reason: str


@dataclass(frozen=True)
class Summary:
    """What came out of a run. ``rows`` are the finalists, the original first, then from fast to slow.

    ``picks`` maps ``knee``, ``fastest`` and ``best`` to the numbers of rows; it is empty as long as there are none.
    Picks are made on the *validation* quality, so that the test quality reported for them was not selected for, and
    the original is picked only where nothing else is there, and a network that broke a limit when measured never:

    - ``best`` has the best quality, and of equals the least time;
    - ``fastest`` has the least time of those measured to be faster than the original: among the ones not worse than it
      by more than two standard errors of the difference (of the original's quality, where that is not known), or among
      all if there is no such one. Where nothing is faster, nothing is called so;
    - ``knee`` lies furthest from the line between the two ends of the front of quality against time, where all within
      one standard error of the best quality count as equally good.

    ``stopped`` are those that began the finals and were not trained to their end. ``prediction`` is the record of the
    run's predictor, if it had one.
    """

    task: str
    quality: Scale
    headline: str
    rows: tuple[Row, ...] = ()
    picks: Mapping[str, int] = field(default_factory=dict)
    prediction: Prediction | None = None
    stopped: tuple[Stopped, ...] = ()

    @property
    def original(self) -> Row | None:
        """The original's row, once it has been measured."""
        return next((row for row in self.rows if row.is_original), None)

    @property
    def pick(self) -> Row | None:
        """The row to look at first: the knee."""
        return next((row for row in self.rows if row.number == self.picks.get("knee")), None)

    def names(self, row: Row) -> tuple[str, ...]:
        """The names under which a row is picked."""
        return tuple(name for name, number in self.picks.items() if number == row.number)


def summarize(study: Study) -> Summary:
    """What came out of a run; without rows, and with a headline that says so, while there are no finalists.

    StudyError for a run whose journal or settings lack what they must hold.
    """
    task, quality = _task(study)
    rows = tuple(sorted((_row(study, finalist) for finalist in study.finalists.values()), key=_original_first))
    said = prediction(study, quality.unit)
    if not rows:
        return Summary(task, quality, _unfinished(study), prediction=said)
    original = rows[0] if rows[0].is_original else None
    children = [row for row in rows if not row.is_original]
    stopped = _stopped(study)
    entrants = [row for row in children if not row.breaks] or ([] if children else rows)
    if not entrants:
        return Summary(task, quality, _beyond(children), rows, prediction=said, stopped=stopped)
    knee = _knee(entrants, quality)
    picks = _picks(entrants, original, quality)
    return Summary(task, quality, _headline(knee, original, quality), rows, picks, said, stopped)


def _stopped(study: Study) -> tuple[Stopped, ...]:
    note = study.note("heat") or {"networks": []}
    return tuple(
        Stopped(
            f"#{one['number']}",
            study.trials[one["number"]].digest,
            one["quality"],
            one["error"],
            note["epochs"],
            one["stopped"],
        )
        for one in note["networks"]
        if one["stopped"]
    )


@dataclass(frozen=True)
class Standing:
    """A network of a run that has no finalists yet, by what the search knows: ``validation`` quality after its short
    fine-tuning, and ``time`` as a multiple of the original's, shortly ``measured`` or else estimated.
    """

    number: int
    digest: str
    validation: float
    validation_error: float
    time: float
    measured: bool
    model: str

    @property
    def validation_paired_error(self) -> None:
        """Not known: a search keeps no more than the quality of each network."""

    @property
    def is_faster(self) -> bool:
        """Whether it was measured to be faster than the original; estimates show nothing."""
        return self.measured and self.time < 1


def standings(study: Study) -> tuple[tuple[Standing, ...], Mapping[str, int]]:
    """The Pareto front of what a search has trained so far, from fast to slow, and the picks among it; both are empty
    as long as there is nothing. Where the run has a limit on latency, what was not measured is no pick.
    """
    _, quality = _task(study)
    trained = [_standing(study, t) for t in study.trials.values() if t.state is TrialState.COMPLETE]
    original = next((entry for entry in trained if entry.number == 0), None)
    children = [entry for entry in trained if entry.number]
    if not children:
        return (), {}
    known = [entry for entry in children if entry.measured] if _is_limited(study) else children
    picks = _picks(_best_of(known, quality), original, quality) if known else {}
    return tuple(sorted(_best_of(children, quality), key=lambda entry: entry.time)), picks


def _best_of(entries: Sequence[Standing], quality: Scale) -> list[Standing]:
    return [entries[i] for i in front([(_loss(entry, quality), entry.time) for entry in entries])]


def _is_limited(study: Study) -> bool:
    return any(text.lstrip().startswith("latency") for text in study.settings.get("limits", ()))


def _standing(study: Study, trial: Trial) -> Standing:
    scores = trial.scores
    time = scores.get("time", estimated_time(study, trial))
    if time is None or trial.model is None or "quality" not in scores:
        raise StudyError(f"{study.path} is damaged: trial {trial.number} is complete and has no figures")
    error = scores.get("quality_error", 0.0)
    return Standing(trial.number, trial.digest, scores["quality"], error, time, "time" in scores, trial.model)


def lineage(study: Study, number: int) -> tuple[Trial, ...]:
    """The trials that led to a candidate, from the original to itself; StudyError where one is missing."""
    path: list[Trial] = []
    at: int | None = number
    while at is not None:
        if at not in study.trials or len(path) > len(study.trials):
            raise StudyError(
                f"{study.path} is damaged: the lineage of trial {number} does not lead back to the original"
            )
        path.append(study.trials[at])
        at = study.trials[at].parent
    return tuple(reversed(path))


def estimated_time(study: Study, trial: Trial) -> float | None:
    """The latency estimated during the search, as a multiple of the original's; None where there is none."""
    scores = trial.scores
    estimate = scores.get("estimate", scores.get("latency"))
    base = study.trials[0].scores.get("latency") if 0 in study.trials else None
    return estimate / base if estimate is not None and base else None


def _original_first(row: Row) -> tuple[bool, float]:
    return not row.is_original, row.time


def _task(study: Study) -> tuple[str, Scale]:
    try:
        task = study.settings["task"]
        quality = task["quality"]
        return task["name"], Scale(quality["name"], quality["unit"], quality["higher_is_better"])
    except (KeyError, TypeError):
        raise StudyError(f"{study.path / 'run.json'} does not say what the task is; start the run anew") from None


def _row(study: Study, finalist: Finalist) -> Row:
    path = lineage(study, finalist.number)
    original = study.finalists.get(0)
    paired = original is not None and finalist.test_paired_error is not None
    try:
        ratios = {name: getattr(finalist, name) / path[0].scores[name] for name in ("flops", "parameters", "memory")}
    except KeyError as error:
        raise StudyError(f"{study.path} is damaged: trial {path[0].number} has no {error.args[0]}") from None
    return Row(
        number=finalist.number,
        label="original" if finalist.number == 0 else f"#{finalist.number}",
        digest=finalist.digest,
        test=finalist.test,
        test_error=finalist.test_error,
        validation=finalist.validation,
        validation_error=finalist.validation_error,
        time=finalist.time,
        low=finalist.time_low,
        high=finalist.time_high,
        latency_ms=finalist.latency_ms,
        flops=finalist.flops,
        parameters=finalist.parameters,
        memory=finalist.memory,
        flops_ratio=ratios["flops"],
        parameters_ratio=ratios["parameters"],
        memory_ratio=ratios["memory"],
        inherited=prod(trial.inherited for trial in path),
        epochs=finalist.epochs,
        origins=tuple(trial.origin for trial in path[1:]),
        estimate=estimated_time(study, path[-1]),
        expected=path[-1].scores.get("expected"),
        expected_deviation=path[-1].scores.get("expected_deviation"),
        tuned=path[-1].scores.get("quality"),
        breaks=finalist.breaks,
        difference=finalist.test - original.test if original and paired else None,
        difference_error=finalist.test_paired_error,
        validation_paired_error=finalist.validation_paired_error,
    )


# --- picks ---


class _Entrant(Protocol):
    @property
    def number(self) -> int: ...
    @property
    def validation(self) -> float: ...
    @property
    def validation_error(self) -> float: ...
    @property
    def validation_paired_error(self) -> float | None: ...
    @property
    def time(self) -> float: ...
    @property
    def is_faster(self) -> bool: ...


_E = TypeVar("_E", bound=_Entrant)


def _picks(rows: Sequence[_E], original: _E | None, quality: Scale) -> dict[str, int]:
    found = {
        "knee": _knee(rows, quality),
        "fastest": _fastest([row for row in rows if row.is_faster], original, quality),
        "best": _best(rows, quality),
    }
    return {pick: row.number for pick, row in found.items() if row is not None}


def _loss(row: _Entrant, quality: Scale) -> float:
    return -row.validation if quality.higher_is_better else row.validation


def _best(rows: Sequence[_E], quality: Scale) -> _E:
    return min(rows, key=lambda row: (_loss(row, quality), row.time))


def _fastest(rows: Sequence[_E], original: _E | None, quality: Scale) -> _E | None:
    good = rows
    if original is not None:
        good = [row for row in rows if _is_as_good(row, original, quality)]
    return min(good or rows, key=lambda row: (row.time, _loss(row, quality)), default=None)


def _is_as_good(row: _Entrant, original: _Entrant, quality: Scale) -> bool:
    paired = row.validation_paired_error
    error = original.validation_error if paired is None else paired
    return _loss(row, quality) <= _loss(original, quality) + 2 * error


def _knee(rows: Sequence[_E], quality: Scale) -> _E:
    """On the good side of the line between the ends of the front; the better one of the ends if no row is.

    What is within one standard error of the best is taken to be as good: the rule of Breiman et al., *Classification
    and Regression Trees*, 1984, section 3.4.3.
    """
    top = _best(rows, quality)
    enough = _loss(top, quality) + top.validation_error
    losses = {row.number: max(_loss(row, quality), enough) for row in rows}
    best = front([(losses[row.number], row.time) for row in rows])
    by_time = sorted((rows[i] for i in best), key=lambda row: row.time)
    quick, good = by_time[0], by_time[-1]

    def gain(row: _E) -> float:
        # With both scaled to 0..1 the ends are (0, 1) and (1, 0), and on the line between them the two sum to 1.
        time = (row.time - quick.time) / (good.time - quick.time)
        loss = (losses[row.number] - losses[good.number]) / (losses[quick.number] - losses[good.number])
        return 1 - time - loss

    knee = max(by_time[1:-1], key=gain, default=good)
    return knee if knee is not good and gain(knee) > 0 else good


# --- words ---


def _headline(pick: Row, original: Row | None, quality: Scale) -> str:
    if pick.is_original:
        return f"No other network came out than the original, at {_with_unit(pick, quality)}"
    if original is None:
        return f"{_speed(pick)} at {_with_unit(pick, quality)} (the original is not measured yet)"
    error = min(pick.test_error, original.test_error)  # both to the same digit
    reached, before = (words.quality(row.test, error, quality.unit) for row in (pick, original))
    differing = words.difference(pick.difference, pick.difference_error, quality.unit)
    return f"{_speed(pick)} at {reached} ({': '.join(filter(None, [f'original {before}', differing]))})"


def _beyond(children: Sequence[Row]) -> str:
    """Where every finalist broke a limit: the quickest is named, as it comes nearest to a limit on time."""
    closest = min(children, key=lambda row: row.time)
    return (
        f"No finalist keeps the limits when it is measured: the fastest, {closest.label}, takes "
        f"{words.milliseconds(closest.latency_ms)}, {words.ratio(closest.time)} the original's time, and breaks "
        f"{closest.breaks}"
    )


def _with_unit(row: Row, quality: Scale) -> str:
    return words.quality(row.test, row.test_error, quality.unit)


def _speed(row: Row) -> str:
    if row.verdict == "faster":
        middle, low, high = words.factors([row.speedup, *row.speedup_interval])
        return f"{middle}x faster [{low}, {high}]"
    middle, low, high = words.factors([row.time, row.low, row.high])
    if row.verdict == "slower":
        return f"{middle}x slower [{low}, {high}]"
    return f"No difference in speed shown (time {middle}x [{low}, {high}])"


def _unfinished(study: Study) -> str:
    tried = [trial for trial in study.trials.values() if trial.number]
    if not tried:
        return "Nothing has been tried yet"
    networks = f"{len(tried)} network{'s' if len(tried) > 1 else ''}"
    if all(trial.state in (TrialState.INFEASIBLE, TrialState.FAILED) for trial in tried):
        return f"No feasible network among {networks} tried"
    at_end = study.settings.get("recipe", {}).get("measure", "end") == "end"
    unmeasured = (
        "; which of them keep the limit on latency is measured at the end" if at_end and _is_limited(study) else ""
    )
    return f"Unfinished: {networks} tried, none trained to the end and measured yet{unmeasured}"
