"""Reading PyTorch: a module or an exported program becomes a graph with weights.

``torch.export`` traces; its training IR is what is read, because dropout and batch norm still stand in it as
themselves, so that the graph serves evaluation and training. Where a network writes into part of a tensor, that IR has
no functional reading, and the decomposed one (``run_decompositions({})``) is read instead. A module is traced in both
modes: in evaluation for what it computes, in training for the dropout that only shows there.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import math
import re
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.nn.parameter import is_lazy

from netgraft.convert import onnx_foreign
from netgraft.convert.calls import DecompositionNeededError, Stored
from netgraft.convert.decisions import Decisions, decisions
from netgraft.convert.expressions import function
from netgraft.convert.image_sizes import with_image_sizes
from netgraft.convert.program import Reader, arrays
from netgraft.convert.quiet import quiet
from netgraft.convert.training import differing, first_outputs, with_drop_paths, without_dropout
from netgraft.errors import GraphError, SourceError
from netgraft.ir import Batch, Graph, Input, Model, Node, TensorType, Value

_FIRST_LINE = 200
_NETGRAFT = Path(__file__).parent.parent
_NO_DROPOUT = re.compile(r"(dropout\.default\([^,()]+, 0\.0), (?:True|False)")


def from_module(module: nn.Module, example_inputs: Tensor | tuple[Tensor, ...], *, name: str | None = None) -> Model:
    """The network that ``module`` is, for any batch size; the module itself is left as it is.

    ``example_inputs`` are what ``forward`` is called with; the first dimension of the first one is the batch. Node ids
    are module paths, weight keys the names in ``state_dict()``. Outputs are the tensors that ``forward`` returns, in
    order, out of whatever tuples, dicts or dataclasses hold them. Operations without a counterpart are frozen nodes.

    Weights that the module computes from its parameters each time (weight standardisation or normalisation, low-rank
    adapters) are read as computed, so that their layers are layers as all others. A UserWarning says so, and where the
    result is less than the module: a batch size that could not be made variable, code that only training runs, or
    outputs that are no tensors. SourceError, in one line, where the module does not run on the inputs or cannot be
    traced.
    """
    name = name or type(module).__name__
    args = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    if not args or not all(isinstance(x, Tensor) and x.ndim for x in args):
        raise SourceError(f"{name}: the example inputs must be a tensor, or a tuple of tensors, with a batch dimension")
    original = _copy(module, name)
    returned = _returned(original.eval(), args, name)
    rest = sorted({type(part).__name__ for part in _parts(returned) if not isinstance(part, Tensor | None)})
    if rest:
        _warn(f"{name} returns {', '.join(rest)} besides tensors, which is left out")
    args = _widened(args)
    try:
        read = _read(_export(_twin(original).eval(), args, dynamic=True), name, training=False)
        dynamic = _has_batch(read.graph)
    except Exception:  # whatever it was, it will come again unless the variable batch was the reason
        dynamic = False
    if not dynamic:
        try:
            program = _export(_twin(original).eval(), args, dynamic=False)
        except Exception as error:
            raise SourceError(
                f"{name} cannot be traced by torch.export: {reason(error)}. Rewrite that part, or export the network "
                "yourself and give the .pt2 file"
            ) from None
        read = _read(program, name, training=False)
        read = replace(read, graph=_with_variable_batch(read.graph, name))
    graph, weights = _with_training(read, name, original, args, dynamic)
    model = _model(graph, weights, name)
    sketch = _twin(original, "meta")
    return with_image_sizes(model, lambda *xs: _tensors(original(*xs)), lambda *xs: _tensors(sketch(*xs)), args)


def from_exported(program: ExportedProgram, *, name: str = "network") -> Model:
    """The network in an exported program, as :func:`from_module` reads it.

    A program exported without ``dynamic_shapes`` has a fixed batch size; it is made variable where that follows from
    the graph, and a UserWarning says so where it does not. A program knows one mode: exported for evaluation, it cannot
    tell ``x + dropout(x)`` from ``dropout(x) + dropout(x)``; export for training where that matters.

    SourceError for what a graph cannot hold: outputs that are no tensors, buffers that the network changes as it runs,
    control flow, dynamic sizes other than the batch.
    """
    read = _read(program, name, training=None)
    graph = read.graph if _has_batch(read.graph) else _with_variable_batch(read.graph, name)
    model = _model(graph, read.weights, name)
    return replace(model, weights={key: array.copy() for key, array in model.weights.items()})  # not the program's


def _returned(module: nn.Module, args: tuple[Tensor, ...], name: str) -> Any:
    """What the module returns for one example, or for all of them where it does not run on one."""
    batch = args[0].shape[0]
    with torch.no_grad(), quiet():
        if batch > 1:
            with contextlib.suppress(Exception):
                return module(*(x[:1].clone() if x.shape[0] == batch else x.clone() for x in args))
        try:
            return module(*(x.clone() for x in args))
        except Exception as error:
            shapes = ", ".join(str(tuple(x.shape)) for x in args)
            raise SourceError(f"{name} does not run on example inputs of shape {shapes}: {reason(error)}") from None


def reason(error: BaseException) -> str:
    """What went wrong in one line: the first line of the message, and where it happened: in what torch called if it
    called anything, and rather in the user's own code than in a package.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and "data-dependent" in lines[0]:
        lines = ["what it does depends on the values of tensors"]
    text = lines[0][:_FIRST_LINE].rstrip(".:") if lines else type(error).__name__
    library = Path(torch.__file__).parent
    framework = (Path(sysconfig.get_path("stdlib")), _NETGRAFT, library)
    inner, places = False, []
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        inner |= path.is_relative_to(library)
        if path.is_file() and not any(path.is_relative_to(part) for part in framework):
            places.append(((inner, not path.is_relative_to(library.parent)), f"{path.name}, line {frame.lineno}"))
    best = max((rank for rank, _ in places), default=None)
    return f"{text} ({next(place for rank, place in reversed(places) if rank == best)})" if places else text


def _twin(module: nn.Module, device: str | None = None) -> nn.Module:
    """A copy to export, with the same tensors, or with ones on another device: a failed export may leave what it traced
    unusable.
    """
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    moved: dict[int, Any] = {key: _moved(tensor, device) if device else tensor for key, tensor in tensors.items()}
    return copy.deepcopy(module, moved)


def _moved(tensor: Tensor, device: str) -> Tensor:
    there = tensor.detach().to(device)
    return nn.Parameter(there, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else there


def _copy(module: nn.Module, name: str) -> nn.Module:
    """A copy with tensors of its own."""
    if any(map(is_lazy, (*module.parameters(), *module.buffers()))):
        raise SourceError(f"{name} has lazy layers without sizes yet; call it once on the example inputs first")
    # Tensors that the module computed, as torch.nn.utils.weight_norm does, cannot be copied with their history.
    held = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    try:
        copied = copy.deepcopy(module, {id(x): x.detach().clone() for x in held if not x.is_leaf})
    except Exception as error:
        raise SourceError(f"{name} cannot be copied: {reason(error)}") from None
    for part in copied.modules():
        # In evaluation a momentum of None, a cumulative average, would be traced as 0: NaN survives.
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.momentum is None:
            part.momentum = math.nan
    return copied


def _widened(args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs with a batch of at least two: torch.export takes a size of one for fixed."""
    if args[0].shape[0] != 1:
        return args
    return tuple(torch.cat([x, x]) if x.shape[0] == 1 else x for x in args)


def _parts(returned: Any) -> Iterator[Any]:
    """What a network returns, in order, out of the containers that hold it."""
    if dataclasses.is_dataclass(returned) and not isinstance(returned, Mapping):
        returned = [getattr(returned, entry.name) for entry in dataclasses.fields(returned)]
    elif isinstance(returned, Mapping):
        returned = list(returned.values())
    if isinstance(returned, list | tuple):
        for part in returned:
            yield from _parts(part)
    else:
        yield returned


def _tensors(returned: Any) -> tuple[Tensor, ...]:
    return tuple(part for part in _parts(returned) if isinstance(part, Tensor))


def _export(module: nn.Module, args: tuple[Tensor, ...], *, dynamic: bool) -> ExportedProgram:
    collection: Callable[[], Any] = ShapesCollection
    shapes = collection()
    forward = module.forward

    # Tensors only: torch.export takes no containers that are not registered with it.
    @functools.wraps(forward)
    def flat(*given: Any, **named: Any) -> tuple[Tensor, ...]:
        return _tensors(forward(*given, **named))

    module.forward = flat
    args = tuple(x.detach().clone() for x in args)
    for x in args:
        if dynamic and x.shape[0] == args[0].shape[0]:
            shapes[x] = {0: Dim.AUTO}
    # The fused operations that torch's attention takes in evaluation only would say nothing of its parts.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with quiet():
            return torch.export.export(module, args, strict=False, dynamic_shapes=shapes)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@dataclasses.dataclass(frozen=True)
class _Read:
    """A network as read, from ``program``: the one that was ``traced``, or that decomposed."""

    graph: Graph
    weights: dict[str, Stored]
    traced: ExportedProgram
    program: ExportedProgram


def _read(
    traced: ExportedProgram, name: str, *, training: bool | None, program: ExportedProgram | None = None
) -> _Read:
    """Reads what was traced, or ``program``, which computes the same."""
    program = program or traced
    try:
        try:
            return _Read(*Reader(program, training=training).read(), traced, program)
        except DecompositionNeededError:
            with quiet():
                program = program.run_decompositions({})
            return _Read(*Reader(program, training=training).read(), traced, program)
    except (SourceError, GraphError) as error:
        raise SourceError(f"{name} cannot be read: {error}") from None


def _model(graph: Graph, weights: Mapping[str, Stored], name: str) -> Model:
    computed = [key for key, stored in weights.items() if stored.computed]
    if computed:
        others = f" and {len(computed) - 1} more" if len(computed) > 1 else ""
        _warn(
            f"{name} computes {computed[0]}{others} from its parameters each time, as weight standardisation does; "
            "what is computed is read as a weight, and training will change that"
        )
    try:
        return Model(graph, arrays(weights), name)
    except SourceError as error:
        raise SourceError(f"{name} cannot be read: {error}") from None


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=4)


def _has_batch(graph: Graph) -> bool:
    return any(isinstance(d, Batch) for given in graph.inputs for d in given.type.shape)


def _with_training(
    read: _Read, name: str, module: nn.Module, args: tuple[Tensor, ...], dynamic: bool
) -> tuple[Graph, dict[str, Stored]]:
    """What was read, with the dropout that only training shows. Warns of any other difference, which is left out."""
    try:
        traced, depends = _export_training(module, args, dynamic)
        # Decomposing takes longer than tracing: what is the same in both modes is decomposed once.
        program = read.program if _is_same(traced, read.traced) else None
        trained = _read(traced, name, training=True, program=program)
        graph = first_outputs(trained.graph, len(read.graph.outputs))
        graph = with_drop_paths(generalise(graph) if not dynamic and _has_batch(read.graph) else graph)
    except Exception as error:
        _warn(f"what {name} computes in training could not be traced, and is taken to be the same: {reason(error)}")
        return read.graph, read.weights
    weights = {key: stored for key, stored in trained.weights.items() if key in graph.weight_types}
    plain, evaluated = without_dropout(graph), without_dropout(read.graph)
    if plain.digest == evaluated.digest and _agree(read.weights, weights):
        if depends:
            _warn(f"of {name} in training, {depends}; the graph does what it did for the example inputs")
        more = len(trained.graph.outputs) - len(graph.outputs)
        if more:
            _warn(f"{name} returns {more} more tensor{'s' if more > 1 else ''} in training, which the graph does not")
        return graph, weights
    first, *others = [*differing(plain, evaluated), "the order of its operations"]
    where = f"{first} and {len(others) - 1} more" if len(others) > 1 else first
    _warn(
        f"{name} computes something else in training ({where}), which is left out: the graph has what evaluation runs"
    )
    return read.graph, read.weights


def _export_training(module: nn.Module, args: tuple[Tensor, ...], dynamic: bool) -> tuple[ExportedProgram, str]:
    """The module traced in training, and where it decides by the values of tensors, such as whether they are finite:
    there it is traced as it decides for ``args``.
    """
    try:
        return _export(_twin(module).train(), args, dynamic=dynamic), ""
    except Exception as error:
        with quiet():
            heard = decisions(copy.deepcopy(module).train(), args)
        if not heard:
            raise
        left = iter(heard)
        with Decisions(lambda x: next(left)):
            return _export(_twin(module).train(), args, dynamic=dynamic), reason(error)


def _agree(a: Mapping[str, Stored], b: Mapping[str, Stored]) -> bool:
    """Whether what was computed while reading is the same in both."""
    return all(key in b and torch.equal(x.tensor, b[key].tensor) for key, x in a.items() if x.computed)


def _is_same(a: ExportedProgram, b: ExportedProgram) -> bool:
    """Whether two programs of one module are the same code on the same constants, but for dropout of nothing."""
    codes = [
        [_NO_DROPOUT.sub(r"\1", m.code) for m in p.graph_module.modules() if isinstance(m, fx.GraphModule)]
        for p in (a, b)
    ]
    return codes[0] == codes[1] and (
        a.constants.keys() == b.constants.keys()
        and all(isinstance(x, Tensor) and torch.equal(x, b.constants[key]) for key, x in a.constants.items())
    )


def _with_variable_batch(graph: Graph, name: str) -> Graph:
    try:
        return generalise(graph)
    except GraphError as error:
        _warn(f"{name} was read for batches of {graph.inputs[0].type.shape[0]} only: {error}")
        return graph


def generalise(graph: Graph) -> Graph:
    """A graph of fixed shapes for any batch size, the first dimension of its first input being the batch.

    What is reshaped keeps the batch in front. GraphError where a node does not allow that.
    """
    size = graph.inputs[0].type.shape[0]
    assert isinstance(size, int)
    types: dict[Value, TensorType] = {}
    inputs = []
    for given in graph.inputs:
        held = given.type.shape[:1] == (size,)
        type_ = given.type.with_shape((Batch(), *given.type.shape[1:])) if held else given.type
        inputs.append(Input(given.id, type_))
        types[Value(given.id)] = type_
    nodes = []
    for node in graph:
        read = [types[value] for value in node.inputs]
        if any(isinstance(d, Batch) for type_ in read for d in type_.shape):
            node = replace(node, attrs=_general_attrs(node, graph, read, size))
        nodes.append(node)
        for index, type_ in enumerate(node.definition.infer(read, node.attrs)):
            if type_.concrete(size) != graph.types[Value(node.id, index)].shape:
                raise GraphError(f"{node.id} would compute {type_}")
            types[Value(node.id, index)] = type_
    return Graph(tuple(inputs), tuple(nodes), graph.outputs)


_SHAPES = frozenset(["size", "sizes", "shape", "repeats"])


def _general_attrs(node: Node, graph: Graph, read: list[TensorType], size: int) -> dict[str, Any]:
    attrs = dict(node.attrs)
    if node.op in ("reshape", "expand"):
        attrs["shape"] = _general_shape(node, read[0].shape, attrs["shape"], size)
    elif node.op == "frozen" and onnx_foreign.is_foreign(attrs):
        types = onnx_foreign.infer(onnx_foreign.frozen(attrs), read, lambda size: {})
        if types is None:
            raise GraphError(f"{node.id} ({attrs['target']}) may depend on the batch size")
        attrs["types"] = types
    elif node.op == "frozen":
        operation: Any = function(f"torch.ops.{attrs['target']}")
        leading = {graph.types[value].shape[0] for value, type_ in zip(node.inputs, read, strict=True) if type_.shape}
        if any(arg.name in _SHAPES for arg in operation._schema.arguments) or any(
            not type_.shape or type_.shape[0] not in leading for type_ in attrs["types"]
        ):
            raise GraphError(f"{node.id} ({attrs['target']}) may depend on the batch size")
        attrs["types"] = tuple(
            type_.with_shape(_general_shape(node, read[0].shape, type_.shape, size)) for type_ in attrs["types"]
        )
    return attrs


def _general_shape(node: Node, read: tuple[Any, ...], shape: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    if not isinstance(read[0], Batch) or not shape or shape[0] % size:
        raise GraphError(f"{node.id} ({node.op}) moves the batch from the first dimension")
    return (Batch(shape[0] // size), *shape[1:])
