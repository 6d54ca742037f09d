"""The rungs' work: building a candidate as a torch module, checking it against the original, fine-tuning it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite

import numpy as np
from torch import nn

from netgraft.candidate import Candidate
from netgraft.convert.to_torch import to_module, weights_of
from netgraft.costs.analytic import activation_memory, flops, latency_estimate, parameters
from netgraft.errors import MachineError, NetgraftError
from netgraft.ir import Graph, Model
from netgraft.metrics import Limit
from netgraft.search import Result
from netgraft.tasks import Answers, Schedule, Task, agreement, answers, evaluate, recalibrate, train

from .clock import Clock
from .imitation import Imitation, imitate

Step = Callable[[int, int, float], None]
"""Hears of each step of a training: its number from 1, of how many, and the loss."""


def counted(graph: Graph, latency: Callable[[Graph], float] = latency_estimate) -> dict[str, float]:
    """The scores that follow from the graph alone: ``flops``, ``parameters``, ``memory`` (bytes of activations at batch
    1) and ``latency`` (as estimated, in ms), which is ``estimate``, too: measuring replaces the former.
    """
    return {
        "flops": flops(graph),
        "parameters": parameters(graph),
        "memory": activation_memory(graph),
        "latency": (estimate := latency(graph)),
        "estimate": estimate,
    }


def counter(metric: str, latency: Callable[[Graph], float] = latency_estimate) -> Callable[[Graph], float]:
    """One of the scores of :func:`counted` alone, by its name."""
    counters: dict[str, Callable[[Graph], float]] = {
        "flops": flops,
        "parameters": parameters,
        "memory": activation_memory,
        "latency": latency,
    }
    return counters[metric]


def seed_of(seed: int, *purpose: int) -> int:
    """An independent seed for one purpose within a run."""
    return int(np.random.default_rng([seed, *purpose]).integers(2**31))


PRECISE = 1024
"""Examples of which batch-norm statistics are estimated anew after a training."""

STAGES = ("check", "pretrain", "tune", "final", "imitate", "heat")


@dataclass(frozen=True)
class Trainer:
    """Trains networks of one run: with the task's data, and the original as teacher unless it is to be left out."""

    original: Model
    task: Task
    seed: int
    learning_rate: float
    teaching: bool = True
    batch_size: int = 128

    @cached_property
    def teacher(self) -> nn.Module:
        """The original, as it was given."""
        return to_module(self.original).eval()

    def recalibrated(self, model: Model, examples: int = 512) -> Model:
        """``model`` with batch-norm statistics re-estimated on so many of the task's training examples, about."""
        module = to_module(model)
        seed = seed_of(self.seed, STAGES.index("check"))
        recalibrate(module, self.task, batches=self.batches(examples), batch_size=self.batch_size, seed=seed)
        return replace(model, weights=weights_of(module))

    def train(self, model: Model, epochs: float, stage: str, number: int, on_step: Step | None = None) -> Model | None:
        """``model`` after ``epochs`` of training, or None where the loss ceased to be finite. The seed follows from the
        run's, the ``stage`` (one of :data:`STAGES`) and the trial's ``number``. Statistics of batch norms are estimated
        anew in the end: those that training keeps are of its last steps, and lag behind in a short one (Wu & Johnson,
        "Rethinking 'Batch' in BatchNorm", 2021, section 3).
        """
        module = to_module(model)
        schedule = Schedule(epochs, self.batch_size, self.learning_rate)
        teacher = self.teacher if self.teaching else None
        seed = seed_of(self.seed, STAGES.index(stage), number)
        if train(module, self.task, schedule, seed=seed, teacher=teacher, on_step=on_step).diverged:
            return None
        recalibrate(module, self.task, batches=self.batches(PRECISE), batch_size=self.batch_size, seed=seed)
        return replace(model, weights=weights_of(module))

    def batches(self, examples: int) -> int:
        """How many batches so many examples make, at least."""
        return -(-examples // self.batch_size)


@dataclass(frozen=True)
class Count:
    """First rung: what follows from the graph alone, with ``latency`` as the estimate of that."""

    latency: Callable[[Graph], float] = latency_estimate

    def __call__(self, candidate: Candidate) -> Result:
        """Scores: those of :func:`counted`."""
        return Result(candidate, counted(candidate.model.graph, self.latency))


@dataclass(frozen=True)
class Check:
    """Second rung, without training: re-estimate batch-norm statistics, then compare outputs with the original's.

    The candidate goes on with the new statistics. Score: ``agreement`` (imitation loss, lower is better).
    """

    trainer: Trainer
    examples: int = 256

    def __call__(self, candidate: Candidate) -> Result:
        """Never raises for a candidate that cannot run: that is a failure with its reason."""
        return timed(self._check, candidate)

    def _check(self, candidate: Candidate) -> Result:
        checked = replace(candidate, model=self.trainer.recalibrated(candidate.model, self.examples))
        score = agreement(to_module(checked.model), self.trainer.task, self._answers)
        return Result(checked, {"agreement": score}, "" if isfinite(score) else "its outputs are not finite")

    @cached_property
    def _answers(self) -> Answers:
        trainer = self.trainer
        seed = seed_of(trainer.seed, STAGES.index("check"))
        batches = trainer.batches(self.examples)
        return answers(trainer.teacher, trainer.task, batches=batches, batch_size=trainer.batch_size, seed=seed)


@dataclass(frozen=True)
class Tune:
    """Last rung: fine-tuning, with the original as teacher, of what keeps ``limits`` when ``clock`` measures it. Before
    that, where there is a teacher, what is new imitates for ``imitation`` steps what it replaced
    (:func:`netgraft.recipes.imitation.imitate`), which counts towards the candidate's epochs.

    Scores on the validation split: ``quality_before`` and ``quality`` with its standard error ``quality_error``, and
    those of the clock. A network that breaks a limit has the clock's scores only.
    """

    trainer: Trainer
    epochs: float
    clock: Clock | None = None
    limits: Sequence[Limit] = ()
    imitation: int = 0

    def __call__(self, candidate: Candidate) -> Result:
        """The candidate with its new weights. Never raises for one that cannot be trained: that is a failure."""
        return timed(self._tune, candidate)

    def _tune(self, candidate: Candidate) -> Result:
        trainer = self.trainer
        times = self.clock.scores(candidate.model) if self.clock else {}
        if times and any(limit.violation(times) > 0 for limit in self.limits):
            return Result(candidate, times)  # nothing is gained by training it
        before = evaluate(to_module(candidate.model), trainer.task, "validation")
        started = time.perf_counter()
        begun = self._begun(candidate)
        model = trainer.train(begun.model, self.epochs, "tune", candidate.number)
        training = time.perf_counter() - started
        if model is None:
            return Result(candidate, failure="the training diverged")
        after = evaluate(to_module(model), trainer.task, "validation")
        tuned = replace(candidate, model=model, epochs=candidate.epochs + begun.epochs + self.epochs)
        scores = {"quality_before": before.quality, "quality": after.quality, "quality_error": after.error, **times}
        failure = "" if isfinite(after.quality) else "its quality is not a number"
        return Result(tuned, scores, failure, training=training)

    def _begun(self, candidate: Candidate) -> Imitation:
        """What fine-tuning begins with."""
        trainer = self.trainer
        if not self.imitation or not trainer.teaching:
            return Imitation(candidate.model)
        seed = seed_of(trainer.seed, STAGES.index("imitate"), candidate.number)
        return imitate(
            *(trainer.original, candidate.model, trainer.task),
            steps=self.imitation,
            batch_size=min(64, trainer.batch_size),
            seed=seed,
        )


def timed(work: Callable[[Candidate], Result], candidate: Candidate) -> Result:
    """The work's result with the time it took; what goes wrong with one candidate is a failure of that candidate."""
    started = time.perf_counter()
    try:
        result = work(candidate)
    except MachineError:
        raise  # nothing can be measured any more: the run ends here, and can be resumed
    except (NetgraftError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        lines = str(error).strip().splitlines()
        result = Result(candidate, failure=lines[0] if lines else type(error).__name__)
    return replace(result, seconds=time.perf_counter() - started)
