"""The main job: evolve one network on one task, within limits and a budget.

AutoGO's loop (Salameh et al., NeurIPS 2023, section 4) on this project's parts: segment grafts and operation swaps, a
population on the Pareto front. Deviations: children inherit weights and are fine-tuned with the original as teacher
instead of being ranked by a predictor alone; quality is judged on a validation split, the test split once at the end;
the original receives the same extra training as its children; latency is measured at the end.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from netgraft.candidate import Trial, TrialState
from netgraft.convert.onnx import to_onnx
from netgraft.convert.to_torch import to_module
from netgraft.costs.measured import compare
from netgraft.engine import Engine, Inline
from netgraft.errors import DataError, EmptyFrontError, OptionError, StudyError
from netgraft.front import Front
from netgraft.ir import Model
from netgraft.metrics import Goal, parse_goals, parse_limit
from netgraft.mutations import Mix, Mutation
from netgraft.mutations.graft import Graft
from netgraft.mutations.narrow import Narrow
from netgraft.mutations.swap import Swap
from netgraft.search import Budget, Population, Rung, search
from netgraft.search.pareto import front, spread
from netgraft.spaces import Space
from netgraft.study import Finalist, Study
from netgraft.tasks import Task, evaluate

from .evaluation import Check, Count, Trainer, Tune, counted

Event = Callable[[str, Any], None]


@dataclass(frozen=True)
class Plan:
    """How a run spends its effort. What is None follows from the size of the training split, never from the clock,
    so that a seed means the same trials everywhere.

    ``population`` networks are proposed a generation, ``keep`` of them fine-tuned for ``tune_epochs``; ``finalists``
    are trained for ``final_epochs`` more. ``pretrain_epochs`` trains the original first, for networks that come without
    trained weights. ``search_share`` is the part of a time budget spent before the finals.
    """

    population: int = 16
    keep: int = 4
    finalists: int = 4
    tune_epochs: float | None = None
    final_epochs: float | None = None
    pretrain_epochs: float = 0.0
    learning_rate: float = 0.05
    measure_seconds: float = 40.0
    search_share: float = 0.6
    teacher: bool = True

    def for_examples(self, examples: int) -> Plan:
        """The plan with everything decided: short tunings see about 16,000 examples, finals four times as many."""
        tune = min(5.0, max(0.25, round(16_000 / examples, 2))) if self.tune_epochs is None else self.tune_epochs
        final = 4 * tune if self.final_epochs is None else self.final_epochs
        return replace(self, tune_epochs=tune, final_epochs=final)


def default_mutations() -> Mutation:
    """Segment grafts, operation swaps and narrowing, in equal parts."""
    return Mix((Graft(), Swap(), Narrow()))


def optimize(
    model: Model,
    task: Task,
    *,
    goals: Sequence[str] = ("quality", "latency"),
    limits: Sequence[str] = (),
    budget: str = "10m",
    out: str | Path,
    seed: int = 0,
    resume: bool = False,
    plan: Plan | None = None,
    mutation: Mutation | None = None,
    engine: Engine | None = None,
    settings: Mapping[str, Any] | None = None,
    on_event: Event = lambda kind, data: None,
) -> Front:
    """Evolves ``model`` for ``task`` and returns the front of what was found; everything is kept in the folder ``out``.

    ``goals`` and ``limits`` are written as in :mod:`netgraft.metrics`; ``budget`` is a time (``10m``, ``1h30m``) or
    a number of fine-tuned networks (``40 trials``). With ``resume`` a run in ``out`` is continued: the same seed gives
    the same trials, resumed or not. ``settings`` is kept in run.json and shown in the report (how the run was called).
    ``on_event(kind, data)`` hears what happens.

    Raises OptionError, DataError and StudyError for what cannot work, EmptyFrontError where no network was found within
    the limits. Ctrl-C ends the search; the front then holds what was found so far.
    """
    parsed = parse_goals(goals, quality_is_higher_better=task.quality.higher_is_better)
    search_budget, seconds = parse_budget(budget)
    for text in limits:  # before any work is done
        parse_limit(text, counted(model.graph) | {"quality": 1.0})
    chosen = (plan or Plan()).for_examples(len(task.train))
    asked = _settings(model, task, goals, limits, budget, seed, chosen, settings or {})
    with _opened(Path(out), asked, resume) as study:
        try:
            original = _original(study, model, task, chosen, seed, on_event)
            trainer = Trainer(original, task, seed, chosen.learning_rate, chosen.teacher)
            start = study.trials[0]
            bounds = [parse_limit(text, start.scores) for text in limits]
            by_graph = [b for b in bounds if b.metric != "quality"]
            space = Space(original, mutation or default_mutations(), counted, by_graph)
            if seconds is not None:
                search_budget = replace(search_budget, seconds=chosen.search_share * seconds)
            if study.note("finals") is None:
                search(
                    space,
                    Population(parsed, tolerance_of(start)),
                    _rungs(trainer, chosen, parsed, bounds),
                    budget=search_budget,
                    study=study,
                    engine=engine or Inline(),
                    seed=seed,
                    population=chosen.population,
                    on_event=on_event,
                )
            _finals(study, trainer, chosen, parsed, seconds, on_event)
        except KeyboardInterrupt:
            on_event("interrupted", study)
    return Front(Study.read(Path(out)))


def parse_budget(text: str) -> tuple[Budget, float | None]:
    """``10m``, ``1h30m``, ``45s`` or ``40 trials`` as a budget, and the seconds in it if it is a time."""
    trials = re.fullmatch(r"\s*(\d+)\s*(?:t|trials?)\s*", text)
    if trials and int(trials[1]) > 0:
        return Budget(trials=int(trials[1])), None
    parts = re.fullmatch(r"\s*(?:(\d+)h)?\s*(?:(\d+)m(?:in)?)?\s*(?:(\d+)s)?\s*", text)
    seconds = sum(int(n or 0) * unit for n, unit in zip(parts.groups(), (3600, 60, 1), strict=True)) if parts else 0
    if seconds <= 0:
        raise OptionError(f"cannot read the budget {text!r}; write a time like '10m' or '1h30m', or '40 trials'")
    return Budget(seconds=seconds), float(seconds)


def tolerance_of(original: Trial) -> float:
    """The loss of quality that halves a parent's chance: two standard errors of the original's, at least 1 % of it."""
    return max(2 * original.scores["quality_error"], 0.01 * abs(original.scores["quality"]), 1e-9)


def _settings(
    model: Model,
    task: Task,
    goals: Sequence[str],
    limits: Sequence[str],
    budget: str,
    seed: int,
    plan: Plan,
    given: Mapping[str, Any],
) -> dict[str, Any]:
    packages = ("netgraft", "torch", "numpy", "onnxruntime")
    return {
        "source": model.name,
        "data": task.name,
        "command": "",
        **given,
        "digest": model.graph.digest,
        "goals": list(goals),
        "limits": list(limits),
        "budget": budget,
        "seed": seed,
        "recipe": asdict(plan),
        "task": {
            "name": task.name,
            "quality": {
                "name": task.quality.name,
                "unit": task.quality.unit,
                "higher_is_better": task.quality.higher_is_better,
            },
            "notes": list(task.notes),
            "classes": list(task.classes),
        },
        "versions": {name: version(name) for name in packages},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


_FIXED = ("digest", "goals", "limits", "seed", "recipe", "data")


def _opened(out: Path, asked: Mapping[str, Any], resume: bool) -> Study:
    """A new run, or the one to go on with: it must have been asked for the same things (the budget may differ)."""
    if not (resume and (out / "run.json").exists()):
        return Study.create(out, asked)
    study = Study.open(out)
    for name in _FIXED:
        if study.settings.get(name) != asked[name]:
            study.close()
            raise StudyError(
                f"{out} was run with {name} {study.settings.get(name)!r}, now {asked[name]!r} is asked for; "
                "resume with the same settings, or choose another folder"
            )
    return study


def _original(study: Study, model: Model, task: Task, plan: Plan, seed: int, on_event: Event) -> Model:
    """The network to start from (trained first if the plan says so), recorded as trial 0."""
    if 0 in study.trials:
        recorded = study.trials[0].model
        assert recorded is not None, "trial 0 is complete"
        return study.load_model(recorded)
    started = time.perf_counter()
    if plan.pretrain_epochs:
        on_event("pretrain", plan.pretrain_epochs)
        trainer = Trainer(model, task, seed, learning_rate=0.1, teaching=False)
        trained = trainer.train(model, plan.pretrain_epochs, 0, lambda step, total: on_event("step", (step, total)))
        if trained is None:
            raise OptionError("training the original diverged; try without --pretrain, on a network that is trained")
        model = trained
    try:
        score = evaluate(to_module(model), task, "validation")
    except (RuntimeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"the network cannot be judged on {task.name}: {reason}") from None
    scores = counted(model.graph) | {"quality": score.quality, "quality_error": score.error}
    seconds = time.perf_counter() - started
    trial = Trial(0, 0, model.graph.digest, TrialState.COMPLETE, scores=scores, seconds=seconds)
    study.add_trial(replace(trial, model=study.save_model(model)))
    on_event("trial", study.trials[0])
    return model


def _rungs(trainer: Trainer, plan: Plan, goals: Sequence[Goal], limits: Sequence[Any]) -> list[Rung]:
    assert plan.tune_epochs is not None
    others = [goal for goal in goals if goal.metric != "quality"]
    by_graph = [limit for limit in limits if limit.metric != "quality"]
    by_quality = [limit for limit in limits if limit.metric == "quality"]
    return [
        Rung("count", Count(), limits=by_graph),
        Rung("check", Check(trainer), goals=[Goal("agreement"), *others], keep=plan.keep),
        Rung("tune", Tune(trainer, plan.tune_epochs), limits=by_quality),
    ]


def finalists_of(study: Study, goals: Sequence[Goal], count: int) -> list[Trial]:
    """The trials worth training longer: on the Pareto front, not ruined in quality, spread over the last goal."""
    complete = [t for t in study.trials.values() if t.state is TrialState.COMPLETE and t.number]
    quality = next((goal for goal in goals if goal.metric == "quality"), None)
    if quality is not None and complete:
        allowed = 3 * tolerance_of(study.trials[0])
        best = min(quality.cost(t.scores) for t in (study.trials[0], *complete))
        sound = [t for t in complete if quality.cost(t.scores) - best <= allowed]
        complete = sound or complete
    costs = [[goal.cost(t.scores) for goal in goals] for t in complete]
    best_ones = [complete[i] for i in front(costs)]
    picked = spread([[goal.cost(t.scores) for goal in goals] for t in best_ones], count)
    return [best_ones[i] for i in picked]


def _finals(
    study: Study, trainer: Trainer, plan: Plan, goals: Sequence[Goal], seconds: float | None, on_event: Event
) -> None:
    """Longer training for the finalists, and for the original as much as for any of them; then test, then measure."""
    assert plan.final_epochs is not None and plan.tune_epochs is not None
    note = study.note("finals")
    if note is None:
        tuned = [t for t in study.trials.values() if t.state is TrialState.COMPLETE and t.number]
        if not tuned:
            raise EmptyFrontError(_why_empty(study))
        count = plan.finalists
        if seconds is not None:
            epoch = sum(t.seconds for t in tuned) / (len(tuned) * plan.tune_epochs)
            left = seconds - study.seconds - plan.measure_seconds
            count = max(1, min(count, int(left / (epoch * plan.final_epochs)) - 1))
        numbers = [t.number for t in finalists_of(study, goals, count)]
        study.add_note("finals", numbers=numbers)
        note = study.note("finals")
        assert note is not None
    if study.finalists:
        return
    chosen = [study.trials[number] for number in note["numbers"]]
    total = max(t.epochs for t in chosen) + plan.final_epochs
    on_event("finals", (len(chosen), plan.final_epochs, total))
    trained: list[tuple[Trial, Model, float]] = []
    for trial in [study.trials[0], *chosen]:
        epochs = plan.final_epochs if trial.number else total
        trained.append((trial, _trained_longer(study, trainer, trial, epochs, on_event), trial.epochs + epochs))
    _judge(study, trainer.task, trained, plan, on_event)


def _trained_longer(study: Study, trainer: Trainer, trial: Trial, epochs: float, on_event: Event) -> Model:
    note = next((n for n in study.notes if n["note"] == "trained" and n["number"] == trial.number), None)
    if note is not None:
        return study.load_model(note["model"])
    assert trial.model is not None
    start = study.load_model(trial.model)
    on_event("final", (trial, epochs))
    model = trainer.train(start, epochs, trial.number, lambda step, total: on_event("step", (step, total))) or start
    study.add_note("trained", number=trial.number, model=study.save_model(model), epochs=epochs)
    return model


def _judge(
    study: Study, task: Task, trained: Sequence[tuple[Trial, Model, float]], plan: Plan, on_event: Event
) -> None:
    """The only place that touches the test split; then latency, all interleaved with the original."""
    on_event("measure", len(trained))
    written = [to_onnx(model) for _, model, _ in trained]
    times = compare(written, written[0], seconds=plan.measure_seconds)
    for (trial, model, epochs), time_ in zip(trained, times, strict=True):
        module = to_module(model)
        validation, test = evaluate(module, task, "validation"), evaluate(module, task, "test")
        costs = counted(model.graph)
        study.add_finalist(
            Finalist(
                trial.number,
                trial.digest,
                validation.quality,
                validation.error,
                test.quality,
                test.error,
                time_.ratio,
                time_.low,
                time_.high,
                time_.model_ms,
                int(costs["flops"]),
                int(costs["parameters"]),
                int(costs["memory"]),
                epochs,
                study.save_model(model),
            )
        )
        on_event("finalist", study.finalists[trial.number])


def _why_empty(study: Study) -> str:
    reasons: dict[str, int] = {}
    for trial in study.trials.values():
        if trial.state is not TrialState.COMPLETE:
            reason = re.sub(r"[-\d.e+]+", "#", trial.reason)
            reasons[reason] = reasons.get(reason, 0) + 1
    said = "; ".join(f"{count} x {reason}" for reason, count in sorted(reasons.items(), key=lambda r: -r[1])[:3])
    found = f"of {len(study.trials) - 1} proposals none was trained ({said})" if said else "no network was proposed"
    limits = ", ".join(study.settings["limits"])
    hint = f"loosen the limits ({limits}) or give it more budget" if limits else "give it more budget"
    return f"the search found no network: {found}; {hint}, then --resume"
