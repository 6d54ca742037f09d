"""Imitation: the new parts of a child learn to give what the parts that they replaced gave, before all is trained.

Block-wise distillation on real activations, as in Li et al., "Block-wisely Supervised Neural Architecture Search with
Knowledge Distillation" (CVPR 2020), section 3.2, and Molchanov et al., "LANA: Latency Aware Network Acceleration" (ECCV
2022), section 3.1. It takes a part's time instead of the network's. Deviations: parts are what an edit changed, and
begin with what they inherited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import cos, isfinite, pi

import torch
from torch import Tensor

from netgraft.convert.to_torch import to_module, weights_of
from netgraft.costs.analytic import flops
from netgraft.ir import DType, Graph, Model, Node, Region, Value
from netgraft.tasks import Task, recalibrate
from netgraft.tasks.device import random_from
from netgraft.tasks.running import running

from .looking import Look, some_training_data

_REAL = frozenset([DType.F32, DType.F64])
"""Numbers that can be taught."""
_MEMORY = 256 << 20
"""Bytes of activations that are kept, at most: where images are large, there are fewer."""


LARGEST = 0.4
"""The share of a network's operations that is new in it at most where it imitates: of more, fine-tuning makes more in
the same time (``docs/results.md``).
"""


@dataclass(frozen=True)
class Part:
    """What is new in a child, as a graph of its own, with the parent's values that it reads, and those that it has to
    give: None for an output that nothing in the parent corresponds to.
    """

    graph: Graph
    given: tuple[Value, ...]
    wanted: tuple[Value | None, ...]


def new_part(parent: Graph, child: Graph) -> Part | None:
    """What edits changed between two graphs; None where nothing new can be compared with anything.

    A node of the child is the parent's if it has the same id and does the same to the same: to what the parent's own
    nodes gave, or to something new of the same type, which then stands for what the parent had there.
    """
    same = {Value(given.id): Value(given.id) for given in child.inputs}
    stands: dict[Value, Value] = {}
    new: list[str] = []
    for node in child:
        pairs = _pairs(node, parent)
        fits = pairs is not None and all(
            same.get(ours, stands.get(ours, theirs)) == theirs
            and (ours in same or child.types_of([ours]) == parent.types_of([theirs]))
            for ours, theirs in pairs
        )
        if pairs is None or not fits:
            new.append(node.id)
            continue
        stands.update((ours, theirs) for ours, theirs in pairs if ours not in same)
        same.update((node.value(i), node.value(i)) for i in range(len(child.output_types(node))))
    for ours, theirs in zip(child.outputs, parent.outputs, strict=True):
        if ours not in same and child.types_of([ours]) == parent.types_of([theirs]):
            stands.setdefault(ours, theirs)
    if not new:
        return None
    region = Region.of(new)
    entering, leaving = region.boundary(child)
    stands = {ours: theirs for ours, theirs in stands.items() if child.types_of([ours])[0].dtype in _REAL}
    if not stands or any(value not in same for value in entering):
        return None
    return Part(region.extract(child), tuple(same[v] for v in entering), tuple(stands.get(v) for v in leaving))


def _pairs(node: Node, parent: Graph) -> list[tuple[Value, Value]] | None:
    """What a node reads, beside what its namesake in the parent reads; None where that does something else."""
    if node.id not in parent:
        return None
    old = parent[node.id]
    if (node.op, node.attrs, node.weights, len(node.inputs)) != (old.op, old.attrs, old.weights, len(old.inputs)):
        return None
    return list(zip(node.inputs, old.inputs, strict=True))


@dataclass(frozen=True)
class Imitation:
    """A network whose new part has imitated, and the epochs of training the whole of it that this comes to: the share
    of an epoch's examples that were shown, times the part's share of the network's FLOPs.
    """

    model: Model
    epochs: float = 0.0


def imitate(
    parent: Model,
    child: Model,
    task: Task,
    *,
    steps: int = 100,
    images: int = 1024,
    batch_size: int = 64,
    learning_rate: float = 0.003,
    largest: float = LARGEST,
    seed: int,
) -> Imitation:
    """The child with its new part trained for ``steps`` to give what the parent gives there, and batch-norm statistics
    re-estimated; the child as it is where nothing new has weights, more than ``largest`` of its operations is new, or
    training that diverged.

    The loss is the mean square of the difference, as a share of the variance of what is wanted; Adam, with a cosine
    from ``learning_rate`` to zero, on ``images`` training images that are not augmented. Weights that the rest of the
    child uses, too, stay as they are.
    """
    part = new_part(parent.graph, child.graph)
    if part is None or not part.graph.trainable:
        return Imitation(child)
    share = flops(part.graph) / max(1, flops(child.graph))
    if share > largest:
        return Imitation(child)
    module = to_module(Model(part.graph, {key: child.weights[key] for key in part.graph.weight_types}))
    region = Region.of(part.graph.position)
    free = [key for key, p in module.named_parameters() if p.requires_grad and not region.others(child.graph, key)]
    if not free:
        return Imitation(child)
    batches, size = _activations(parent, part, task, images, batch_size, seed)
    scales = [None if v is None else _variance([wanted[i] for _, wanted in batches]) for i, v in enumerate(part.wanted)]
    generator = torch.Generator().manual_seed(seed)
    seen: list[Tensor] = []
    with random_from(seed, task.device), running(module, task.device, training=True):
        optimiser = torch.optim.Adam([p for key, p in module.named_parameters() if key in free], lr=learning_rate)
        for step in range(steps):
            given, wanted = batches[int(torch.randint(len(batches), (), generator=generator))]
            outputs = module(*given)
            found = outputs if isinstance(outputs, tuple) else (outputs,)
            losses = [
                (y - w).square().mean() / scale
                for y, w, scale in zip(found, wanted, scales, strict=True)
                if w is not None and scale is not None
            ]
            loss = torch.stack(losses).mean()
            seen.append(loss.detach())
            optimiser.param_groups[0]["lr"] = learning_rate * (1 + cos(pi * step / steps)) / 2
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimiser.step()
    if not all(isfinite(loss.item()) for loss in seen):  # read at the end: to read is to wait
        return Imitation(child)
    taught = replace(child, weights={**child.weights, **weights_of(module)})
    whole = to_module(taught)
    recalibrate(whole, task, batches=-(-512 // batch_size), batch_size=batch_size, seed=seed)
    return Imitation(replace(taught, weights=weights_of(whole)), steps * size / len(task.train) * share)


_Ends = tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]
"""What a part is given and has to give for one batch."""


def _activations(
    parent: Model, part: Part, task: Task, images: int, batch_size: int, seed: int
) -> tuple[list[_Ends], int]:
    """Batches of training images, as many as memory is set aside for, by what the part is given and has to give; and
    how many images a batch holds.

    They stay as they were computed: a tensor within a network need not have its batch in front.
    """
    values = list(dict.fromkeys(v for v in (*part.given, *part.wanted) if v is not None))
    memory = sum(type_.numel() * type_.dtype.bytes for type_ in parent.graph.types_of(values))
    count = max(1, min(images, len(task.train), _MEMORY // memory))
    size = min(batch_size, count)
    look = Look(parent, values)
    batches: list[_Ends] = []
    for inputs, _ in some_training_data(task, count, seed, size):
        if not batches or len(inputs) == size:  # a small rest would upset the norms
            found = look(inputs)
            batches.append(
                (tuple(found[v] for v in part.given), tuple(None if v is None else found[v] for v in part.wanted))
            )
    return batches, size


def _variance(tensors: Sequence[Tensor | None]) -> Tensor:
    return torch.cat([x.flatten() for x in tensors if x is not None]).var().clamp(min=1e-12)
