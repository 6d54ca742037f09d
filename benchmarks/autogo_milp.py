"""AutoGO's shape fitting ("resolution propagation"), written anew from its description with Pyomo and GLPK.

Salameh et al., "AutoGO" (NeurIPS 2023), section 3.3. One integer program over the height, width and channels that go
into and come out of every node. Edges equate them; convolutions and poolings may divide height and width by 1, 2 or 4,
and convolutions multiply channels by 0.5, 1 or 2, with one binary an option; a concatenation adds up its channels;
everything else keeps its size; the graph's inputs and outputs are given; the objective is the weighted deviation from
the segment's own sizes, height, width and channels taken together, nodes with more descendants weighing more. No size
is below 2. GLPK runs as a process of its own for every call; one that takes longer than TIME_LIMIT counts as unsolved.

What the description leaves open is settled in its favour: concatenations add up (the published code rejects them all),
strided depthwise convolutions shrink like any other (there they do not), and :class:`Counted` says both from where
factors may be counted. An operation that AutoGO does not know makes a segment infeasible before anything is solved.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from enum import Enum

import pyomo.environ as pyo

from netgraft.errors import GraphError
from netgraft.ir import Graph, Input, Node, Signature, Value

logging.getLogger("pyomo").setLevel(logging.ERROR)

_KEEPING = frozenset(["batch_norm", "relu", "relu6", "identity", "dropout"])
_POOLS = frozenset(["max_pool2d", "avg_pool2d"])
_KNOWN = _KEEPING | _POOLS | {"conv2d", "add", "concat"}
_LEAST = 2
TIME_LIMIT = 10
"""Seconds that GLPK may take for one program; a few keep it busy for minutes."""


class Counted(Enum):
    """What a node's factors multiply: what comes in, or what the node made in the segment."""

    FROM_INPUT = "from the node's input"
    FROM_OLD_SIZE = "from the segment's old sizes"


@dataclass(frozen=True)
class Unsolved:
    """Why there is no solution."""

    reason: str


def knows(segment: Graph) -> bool:
    """Whether the segment is made of AutoGO's operations, on images."""
    images = all(type.rank == 4 and all(isinstance(d, int) for d in type.shape[1:]) for type in segment.types.values())
    return images and all(node.op in _KNOWN for node in segment)


def resolve(segment: Graph, signature: Signature, counted: Counted) -> dict[Value, tuple[int, int, int]] | Unsolved:
    """Channels, height and width of every value, or why there are none."""
    if not knows(segment) or any(t.rank != 4 for t in signature.inputs + signature.outputs):
        return Unsolved("an operation or shape that AutoGO does not know")
    ends = [type.concrete()[1:] for type in (*segment.types.values(), *signature.inputs, *signature.outputs)]
    # A bound close to the sizes in play: the options are conditions whose slack it is.
    most = 4 * max(size for end in ends for size in end)
    model = pyo.ConcreteModel()
    model.rules = pyo.ConstraintList()
    model.sizes = pyo.VarList(domain=pyo.Integers, bounds=(_LEAST, most))
    model.options = pyo.VarList(domain=pyo.Binary)
    model.deviations = pyo.VarList(domain=pyo.NonNegativeReals)
    sizes = {value: tuple(model.sizes.add() for _ in range(3)) for value in segment.types}

    def fix(value: Value, shape: tuple[int, ...]) -> None:
        for variable, size in zip(sizes[value], shape, strict=True):
            model.rules.add(variable == size)

    def choose(result: pyo.Var, read: pyo.Var, old: int, factors: tuple[float, ...]) -> None:
        options = [model.options.add() for _ in factors]
        model.rules.add(sum(options) == 1)
        if counted is Counted.FROM_OLD_SIZE:
            model.rules.add(
                result == sum(int(old * factor) * option for factor, option in zip(factors, options, strict=True))
            )
            return
        for factor, option in zip(factors, options, strict=True):
            # If chosen: result = floor(factor * read).
            slack = 2 * most * (1 - option)
            if factor >= 1:
                model.rules.add(result - int(factor) * read <= slack)
                model.rules.add(result - int(factor) * read >= -slack)
            else:
                divisor = round(1 / factor)
                model.rules.add(divisor * result <= read + 2 * slack)
                model.rules.add(divisor * result >= read - (divisor - 1) - 2 * slack)

    for given, type in zip(segment.inputs, signature.inputs, strict=True):
        fix(Value(given.id), type.concrete()[1:])
    for node in segment:
        result, reads = sizes[node.value()], [sizes[v] for v in node.inputs]
        own = segment.types[node.value()].concrete()[1:]
        windowed = node.op in _POOLS or node.op == "conv2d"
        for axis in (1, 2):
            if windowed:
                choose(result[axis], reads[0][axis], own[axis], (1, 0.5, 0.25))
            else:
                for read in reads:
                    model.rules.add(result[axis] == read[axis])
        if node.op == "conv2d" and not _depthwise(segment, node):
            choose(result[0], reads[0][0], own[0], (0.5, 1, 2))
        elif node.op == "concat":
            model.rules.add(result[0] == sum(read[0] for read in reads))
        else:
            for read in reads:
                model.rules.add(result[0] == read[0])
    for value, type in zip(segment.outputs, signature.outputs, strict=True):
        fix(value, type.concrete()[1:])

    below = _descendants(segment)
    terms = []
    for node in segment:
        deviation = model.deviations.add()
        off = sum(sizes[node.value()]) - sum(segment.types[node.value()].concrete()[1:])
        model.rules.add(deviation >= off)
        model.rules.add(deviation >= -off)
        terms.append((1 + below[node.id]) * deviation)
    model.objective = pyo.Objective(expr=sum(terms), sense=pyo.minimize)
    result = pyo.SolverFactory("glpk").solve(model, load_solutions=False, timelimit=TIME_LIMIT)
    if result.solver.termination_condition != pyo.TerminationCondition.optimal:
        return Unsolved(str(result.solver.termination_condition))
    model.solutions.load_from(result)
    return {value: tuple(round(pyo.value(v)) for v in three) for value, three in sizes.items()}


def build(segment: Graph, signature: Signature, sizes: dict[Value, tuple[int, int, int]]) -> Graph:
    """The segment with these sizes; strides are what goes in over what comes out, rounded, and padding is "same".

    GraphError where that is no graph.
    """
    nodes = []
    for node in segment:
        (_, height, width), (channels, out_height, out_width) = sizes[node.inputs[0]], sizes[node.value()]
        changes: dict[str, object] = {}
        if node.op in _POOLS or node.op == "conv2d":
            changes["stride"] = (max(1, round(height / out_height)), max(1, round(width / out_width)))
            dilation = node.attrs.get("dilation", (1, 1))
            changes["padding"] = tuple(d * (k - 1) // 2 for k, d in zip(node.attrs["kernel"], dilation, strict=True))
        if node.op == "conv2d":
            changes["out_channels"] = channels
            if _depthwise(segment, node):
                changes["groups"] = channels
        nodes.append(replace(node, attrs={**node.attrs, **changes}))
    inputs = tuple(Input(given.id, type) for given, type in zip(segment.inputs, signature.inputs, strict=True))
    graph = Graph(inputs, tuple(nodes), segment.outputs)
    if graph.signature != signature:
        raise GraphError(f"the graph is {graph.signature} instead of {signature}")
    return graph


def _depthwise(segment: Graph, node: Node) -> bool:
    return bool(1 < node.attrs["groups"] == segment.types[node.inputs[0]].shape[1] == node.attrs["out_channels"])


def _descendants(segment: Graph) -> dict[str, int]:
    below: dict[str, set[str]] = {node.id: set() for node in segment}
    for node in reversed(segment.nodes):
        for value in node.inputs:
            if value.node in below:
                below[value.node] |= {node.id} | below[node.id]
    return {id: len(nodes) for id, nodes in below.items()}
