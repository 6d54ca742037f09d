"""What every recipe's run has around its search: a folder, the original, limits, finals; and how it is interrupted."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any, Protocol, Required, TypedDict, get_args

import numpy as np
import numpy.typing as npt
import torch

from netgraft.candidate import Trial, TrialState
from netgraft.convert.to_torch import to_module
from netgraft.costs.analytic import latency_estimate
from netgraft.costs.measured.flags import machine
from netgraft.engine import Engine, Inline
from netgraft.errors import DataError, OptionError, StudyError
from netgraft.events import (
    DeviceChanged,
    LimitScaled,
    Listener,
    PretrainingBegun,
    RunInterrupted,
    StepDone,
    TrialRecorded,
    nobody,
)
from netgraft.front import Front
from netgraft.ir import Graph, Model, render
from netgraft.metrics import Limit, parse_goals, parse_limit
from netgraft.spaces.space import GraphScores
from netgraft.study import Study
from netgraft.tasks import Score, SplitName, Task, evaluate
from netgraft.tasks.device import CPU, described

from .clock import HERE, Conditions
from .evaluation import Trainer, counted
from .finals import Entrants, run_finals

LATENCY_SECONDS = 5.0
"""How long, about, the original is measured for a limit on latency in a unit of time."""


RATES = {"sgd": 0.02, "adam": 0.05}
"""The learning rates of fine-tuning, by what a task is trained with (Adam takes :data:`netgraft.tasks.training.ADAM` of
it): faster, what weights knew is lost that a short training does not bring back (``docs/results.md``).
"""


LARGEST_BATCH = {"sgd": 128, "adam": 16}
"""Examples that a batch of training holds at most, unless the user says otherwise, by what a task is trained with:
where that is Adam, for restoration and key points, networks need many steps (``docs/results.md``).
"""
BATCH_VALUES = 1 << 22
"""Numbers in the inputs of a batch at most, by the same: pictures are large."""
EPOCH_STEPS = 20
"""Steps that an epoch has at least, by the same: of few examples a large batch learns little (``docs/results.md``)."""


def batch_size_of(task: Task) -> int:
    """Examples in a batch of training: the largest power of two that :data:`LARGEST_BATCH`, :data:`BATCH_VALUES` and
    :data:`EPOCH_STEPS` allow, but not below 8: batch norms need some.
    """
    fitting = BATCH_VALUES // max(1, task.train.inputs[0].numel())
    most = min(LARGEST_BATCH[task.optimiser], len(task.train) // EPOCH_STEPS, fitting)
    return max(8, 1 << (max(1, most).bit_length() - 1))


@dataclass(frozen=True)
class Plan:
    """How a run spends its effort. What is None follows from the task, its number of training examples above all, and
    never from the clock, so that a seed means the same trials everywhere.

    ``population`` networks are proposed a generation (checking one costs a few percent of tuning it), ``keep`` of them
    fine-tuned for ``tune_epochs``; ``finalists`` are trained for ``final_epochs`` more (what is left of a budget in
    time may allow only half of that, or fewer finalists). In :func:`netgraft.optimize` twice as many are trained for a
    quarter of that beforehand, where time allows it, and those that promise least are stopped there.
    ``pretrain_epochs`` trains the original first, for networks that come without trained weights. ``batch_size`` is of
    every training. ``search_share`` is the part of a time budget spent before the finals. With a ``teacher``, the
    original, what is new in a network, unless it is much of it, first imitates for ``imitation`` steps what it
    replaced, in :func:`netgraft.optimize` (0: not at all).

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
    learning_rate: float | None = None
    batch_size: int | None = None
    measure_seconds: float = 40.0
    search_share: float = 0.6
    teacher: bool = True
    imitation: int = 100
    measure: str = "search"

    def __post_init__(self) -> None:
        counts = {"population": self.population, "keep": self.keep, "finalists": self.finalists}
        epochs = {"tune_epochs": self.tune_epochs, "final_epochs": self.final_epochs}
        rates = {"learning_rate": self.learning_rate, "measure_seconds": self.measure_seconds}
        for name, value in (counts | epochs | rates | {"batch_size": self.batch_size}).items():
            if value is not None and value <= 0:
                raise OptionError(f"{name} must be above 0, not {value:g}")
        if self.pretrain_epochs < 0 or self.imitation < 0 or not 0 < self.search_share < 1:
            raise OptionError("pretrain_epochs and imitation must be 0 or more, and search_share between 0 and 1")
        if self.measure not in ("search", "end"):
            raise OptionError(f"latency is measured in the search or at its end, not {self.measure!r}: search, end")

    def for_task(self, task: Task) -> Plan:
        """The plan with everything decided: short tunings see about 16,000 examples, finals four times as many."""
        short = min(5.0, max(0.25, round(16_000 / len(task.train), 2)))
        tune = short if self.tune_epochs is None else self.tune_epochs
        final = 4 * tune if self.final_epochs is None else self.final_epochs
        rate = RATES[task.optimiser] if self.learning_rate is None else self.learning_rate
        batch = batch_size_of(task) if self.batch_size is None else self.batch_size
        return replace(self, tune_epochs=tune, final_epochs=final, learning_rate=rate, batch_size=batch)


class Estimates(Protocol):
    """What estimates latency: a :class:`netgraft.costs.tables.Table`, or whatever speaks for another device."""

    @property
    def engine(self) -> str:
        """The engine whose latency is meant."""

    @property
    def digest(self) -> str:
        """What tells it from others."""

    @property
    def about(self) -> Mapping[str, str]:
        """Where it was measured: the ``processor``, if that is known."""

    def latency(self, graph: Graph) -> float:
        """Milliseconds of a network."""


class RunOptions(TypedDict, total=False):
    """The arguments that every recipe takes beside its own; :class:`Run` has them with what they are where left out."""

    out: Required[str | Path]
    seed: int
    resume: bool
    plan: Plan | None
    freeze: Sequence[str]
    only: Sequence[str]
    table: Estimates | None
    on: str | None
    device: str | torch.device
    engine: Engine
    settings: Mapping[str, Any]
    on_event: Listener


@dataclass(frozen=True)
class Run:
    """How a recipe is run, whichever it is: what is kept in the folder ``out``, and ``resume`` goes on with.

    ``seed`` is of everything that is drawn. ``plan`` says how effort is spent (None: as the recipe does by default).
    The parts of the network that the patterns ``freeze`` match are left as they are, and all but those that ``only``
    matches: patterns of module paths such as ``head.*``, as :func:`netgraft.mutations.fixed.fixed_by` reads them. With
    a ``table`` latency is estimated by it (:mod:`netgraft.costs.tables`) instead of by counting. It is measured ``on``
    another machine if one is named: a folder that ``netgraft worker`` serves there, or ``ssh://host``. Networks are
    trained and judged on the ``device`` that :meth:`netgraft.tasks.Task.to` puts the task on. ``engine``
    evaluates candidates (:mod:`netgraft.engine`). ``settings`` is kept in run.json and shown in the report (how the run
    was called). ``on_event`` hears what happens, as :mod:`netgraft.events`.
    """

    out: str | Path
    seed: int = 0
    resume: bool = False
    plan: Plan | None = None
    freeze: Sequence[str] = ()
    only: Sequence[str] = ()
    table: Estimates | None = None
    on: str | None = None
    device: str | torch.device = "auto"
    engine: Engine = field(default_factory=Inline)
    settings: Mapping[str, Any] = field(default_factory=dict)
    on_event: Listener = nobody


@dataclass(frozen=True)
class Begun:
    """A run whose original is there, for what searches around it. ``score`` counts and estimates what follows from a
    graph, ``latency`` estimates that alone, ``bounds`` are the limits in units of both.
    """

    study: Study
    trainer: Trainer
    plan: Plan
    score: GraphScores
    latency: Callable[[Graph], float]
    bounds: Sequence[Limit]
    conditions: Conditions

    @property
    def task(self) -> Task:
        """The task, on the device of the run."""
        return self.trainer.task

    @property
    def original(self) -> Model:
        """The network that the run began with, trained first where the plan says so."""
        return self.trainer.original


def conduct(
    model: Model,
    task: Task,
    search: Callable[[Begun], Entrants],
    run: Run,
    *,
    plan: Plan,
    method: Mapping[str, Any],
    goals: Sequence[str],
    limits: Sequence[str],
    budget: str,
) -> Front:
    """A run from its folder to its front. ``search`` fills the study with trials and says which of them begin the
    finals; with ``resume`` it finds there what it had. ``method`` says, as JSON, what else a run must agree in to be
    resumed, by the names of :data:`_FIXED`.

    Raises OptionError, DataError and StudyError. Ctrl-C ends the search; the front then holds what was found so far.
    """
    latency = run.table.latency if run.table else latency_estimate
    score = partial(counted, latency=latency)
    task = task.to(run.device)
    # Before any work is done.
    conditions = Conditions.of([parse_limit(text, score(model.graph) | {"quality": 1.0}) for text in limits], run.on)
    conditions.check()
    if not (Path(run.out) / "run.json").exists():
        conditions.check_network(model)
    if run.table is not None:
        _check_table(run.table, conditions)
    elif plan.measure == "end" and replace(conditions, on=None) != HERE:
        warnings.warn(
            "until the end latency is estimated as onnxruntime's for one input on one thread, and what the limits name "
            "may differ: --measure search measures that while it searches",
            UserWarning,
            stacklevel=3,
        )
    asked = {
        "source": model.name,
        "data": task.name,
        "command": "",
        **run.settings,
        **method,
        "network": fingerprint(render(model.graph), *(model.weights[key] for key in sorted(model.weights))),
        "examples": examples_of(task),
        "table": "none" if run.table is None else run.table.digest,
        "threads": torch.get_num_threads(),
        "device": described(task.device),
        **({"on": run.on} if run.on else {}),
        "goals": list(goals),
        "limits": list(limits),
        "budget": budget,
        "seed": run.seed,
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
        "versions": {name: version(name) for name in ("netgraft", "torch", "numpy", "onnxruntime")},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with _opened(Path(run.out), asked, run.resume) as study:
        try:
            torch.set_num_threads(study.settings["threads"])  # sums come out differently with another number
            if not study.finalists:
                _note_device(study, described(task.device), run.on_event)
            original = _original(study, model, task, plan, run.seed, score, run.on_event)
            run.on_event(TrialRecorded(study.trials[0]))
            assert plan.learning_rate is not None and plan.batch_size is not None, "decided by for_task"
            trainer = Trainer(original, task, run.seed, plan.learning_rate, plan.teacher, plan.batch_size)
            bounds = _bounds(study, original, limits, conditions, run.on_event)
            if study.note("finals") is None:
                entrants = search(Begun(study, trainer, plan, score, latency, bounds, conditions))
                study.add_note("finals", **asdict(entrants))
            if not study.finalists:
                noted = study.note("finals") or {}
                if "finalists" not in noted:
                    raise StudyError(
                        f"the finals of {run.out} were begun by an earlier netgraft, which trained otherwise: finish "
                        "them with that one, or start again in another folder"
                    )
                entrants = Entrants(noted["numbers"], noted["epochs"], noted["finalists"])
                parsed = parse_goals(goals, quality_is_higher_better=task.quality.higher_is_better)
                run_finals(
                    *(study, trainer, entrants, parsed),
                    *(limits, conditions, plan.measure_seconds, run.on_event),
                )
        except KeyboardInterrupt:
            run.on_event(RunInterrupted())
    return Front(Study.read(Path(run.out)))


def _note_device(study: Study, device: str, on_event: Listener) -> None:
    """Keeps it in the journal, and tells it, where a run goes on on another device than before."""
    before = (study.note("device") or study.settings).get("device", str(CPU))  # the first runs knew no other
    if device != before:
        study.add_note("device", device=device)
        on_event(DeviceChanged(before, device))
        warnings.warn(
            f"the run in {study.path} goes on on {device}; so far it was on {before}: what is trained from here on "
            "comes out slightly different from what it would there",
            UserWarning,
            stacklevel=3,
        )


def _check_table(table: Estimates, conditions: Conditions) -> None:
    """OptionError where a run does not measure what the table estimates; a UserWarning where it is another processor's,
    so that the run has to correct it by much.
    """
    if table.engine != conditions.engine:
        raise OptionError(f"the table is one of {table.engine}, and latency is limited in {conditions.engine}")
    if (conditions.threads, conditions.batch) != (1, 1):
        raise OptionError("a table is of one input on one thread, and latency is limited for more; leave the table out")
    there, here = table.about.get("processor"), machine()["processor"]
    if conditions.on is None and there and there != here:
        warnings.warn(
            f"the table is of {there}, and this run measures on {here}: what it estimates is corrected by that. Let "
            "the machine that counts measure (--on), or build a table on this one",
            UserWarning,
            stacklevel=3,
        )


def _bounds(
    study: Study, original: Model, limits: Sequence[str], conditions: Conditions, on_event: Listener
) -> list[Limit]:
    """The limits in the units of what is counted and estimated; those on latency in a unit of time are scaled by what
    the original takes under the ``conditions``, measured once in a run.
    """
    bounds = [parse_limit(text, study.trials[0].scores) for text in limits]
    if all(limit.is_relative or limit.metric != "latency" for limit in bounds):
        return bounds
    if study.note("latency") is None:
        study.add_note("latency", milliseconds=conditions.milliseconds(original, LATENCY_SECONDS))
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
    "mutation": "another method, or other mutations",
    "options": "other options of the method",
    "banks": "another bank of segments",
    "ops": "other operations allowed",
    "multiple": "widths in other multiples",
    "fixed": "other parts left alone",
    "predictor": "another predictor, or none",
    "table": "another latency table, or none",
    "on": "another machine to measure on",
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
    differences = [words for name, words in _FIXED.items() if before.get(name) != asked.get(name)]
    old, new = before.get("recipe", {}), asked["recipe"]
    differences += [f"{name} {old[name]} (now {new[name]})" for name in new if name in old and old[name] != new[name]]
    unknown = [name for name in new if name not in old]
    if unknown:
        differences.append(f"an earlier netgraft, which knew nothing of {' and '.join(unknown)}")
    if differences:
        study.close()
        raise StudyError(
            f"{out} was run with {'; '.join(differences)}. Resume with the settings of its run.json, or choose another "
            "folder"
        )
    return study


def examples_of(task: Task) -> str:
    """Names the examples of a task, split by split."""
    parts = [part for name in get_args(SplitName) for part in task.split(name).parts]
    return fingerprint(*(array.cpu().numpy() for part in parts for array in (part.inputs, part.targets)))


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
    judged = _judge(model, task)
    if plan.pretrain_epochs:
        on_event(PretrainingBegun(plan.pretrain_epochs))
        assert plan.batch_size is not None, "decided by for_task"
        trainer = Trainer(model, task, seed, learning_rate=0.1, teaching=False, batch_size=plan.batch_size)
        epochs = plan.pretrain_epochs
        trained = trainer.train(model, epochs, "pretrain", 0, lambda step, total, _: on_event(StepDone(step, total)))
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
        hint = "" if task.device == CPU else f" (on {task.device}; the CPU, --device cpu, may do)"
        raise DataError(f"{model.name} cannot be judged on {task.name}: {reason}{hint}") from None
    if not isfinite(score.quality):
        raise DataError(f"{model.name} has the {task.quality.name} {score.quality} on {task.name}, which is no number")
    return score
