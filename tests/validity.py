"""Is every child a network? What is promised of one, checked against torch, against onnxruntime and by doing it again.

Four questions; each returns what it found wrong, and an exception on the way is a finding too:

- :func:`check_edit`: is the child what the edit says it is, and does it say of itself what a fresh look at it says?
- :func:`check_text`: is it the same when it has been written and read?
- :func:`check_run`: does torch run it, forward and backward, in the shapes, with the parameters and FLOPs it declares?
- :func:`check_onnx`: does onnxruntime compute what torch computes?

A child is its parent but for the replacement, so a sound parent (:func:`check_run`, once), a sound edit and a sound
replacement (:func:`check_run` of it alone, on random inputs of its declared types) make a child of sound shapes, counts
and gradient paths. That is much cheaper than running whole children. It proves nothing of numbers (a root of what was
never negative before, say), for which some children are run as a whole.
"""

from __future__ import annotations

import copy
import json
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import TracebackType

import numpy as np
import onnxruntime
import torch
from contracts import sane_model
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from netgraft.convert.onnx import ROUNDING, to_onnx
from netgraft.convert.operations import TORCH_DTYPES
from netgraft.convert.to_torch import to_module
from netgraft.costs.analytic import flops, flops_change, parameters, parameters_change
from netgraft.ir import Edit, Graph, Input, Model, Node, Value, apply, inherit, parse, render
from netgraft.ir.text import edit_from_data, edit_to_data

KINDS = ("edit", "text", "digest", "weights", "builds", "shapes", "gradients", "parameters", "flops", "onnx")
"""What can be wrong with a child, in the order in which it is looked at."""
MOST_FLOPS, MOST_NUMBERS = 200_000_000, 10_000_000
"""Of a graph that is computed: see :func:`is_affordable`. ``MOST_NUMBERS`` are weights and activations at batch 1."""


@dataclass(frozen=True)
class Failure:
    """One finding: which promise (of :data:`KINDS`) is broken, and how."""

    kind: str
    message: str


@dataclass(frozen=True)
class _Finding(AbstractContextManager[None, bool]):
    """Whatever is raised inside becomes a failure of this kind."""

    kind: str
    found: list[Failure]

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        place = traceback.extract_tb(trace)[-1]
        self.found.append(Failure(self.kind, f"{type(error).__name__} at {place.name}:{place.lineno}: {error}"))
        return True


def check_edit(parent: Model, edit: Edit) -> tuple[Graph | None, list[Failure]]:
    """The child of ``edit``, and what is wrong with it as data.

    The edit applies and survives JSON; signature, nodes and types outside the region are the parent's, and nothing that
    was read dangles; a graph made anew from the child's nodes has the child's types and digest; what the edit is said
    to add to FLOPs and parameters is what counting the child anew gives; the weights resolve, all of them finite and of
    the declared shapes.
    """
    found: list[Failure] = []
    child: Graph | None = None
    with _Finding("edit", found):
        child = apply(parent.graph, edit)
        found += _outside(parent.graph, edit, child)
        if edit_from_data(json.loads(json.dumps(edit_to_data(edit)))) != edit:
            found.append(Failure("edit", "the edit read from its own JSON is another edit"))
    if child is None:
        return None, found
    with _Finding("digest", found):
        anew = Graph(child.inputs, child.nodes, child.outputs)
        if dict(anew.types) != dict(child.types) or dict(anew.weight_types) != dict(child.weight_types):
            found.append(Failure("shapes", "the shape rules give other types than the child declares"))
        if anew.digest != child.digest:
            found.append(Failure("digest", f"the child says {child.digest}, its nodes {anew.digest}"))
        for kind, count, change in (("flops", flops, flops_change), ("parameters", parameters, parameters_change)):
            said, counted = change(parent.graph, edit), count(anew) - count(parent.graph)
            if said != counted:
                found.append(Failure(kind, f"the edit is said to add {said}, it adds {counted}"))
    with _Finding("weights", found):
        if not is_affordable(edit.replacement):
            return child, found
        weights, inheritance = inherit(parent.graph, edit, parent.weights, np.random.default_rng(0))
        child.check_weights(weights)
        strange = [key for key, tensor in weights.items() if not np.isfinite(tensor).all()]
        if strange or not 0 <= inheritance.share <= 1 or inheritance.total != parameters(child):
            found.append(Failure("weights", f"inherited {inheritance}, not finite: {strange}"))
    return child, found


def _outside(parent: Graph, edit: Edit, child: Graph) -> Iterator[Failure]:
    """What the edit changed outside its region, or left without a reader."""
    if child.signature != parent.signature:
        yield Failure("edit", f"the child is {child.signature}, the parent {parent.signature}")
    for node in parent:
        if node.id in edit.region.nodes:
            continue
        if node.id not in child:
            yield Failure("edit", f"{node.id} lies outside the region and is gone")
        elif replace(child[node.id], inputs=node.inputs) != node:
            yield Failure("edit", f"{node.id} lies outside the region and is another node now")
    other = [v for v in parent.types if v.node not in edit.region.nodes and child.types.get(v) != parent.types[v]]
    if other:
        yield Failure("edit", f"{other} lie outside the region and have other types")
    gone = _dangling(child) - _dangling(parent)
    if gone:
        yield Failure("edit", f"nothing reads {sorted(gone)} any more")


def _dangling(graph: Graph) -> set[str]:
    """Nodes and inputs that no output of the graph depends on."""
    needed: set[str] = {value.node for value in graph.outputs}
    for node in reversed(graph.nodes):
        if node.id in needed:
            needed |= {value.node for value in node.inputs}
    return ({node.id for node in graph} | {given.id for given in graph.inputs}) - needed


def is_affordable(graph: Graph) -> bool:
    """Whether the graph is computed; a larger one is only built and run as shapes, on torch's meta device."""
    numbers = parameters(graph) + sum(type_.numel() for type_ in graph.types.values())
    return flops(graph) <= MOST_FLOPS and numbers <= MOST_NUMBERS


def check_text(graph: Graph) -> list[Failure]:
    """Whether a graph, written and read again, is the same in every node, type and digit of its digest."""
    found: list[Failure] = []
    with _Finding("text", found):
        read = parse(render(graph))
        if read.nodes != graph.nodes or read.digest != graph.digest or dict(read.types) != dict(graph.types):
            found.append(Failure("text", "the graph read from its own text is another one"))
    return found


def check_run(graph: Graph, seed: int = 0) -> list[Failure]:
    """What torch finds wrong with a graph, under random weights and inputs.

    Every value of the graph has the declared shape and element type, at batch 2 in training mode and at batch 1 in eval
    mode; a random sum of the outputs has a finite gradient for every trainable weight; parameters and FLOPs are those
    that torch counts. A graph that is not affordable runs, forward and backward, on torch's meta device, which has
    shapes and no numbers.
    """
    found: list[Failure] = []
    values = tuple(v for v in graph.types if v.node in graph)
    everything = Graph(graph.inputs, graph.nodes, graph.outputs + values)
    device = "cpu" if is_affordable(graph) else "meta"
    with _Finding("builds", found):
        with torch.device(device):
            module = to_module(sane_model(everything, seed) if device == "cpu" else _blank(everything))
        returned = _tuple(module(*random_inputs(graph, 2, seed, device)))
        outputs = returned[: len(graph.outputs)]
        found += _shapes(graph, values, returned[len(outputs) :], 2)
        found += _gradients(module, outputs, seed)
        if sum(p.numel() for p in module.parameters()) != parameters(graph):
            count = sum(p.numel() for p in module.parameters())
            found.append(Failure("parameters", f"counted {parameters(graph)}, torch has {count}"))
        # The counter asks for gradient functions, which a view of a parameter without gradients does not have.
        module.eval().requires_grad_(False)
        inputs = random_inputs(graph, 1, seed, device)
        attends = any(node.op == "attention" for node in graph)
        # Spelled out, attention is a matrix product, which torch's counter knows.
        spelled = sdpa_kernel(SDPBackend.MATH) if attends else nullcontext()
        with FlopCounterMode(display=False) as counter, torch.no_grad(), spelled:
            returned = _tuple(module(*inputs))
        found += _shapes(graph, values, returned[len(outputs) :], 1)
        if counter.get_total_flops() != flops(graph):
            found.append(Failure("flops", f"counted {flops(graph)}, torch counts {counter.get_total_flops()}"))
    return found


def _blank(graph: Graph) -> Model:
    """Weights that take no memory."""
    return Model(graph, {key: np.broadcast_to(np.float32(0), t.concrete()) for key, t in graph.weight_types.items()})


def _shapes(graph: Graph, values: Sequence[Value], tensors: Sequence[Tensor], batch: int) -> Iterator[Failure]:
    for value, tensor in zip(values, tensors, strict=True):
        type_ = graph.types[value]
        if tuple(tensor.shape) != type_.concrete(batch) or tensor.dtype is not TORCH_DTYPES[type_.dtype]:
            real = f"{tensor.dtype} {tuple(tensor.shape)}"
            yield Failure("shapes", f"{value} is declared {type_} and is {real} at batch {batch}")
        if tensor.is_floating_point() and not tensor.is_meta and not tensor.isfinite().all():
            yield Failure("shapes", f"{value} is not finite at batch {batch}")
            break  # nor is what follows from it


def _gradients(module: torch.nn.Module, outputs: Sequence[Tensor], seed: int) -> Iterator[Failure]:
    """None is a weight that no output depends on; zeros are left alone (a dead ReLU, a bias before a batch norm)."""
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not trained:
        return
    generator = torch.Generator().manual_seed(seed)
    told = [o for o in outputs if o.requires_grad]
    drawn = [torch.randn(o.shape, generator=generator).to(o) for o in told]
    gradients: Sequence[Tensor | None] = [None] * len(trained)
    if told:
        gradients = torch.autograd.grad(told, list(trained.values()), drawn, allow_unused=True)
    for name, gradient in zip(trained, gradients, strict=True):
        if gradient is None:
            yield Failure("gradients", f"no output depends on {name}")
        elif not gradient.is_meta and not gradient.isfinite().all():
            yield Failure("gradients", f"the gradient of {name} is not finite")


def check_onnx(graph: Graph, seed: int = 0, tolerance: float = 1e-4) -> list[Failure]:
    """Where onnxruntime, at batch 1 and 3, computes something else than torch in eval mode.

    Differences are relative to the greatest magnitude of each output, so that a small one is not taken for equal. A
    network that magnifies rounding errors may be off by ``ROUNDING`` times what torch's float32 is from its float64.
    """
    found: list[Failure] = []
    with _Finding("onnx", found):
        model = sane_model(graph, seed)
        session = _session(to_onnx(model))
        module = to_module(model).eval()
        for batch in (1, 3):
            inputs = random_inputs(graph, batch, seed)
            with torch.no_grad():
                expected = [o.numpy() for o in _tuple(module(*inputs))]
            feeds = {given.name: x.numpy() for given, x in zip(session.get_inputs(), inputs, strict=True)}
            for i, (ours, theirs) in enumerate(zip(expected, session.run(None, feeds), strict=True)):
                scale = np.abs(ours).max(initial=0.0) or 1.0
                off = np.abs(theirs - ours).max(initial=0.0) / scale if ours.shape == theirs.shape else np.inf
                if not off <= tolerance and not off * scale <= ROUNDING * _rounding(module, inputs, i):
                    found.append(Failure("onnx", f"output {i} is off by {off:.2g} of its scale at batch {batch}"))
    return found


def _rounding(module: nn.Module, inputs: Sequence[Tensor], index: int) -> float:
    """How far an output in float32 is from that in float64."""
    wide = [x.double() if x.is_floating_point() else x for x in inputs]
    with torch.no_grad():
        narrow, exact = _tuple(module(*inputs))[index], _tuple(copy.deepcopy(module).double()(*wide))[index]
    return float((narrow - exact).abs().max())


def _session(data: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def random_inputs(graph: Graph, batch: int, seed: int, device: str = "cpu") -> tuple[Tensor, ...]:
    """Normally distributed inputs of the graph's types; zeros and ones for integers."""
    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for given in graph.inputs:
        kind, shape = TORCH_DTYPES[given.type.dtype], given.type.concrete(batch)
        whole = not kind.is_floating_point
        tensor = torch.randint(0, 2, shape, generator=generator) if whole else torch.randn(shape, generator=generator)
        inputs.append(tensor.to(kind).to(device))
    return tuple(inputs)


def _tuple(returned: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return returned if isinstance(returned, tuple) else (returned,)


def side_by_side(graphs: Sequence[Graph]) -> Graph:
    """One graph of several that have nothing to do with each other: quicker to export than each by itself."""
    inputs: list[Input] = []
    nodes: list[Node] = []
    outputs: list[Value] = []
    for i, graph in enumerate(graphs):
        values = {value: Value(f"g{i}.{value.node}", value.index) for value in graph.types}
        inputs += [Input(values[Value(given.id)].node, given.type) for given in graph.inputs]
        for node in graph:
            keys = {role: f"g{i}.{key}" for role, key in node.weights.items()}
            nodes.append(
                replace(node, id=f"g{i}.{node.id}", inputs=tuple(values[v] for v in node.inputs), weights=keys)
            )
        outputs += [values[value] for value in graph.outputs]
    return Graph(tuple(inputs), tuple(nodes), tuple(outputs))
