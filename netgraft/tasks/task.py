"""What a network is trained for and judged by.

A `Task` is data in memory together with a loss, a quality and the way inputs are prepared; nothing that trains or
judges knows what the targets mean, so classification, segmentation or super-resolution differ in the functions a task
carries and in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from netgraft.errors import DataError
from netgraft.tasks.device import CPU, device_named, moved, room

SplitName = Literal["train", "validation", "test"]


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

    @property
    def nbytes(self) -> int:
        """Bytes that the examples take."""
        return self.inputs.nbytes + self.targets.nbytes

    def to(self, device: torch.device) -> Split:
        """The same examples on a device."""
        return Split(moved(self.inputs, device), moved(self.targets, device))

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

    @property
    def nbytes(self) -> int:
        """Bytes that the examples take."""
        return sum(part.nbytes for part in self.parts)

    def to(self, device: torch.device) -> Mixed:
        """The same examples on a device."""
        return Mixed(tuple(part.to(device) for part in self.parts))

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
    - `device`: where networks are trained and judged on it; see :meth:`to`.

    On another device than the CPU these functions are given tensors there, and must make theirs there, too; only
    `draw` always has them on the CPU, and the `generator` is the CPU's everywhere, so that a seed draws the same
    examples: `torch.rand(n, generator=generator).to(inputs.device)`.
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
    device: torch.device = CPU

    def to(self, device: str | torch.device) -> Task:
        """The task on a device, as :func:`~netgraft.tasks.device.device_named` reads it: whoever trains or judges a
        network on it does so there, wherever the network was. ``auto`` leaves a task that is on one where it is.

        The data goes along if it takes a quarter of the memory that is free there at most; if not, it stays where it is
        and follows batch by batch. OptionError for a device that cannot be used, DataError where `augment` or `prepare`
        does not work there.
        """
        if device == "auto" and self.device != CPU:
            return self
        device = device_named(device)
        splits = (self.train, self.validation, self.test)
        place = device if sum(split.nbytes for split in splits) <= room(device) else CPU
        task = replace(
            self,
            train=self.train.to(place),
            validation=self.validation.to(place),
            test=self.test.to(place),
            device=device,
        )
        if device != CPU:
            task._check_functions()
        return task

    def _check_functions(self) -> None:
        """DataError where the task's own functions do not work where it is, before anything is trained."""
        inputs, targets = (moved(part[:2], self.device) for part in (self.train.inputs, self.train.targets))
        doing = "augment"
        try:
            if self.augment is not None:
                inputs, _ = self.augment(inputs, targets, torch.Generator().manual_seed(0))
            doing = "prepare"
            self.prepare(inputs)
        except (RuntimeError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(
                f"{doing} of the task {self.name} does not work on {self.device}: {reason}. It must make its "
                "tensors where those are that it is given (inputs.device); the device cpu always works"
            ) from None

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(self.split(name)):,}" for name in get_args(SplitName))
        return f"Task({self.name!r}: {sizes}; judged by {self.quality.name})"

    def split(self, name: SplitName) -> Split | Mixed:
        """The split of that name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


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
