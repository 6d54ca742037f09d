"""Looking into a network while it runs on training data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from netgraft.convert.to_torch import to_module
from netgraft.ir import Graph, Model, Value
from netgraft.tasks import Task
from netgraft.tasks.device import computing
from netgraft.tasks.running import training_rows


class Look:
    """Computes some tensors within a network, in eval mode, where it is given inputs."""

    def __init__(self, model: Model, values: Sequence[Value]) -> None:
        graph = model.graph
        needed = {value.node for value in values}
        for node in reversed(graph.nodes):
            if node.id in needed:
                needed.update(value.node for value in node.inputs)
        nodes = tuple(node for node in graph if node.id in needed)
        inner = Graph(graph.inputs, nodes, tuple(values))
        self._values = tuple(values)
        self._module = to_module(Model(inner, {key: model.weights[key] for key in inner.weight_types})).eval()

    def __call__(self, inputs: Tensor) -> Mapping[Value, Tensor]:
        with torch.no_grad(), computing(inputs.device):
            found = self._module.to(inputs.device)(inputs)
        return dict(zip(self._values, found if isinstance(found, tuple) else (found,), strict=True))


def some_training_data(task: Task, images: int, seed: int, size: int = 100) -> Iterable[tuple[Tensor, Tensor]]:
    """Some training images as the network takes them, not augmented, with their targets, ``size`` at a time, on the
    task's device.
    """
    rows = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(seed))[:images]
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        inputs, targets = training_rows(task, some)
        yield task.prepare(inputs), targets
