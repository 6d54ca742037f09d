"""What a network is trained for and judged by, and the loops that train and judge it.

A `Task` is data in memory together with a loss, a quality and the way inputs are prepared; nothing below knows what the
targets mean, so classification, segmentation or super-resolution differ in the functions a task carries and in nothing
else. Everything runs on the CPU.

Precision and determinism. Training runs in bfloat16 (`torch.autocast`) where the processor multiplies bfloat16 in
hardware (see `native_bf16`) and in float32 elsewhere; `evaluate`, `recalibrate` and `agreement` always compute in
float32, as the exported network does. A training is reproducible bit by bit under its seed on one machine with one
version of torch and one number of threads. Another processor, precision or number of threads sums in another order and
gives slightly different weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from netgraft.errors import DataError, OptionError, SourceError

SplitName = Literal["train", "validation", "test"]
Precision = Literal["auto", "bf16", "fp32"]

_EVALUATION_BATCH = 256
_EVALUATION_VALUES = 1 << 22
"""Numbers that a batch for judging holds at most, or else a single example: whole pictures are large."""
ADAM = 0.02
"""The share of a schedule's learning rate, which is SGD's, that Adam (Kingma & Ba, ICLR 2015) takes: 0.001 of 0.05."""


@dataclass(frozen=True, eq=False)
class Split:
    """Inputs and targets in memory, one row an example.

    Images are best kept as uint8 [N, C, H, W] and made float batch by batch by the task's `prepare`.
    Raises `DataError` if it is empty or the two lengths differ.
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise DataError(
                f"a split needs a target for each input, not {len(self.inputs)} inputs and {len(self.targets)} targets"
            )
        if not len(self.inputs):
            raise DataError("a split is empty: it needs at least one example")

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def parts(self) -> tuple[Split, ...]:
        """Itself alone, as all examples have one size."""
        return (self,)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.inputs.shape[1:])) or "single"
        return f"Split({len(self):,} examples: {shape} {_type(self.inputs)} inputs, {_type(self.targets)} targets)"


@dataclass(frozen=True, eq=False)
class Mixed:
    """Examples to be judged that have several sizes, as pictures do: a split for each size."""

    parts: tuple[Split, ...]

    @classmethod
    def of(cls, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Mixed:
        """Of examples [...] one by one, those of equal shapes together; DataError where a split cannot be made."""
        alike: dict[tuple[torch.Size, torch.Size], list[int]] = {}
        for row, (given, target) in enumerate(zip(inputs, targets, strict=True)):
            alike.setdefault((given.shape, target.shape), []).append(row)
        parts = (
            Split(*(torch.stack([column[row] for row in rows]) for column in (inputs, targets)))
            for rows in alike.values()
        )
        return cls(tuple(parts))

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __repr__(self) -> str:
        return f"Mixed({len(self):,} examples of {len(self.parts):,} sizes)"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Quality:
    """What makes one network better than another on a task.

    `measure(outputs, targets)` gives one value for each example, shape [N], in `unit`; the quality of a split is their
    mean. A value for each example is what makes a standard error possible. `span` is for a proportion, where an
    example has one of two values: how far these lie apart (100 for an accuracy in percent).

    Where the quality of a split is no mean of its examples' (a ratio of sums, say), `measure` gives several values for
    each, [N, ...], and `of` makes the quality of their mean [...]; or a quality of each of many such means [M, ...].
    """

    name: str
    unit: str
    measure: Callable[[Tensor, Tensor], Tensor]
    higher_is_better: bool = True
    span: float | None = None
    of: Callable[[Tensor], Tensor] | None = None

    def over(self, values: Tensor) -> Tensor:
        """The quality, a single number, of examples whose ``values`` [N] or [N, ...] were measured."""
        mean = values.double().mean(0)
        return mean if self.of is None else self.of(mean)


def squared_difference(outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
    """Mean squared difference from the teacher's outputs: how a task without classes imitates, at any temperature."""
    return F.mse_loss(outputs, teacher_outputs)


Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
Draw = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Task:
    """Data, what to minimise on it, and what to judge by.

    - `loss(outputs, targets)`: the scalar that training minimises.
    - `prepare(inputs)`: a batch as stored -> the float tensor that the network takes.
    - `imitate(outputs, teacher_outputs, temperature)`: the scalar that says how far a student is from its teacher, 0
      when they agree. The temperature softens class probabilities; a task without classes has no use for it.
    - `augment(inputs, targets, generator)`: a training batch as stored -> a varied one of the same shapes and types.
    - `draw(inputs, targets, outputs)`: a batch as stored, and what a network made of it -> what each looks like, uint8
      [N, 3, H, W] of one size. None where there is nothing to see, as of classes.
    - `optimiser`: what it is trained with: `sgd`, or `adam` for losses whose gradients are small, such as those
      between images.
    - `classes`: names of the outputs, empty where they have none.
    - `notes`: what was done to the data that its owner may want to know, one sentence each.
    """

    name: str
    train: Split
    validation: Split | Mixed
    test: Split | Mixed
    loss: Callable[[Tensor, Tensor], Tensor]
    quality: Quality
    prepare: Callable[[Tensor], Tensor]
    imitate: Callable[[Tensor, Tensor, float], Tensor] = squared_difference
    augment: Augment | None = None
    optimiser: Literal["sgd", "adam"] = "sgd"
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    draw: Draw | None = None

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(self.split(name)):,}" for name in get_args(SplitName))
        return f"Task({self.name!r}: {sizes}; judged by {self.quality.name})"

    def split(self, name: SplitName) -> Split | Mixed:
        """The split of that name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train: SGD with Nesterov momentum (or Adam, where the task asks for it, at
    :data:`ADAM` of the rate and without decay), a linear warm-up, then half a cosine down to 0.

    (Cosine: Loshchilov & Hutter, "SGDR", ICLR 2017, eq. 5, without restarts.) `epochs` may be a fraction: 0.25 shows a
    quarter of the training split. `warmup` is a share of the steps. Weight decay is applied to weights of two or more
    dimensions, not to biases and norm scales. The defaults train a ResNet-20 from scratch; a network that already has
    its weights wants about a fifth of this learning rate. With `average` the weights that training ends with are a
    moving average of those after each step, over about that share of the steps (see :func:`averaged`; 0: the last
    ones). Raises `OptionError` for values that make no sense.
    """

    epochs: float
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.1
    average: float = 0.0
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.epochs < math.inf:
            raise OptionError(f"epochs must be more than 0, not {self.epochs}")
        if self.batch_size < 1:
            raise OptionError(f"batch_size must be at least 1, not {self.batch_size}")
        if not 0 < self.learning_rate < math.inf:
            raise OptionError(f"learning_rate must be more than 0, not {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise OptionError(f"momentum must be at least 0 and below 1, not {self.momentum}")
        if not 0 <= self.warmup < 1:
            raise OptionError(f"warmup is a share of the steps, at least 0 and below 1, not {self.warmup}")
        if not 0 <= self.average < 1:
            raise OptionError(f"average is a share of the steps, at least 0 and below 1, not {self.average}")

    def steps(self, examples: int) -> int:
        """Number of optimiser steps on a training split of that many examples; at least 1."""
        return max(1, round(self.epochs * examples / self.batch_size))

    def rate(self, step: int, total: int) -> float:
        """Learning rate of step number `step` (from 0) out of `total`."""
        warm = self.warmup * total
        if step < warm:
            return self.learning_rate * (step + 1) / (warm + 1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


@dataclass(frozen=True)
class Distillation:
    """How much a student listens to its teacher: loss = (1 - weight) * task loss + weight * imitation loss."""

    temperature: float = 2.0
    weight: float = 0.5


_EVENLY = Distillation()


@dataclass(frozen=True)
class Trained:
    """What a training did: steps taken, wall-clock seconds, mean loss over the last tenth of its steps.

    `diverged` says that the loss became infinite or NaN and training stopped there: the weights are then of no use.
    """

    steps: int
    seconds: float
    loss: float
    diverged: bool = False


@dataclass(frozen=True)
class Score:
    """A quality with its standard error, in the quality's unit, and the mean loss (see :func:`standard_error`)."""

    quality: float
    error: float
    loss: float


@cache
def native_bf16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX), so that training in it is faster.

    Emulated bfloat16 is slower than float32, and so is counted as absent. A torch that cannot tell (older than 2.10)
    and other processors count as absent too: training is then slower, never wrong.
    """
    if not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(feature, False) for feature in ("avx512_bf16", "amx_bf16"))


def train(
    module: nn.Module,
    task: Task,
    schedule: Schedule,
    *,
    seed: int,
    teacher: nn.Module | None = None,
    distillation: Distillation = _EVENLY,
    on_step: Callable[[int, int, float], None] | None = None,
) -> Trained:
    """Train `module` in place on the task's training split and leave it in eval mode, without gradients.

    The order of examples, their augmentation and the module's own randomness (dropout) follow from `seed`; the caller's
    random state is left alone. With a `teacher`, the loss is mixed with the imitation of its outputs (Hinton et al.,
    "Distilling the Knowledge in a Neural Network", 2015, section 2). `on_step(step, total, loss)` is called after each
    step, counted from 1, with the loss before it; what it raises ends the training there and reaches the caller. A loss
    that is not finite ends it with `diverged=True`. Raises `SourceError` if the module has nothing to train.
    """
    began = time.perf_counter()
    total = schedule.steps(len(task.train))
    optimiser = _optimiser(module, schedule, task)
    share = ADAM if task.optimiser == "adam" else 1.0
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    taught = nullcontext() if teacher is None else _mode(teacher, training=False)
    with torch.random.fork_rng(), _trained_form(module), taught:
        torch.manual_seed(seed)
        average = averaged(module, schedule.average * total) if schedule.average else None
        for step, rows in enumerate(islice(_batches(len(task.train), schedule.batch_size, generator), total)):
            for group in optimiser.param_groups:
                group["lr"] = share * schedule.rate(step, total)
            inputs, targets = _varied(task, rows, generator)
            inputs = _prepare(task, inputs)
            with _autocast(schedule.precision):
                outputs = module(inputs)
            loss = task.loss(outputs.float(), targets)
            if teacher is not None:
                with torch.no_grad(), _autocast(schedule.precision):
                    wanted = teacher(inputs)
                imitation = task.imitate(outputs.float(), wanted.float(), distillation.temperature)
                loss = torch.lerp(loss, imitation, distillation.weight)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                break
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimiser.step()
            if average is not None:
                average.update_parameters(module)
            if on_step is not None:
                on_step(step + 1, total, losses[-1])
        if average is not None:
            module.load_state_dict(average.module.state_dict())
    optimiser.zero_grad()
    tail = losses[-max(1, len(losses) // 10) :]
    return Trained(
        steps=len(losses),
        seconds=time.perf_counter() - began,
        loss=sum(tail) / len(tail),
        diverged=not math.isfinite(losses[-1]),
    )


_Tensors = tuple[Tensor, ...] | list[Tensor]
"""What torch calls a list of parameters."""


def averaged(module: nn.Module, steps: float) -> AveragedModel:
    """An exponential moving average of `module`, over about that many steps: `update_parameters(module)` takes in one,
    `module` of it is a module like the given one.

    Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992; with the running statistics of
    batch norms, which are averaged as the weights are. Of n steps it looks back over a tenth at most (at the n-th the
    old average has the share (1 + n) / (10 + n) at most, as in TensorFlow's ExponentialMovingAverage), so that it
    does not keep what a training began with.
    """
    most = steps / (steps + 1)

    @torch.no_grad()
    def update(average: _Tensors, current: _Tensors, taken: Tensor | int) -> None:
        if not average[0].is_floating_point():  # counters of batch norms
            torch._foreach_copy_(average, current)
            return
        kept = min(most, (1 + int(taken)) / (10 + int(taken)))
        torch._foreach_lerp_(average, current, 1 - kept)

    return AveragedModel(module, multi_avg_fn=update, use_buffers=True)


def evaluate(module: nn.Module, task: Task, split: SplitName) -> Score:
    """Judge `module` on a whole split, in eval mode and float32; its own modes are restored."""
    values: list[Tensor] = []
    loss = 0.0
    for batch in _judged_together(task.split(split).parts):
        outputs, measured = judge(module, task, batch)
        values.append(measured.double())
        loss += task.loss(outputs, batch.targets).item() * len(batch)
    value, of = torch.cat(values), task.quality.of
    error = standard_error(value, task.quality.span) if of is None else jackknife(value, of)
    return Score(quality=task.quality.over(value).item(), error=error, loss=loss / len(value))


def judge(module: nn.Module, task: Task, batch: Split) -> tuple[Tensor, Tensor]:
    """The outputs of `module` for a batch, in eval mode and float32, and what the task's quality measures of each."""
    with torch.no_grad(), _mode(module, training=False):
        outputs = module(_prepare(task, batch.inputs))
        return outputs, task.quality.measure(outputs, batch.targets)


def standard_error(values: Tensor, span: float | None = None) -> float:
    """How far, in `values`' unit, the mean of another sample of as many examples [N] may lie; not how far another
    training may.

    The deviation between examples over the root of their number. For a proportion, whose two values lie `span` apart,
    it is half of Wilson's interval at one standard error ("Probable inference, the law of succession, and statistical
    inference", JASA 1927): nearly the same in the middle, and never 0, as no sample shows that an error cannot happen.
    Deviation: Wilson's interval lies around a share drawn a little towards one half; reported is the plain one.
    """
    count = len(values)
    variance = values.double().var(correction=0).item() / count
    if span is None:
        return math.sqrt(variance)
    return math.sqrt(variance + (span / (2 * count)) ** 2) / (1 + 1 / count)


def jackknife(values: Tensor, of: Callable[[Tensor], Tensor]) -> float:
    """As :func:`standard_error`, of what `of` makes of the mean of `values` [N, ...]: by leaving out one example after
    another (Quenouille; Tukey, "Bias and confidence in not-quite large samples", 1958). 0 for one example.
    """
    count = len(values)
    if count == 1:
        return 0.0
    left_out = of((values.sum(0) - values) / (count - 1))
    return math.sqrt((count - 1) * left_out.var(correction=0).item())


def recalibrate(module: nn.Module, task: Task, *, batches: int = 16, batch_size: int = 128, seed: int) -> None:
    """Re-estimate the running statistics of every batch norm from training examples, augmented as for training.

    What a network needs after its graph was edited and before it is first evaluated: the statistics it inherited belong
    to activations that no longer exist. The new ones are the plain average over the batches; weights and the mode of
    the module stay as they are. A module without batch norms is left alone. Statistics of examples that are not
    augmented are others than those that weights were trained with: a ResNet-20 loses five points of accuracy by them
    (`docs/results.md`).
    """
    norms = [
        part
        for part in module.modules()
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and part.track_running_stats
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(), _mode(module, training=False):
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # torch's spelling of a plain average over all batches
        for rows in islice(_batches(len(task.train), batch_size, generator), batches):
            inputs, _ = _varied(task, rows, generator)
            module(_prepare(task, inputs))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


Answers = Sequence[tuple[Tensor, Tensor]]
"""What a teacher says on a few training batches: the rows of the training split of each, and its outputs."""


def answers(teacher: nn.Module, task: Task, *, batches: int, batch_size: int = 128, seed: int) -> Answers:
    """What `teacher` says on so many training batches, in eval mode, in float32: for many to be compared with."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(), _mode(teacher, training=False):
        return [
            (rows, teacher(_prepare(task, task.train.inputs[rows])))
            for rows in islice(_batches(len(task.train), batch_size, generator), batches)
        ]


def agreement(module: nn.Module, task: Task, answers: Answers) -> float:
    """Mean imitation loss of `module` against a teacher's `answers`: 0 when they agree, lower is better.

    A cheap check that needs no training and no targets, in eval mode, in float32, at temperature 1.
    """
    with torch.no_grad(), _mode(module, training=False):
        losses = [
            task.imitate(module(_prepare(task, task.train.inputs[rows])), outputs, 1.0).item()
            for rows, outputs in answers
        ]
    return sum(losses) / len(losses)


def classification(
    name: str,
    train: Split,
    validation: Split,
    test: Split,
    *,
    prepare: Callable[[Tensor], Tensor],
    augment: Augment | None = None,
    classes: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Task:
    """A task with class numbers (int64 [N]) as targets and logits [N, classes] as outputs, judged by accuracy."""
    return Task(
        name=name,
        train=train,
        validation=validation,
        test=test,
        loss=F.cross_entropy,
        quality=Quality(name="accuracy", unit="%", measure=accuracy, span=100.0),
        prepare=prepare,
        imitate=softened_divergence,
        augment=augment,
        classes=classes,
        notes=notes,
    )


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """100 for each row of logits [N, classes] whose largest is the target's, 0 for the others."""
    return (outputs.argmax(dim=1) == targets) * 100.0


def softened_divergence(outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence, in nats, of softened class probabilities from the teacher's, times temperature².

    Hinton et al. 2015, section 2: the factor keeps the gradients as large as those of the task's own loss.
    """
    student = F.log_softmax(outputs / temperature, dim=1)
    teacher = F.log_softmax(teacher_outputs / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def _optimiser(module: nn.Module, schedule: Schedule, task: Task) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise SourceError(f"nothing to train: no parameter of {type(module).__name__} requires a gradient")
    if task.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=ADAM * schedule.learning_rate, fused=True)
    return torch.optim.SGD(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": schedule.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=schedule.learning_rate,
        momentum=schedule.momentum,
        nesterov=schedule.momentum > 0,
        fused=True,
    )


def _judged_together(parts: Sequence[Split]) -> Iterator[Split]:
    """Batches of splits, in order."""
    for part in parts:
        size = max(1, min(_EVALUATION_BATCH, _EVALUATION_VALUES // part.inputs[0].numel()))
        for start in range(0, len(part), size):
            yield Split(part.inputs[start : start + size], part.targets[start : start + size])


def _batches(examples: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row numbers, `batch_size` at a time and without end: one permutation of all examples after another."""
    rows = torch.empty(0, dtype=torch.int64)
    while True:
        while len(rows) < batch_size:
            rows = torch.cat([rows, torch.randperm(examples, generator=generator)])
        yield rows[:batch_size]
        rows = rows[batch_size:]


def _varied(task: Task, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Training examples and their targets, augmented where the task has a way to."""
    inputs, targets = task.train.inputs[rows], task.train.targets[rows]
    return (inputs, targets) if task.augment is None else task.augment(inputs, targets, generator)


def _prepare(task: Task, inputs: Tensor) -> Tensor:
    """A stored batch as the network takes it; images channels-last, the layout in which convolutions are fastest."""
    if inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    return task.prepare(inputs)


def _autocast(precision: Precision) -> torch.autocast:
    bf16 = native_bf16() if precision == "auto" else precision == "bf16"
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16)


@contextmanager
def _mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a module into train or eval mode, and each of its parts back into its own mode afterwards."""
    before = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, was_training in before:
            part.training = was_training


@contextmanager
def _trained_form(module: nn.Module) -> Iterator[None]:
    """Train mode with channels-last weights; afterwards eval mode with weights laid out as others expect them."""
    module.train()
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads miss this one
    try:
        yield
    finally:
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as above
        module.eval()
