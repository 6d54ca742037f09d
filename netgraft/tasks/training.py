"""How a network is trained on a task, and its batch-norm statistics are estimated anew: on the task's device.

Precision and determinism. Training runs in bfloat16 (`torch.autocast`) where the device multiplies bfloat16 in hardware
(see `native_bf16`) and in float32 elsewhere; `recalibrate` always computes in float32, as the exported network does. A
training is reproducible bit by bit under its seed on one processor with one version of torch and one number of threads.
Another device, precision or number of threads sums in another order and gives slightly different weights. On CUDA
convolutions and products are computed alike each time; a few operations (the gradient of bilinear scaling, say) sum in
an order that torch does not promise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from netgraft.errors import OptionError, SourceError
from netgraft.tasks.device import CPU, random_from
from netgraft.tasks.running import prepared, row_batches, running, training_rows
from netgraft.tasks.task import Task

Precision = Literal["auto", "bf16", "fp32"]

ADAM = 0.02
"""The share of a schedule's learning rate, which is SGD's, that Adam (Kingma & Ba, ICLR 2015) takes: 0.001 of 0.05."""
LOOK = 20
"""Steps after which the loss is looked at where the CPU does not compute it: to look is to wait until it is there."""


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


@cache
def native_bf16(device: torch.device = CPU) -> bool:
    """Whether a device multiplies bfloat16 in hardware (this processor by AVX512-BF16 or AMX, CUDA since Ampere), so
    that training in it is faster.

    Emulated bfloat16 is slower than float32, and so is counted as absent. A torch that cannot tell of processors (older
    than 2.10), other processors and other devices count as absent too: training is then slower, never wrong.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
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
    """Train `module` in place on the task's training split and leave it in eval mode, without gradients, where it was.

    The order of examples, their augmentation and the module's own randomness (dropout) follow from `seed`; the caller's
    random state is left alone. With a `teacher`, the loss is mixed with the imitation of its outputs (Hinton et al.,
    "Distilling the Knowledge in a Neural Network", 2015, section 2). `on_step(step, total, loss)` is called after each
    step, counted from 1, with the loss before it; what it raises ends the training there and reaches the caller. A loss
    that is not finite ends it with `diverged=True`. On another device than the CPU the losses of :data:`LOOK` steps are
    read at once, so both are noticed up to so many steps later. Raises `SourceError` if the module has nothing to
    train.
    """
    began = time.perf_counter()
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise SourceError(f"nothing to train: no parameter of {type(module).__name__} requires a gradient")
    total = schedule.steps(len(task.train))
    every = 1 if task.device == CPU else LOOK
    share = ADAM if task.optimiser == "adam" else 1.0
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    unread: list[Tensor] = []
    taught = nullcontext() if teacher is None else running(teacher, task.device, training=False)
    with random_from(seed, task.device), _trained_form(module, task.device), taught:
        optimiser = _optimiser(module, schedule, task)
        average = averaged(module, schedule.average * total) if schedule.average else None
        for step, rows in enumerate(islice(row_batches(len(task.train), schedule.batch_size, generator), total)):
            for group in optimiser.param_groups:
                group["lr"] = share * schedule.rate(step, total)
            inputs, targets = _varied(task, rows, generator)
            inputs = prepared(task, inputs)
            with _autocast(schedule.precision, task.device):
                outputs = module(inputs)
            loss = task.loss(outputs.float(), targets)
            if teacher is not None:
                with torch.no_grad(), _autocast(schedule.precision, task.device):
                    wanted = teacher(inputs)
                imitation = task.imitate(outputs.float(), wanted.float(), distillation.temperature)
                loss = torch.lerp(loss, imitation, distillation.weight)
            unread.append(loss.detach())
            told = len(losses)
            if len(unread) == every or step + 1 == total:
                losses += [one.item() for one in unread]
                unread.clear()
                if not all(map(math.isfinite, losses[told:])):
                    break
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimiser.step()
            if average is not None:
                average.update_parameters(module)
            if on_step is not None:
                for number, seen in enumerate(losses[told:], told + 1):
                    on_step(number, total, seen)
        if average is not None:
            module.load_state_dict(average.module.state_dict())
        optimiser.zero_grad()
    losses = losses[: 1 + next((at for at, seen in enumerate(losses) if not math.isfinite(seen)), len(losses))]
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
    with torch.no_grad(), running(module, task.device, training=False):
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # torch's spelling of a plain average over all batches
        for rows in islice(row_batches(len(task.train), batch_size, generator), batches):
            inputs, _ = _varied(task, rows, generator)
            module(prepared(task, inputs))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _optimiser(module: nn.Module, schedule: Schedule, task: Task) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
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


def _varied(task: Task, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Training examples and their targets, augmented where the task has a way to."""
    inputs, targets = training_rows(task, rows)
    return (inputs, targets) if task.augment is None else task.augment(inputs, targets, generator)


def _autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    bf16 = native_bf16(device) if precision == "auto" else precision == "bf16"
    if not bf16 and device.type not in ("cpu", "cuda"):
        return nullcontext()  # not every device has an autocast to be switched off
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


@contextmanager
def _trained_form(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Train mode on a device with channels-last weights; afterwards eval mode where the module was, with weights laid
    out as others expect them.
    """
    try:
        with running(module, device, training=True):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads miss this
            yield
    finally:
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as above
        module.eval()
