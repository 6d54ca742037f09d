"""Graphs as modules: a real ``nn.Module`` that trains, whose state dict has the keys of the model's weights."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from netgraft.convert.expressions import (
    BatchSize,
    Call,
    Constant,
    Data,
    Device,
    Expression,
    Layer,
    Operand,
    Training,
    Weight,
    function,
)
from netgraft.convert.frozen import constant
from netgraft.convert.lowering import expression, layer
from netgraft.convert.operations import TORCH_DTYPES
from netgraft.errors import ConversionError
from netgraft.ir import Batch, Graph, Model, Node, Value


def to_module(model: Model) -> Network:
    """The network as a module in training mode, with tensors of its own, on the CPU.

    ``state_dict()`` has the keys of the graph's weights: layers stand where their weights' keys say; weights that no
    layer holds are parameters, or buffers if training does not change them, at their key. Inputs and outputs are the
    graph's, in order; one output comes bare, several as a tuple. Any batch size.
    """
    graph = model.graph
    network = Network(graph)
    for key, type_ in graph.weight_types.items():
        # Copies, and casts where an edit computed in a wider type.
        tensor = torch.tensor(np.asarray(model.weights[key]), dtype=TORCH_DTYPES[type_.dtype])
        network.hold(key, tensor, trained=key in graph.trainable)
    return network


def skeleton(graph: Graph) -> Network:
    """The module of :func:`to_module` without weights, on the meta device: it computes shapes."""
    network = Network(graph)
    for key, type_ in graph.weight_types.items():
        shape = type_.concrete(1)
        network.hold(key, torch.empty(shape, dtype=TORCH_DTYPES[type_.dtype], device="meta"), trained=False)
    return network


def weights_of(module: nn.Module) -> dict[str, npt.NDArray[Any]]:
    """Copies of the module's weights by key; bfloat16, which numpy lacks, as float32."""
    return {key: _array(tensor) for key, tensor in module.state_dict().items()}


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    tensor = tensor.detach().cpu()
    return np.array((tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy())


@dataclass(frozen=True, slots=True)
class Placed:
    """A layer and the dotted name of its place in the module."""

    prefix: str
    layer: Layer


def placed_layers(graph: Graph) -> dict[str, Placed]:
    """The nodes, by id, that are written as layers; all others have to be expressions.

    A layer's keys are ``prefix.role`` for one prefix, right under which no other weight lies. Nodes that share all
    their keys and arguments are one layer, applied several times.
    """
    under: defaultdict[str, list[Node]] = defaultdict(list)
    for node in graph:
        for prefix in dict.fromkeys(key.rpartition(".")[0] for key in node.weights.values()):
            under[prefix].append(node)
    placed: dict[str, Placed] = {}
    for prefix, nodes in under.items():
        first = layer(nodes[0], graph.input_types(nodes[0]))
        if first and prefix and all(_is_layer(node, prefix, first, graph) for node in nodes):
            placed.update((node.id, Placed(prefix, first)) for node in nodes)
    return placed


def _is_layer(node: Node, prefix: str, form: Layer, graph: Graph) -> bool:
    named = all(key == f"{prefix}.{role}" for role, key in node.weights.items())
    return named and layer(node, graph.input_types(node)) == form


def batch_source(graph: Graph) -> tuple[Value, int, int]:
    """Where the batch size can be read: an input, its axis, and how many times the batch size that axis is."""
    for given in graph.inputs:
        for axis, dim in enumerate(given.type.shape):
            if isinstance(dim, Batch):
                return Value(given.id), axis, dim.times
    raise ConversionError("the graph needs the batch size, which none of its inputs has")


@dataclass(frozen=True, slots=True)
class _Step:
    """One node: the layer to apply or the expression to evaluate, and the values that nothing needs afterwards."""

    node: Node
    layer: str | None
    expression: Expression
    outputs: int
    done: tuple[Value, ...]


class Network(nn.Module):
    """A graph, run node by node. Its submodules and parameters are those of the weights' keys, and nothing else."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        placed = placed_layers(graph)
        # Outer layers first: a layer may lie under another one (``layer1.0`` and ``layer1.0.conv1``).
        for prefix, form in sorted({p.prefix: p.layer for p in placed.values()}.items(), key=lambda item: len(item[0])):
            # On the meta device no initial values are drawn: the weights come next.
            kwargs = {
                name: constant(v.kind, v.name) if isinstance(v, Constant) else v for name, v in form.kwargs.items()
            }
            self._place(prefix, getattr(nn, form.cls)(*form.args, **kwargs, device="meta"))
        self._inputs = tuple(Value(given.id) for given in graph.inputs)
        self._outputs = graph.outputs
        self._steps = _steps(graph, placed)
        self._graph = graph

    def hold(self, key: str, tensor: Tensor, *, trained: bool) -> None:
        """Puts a weight at its key, as a parameter if it is ``trained``, otherwise as a buffer."""
        prefix, _, name = key.rpartition(".")
        parent = self._inner(prefix)
        if name in parent._parameters or name in parent._buffers:
            parent._parameters.pop(name, None)
            parent._buffers.pop(name, None)
        try:
            if trained:
                parent.register_parameter(name, nn.Parameter(tensor, tensor.is_floating_point() or tensor.is_complex()))
            else:
                parent.register_buffer(name, tensor)
        except KeyError as error:
            raise ConversionError(f"no torch module can hold a weight called {key!r}: {error.args[0]}") from None

    def _place(self, prefix: str, module: nn.Module) -> None:
        outer, _, name = prefix.rpartition(".")
        try:
            self._inner(outer).add_module(name, module)
        except KeyError as error:
            raise ConversionError(f"no torch module can hold a layer called {prefix!r}: {error.args[0]}") from None

    def _inner(self, prefix: str) -> nn.Module:
        """The submodule at ``prefix``, made if there is none."""
        if not prefix:
            return self
        outer, _, name = prefix.rpartition(".")
        parent = self._inner(outer)
        if name not in parent._modules:
            self._place(prefix, nn.Module())
        return parent.get_submodule(name)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Runs the graph."""
        if len(inputs) != len(self._inputs):
            raise TypeError(f"the network takes {len(self._inputs)} inputs, got {len(inputs)}")
        values: dict[Value, Tensor] = dict(zip(self._inputs, inputs, strict=True))
        for step in self._steps:
            if step.layer is not None:
                result = self.get_submodule(step.layer)(values[step.node.inputs[0]])
            else:
                result = self._evaluate(step.expression, step.node, values)
            if step.outputs == 1:
                values[Value(step.node.id)] = result
            else:
                for index in range(step.outputs):
                    values[Value(step.node.id, index)] = result[index]
            for value in step.done:
                del values[value]
        outputs = tuple(values[value] for value in self._outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def _evaluate(self, what: Any, node: Node, values: dict[Value, Tensor]) -> Any:
        match what:
            case Operand(index):
                return values[node.inputs[index]]
            case Call(target, args, kwargs):
                arguments = [self._evaluate(arg, node, values) for arg in args]
                options = {name: self._evaluate(value, node, values) for name, value in kwargs.items()}
                return function(target)(*arguments, **options)
            case Weight(role):
                return reduce(getattr, node.weights[role].split("."), self)
            case Training():
                return self.training
            case BatchSize(times):
                value, axis, held = batch_source(self._graph)
                return values[value].shape[axis] * times // held
            case Device():
                return values[node.inputs[0]].device
            case Constant("device", name):
                return next((held.device for held in values.values()), torch.device(name))  # where the network runs
            case Constant(kind, name):
                return constant(kind, name)
            case Data(value):
                return value
            case list() | tuple():
                return type(what)(self._evaluate(item, node, values) for item in what)
        return what


def _steps(graph: Graph, placed: dict[str, Placed]) -> tuple[_Step, ...]:
    # Inputs stay: the caller holds them anyway, and the batch size is read from one.
    last: dict[Value, Node] = {
        value: users[-1] for value, users in graph.users.items() if value.node in graph and value not in graph.outputs
    }
    done: defaultdict[str, list[Value]] = defaultdict(list)
    for value, node in last.items():
        done[node.id].append(value)
    return tuple(
        _Step(
            node,
            placed[node.id].prefix if node.id in placed else None,
            expression(node, graph),
            len(graph.output_types(node)),
            tuple(done[node.id]),
        )
        for node in graph
    )
