"""The end of a run: the finalists and the original are trained equally long, tested once, and measured."""

from __future__ import annotations

from collections.abc import Sequence

from netgraft.candidate import Trial, TrialState
from netgraft.convert.to_torch import to_module
from netgraft.errors import OptionError
from netgraft.events import FinalBegun, FinalsBegun, Listener, MeasuringBegun, RunFinished, StepDone
from netgraft.ir import Model
from netgraft.metrics import Goal, Limit, parse_limit
from netgraft.search.pareto import front, spread
from netgraft.study import Finalist, Study
from netgraft.tasks import Task, evaluate

from .clock import Conditions
from .evaluation import Trainer, counted


def tolerance_of(original: Trial) -> float:
    """The loss of quality that halves a parent's chance: two standard errors of the original's, at least 1 % of it."""
    return max(2 * original.scores["quality_error"], 0.01 * abs(original.scores["quality"]), 1e-9)


def finalists_of(
    study: Study, goals: Sequence[Goal], quality: Goal, count: int, limits: Sequence[Limit] = ()
) -> list[Trial]:
    """The trials worth training longer: on the Pareto front, not ruined in quality, spread over the last goal.

    Where some were measured to keep the limits on latency with the whole of their interval, only those: finalists are
    measured again, and longer.
    """
    complete = [t for t in study.trials.values() if t.state is TrialState.COMPLETE and t.number]
    by_time = [limit for limit in limits if limit.metric == "latency"]
    complete = [t for t in complete if not any(limit.violation(at_worst(t)) for limit in by_time)] or complete
    if complete:
        best = min(quality.cost(t.scores) for t in (study.trials[0], *complete))
        sound = [t for t in complete if quality.cost(t.scores) - best <= 3 * tolerance_of(study.trials[0])]
        complete = sound or complete
    best_ones = [complete[i] for i in front([[goal.cost(t.scores) for goal in goals] for t in complete])]
    return [best_ones[i] for i in spread([[goal.cost(t.scores) for goal in goals] for t in best_ones], count)]


def affordable(left: float, finalists: int, epochs: float) -> tuple[int, float]:
    """How many finalists, of so many planned, and for how many epochs each, where ``left`` epochs can be trained in all
    and the original needs as many as each: the most that get half of the planned epochs, and at least two.
    """
    least = epochs / 2
    count = max(min(2, finalists), min(finalists, int(left / least) - 1))
    return count, min(epochs, max(least, round(left / (count + 1), 2)))


def at_worst(trial: Trial) -> dict[str, float]:
    """The latency at the upper end of its interval, where it was measured; or else the estimate."""
    stretch = trial.scores["time_high"] / trial.scores["time"] if "time" in trial.scores else 1.0
    return {"latency": trial.scores["latency"] * stretch}


def run_finals(
    study: Study,
    trainer: Trainer,
    numbers: Sequence[int],
    epochs: float,
    limits: Sequence[str],
    conditions: Conditions,
    measure_seconds: float,
    on_event: Listener,
) -> None:
    """Fills ``study.finalists``; what was trained before an interruption is taken up.

    Everybody is trained up to the same number of epochs since the run began: that of the finalist with the longest
    lineage, plus ``epochs``. A finalist whose training diverges is left out; OptionError if the original's does.
    """
    chosen = [study.trials[number] for number in numbers]
    total = max(trial.epochs for trial in chosen) + epochs
    on_event(FinalsBegun(len(chosen), total))
    trained: list[tuple[Trial, Model]] = []
    for trial in [study.trials[0], *chosen]:
        model = _trained_longer(study, trainer, trial, total - trial.epochs, on_event)
        if model is not None:
            trained.append((trial, model))
        elif trial.number == 0:
            raise OptionError("training the original longer diverged; start again with a lower --learning-rate")
    study.add_finalists(_judged(study, trainer.task, trained, total, limits, conditions, measure_seconds, on_event))
    on_event(RunFinished())


def _trained_longer(study: Study, trainer: Trainer, trial: Trial, epochs: float, on_event: Listener) -> Model | None:
    note = next((n for n in study.notes if n["note"] == "trained" and n["number"] == trial.number), None)
    if note is None:
        on_event(FinalBegun(trial, epochs))
        assert trial.model is not None, "complete trials have a model"
        start = study.load_model(trial.model)
        if trial.number == 0:
            start = trainer.recalibrated(start)  # as every child was when it was checked
        model = trainer.train(start, epochs, "final", trial.number, lambda *at: on_event(StepDone(*at)))
        study.add_note("trained", number=trial.number, model=study.save_model(model) if model else None, epochs=epochs)
        return model
    return study.load_model(note["model"]) if note["model"] else None


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
    on_event(MeasuringBegun(len(trained)))
    models = [model for _, model in trained]
    times = conditions.compare(models, models[0], seconds)
    begun = {**study.trials[0].scores, "latency": times[0].model_ms}
    bounds = [parse_limit(text, begun) for text in limits]
    finalists = []
    for (trial, model), time in zip(trained, times, strict=True):
        module = to_module(model)
        validation, test = evaluate(module, task, "validation"), evaluate(module, task, "test")
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
            )
        )
    return finalists
