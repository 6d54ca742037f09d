"""A network before training, run forwards and backwards on one mini-batch: what every proxy looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from netgraft.convert.operations import TORCH_DTYPES
from netgraft.convert.to_torch import to_module
from netgraft.errors import MeasureError, NetgraftError
from netgraft.ir import Batch, Graph, Model, Node, Value, untrained
from netgraft.ir.ops import CONVOLUTIONS, TRANSPOSED
from netgraft.tasks import Task
from netgraft.tasks.device import computing, moved, random_from, with_doubles
from netgraft.tasks.running import training_rows

LAYERS = CONVOLUTIONS | TRANSPOSED | {"linear"}
"""The operations whose weights are learned and mixed: what proxies call a layer."""

RECTIFIERS = frozenset({"relu", "relu6", "leaky_relu", "prelu", "elu", "gelu", "silu", "mish", "hardswish"})
"""Activations that are off, or nearly so, to one side of 0."""

_NOISE = frozenset({"dropout", "dropout2d", "drop_path"})

FAULTS = (NetgraftError, ArithmeticError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What running a network that somebody else wrote may raise."""

Loss = Callable[[Tensor | tuple[Tensor, ...], Sequence[Tensor]], Tensor]


@dataclass(frozen=True, eq=False)
class Minibatch:
    """Inputs [N, ...] of a network, one for each that it has, with targets [N, ...]; ``loss(outputs, targets)`` gives a
    scalar, outputs being what the network returns. ``origin`` says for people where it came from. Networks are run on
    the device that it is on.
    """

    inputs: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]
    loss: Loss
    origin: str = "given"

    def __len__(self) -> int:
        return len(self.targets[0])

    def halves(self) -> tuple[Minibatch, Minibatch]:
        """The first and the second half of the examples, the odd one left out."""
        n = len(self) // 2
        if not n or any(len(x) % len(self) for x in self.inputs):
            raise MeasureError("a mini-batch of one example, or without a batch dimension, cannot be halved")
        first, second = (
            replace(
                self,
                inputs=tuple(
                    x[k * n * (len(x) // len(self)) : (k + 1) * n * (len(x) // len(self))] for x in self.inputs
                ),
                targets=tuple(t[k * n : (k + 1) * n] for t in self.targets),
            )
            for k in (0, 1)
        )
        return first, second


def of_task(task: Task, size: int = 64, seed: int = 0) -> Minibatch:
    """Training examples of a task, not augmented, drawn by ``seed``, on the task's device; its own loss."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(task.train), generator=generator)[:size]
    inputs, targets = (moved(part, with_doubles(task.device)) for part in training_rows(task, rows))
    inputs = task.prepare(inputs)

    def loss(outputs: Tensor | tuple[Tensor, ...], targets: Sequence[Tensor]) -> Tensor:
        assert isinstance(outputs, Tensor), "tasks are for networks with one output"
        return task.loss(outputs, targets[0])

    return Minibatch((inputs,), (targets,), loss, f"{len(rows)} training images of {task.name}")


def at_random(graph: Graph, size: int = 64, seed: int = 0) -> Minibatch:
    """Normal numbers (zeros and ones for integers) with random targets: classes, and their cross-entropy, for a single
    output [N, C]; or else normal numbers for each output, and the mean squared difference from them.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: Sequence[int]) -> Tensor:
        return torch.randn(*shape, generator=generator)

    inputs = []
    for given in graph.inputs:
        kind, shape = TORCH_DTYPES[given.type.dtype], given.type.concrete(size)
        values = normal(shape) if kind.is_floating_point else torch.randint(0, 2, shape, generator=generator)
        inputs.append(values.to(kind))
    types = graph.signature.outputs
    if len(types) == 1 and types[0].rank == 2 and types[0].shape[0] == Batch():
        classes = torch.randint(0, types[0].concrete()[1], (size,), generator=generator)
        return Minibatch(tuple(inputs), (classes,), _cross_entropy, f"{size} random inputs with random classes")
    targets = tuple(normal(type_.concrete(size)) for type_ in types)
    return Minibatch(tuple(inputs), targets, _squared_difference, f"{size} random inputs with random targets")


def _cross_entropy(outputs: Tensor | tuple[Tensor, ...], targets: Sequence[Tensor]) -> Tensor:
    assert isinstance(outputs, Tensor), "for networks with one output"
    return F.cross_entropy(outputs.float(), targets[0])


def _squared_difference(outputs: Tensor | tuple[Tensor, ...], targets: Sequence[Tensor]) -> Tensor:
    given = (outputs,) if isinstance(outputs, Tensor) else outputs
    parts = [F.mse_loss(o.float(), t) for o, t in zip(given, targets, strict=True) if o.is_floating_point()]
    return torch.stack(parts).sum()


def anew(model: Model, seed: int = 0) -> Model:
    """The network before training: the weights of layers and normalisations are drawn anew, as ``seed`` says. What is
    stored (constants, tables) and what frozen operations hold stays as it is.
    """
    fresh = untrained(model.graph, model.name, seed).weights
    kept = {key for node in model.graph if node.op in ("frozen", "constant") for key in node.weights.values()}
    return replace(model, weights={key: model.weights[key] if key in kept else fresh[key] for key in fresh})


@dataclass(frozen=True, eq=False)
class Pass:
    """What one run forwards and backwards showed: ``values`` and the loss's gradients by them (zeros where it does not
    depend on one), and its gradients by the weights of layers, by key.
    """

    values: Mapping[Value, Tensor]
    gradients: Mapping[Value, Tensor]
    weights: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Probe:
    """A network with a mini-batch. Normalisations use the statistics of the batch, as in training; dropout and
    stochastic depth are left out. Runs that several proxies need are made once. The model is not changed.

    MeasureError where torch cannot run the network, or cannot differentiate it.
    """

    model: Model
    batch: Minibatch
    seed: int = 0
    layers: tuple[Node, ...] = field(init=False)

    def __post_init__(self) -> None:
        layers = tuple(node for node in self.model.graph if node.op in LAYERS)
        if not layers:
            raise MeasureError(f"{self.model.name} has no convolution or linear layer that netgraft knows")
        object.__setattr__(self, "layers", layers)

    @cached_property
    def whole(self) -> Pass:
        """A run on the mini-batch that shows what layers give, and what rectifiers read."""
        outputs = [node.value() for node in self.layers]
        read = [node.inputs[0] for node in self.model.graph if node.op in RECTIFIERS]
        return self.run(self.batch, tuple(dict.fromkeys([*outputs, *read])))

    @cached_property
    def halves(self) -> tuple[Pass, Pass]:
        """A run on either half of the mini-batch."""
        first, second = self.batch.halves()
        return self.run(first), self.run(second)

    def run(self, batch: Minibatch, shown: tuple[Value, ...] = ()) -> Pass:
        """Forwards and backwards once; ``shown`` are values of the graph to keep, with their gradients."""
        graph = without(self.model.graph, _NOISE)
        known = [value for value in shown if value.node in graph.returns]
        watched = Graph.known(graph.inputs, graph.nodes, (*graph.outputs, *known), graph.returns)
        keys = list(dict.fromkeys(node.weights["weight"] for node in self.layers))
        try:
            device = batch.inputs[0].device
            module = to_module(replace(self.model, graph=watched)).train()
            for parameter in module.parameters():
                parameter.data = _laid_out(parameter.data)
            parameters = dict(module.to(device).named_parameters())
            with torch.enable_grad(), computing(device), random_from(self.seed, device):
                found = module(*map(_laid_out, batch.inputs))
                given = (found,) if isinstance(found, Tensor) else found
                outputs, values = given[: len(graph.outputs)], given[len(graph.outputs) :]
                loss = batch.loss(outputs[0] if len(outputs) == 1 else outputs, batch.targets)
                gradients = gradients_of(loss, [*(parameters[key] for key in keys), *values])
        except FAULTS as error:
            raise MeasureError(f"{self.model.name} cannot be run forwards and backwards: {reason(error)}") from None
        return Pass(
            dict(zip(known, (value.detach() for value in values), strict=True)),
            dict(zip(known, gradients[len(keys) :], strict=True)),
            dict(zip(keys, gradients[: len(keys)], strict=True)),
        )


def _laid_out(x: Tensor) -> Tensor:
    """Images and their kernels channels-last, the layout in which convolutions are fastest; all else as it is."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def gradients_of(scalar: Tensor, by: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of ``scalar`` by each tensor; zeros where it does not depend on one."""
    wanted = [x for x in by if x.requires_grad]
    found: tuple[Tensor, ...] = ()
    if scalar.requires_grad and wanted:
        found = torch.autograd.grad(scalar, wanted, allow_unused=True, materialize_grads=True)
    known = {id(x): gradient for x, gradient in zip(wanted, found, strict=False)}
    return [known[id(x)] if id(x) in known else torch.zeros(x.shape, device=x.device) for x in by]


def without(graph: Graph, ops: frozenset[str]) -> Graph:
    """The graph with identities in place of these operations, which must keep the type of what they read."""
    if not any(node.op in ops for node in graph):
        return graph
    nodes = tuple(Node(node.id, "identity", node.inputs[:1]) if node.op in ops else node for node in graph)
    return Graph.known(graph.inputs, nodes, graph.outputs, graph.returns)


def reason(error: Exception) -> str:
    """The first line of what an error says."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
