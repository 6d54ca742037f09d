"""Hypothesis strategies for graphs, and ways to write the same graph differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import assume
from hypothesis import strategies as st

from netgraft.ir import Batch, Builder, Edit, Graph, Input, Keep, Node, Region, TensorType, Value

_POINTWISE = ("relu", "silu", "batch_norm", "identity", "leaky_relu", "dropout", "sigmoid")


@st.composite
def graphs(draw: st.DrawFn, max_nodes: int = 12) -> Graph:
    """Small image graphs with sums, concatenations, splits, shared weights, and one or two inputs and outputs."""
    b = Builder()
    size = draw(st.sampled_from([4, 6]))
    values = [
        b.input(f"x{i}", TensorType((Batch(), draw(st.sampled_from([2, 4])), size, size)))
        for i in range(draw(st.integers(1, 2)))
    ]
    for _ in range(draw(st.integers(1, max_nodes))):
        values.extend(_node(draw, b, values))
    outputs = draw(st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True))
    return b.build(*outputs)


def _node(draw: st.DrawFn, b: Builder, values: Sequence[Value]) -> list[Value]:
    x = draw(st.sampled_from(values))
    channels = b.type(x).concrete()[1]
    match draw(st.sampled_from(["pointwise", "conv", "shared", "join", "sub", "concat", "split"])):
        case "conv":
            k = draw(st.sampled_from([1, 3]))
            attrs = {"kernel": (k, k), "padding": (k // 2, k // 2), "bias": draw(st.booleans())}
            return [b.add("conv2d", x, out_channels=draw(st.sampled_from([2, 4])), **attrs)]
        case "shared":
            weights = {"weight": f"shared{channels}"}
            attrs = {"kernel": (1, 1), "bias": False}
            return [b.add("conv2d", x, out_channels=channels, weights=weights, **attrs)]
        case "join":
            alike = [v for v in values if b.type(v) == b.type(x)]
            others = draw(st.lists(st.sampled_from(alike), min_size=1, max_size=2))
            return [b.add(draw(st.sampled_from(["add", "mul"])), x, *others)]
        case "sub":
            return [b.add("sub", x, draw(st.sampled_from([v for v in values if b.type(v) == b.type(x)])))]
        case "concat" if channels <= 4:
            return [b.add("concat", x, draw(st.sampled_from(values)))]
        case "split" if channels > 1:
            first = b.add("split", x, sizes=(1, channels - 1))
            return [first, Value(first.node, 1)]
        case _:
            return [b.add(draw(st.sampled_from(_POINTWISE)), x)]


def renamed(graph: Graph) -> Graph:
    """The same graph with other ids and weight keys."""

    def new(value: Value) -> Value:
        return Value(f"{value.node}.new", value.index)

    return Graph(
        tuple(Input(f"{given.id}.new", given.type) for given in graph.inputs),
        tuple(
            replace(
                node,
                id=f"{node.id}.new",
                inputs=tuple(map(new, node.inputs)),
                weights={role: f"{key}.new" for role, key in node.weights.items()},
            )
            for node in graph
        ),
        tuple(map(new, graph.outputs)),
    )


@st.composite
def reordered(draw: st.DrawFn, graph: Graph) -> Graph:
    """The same graph in another topological order, with the inputs of commutative nodes in another order."""
    waiting = list(graph)
    done = {given.id for given in graph.inputs}
    nodes: list[Node] = []
    while waiting:
        ready = [node for node in waiting if all(v.node in done for v in node.inputs)]
        node = draw(st.sampled_from(ready))
        waiting.remove(node)
        done.add(node.id)
        inputs = tuple(draw(st.permutations(node.inputs))) if node.definition.commutative else node.inputs
        nodes.append(replace(node, inputs=inputs))
    return Graph(graph.inputs, tuple(nodes), graph.outputs)


@st.composite
def rerouted(draw: st.DrawFn, graph: Graph) -> Graph:
    """The graph with one to three of its edges, or outputs, coming from somewhere else of the same type."""
    nodes, outputs = list(graph.nodes), list(graph.outputs)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(nodes)))
        reads = list(nodes[at].inputs) if at < len(nodes) else outputs
        if not reads:
            continue
        i = draw(st.integers(0, len(reads) - 1))
        before = {node.id for node in nodes[:at]} | {given.id for given in graph.inputs}
        alike = [v for v, type_ in graph.types.items() if type_ == graph.types[reads[i]] and v.node in before]
        reads[i] = draw(st.sampled_from(alike))
        if at < len(nodes):
            nodes[at] = replace(nodes[at], inputs=tuple(reads))
    return Graph(graph.inputs, tuple(nodes), tuple(outputs))


@st.composite
def regions(draw: st.DrawFn, graph: Graph) -> Region:
    """A convex region that something reads; its nodes need not stand together."""
    # A window of any topological order is convex.
    order = draw(reordered(graph)).nodes
    size = draw(st.integers(1, len(order)))
    start = draw(st.integers(0, len(order) - size))
    region = Region.of(node.id for node in order[start : start + size])
    assume(region.boundary(graph)[1])
    return region


@st.composite
def edits(draw: st.DrawFn, graph: Graph) -> Edit:
    """A region replaced by one like it: other edges, more or fewer nodes, names that are taken, weights kept or not."""
    region = draw(regions(graph))
    segment = draw(rerouted(region.extract(graph)))
    names = st.sampled_from([node.id for node in graph])
    b = Builder()
    values = {Value(given.id): b.input(given.id, given.type) for given in segment.inputs}
    for node in segment:
        inputs = [values[v] for v in node.inputs]
        action = draw(st.sampled_from(["keep", "keep", "drop", "double"]))
        if action == "drop" and node.definition.pointwise:
            values[node.value()] = inputs[0]
            continue
        id = b.fresh_id(draw(names) if draw(st.booleans()) else node.id)
        new = b.add(node.op, *inputs, id=id, weights=node.weights, **node.attrs)
        for i in range(len(segment.returns[node.id])):
            values[node.value(i)] = Value(new.node, i)
        if action == "double":
            values[node.value()] = b.add("tanh", new, id=b.fresh_id(draw(names)))
    kept = [key for key in segment.weight_users if draw(st.booleans())]
    return Edit(region, b.build(*(values[v] for v in segment.outputs)), {key: Keep(key) for key in kept})
