"""From an exported program to a graph: node by node, with what it stores and names."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from netgraft.convert import aten, aten_layout
from netgraft.convert.calls import Call, DecompositionNeededError, Operand, Result, Stored, Untranslatable, unspaced
from netgraft.convert.computed import Computed, is_constant
from netgraft.convert.frozen import DTYPES, encode
from netgraft.convert.in_place import Writes, changes
from netgraft.convert.naming import Place, is_unnamed, named, unnamed
from netgraft.errors import ConversionError, GraphError, SourceError
from netgraft.ir import Batch, DType, Graph, Input, Node, TensorType, Value
from netgraft.ir.ops import definition

_RULES = aten.RULES | aten_layout.RULES
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_INLINED = ("wrap_with_set_grad_enabled", "wrap_with_autocast")
_BATCHES = (1, 2, 3, 5, 8, 13)


def size_of(size: int | torch.SymInt) -> int | Batch:
    """A dimension: fixed, or a multiple of the batch size (the only symbol); SourceError for anything else."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    sizes = [int(expression.subs(dict.fromkeys(expression.free_symbols, n))) for n in _BATCHES]
    if len(set(sizes)) == 1:
        return sizes[0]
    if sizes[0] > 0 and sizes == [sizes[0] * n for n in _BATCHES]:
        return Batch(sizes[0])
    raise SourceError(f"the size {expression} is no multiple of the batch size")


def type_of(tensor: Tensor) -> TensorType:
    """The type of a tensor; SourceError for an element type that the graph does not have."""
    if tensor.dtype not in DTYPES:
        raise SourceError(
            f"the network computes in {tensor.dtype}, which the graph does not have; let it compute in one of "
            f"{', '.join(sorted(set(map(str, DTYPES.values()))))}"
        )
    return TensorType(tuple(size_of(d) for d in tensor.shape), DTYPES[tensor.dtype])


def arrays(weights: Mapping[str, Stored]) -> dict[str, npt.NDArray[Any]]:
    """Weights that share the program's memory where they can; SourceError for an element type that numpy lacks."""
    return {key: _array(stored) for key, stored in weights.items()}


class Reader:
    """Reads one program once.

    ``training`` is the mode in which the program was exported, None if that is unknown: what agrees with it is taken
    to follow the mode, as dropout does; what disagrees is taken to be meant always.
    """

    def __init__(
        self, program: ExportedProgram, *, training: bool | None = None, apart: frozenset[str] = frozenset()
    ) -> None:
        self.results: dict[fx.Node, Any] = {}
        self._program = program
        self._training = training
        self._nodes: dict[str, Node] = {}
        self._types: dict[Value, TensorType] = {}
        self._places: dict[str, Place] = {}
        self._stored: dict[str, Stored] = {}
        self._computed = Computed(apart, self._store_computed)
        self._inlined = 0
        self._writes = Writes(self)
        self._place = Place("", "", "")

    def read(self) -> tuple[Graph, dict[str, Stored]]:
        """The graph and its weights (see :func:`arrays`); SourceError for what a graph cannot hold."""
        inputs = self._read_inputs()
        returned = self._run(self._program.graph_module, self._program.graph)
        outputs = self._read_outputs(returned)
        read = Graph(tuple(inputs), _needed(self._nodes, outputs), outputs)
        shared = self._computed.shared(read)
        if shared:
            return Reader(self._program, training=self._training, apart=self._computed.apart | shared).read()
        graph, keys = named(read, self._places)
        return graph, {new: self._stored[old] for new, old in keys.items()}

    # Inputs and outputs

    def _read_inputs(self) -> list[Input]:
        placeholders = {node.name: node for node in self._program.graph.nodes if node.op == "placeholder"}
        # Of the names of a tied weight the first one counts, as in named_parameters().
        names = {_memory(tensor): key for key, tensor in reversed(self._program.state_dict.items())}
        inputs = []
        for spec in self._program.graph_signature.input_specs:
            node = placeholders[spec.arg.name]
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                assert spec.target is not None
                held = self._program.state_dict.get(spec.target)
                tensor = self._program.constants[spec.target] if held is None else held
                if not isinstance(tensor, Tensor):
                    raise SourceError(f"the network holds {spec.target!r}, which is no tensor")
                key = names.get(_memory(tensor), spec.target)
                self.results[node] = self._store(key, tensor, spec.kind is InputKind.PARAMETER)
            elif spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument):
                type_ = type_of(node.meta["val"])
                if any(isinstance(d, Batch) for d in type_.shape[1:]):
                    raise SourceError(f"input {node.name!r} is {type_}; only its first dimension may be dynamic")
                inputs.append(Input(node.name, type_))
                self.results[node] = Value(node.name)
                self._types[Value(node.name)] = type_
            elif not isinstance(spec.arg, ConstantArgument):
                raise SourceError(f"input {node.name!r} is no tensor")
        if not inputs:
            raise SourceError("the network takes no tensor")
        return inputs

    def _store(self, key: str, tensor: Tensor, trainable: bool) -> Stored:
        stored = Stored(key, tensor.detach(), trainable)
        self._stored[key] = stored
        return stored

    def _store_computed(self, tensor: Tensor) -> Stored:
        stored = Stored(unnamed(len(self._stored)), tensor, trainable=True, computed=True)
        self._stored[stored.key] = stored
        return stored

    def _dtype(self, operand: Operand) -> DType:
        return self.type(operand).dtype

    def _read_outputs(self, returned: Sequence[Any]) -> tuple[Value, ...]:
        outputs = []
        for spec, operand in zip(self._program.graph_signature.output_specs, returned, strict=True):
            if spec.kind is OutputKind.BUFFER_MUTATION:
                if not str(spec.target).endswith(_STATISTICS):
                    raise changes(str(spec.target))
            elif spec.kind is OutputKind.USER_OUTPUT and operand is not None:
                if not isinstance(operand, Value | Stored):
                    raise SourceError(f"it returns {operand!r} besides tensors; let it return tensors only")
                outputs.append(self.value(operand))
        if not outputs:
            raise SourceError("it returns no tensor")
        return tuple(outputs)

    # Running through the program

    def _run(self, module: fx.GraphModule, graph: fx.Graph) -> Sequence[Any]:
        """Reads all nodes; what the graph returns."""
        for node in graph.nodes:
            if node.op == "get_attr":
                self.results[node] = getattr(module, str(node.target))
            elif node.op == "call_function":
                self.results[node] = self._call(node)
            elif node.op == "output":
                returned = self._look_up(node.args[0])
                return returned if isinstance(returned, list | tuple) else [returned]
        return []

    def _look_up(self, argument: Any) -> Any:
        """An argument with the results of nodes filled in, and sizes as ours."""
        if isinstance(argument, fx.Node):
            argument = self.results[argument]
        if isinstance(argument, torch.SymInt):
            return size_of(argument)
        if isinstance(argument, list | tuple):
            return [self._look_up(item) for item in argument]
        return argument

    def _call(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            return self._look_up(node.args[0])[node.args[1]]
        if isinstance(node.target, HigherOrderOperator):
            return self._inline(node)
        value = node.meta.get("val")
        if not isinstance(node.target, OpOverload):
            return value  # a number
        self._place = Place.of(node, name := _name(node.target))
        if free_unbacked_symbols(value):
            held = self._look_up(node.args[0]) if name == "item" else None
            if isinstance(held, Stored) and not held.trainable:
                return held.tensor.item()
            where = f" in {self._place.path}" if self._place.path else ""
            raise SourceError(
                f"how much {name}{where} returns depends on the values of tensors; let the network return what comes "
                "before that, and do the rest outside of it"
            )
        if not _holds_tensor(value):
            return value  # a number, or an assertion about one
        self._writes.note(node)
        if node.target._schema.is_mutable:
            if self._inlined:  # where it is unknown who else looks into what is written
                raise DecompositionNeededError(f"{node.target} writes without gradients")
            return self._writes.write(node, node.target)
        return self.apply(node.target, node)

    def _inline(self, node: fx.Node) -> Any:
        name = str(node.target)
        if name not in _INLINED:
            raise SourceError(f"it uses torch's {name}, which a graph cannot hold")
        if name == "wrap_with_autocast" and node.args[2]:
            raise DecompositionNeededError("it casts automatically")
        given = [self._look_up(arg) for arg in node.args]
        at = next(i for i, arg in enumerate(given) if isinstance(arg, fx.GraphModule))
        module = given[at]
        placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
        self.results.update(zip(placeholders, given[at + 1 :], strict=True))
        self._inlined += 1
        try:
            return self._run(module, module.graph)
        finally:
            self._inlined -= 1

    def again(self, node: fx.Node) -> Any:
        """What a call that was read gives now that something else stands where it looks."""
        if not isinstance(node.target, OpOverload):
            return self._call(node)
        self._place = Place.of(node, _name(node.target))
        return self.apply(node.target, node)

    def apply(self, target: OpOverload, node: fx.Node) -> Result:
        """What ``target``, or its form in place that ``node`` calls, gives: computed, translated or frozen."""
        arguments = self.bind(target, node)
        if is_constant(target, arguments):
            return self.fold(target, arguments)
        value = node.meta["val"]
        returned = value if isinstance(value, list | tuple) else [value]
        types = tuple(type_of(x) if isinstance(x, Tensor) else None for x in returned)
        used = frozenset(self._used(node)) if isinstance(value, list | tuple) else frozenset([0])
        reason, name = "the graph has no operation for it", unspaced(target)
        if target.namespace == "aten" and name in _RULES:
            try:
                result = self.translate(name, arguments, types, used)
                self._computed.note(result, target, arguments, self._dtype)
                return result
            except Untranslatable as error:
                reason = str(error)
        result = self._freeze(target, node, types, reason)
        self._computed.note(result, target, arguments, self._dtype)
        return result if isinstance(value, list | tuple) else result[0]

    def _used(self, node: fx.Node) -> Iterator[int]:
        """Which of several results something reads; new statistics of a batch norm are its own business."""
        for user in node.users:
            if user.users and user.name not in self._program.graph_signature.buffers_to_mutate:
                index = user.args[1]
                assert isinstance(index, int), "it is a getitem"
                yield index

    def bind(self, target: OpOverload, node: fx.Node) -> dict[str, Any]:
        """The arguments of a call by the names that ``target`` has for them, with the results of nodes filled in."""
        # What was called may be the form in place, whose defaults may be others.
        called: Any = node.target
        defaults = {arg.name: arg.default_value for arg in (*target._schema.arguments, *called._schema.arguments)}
        given = dict(zip((arg.name for arg in target._schema.arguments), node.args, strict=False)) | node.kwargs
        return {arg.name: self._look_up((defaults | given)[arg.name]) for arg in target._schema.arguments}

    def fold(self, target: OpOverload, arguments: Mapping[str, Any]) -> Result:
        """What does not depend on the input is computed now, views as views, so that writing in place works too."""
        computed = self._computed.run(target, arguments)
        parts = computed if isinstance(computed, list | tuple) else [computed]
        folded = tuple(self._store(unnamed(len(self._stored)), part, trainable=False) for part in parts)
        return folded if isinstance(computed, list | tuple) else folded[0]

    def translate(
        self, name: str, arguments: Mapping[str, Any], types: Sequence[TensorType | None], used: frozenset[int]
    ) -> Result:
        """What the rule of that name gives, by the types that PyTorch computed; Untranslatable where it cannot."""
        result = _RULES[name](Call(arguments, tuple(filter(None, types)), used, self))
        results = result if isinstance(result, tuple) else (result,)
        for index in used:
            part = results[index]
            if part is None:
                raise Untranslatable("a side result is used")
            if self.type(part) != types[index]:
                raise Untranslatable(f"the graph would compute {self.type(part)} in place of {types[index]}")
        return result

    def _freeze(
        self, target: OpOverload, node: fx.Node, types: Sequence[TensorType | None], reason: str
    ) -> tuple[Value, ...]:
        inputs: list[Value] = []

        def index(argument: object) -> int | None:
            if not isinstance(argument, Value | Stored):
                return None
            value = self.value(argument)
            if value not in inputs:
                inputs.append(value)
            return inputs.index(value)

        known = [type_ for type_ in types if type_ is not None]
        if len(known) != len(types):
            raise SourceError(f"{target} returns more than tensors")
        arguments = self.bind(target, node)
        arguments |= {
            name: _TRAINING for name in ("train", "training") if name in arguments and self.follows(arguments, name)
        }
        names = [arg.name for arg in target._schema.arguments]
        count = max(len(node.args), sum(not arg.has_default_value() for arg in target._schema.arguments))
        try:
            data = {name: value if value is _TRAINING else encode(value, index) for name, value in arguments.items()}
        except ConversionError as error:
            raise SourceError(f"{target}: {error}") from None
        positional = tuple(data[name] for name in names[:count])
        keywords = tuple((name, data[name]) for name in node.kwargs if name != "pin_memory")
        attrs = {"target": str(target), "args": positional, "kwargs": keywords, "types": tuple(known), "reason": reason}
        first = self.emit("frozen", *inputs, weights={}, attrs=attrs)
        return tuple(Value(first.node, i) for i in range(len(known)))

    # What the rules use

    def emit(self, op: str, *inputs: Value, weights: Mapping[str, Stored], attrs: Mapping[str, Any]) -> Value:
        """Adds a node; Untranslatable where its shape rule, or its weights, do not agree."""
        entry = definition(op)
        if op != "frozen" and any(isinstance(value, Batch | Value | Stored) for value in attrs.values()):
            raise Untranslatable("an attribute is computed")
        full = entry.complete(attrs)
        types = [self._types[value] for value in inputs]
        try:
            outputs = entry.infer(types, full)
        except GraphError as error:
            raise Untranslatable(str(error)) from None
        for role, expected in entry.weights(types, full).items():
            if self.type(weights[role]) != expected:
                raise Untranslatable(f"its {role} is {self.type(weights[role])}, not {expected}")
        id = f"%{len(self._nodes)}"
        self._nodes[id] = Node(id, op, inputs, full, {role: stored.key for role, stored in weights.items()})
        self._places[id] = self._place if op == "frozen" else replace(self._place, name=op)
        self._types.update((Value(id, i), type_) for i, type_ in enumerate(outputs))
        return Value(id)

    def value(self, operand: Operand) -> Value:
        """The operand as a value; a stored tensor becomes a constant node, one for each tensor."""
        if isinstance(operand, Value):
            return operand
        if is_unnamed(operand.key):  # which may be written into later: what it is now is meant
            now = f"{operand.key}:{operand.tensor._version}"
            operand = self._stored.setdefault(now, replace(operand, key=now, tensor=operand.tensor.clone()))
        id = f"%constant:{operand.key}"
        if id not in self._nodes:
            attrs = {"type": self.type(operand), "trainable": operand.trainable}
            self._nodes[id] = Node(id, "constant", (), attrs, {"value": operand.key})
            self._types[Value(id)] = self.type(operand)
            self._places[id] = self._place
        return Value(id)

    def type(self, operand: Operand) -> TensorType:
        """The operand's type."""
        return self._types[operand] if isinstance(operand, Value) else type_of(operand.tensor)

    def follows(self, arguments: Mapping[str, Any], name: str) -> bool:
        """Whether an argument that switches to training follows the mode of the network."""
        if "running_mean" in arguments and arguments["running_mean"] is None:
            return False  # a batch norm without statistics always normalises by the batch's
        return self._training is None or arguments[name] is self._training

    def tracked(self, running_mean: Stored) -> Stored:
        """The count of batches beside a running mean; a new one where the program has lost it."""
        key = running_mean.key.removesuffix("running_mean") + "num_batches_tracked"
        return self._stored.get(key) or self._store(key, torch.zeros((), dtype=torch.int64), trainable=False)

    def folded(self, operand: Value) -> Stored | None:
        """The operand as a stored tensor; None where it depends on the input or chance, and where the network reads its
        parameters in other places, too: these would not be the same any more.
        """
        return self._computed.weight(operand)

    def is_view(self, operand: Value) -> bool:
        """Whether an operand only shows a part of a parameter, or in another shape."""
        return self._computed.is_view(operand)

    def transposed(self, operand: Operand) -> Stored | None:
        """The stored matrix whose transpose the operand is."""
        node = self._nodes.get(operand.node) if isinstance(operand, Value) else None
        if node is None or node.op != "permute" or node.attrs["dims"] != (1, 0):
            return None
        source = self._nodes.get(node.inputs[0].node)
        return self._stored[source.weights["value"]] if source and source.op == "constant" else None


_TRAINING = ("training",)


def _memory(tensor: Tensor) -> tuple[object, ...]:
    if not tensor.numel():
        return (id(tensor),)
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _name(target: OpOverload) -> str:
    """``relu`` for ``aten.relu_.default``."""
    return target.__name__.split(".")[0].strip("_")


def _holds_tensor(value: object) -> bool:
    parts = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(part, Tensor) for part in parts)


def _array(stored: Stored) -> npt.NDArray[Any]:
    if stored.tensor.dtype is torch.bfloat16:
        raise SourceError(f"weight {stored.key!r} is bfloat16, which numpy lacks; call .float() on the network")
    if stored.tensor.dtype is torch.complex128:
        raise SourceError(f"weight {stored.key!r} is complex128, which safetensors lacks; keep it in complex64")
    array: npt.NDArray[Any] = np.asarray(stored.tensor.cpu().numpy(), order="C")
    return array


def _needed(nodes: Mapping[str, Node], outputs: Sequence[Value]) -> tuple[Node, ...]:
    """The nodes that the outputs depend on, in order."""
    needed = {value.node for value in outputs}
    for node in reversed(list(nodes.values())):
        if node.id in needed:
            needed.update(value.node for value in node.inputs)
    return tuple(node for node in nodes.values() if node.id in needed)
