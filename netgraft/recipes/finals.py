"""The end of a run: the finalists and the original are trained equally long, tested once, and measured.

More networks may begin than are to be finalists. After a short training, the heat, those are stopped that another one
clearly dominates, and of the others as many go on as there are to be finalists: one halving of Jamieson & Talwalkar,
"Non-stochastic Best Arm Identification and Hyperparameter Optimization" (AISTATS 2016), section 3. Deviations: what
goes on is what together dominates most of what is better than the original, not the best by one figure; and the heat
has a schedule of its own, down to a learning rate of 0, so that everybody is judged annealed and at the same point. The
final training begins there, by a whole schedule again.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, hypot, isfinite
from typing import Any

import numpy as np
from torch import Tensor

from netgraft.candidate import Trial, TrialState
from netgraft.convert.to_torch import to_module
from netgraft.errors import OptionError
from netgraft.events import FinalBegun, FinalsBegun, FinalStopped, Listener, MeasuringBegun, RunFinished, StepDone
from netgraft.ir import Model
from netgraft.metrics import Goal, Limit, parse_limit
from netgraft.search.outlook import Outlook, lasting, remaining
from netgraft.search.pareto import front, worthiest
from netgraft.search.promising import PROMISING, corner
from netgraft.study import Finalist, Study
from netgraft.tasks import Score, SplitName, Task, evaluate, examples
from netgraft.tasks.examples import png
from netgraft.tasks.judging import evaluate_each
from netgraft.tasks.paired import paired_error

from .clock import Conditions
from .evaluation import Trainer, counted

ENTRANTS = 2
"""How many times as many networks begin the finals of :func:`netgraft.optimize` as are to be finalists."""
HEAT = 0.25
"""How long the training is after which it is decided who goes on, as a multiple of the final one that follows it; of
the network with the longest lineage, with which the others draw level there.
"""
SOUND = 3
"""By how many tolerances a network may be expected to be worse in the end than the best, and not be ruined."""
WINDOWS = 40
"""How many figures the journal keeps of the loss during a training."""
_JUDGED: tuple[SplitName, ...] = ("validation", "test")


def tolerance_of(original: Trial) -> float:
    """The loss of quality that halves a parent's chance: two standard errors of the original's, at least 1 % of it."""
    return max(2 * original.scores["quality_error"], 0.01 * abs(original.scores["quality"]), 1e-9)


@dataclass(frozen=True)
class Entrants:
    """Who begins the finals, by number of trial; for how many ``epochs`` each is trained, and how many are to be
    ``finalists``: where these are fewer, some are stopped after the heat.
    """

    numbers: Sequence[int]
    epochs: float
    finalists: int

    @property
    def heat(self) -> float:
        """For how many epochs the heat is, beyond the longest lineage; 0 where all can end."""
        return HEAT * self.epochs if len(self.numbers) > self.finalists else 0.0


@dataclass(frozen=True)
class Rival:
    """A network among others, with its scores as they are, or as they are expected to be in the end."""

    number: int
    scores: Mapping[str, float]


def finalists_of(
    study: Study, goals: Sequence[Goal], outlook: Outlook, count: int, limits: Sequence[Limit] = ()
) -> list[Trial]:
    """The trials worth training longer: those that together dominate most of what is better than the original (see
    :func:`~netgraft.search.promising.corner`), without such as are ruined in quality, both by what ``outlook`` expects.

    Where some were measured to keep the limits on latency with the whole of their interval, only those: finalists are
    measured again, and longer.
    """
    sound = _sound(study, outlook, limits)
    best_ones = [sound[i] for i in front([[goal.cost(rival.scores) for goal in goals] for rival in sound])]
    return _worthiest(study, best_ones, goals, count, tolerance_of(study.trials[0]))


def entrants_of(
    study: Study, goals: Sequence[Goal], outlook: Outlook, count: int, limits: Sequence[Limit] = ()
) -> list[Trial]:
    """As :func:`finalists_of`, for ``count`` finalists :data:`ENTRANTS` times as many: those that no other one clearly
    dominates, as their short fine-tunings tell little more; of which the heat tells who catches up.
    """
    if all(goal.metric != "quality" for goal in goals):
        return finalists_of(study, goals, outlook, count, limits)  # training decides nothing
    sound = _sound(study, outlook, limits)
    stopped = dominated(sound, goals)
    open_ones = [rival for rival in sound if rival.number not in stopped]
    return _worthiest(study, open_ones, goals, ENTRANTS * count, PROMISING * tolerance_of(study.trials[0]))


def _worthiest(study: Study, rivals: Sequence[Rival], goals: Sequence[Goal], count: int, loss: float) -> list[Trial]:
    within = corner(study.trials[0].scores, goals, loss)
    chosen = worthiest([[goal.cost(rival.scores) for goal in goals] for rival in rivals], within, count)
    return [study.trials[rivals[i].number] for i in chosen]


def _sound(study: Study, outlook: Outlook, limits: Sequence[Limit]) -> list[Rival]:
    complete = [t for t in study.trials.values() if t.state is TrialState.COMPLETE and t.number]
    by_time = [limit for limit in limits if limit.metric == "latency"]
    complete = [t for t in complete if not any(limit.violation(at_worst(t)) for limit in by_time)] or complete
    original, cost, until = study.trials[0], outlook.quality.cost, outlook.until(complete)
    expected = [Rival(trial.number, outlook.scores(trial, original, until)) for trial in complete]
    costs = [cost(rival.scores) for rival in expected]
    for others in ([cost(original.scores), *costs], costs):  # where all lost much, those that lost least
        bound = min(others, default=0.0) + SOUND * tolerance_of(original)
        sound = [rival for rival, each in zip(expected, costs, strict=True) if each <= bound]
        if sound:
            return sound
    return []


def dominated(rivals: Sequence[Rival], goals: Sequence[Goal]) -> dict[int, int]:
    """The numbers of those that another one clearly dominates, with its number: it is as good in all other goals, and
    its quality is better by more than the standard error of a difference. That is taken as if the two were judged by
    different examples. By the same it is smaller, but speaks of these weights alone, and both are to be trained
    further, which makes a difference of its own. Nobody is where quality is no goal.
    """
    quality = next((goal for goal in goals if goal.metric == "quality"), None)
    if quality is None:
        return {}
    others = [goal for goal in goals if goal is not quality]
    best_first = sorted(rivals, key=lambda rival: quality.cost(rival.scores))
    found: dict[int, int] = {}
    for i, rival in enumerate(best_first):
        for better in best_first[:i]:
            gain = quality.cost(rival.scores) - quality.cost(better.scores)
            as_cheap = all(goal.cost(better.scores) <= goal.cost(rival.scores) for goal in others)
            if as_cheap and gain > hypot(rival.scores["quality_error"], better.scores["quality_error"]):
                found[rival.number] = better.number
                break
    return found


def to_train(study: Study, entrants: Entrants) -> float:
    """How many epochs the finals train in all, at most: what each lacks of the longest lineage, the heat of all, and
    the final training of the finalists and the original.
    """
    running = [study.trials[number] for number in (0, *entrants.numbers)]
    until = max(trial.epochs for trial in running)
    begun = sum(until + entrants.heat - trial.epochs for trial in running)
    return begun + (min(entrants.finalists, len(entrants.numbers)) + 1) * entrants.epochs


def fields_of(
    study: Study, goals: Sequence[Goal], quality: Goal, finalists: int, epochs: float, limits: Sequence[Limit] = ()
) -> Iterator[Entrants]:
    """Who may begin the finals, the dearest first: as many as are planned (see :func:`entrants_of`), then for fewer
    finalists, down to two, and at last these two alone, without a heat.
    """
    least = min(2, finalists)
    outlook = Outlook(quality, (1 + HEAT) * epochs)
    for count in range(finalists, least - 1, -1):
        yield Entrants([t.number for t in entrants_of(study, goals, outlook, count, limits)], epochs, count)
    yield Entrants(
        [t.number for t in finalists_of(study, goals, Outlook(quality, epochs), least, limits)], epochs, least
    )


def affordable(study: Study, fields: Iterable[Entrants], left: float) -> Entrants:
    """The first of some fields for which half of its epochs fit into the ``left`` ones that can be trained in all, or
    else the last; with as many epochs as fit, at least half and at most its own.
    """
    for field in fields:
        fixed = to_train(study, replace(field, epochs=0.0))
        each = to_train(study, replace(field, epochs=1.0)) - fixed
        epochs = floor(100 * (left - fixed) / each) / 100
        if epochs >= field.epochs / 2:
            break
    return replace(field, epochs=min(field.epochs, max(field.epochs / 2, epochs)))


def at_worst(trial: Trial) -> dict[str, float]:
    """The latency at the upper end of its interval, where it was measured; or else the estimate."""
    stretch = trial.scores["time_high"] / trial.scores["time"] if "time" in trial.scores else 1.0
    return {"latency": trial.scores["latency"] * stretch}


def run_finals(
    study: Study,
    trainer: Trainer,
    entrants: Entrants,
    goals: Sequence[Goal],
    limits: Sequence[str],
    conditions: Conditions,
    measure_seconds: float,
    on_event: Listener,
) -> None:
    """Fills ``study.finalists``; what was trained before an interruption is taken up.

    Everybody is trained up to the same number of epochs since the run began: that of the entrant with the longest
    lineage, plus those of the finals, heat included. A network whose training diverges is left out; OptionError if it
    is the original's.
    """
    running = [study.trials[number] for number in (0, *entrants.numbers)]
    until = max(trial.epochs for trial in running) + entrants.heat
    total = until + entrants.epochs
    on_event(FinalsBegun(len(entrants.numbers), total))
    if entrants.heat:
        begun = _all_trained(study, trainer, running, until, "heat", on_event)
        running = _gone_on(study, trainer.task, begun, until, entrants, goals, on_event)
    trained = _all_trained(study, trainer, running, total, "final", on_event)
    study.add_finalists(_judged(study, trainer.task, trained, total, limits, conditions, measure_seconds, on_event))
    on_event(RunFinished())


def _all_trained(
    study: Study, trainer: Trainer, trials: Sequence[Trial], until: float, stage: str, on_event: Listener
) -> list[tuple[Trial, Model]]:
    """Those whose training did not diverge, the original first."""
    models = [(trial, _trained(study, trainer, trial, until, stage, on_event)) for trial in trials]
    return [(trial, model) for trial, model in models if model is not None]


def _trained(
    study: Study, trainer: Trainer, trial: Trial, until: float, stage: str, on_event: Listener
) -> Model | None:
    """A trial's network trained ``until`` so many epochs since the run began, from where the journal left it; None
    where that diverged.
    """
    notes = [note for note in study.notes if note["note"] == "trained" and note["number"] == trial.number]
    note = next((note for note in notes if note["until"] == until), None)
    if note is None:
        artifact, epochs = (notes[-1]["model"], notes[-1]["until"]) if notes else (trial.model, trial.epochs)
        assert artifact is not None, "complete trials have a model, and who diverged does not go on"
        on_event(FinalBegun(trial, until - epochs))
        start = study.load_model(artifact)
        if trial.number == 0 and not notes:
            start = trainer.recalibrated(start)  # as every child was when it was checked
        losses: list[float] = []

        def stepped(step: int, total: int, loss: float) -> None:
            losses.append(loss)
            on_event(StepDone(step, total))

        model = trainer.train(start, until - epochs, stage, trial.number, stepped)
        if model is None and trial.number == 0:
            raise OptionError("training the original longer diverged; start again with a lower --learning-rate")
        saved = study.save_model(model) if model else None
        study.add_note(
            "trained",
            number=trial.number,
            model=saved,
            epochs=until - epochs,
            until=until,
            losses=windowed(losses),
        )
        return model
    return study.load_model(note["model"]) if note["model"] else None


def windowed(losses: Sequence[float]) -> list[float]:
    """The means of the losses of all steps over windows of equal length, :data:`WINDOWS` or as many as there are steps,
    in order, to five digits. (Windows differ by a step where the number of steps does not divide.)
    """
    parts = np.array_split(np.asarray(losses, np.float64), min(WINDOWS, len(losses)) or 1)
    return [float(f"{part.mean():.5g}") for part in parts if len(part)]


def _gone_on(
    study: Study,
    task: Task,
    trained: Sequence[tuple[Trial, Model]],
    until: float,
    entrants: Entrants,
    goals: Sequence[Goal],
    on_event: Listener,
) -> list[Trial]:
    """The original, and who goes on with it after the heat. The journal keeps how the others were judged, and why some
    of them were stopped.
    """
    if study.note("heat") is None:
        loss, share = tolerance_of(study.trials[0]), remaining(until, until + entrants.epochs)
        study.add_note("heat", epochs=until, networks=_heat(task, trained, entrants.finalists, goals, loss, share))
    stopped = {one["number"]: one["stopped"] for one in (study.note("heat") or {})["networks"] if one["stopped"]}
    for trial, _ in trained:
        if trial.number in stopped:
            on_event(FinalStopped(trial, stopped[trial.number]))
    return [trial for trial, _ in trained if trial.number not in stopped]


def _heat(
    task: Task, trained: Sequence[tuple[Trial, Model]], most: int, goals: Sequence[Goal], loss: float, share: float
) -> list[dict[str, Any]]:
    """How everybody but the original is judged. Of those that nobody clearly dominates ``most`` go on, that together
    dominate most up to a ``loss`` of quality; of a loss such a share will remain.
    """
    judged = []
    for trial, model in trained:
        score = evaluate(to_module(model), task, "validation")
        scores = {**trial.scores, "quality": score.quality, "quality_error": score.error}
        judged.append(Rival(trial.number, scores))
    beside, *found = judged
    lost = {rival.number for rival in found if not isfinite(rival.scores["quality"])}
    better = dominated([rival for rival in found if rival.number not in lost], goals)
    open_ones = [rival for rival in found if rival.number not in better.keys() | lost]
    begun = [goal.cost(beside.scores) for goal in goals]
    shares = [share if goal.metric == "quality" else 1.0 for goal in goals]
    costs = [
        [lasting(goal.cost(rival.scores), *at) for goal, *at in zip(goals, begun, shares, strict=True)]
        for rival in open_ones
    ]
    kept = {open_ones[i].number for i in worthiest(costs, corner(beside.scores, goals, loss), most)}
    reasons = {rival.number: "" if rival.number in kept else "others promised more" for rival in found}
    reasons |= {number: f"#{other} is clearly better at no higher cost" for number, other in better.items()}
    reasons |= dict.fromkeys(lost, "its quality is not a number")
    return [
        {
            "number": r.number,
            "quality": r.scores["quality"],
            "error": r.scores["quality_error"],
            "stopped": reasons[r.number],
        }
        for r in found
    ]


def _judged(
    study: Study,
    task: Task,
    trained: Sequence[tuple[Trial, Model]],
    epochs: float,
    limits: Sequence[str],
    conditions: Conditions,
    seconds: float,
    on_event: Listener,
) -> list[Finalist]:
    """The only place of a run that touches the test split. Latencies are measured interleaved with the original's, and
    limits hold for what was measured: in milliseconds, or as a ratio, whichever they speak of.
    """
    if study.note("pictures") is None:
        _keep_pictures(study, task, trained)
    on_event(MeasuringBegun(len(trained)))
    models = [model for _, model in trained]
    times = conditions.compare(models, models[0], seconds)
    begun = {**study.trials[0].scores, "latency": times[0].model_ms}
    bounds = [parse_limit(text, begun) for text in limits]
    finalists: list[Finalist] = []
    first: list[tuple[Score, Tensor]] = []
    for (trial, model), time in zip(trained, times, strict=True):
        module = to_module(model)
        judged = [evaluate_each(module, task, split) for split in _JUDGED]
        first = first or judged  # the original's
        paired = [paired_error(task.quality, own, other) for (_, own), (_, other) in zip(judged, first, strict=True)]
        validation, test = (score for score, _ in judged)
        costs = counted(model.graph)
        measured = costs | {"latency": time.model_ms, "quality": validation.quality}
        as_ratio = measured | {"latency": time.ratio * begun["latency"]}
        broken = [bound.text for bound in bounds if bound.violation(as_ratio if bound.is_relative else measured) > 0]
        finalists.append(
            Finalist(
                number=trial.number,
                digest=trial.digest,
                validation=validation.quality,
                validation_error=validation.error,
                test=test.quality,
                test_error=test.error,
                time=time.ratio,
                time_low=time.low,
                time_high=time.high,
                latency_ms=time.model_ms,
                flops=int(costs["flops"]),
                parameters=int(costs["parameters"]),
                memory=int(costs["memory"]),
                epochs=epochs,
                model=study.save_model(model),
                breaks=", ".join(broken) if trial.number else "",
                validation_paired_error=paired[0] if trial.number else None,
                test_paired_error=paired[1] if trial.number else None,
            )
        )
    return finalists


def _keep_pictures(study: Study, task: Task, trained: Sequence[tuple[Trial, Model]]) -> None:
    """What every network makes of the same few examples of the test split, for the report; nothing is decided by it."""
    try:
        seen = {trial.number: examples(to_module(model), task) for trial, model in trained}
    except Exception as error:  # whatever a user's own way of drawing raises: the finals are worth more
        warnings.warn(f"the report gets no pictures of what networks give: {error}", UserWarning, stacklevel=2)
        return
    kept = [
        {
            "input": study.save_picture(png(shown[0].input)),
            "target": study.save_picture(png(shown[0].target)),
            "outputs": [
                {"number": number, "picture": study.save_picture(png(one.output)), "quality": one.quality}
                for number, one in zip(seen, shown, strict=True)
            ],
        }
        for shown in zip(*seen.values(), strict=True)
    ]
    if kept:
        study.add_note("pictures", examples=kept)
