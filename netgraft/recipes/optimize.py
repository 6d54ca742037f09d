"""The main job: evolve one network on one task, within limits and a budget.

AutoGO's loop (Salameh et al., NeurIPS 2023, section 4) on this project's parts: segment grafts and operation swaps, a
population on the Pareto front. Deviations: children inherit weights and are fine-tuned with the original as teacher
instead of being ranked by a predictor alone; quality is judged on a validation split, the test split once at the end;
the original receives the same extra training as its children; latency is measured at the end.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from netgraft.candidate import Trial, TrialState
from netgraft.convert.onnx import to_onnx
from netgraft.convert.to_torch import to_module
from netgraft.costs.analytic import latency_estimate
from netgraft.costs.measured import measure
from netgraft.costs.tables import Table
from netgraft.engine import Engine, Inline
from netgraft.errors import DataError, EmptyFrontError, OptionError, SourceError, StudyError
from netgraft.events import LimitScaled, Listener, PretrainingBegun, RunInterrupted, StepDone, TrialRecorded, nobody
from netgraft.front import Front
from netgraft.ir import Graph, Model, render
from netgraft.metrics import Goal, Limit, parse_goals, parse_limit
from netgraft.mutations import Mix, Mutation
from netgraft.mutations.fixed import fixed_by
from netgraft.mutations.graft import Graft
from netgraft.mutations.sparing import sparing
from netgraft.mutations.swap import Swap
from netgraft.mutations.trim import Trim
from netgraft.mutations.within import Within
from netgraft.predictor import load as load_predictor
from netgraft.search import Budget, Guided, Population, Predictor, Rung, Strategy, search, spent
from netgraft.search.guided import promise
from netgraft.search.strategy import Ranking
from netgraft.segments import Bank, default
from netgraft.spaces import Space
from netgraft.spaces.space import GraphScores
from netgraft.study import Study
from netgraft.tasks import Score, Task, evaluate

from .clock import Clock, Corrected, engine_of
from .evaluation import Check, Count, Trainer, Tune, counted
from .finals import affordable, finalists_of, run_finals, tolerance_of

LATENCY_SECONDS = 5.0
"""How long, about, the original is measured for a limit on latency in a unit of time."""


@dataclass(frozen=True)
class Plan:
    """How a run spends its effort. What is None follows from the size of the training split, never from the clock,
    so that a seed means the same trials everywhere.

    ``population`` networks are proposed a generation (checking one costs a few percent of tuning it), ``keep`` of them
    fine-tuned for ``tune_epochs``; ``finalists`` are trained for ``final_epochs`` more (what is left of a budget in
    time may allow only half of that, or fewer finalists). ``pretrain_epochs`` trains the original first, for networks
    that come without trained weights. ``search_share`` is the part of a time budget spent
    before the finals.

    ``measure`` says when latency is measured. ``search``: every network before it is fine-tuned, shortly, where latency
    is a goal or limited; the estimate that screens the others is corrected by that, and limits hold for what was
    measured. Trials then follow from the seed *and* the measurements, which the journal keeps for resuming. ``end``:
    only finalists are measured, and the same seed gives the same trials everywhere.
    """

    population: int = 40
    keep: int = 4
    finalists: int = 4
    tune_epochs: float | None = None
    final_epochs: float | None = None
    pretrain_epochs: float = 0.0
    learning_rate: float = 0.05
    measure_seconds: float = 40.0
    search_share: float = 0.6
    teacher: bool = True
    measure: str = "search"

    def __post_init__(self) -> None:
        counts = {"population": self.population, "keep": self.keep, "finalists": self.finalists}
        epochs = {"tune_epochs": self.tune_epochs, "final_epochs": self.final_epochs}
        rates = {"learning_rate": self.learning_rate, "measure_seconds": self.measure_seconds}
        for name, value in (counts | epochs | rates).items():
            if value is not None and value <= 0:
                raise OptionError(f"{name} must be above 0, not {value:g}")
        if self.pretrain_epochs < 0 or not 0 < self.search_share < 1:
            raise OptionError("pretrain_epochs must be 0 or more, and search_share between 0 and 1")
        if self.measure not in ("search", "end"):
            raise OptionError(f"latency is measured in the search or at its end, not {self.measure!r}: search, end")

    def for_examples(self, examples: int) -> Plan:
        """The plan with everything decided: short tunings see about 16,000 examples, finals four times as many."""
        tune = min(5.0, max(0.25, round(16_000 / examples, 2))) if self.tune_epochs is None else self.tune_epochs
        final = 4 * tune if self.final_epochs is None else self.final_epochs
        return replace(self, tune_epochs=tune, final_epochs=final)


def default_mutations(bank: Bank | None = None, ops: frozenset[str] | None = None) -> Mutation:
    """Segment grafts, operation swaps and trimmed channels, in equal parts.

    Segments come from ``bank`` (None: the one that comes with netgraft); no operation but those of ``ops`` is brought
    in (None: any may be). OptionError where ``ops`` names one that does not exist, or leaves no segment.
    """
    graft = Graft(bank or default(), allowed=ops)
    others: tuple[Mutation, ...] = (Swap(), Trim())
    return Mix((graft, *(others if ops is None else [Within(mutation, ops) for mutation in others])))


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
    freeze: Sequence[str] = (),
    only: Sequence[str] = (),
    engine: Engine | None = None,
    predictor: Predictor | Literal["shipped"] | None = None,
    table: Table | None = None,
    settings: Mapping[str, Any] | None = None,
    on_event: Listener = nobody,
) -> Front:
    """Evolves ``model`` for ``task`` and returns the front of what was found; everything is kept in the folder ``out``.

    ``goals`` and ``limits`` are written as in :mod:`netgraft.metrics`; ``budget`` is a time (``10m``, ``1h30m``) or
    a number of fine-tuned networks (``40 trials``). With ``resume`` a run in ``out`` is continued: the same seed gives
    the same trials, resumed or not. ``settings`` is kept in run.json and shown in the report (how the run was called).
    The parts of the network that the patterns ``freeze`` match are left as they are, and all but those that ``only``
    matches: patterns of module paths such as ``head.*``, as :func:`netgraft.mutations.fixed.fixed_by` reads them.
    ``on_event`` hears what happens, as :mod:`netgraft.events`. A ``predictor`` chooses among many more proposals, as
    far as it turns out to be right in this run (:mod:`netgraft.search.guided`): the one that netgraft ships, another
    (:func:`netgraft.predictor.load`), or none. With a ``table`` latency is estimated by it
    (:mod:`netgraft.costs.tables`) instead of by counting.

    A limit on latency in a unit of time is turned into a share of the original's, which is measured once, when the run
    begins; the journal keeps it. With such a limit the same seed gives the same trials only in a run that is resumed.

    Raises OptionError, SourceError, DataError and StudyError for what cannot work, EmptyFrontError where no network was
    found within the limits. Ctrl-C ends the search; the front then holds what was found so far.
    """
    higher = task.quality.higher_is_better
    parsed = parse_goals(goals, quality_is_higher_better=higher)
    quality = Goal("quality", higher)
    search_budget, seconds = parse_budget(budget)
    chosen = (plan or Plan()).for_examples(len(task.train))
    fixed = fixed_by(model.graph, freeze, only)
    mutation = sparing(mutation or default_mutations(), fixed)
    latency = table.latency if table else latency_estimate
    score = partial(counted, latency=latency)
    wanted = [parse_limit(text, score(model.graph) | {"quality": 1.0}) for text in limits]  # before any work is done
    engine_name = engine_of(wanted)
    if table is not None and table.engine != engine_name:
        raise OptionError(f"the table is one of {table.engine}, and latency is limited in {engine_name}")
    timed = "latency" in {goal.metric for goal in parsed} | {limit.metric for limit in wanted}
    if next(mutation.edits(model.graph, model.weights, np.random.default_rng(seed)), None) is None:
        raise SourceError(
            f"{model.name} holds nothing that {_name(mutation)} could change: all of it is frozen, or belongs to its "
            "inputs or outputs ('netgraft inspect' shows why)"
        )
    if predictor == "shipped":
        predictor = load_predictor()
    elif isinstance(predictor, str | Path):
        raise OptionError(f"a predictor must be loaded: predictor=netgraft.predictor.load({str(predictor)!r})")
    asked = _settings(
        model, task, goals, limits, budget, seed, chosen, mutation, fixed, predictor, table, settings or {}
    )
    with _opened(Path(out), asked, resume) as study:
        try:
            torch.set_num_threads(study.settings["threads"])  # sums come out differently with another number
            original = _original(study, model, task, chosen, seed, score, on_event)
            on_event(TrialRecorded(study.trials[0]))
            trainer = Trainer(original, task, seed, chosen.learning_rate, chosen.teacher)
            bounds = _bounds(study, original, limits, on_event)
            if study.note("finals") is None:
                by_graph = [bound for bound in bounds if bound.metric != "quality"]
                if seconds is not None:
                    search_budget = replace(search_budget, seconds=chosen.search_share * seconds)
                strategy: Strategy = Population(parsed, quality, tolerance_of(study.trials[0]))
                if predictor is not None:
                    others = [goal.metric for goal in parsed if goal.metric != "quality"]
                    strategy = Guided(strategy, predictor, quality, tolerance_of(study.trials[0]), others)
                clock = None
                if timed and chosen.measure == "search":
                    clock = Clock(original, study.trials[0].scores["latency"], engine_name)
                    strategy = Corrected(strategy)
                ranking = None if predictor is None else partial(promise, quality)
                search(
                    Space(original, mutation, score, by_graph),
                    strategy,
                    _rungs(trainer, chosen, parsed, bounds, clock, ranking, latency),
                    budget=search_budget,
                    study=study,
                    engine=engine or Inline(),
                    seed=seed,
                    population=chosen.population,
                    on_event=on_event,
                )
                count, epochs = _finals(study, chosen, seconds)
                numbers = [t.number for t in finalists_of(study, parsed, quality, count, bounds)]
                study.add_note("finals", numbers=numbers, epochs=epochs)
            if not study.finalists:
                finals = study.note("finals") or {}
                run_finals(
                    *(study, trainer, finals["numbers"], finals["epochs"]),
                    *(limits, engine_name, chosen.measure_seconds, on_event),
                )
        except KeyboardInterrupt:
            on_event(RunInterrupted())
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


def _settings(
    model: Model,
    task: Task,
    goals: Sequence[str],
    limits: Sequence[str],
    budget: str,
    seed: int,
    plan: Plan,
    mutation: Mutation,
    fixed: frozenset[str],
    predictor: Predictor | None,
    table: Table | None,
    given: Mapping[str, Any],
) -> dict[str, Any]:
    grafts = [part for part in _parts(mutation) if isinstance(part, Graft)]
    packages = ("netgraft", "torch", "numpy", "onnxruntime")
    return {
        "source": model.name,
        "data": task.name,
        "command": "",
        **given,
        "network": fingerprint(render(model.graph), *(model.weights[key] for key in sorted(model.weights))),
        "examples": fingerprint(
            *(
                array.numpy()
                for split in (task.train, task.validation, task.test)
                for array in (split.inputs, split.targets)
            )
        ),
        "mutation": _name(mutation),
        "fixed": sorted(fixed),
        "banks": [fingerprint(*graft.bank.columns.digests) for graft in grafts],
        "ops": [sorted(graft.allowed) if graft.allowed else "any" for graft in grafts],
        "predictor": "none" if predictor is None else predictor.digest,
        "table": "none" if table is None else table.digest,
        "threads": torch.get_num_threads(),
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


def _parts(mutation: Mutation) -> Sequence[Mutation]:
    return mutation.mutations if isinstance(mutation, Mix) else (mutation,)


def _name(mutation: Mutation) -> str:
    return "+".join(part.name for part in _parts(mutation))


def _bounds(study: Study, original: Model, limits: Sequence[str], on_event: Listener) -> list[Limit]:
    """The limits in the units of what is counted and estimated; those on latency in a unit of time are scaled by what
    the original takes on this machine, measured once in a run.
    """
    bounds = [parse_limit(text, study.trials[0].scores) for text in limits]
    if all(limit.is_relative or limit.metric != "latency" for limit in bounds):
        return bounds
    if study.note("latency") is None:
        study.add_note(
            "latency", milliseconds=measure(original, engine=engine_of(bounds), seconds=LATENCY_SECONDS).median_ms
        )
    milliseconds = float((study.note("latency") or {})["milliseconds"])
    scaled = []
    for limit in bounds:
        if limit.metric == "latency" and not limit.is_relative:
            on_event(LimitScaled(limit.text, milliseconds, limit.bound / milliseconds))
            limit = replace(limit, bound=limit.bound / milliseconds * study.trials[0].scores["latency"])
        scaled.append(limit)
    return scaled


_FIXED = {
    "network": "another network, or the same one with other weights",
    "examples": "other data, or data that was split otherwise",
    "mutation": "other mutations",
    "banks": "another bank of segments",
    "ops": "other operations allowed",
    "fixed": "other parts left alone",
    "predictor": "another predictor, or none",
    "table": "another latency table, or none",
    "goals": "other goals",
    "limits": "other limits",
    "seed": "another seed",
}


def _opened(out: Path, asked: Mapping[str, Any], resume: bool) -> Study:
    """A new run, or the one to go on with: it must have been asked for the same things (the budget may differ)."""
    if not (resume and (out / "run.json").exists()):
        return Study.create(out, asked)
    study = Study.open(out)
    before = study.settings
    differences = [words for name, words in _FIXED.items() if before.get(name) != asked[name]]
    old, new = before.get("recipe", {}), asked["recipe"]
    differences += [f"{name} {old.get(name)} (now {new[name]})" for name in new if old.get(name) != new[name]]
    if differences:
        study.close()
        raise StudyError(
            f"{out} was run with {'; '.join(differences)}. Resume with the settings of its run.json, or choose another "
            "folder"
        )
    return study


def fingerprint(*parts: str | npt.NDArray[Any]) -> str:
    """16 hex digits that tell contents apart."""
    digest = blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode())
        else:
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _original(
    study: Study, model: Model, task: Task, plan: Plan, seed: int, score: GraphScores, on_event: Listener
) -> Model:
    """The network to start from (trained first if the plan says so), recorded as trial 0."""
    if 0 in study.trials:
        recorded = study.trials[0].model
        assert recorded is not None, "trial 0 is complete"
        return study.load_model(recorded)
    started = time.perf_counter()
    to_onnx(model)  # what cannot be written cannot be measured at the end: better to hear it now
    judged = _judge(model, task)
    if plan.pretrain_epochs:
        on_event(PretrainingBegun(plan.pretrain_epochs))
        trainer = Trainer(model, task, seed, learning_rate=0.1, teaching=False)
        epochs = plan.pretrain_epochs
        trained = trainer.train(model, epochs, "pretrain", 0, lambda *at: on_event(StepDone(*at)))
        if trained is None:
            raise OptionError("training the original diverged; try without --pretrain, on a network that is trained")
        model, judged = trained, _judge(trained, task)
    scores = {**score(model.graph), "quality": judged.quality, "quality_error": judged.error}
    seconds = time.perf_counter() - started
    trial = Trial(0, 0, model.graph.digest, TrialState.COMPLETE, scores=scores, seconds=seconds)
    study.add_trial(replace(trial, model=study.save_model(model)))
    return model


def _judge(model: Model, task: Task) -> Score:
    try:
        score = evaluate(to_module(model), task, "validation")
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{model.name} cannot be judged on {task.name}: {reason}") from None
    if not isfinite(score.quality):
        raise DataError(f"{model.name} has the {task.quality.name} {score.quality} on {task.name}, which is no number")
    return score


def _rungs(
    trainer: Trainer,
    plan: Plan,
    goals: Sequence[Goal],
    limits: Sequence[Limit],
    clock: Clock | None,
    ranking: Ranking | None,
    latency: Callable[[Graph], float],
) -> list[Rung]:
    assert plan.tune_epochs is not None
    others = [goal for goal in goals if goal.metric != "quality"]
    by_graph = [limit for limit in limits if limit.metric != "quality" and not (clock and limit.metric == "latency")]
    by_quality = [limit for limit in limits if limit.metric == "quality"]
    by_time = [limit for limit in limits if limit.metric == "latency" and clock]
    return [
        Rung("count", Count(latency), limits=by_graph),
        Rung("check", Check(trainer), goals=[Goal("agreement"), *others], keep=plan.keep, promise=ranking),
        Rung("tune", Tune(trainer, plan.tune_epochs, clock, by_time), limits=[*by_time, *by_quality]),
    ]


def _finals(study: Study, plan: Plan, seconds: float | None) -> tuple[int, float]:
    """How many finalists there are to be, and for how many epochs each is trained: what the plan says, or as much of it
    as the rest of a budget in time allows, by what an epoch cost so far.
    """
    tuned = [t for t in study.trials.values() if t.state is TrialState.COMPLETE and t.number]
    if not tuned:
        raise EmptyFrontError(_why_empty(study))
    assert plan.tune_epochs is not None and plan.final_epochs is not None, "decided by for_examples"
    if seconds is None:
        return plan.finalists, plan.final_epochs
    epoch = sum(t.training for t in tuned) / (len(tuned) * plan.tune_epochs)
    left = (seconds - spent(study) - plan.measure_seconds) / epoch
    return affordable(left - max(t.epochs for t in tuned), plan.finalists, plan.final_epochs)


def _why_empty(study: Study) -> str:
    reasons = Counter(
        re.sub(r"-?\d[-\d.e+]*", "#", t.reason) for t in study.trials.values() if t.state is not TrialState.COMPLETE
    )
    said = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    tried = f"of {len(study.trials) - 1} proposals none was trained ({said})" if said else "nothing could be proposed"
    limits = ", ".join(study.settings["limits"])
    hint = f"start again in another folder with looser limits than {limits}" if limits else "resume with more budget"
    return f"the search found no network: {tried}; {hint}"
