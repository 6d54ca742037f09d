"""What a graph costs by counting alone: FLOPs, parameters, activation memory, and a cheap estimate of its latency.

Everything is for batch 1 in eval mode, deterministic, and measures nothing. A frozen node is opaque: it counts with the
bytes that it reads and writes and with no FLOPs; :func:`unknown` lists such nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Final

from netgraft.ir import Edit, Graph, Keep, Node, Region, Value
from netgraft.ir.ops import CONVOLUTIONS, TRANSPOSED


def flops(graph: Graph) -> int:
    """Floating-point operations: two per multiply-accumulate of convolutions, linear layers, matrix products and
    attention, nothing for the rest, as ``torch.utils.flop_counter`` counts them.
    """
    if "flops" not in graph.notes:
        graph.notes["flops"] = sum(2 * _macs(graph, node) for node in graph if node.op in _MULTIPLYING)
    count: int = graph.notes["flops"]
    return count


def flops_by_node(graph: Graph) -> dict[str, int]:
    """The FLOPs of every node by its id, in graph order; their sum is :func:`flops`."""
    return {node.id: 2 * _macs(graph, node) for node in graph}


def parameters(graph: Graph) -> int:
    """Number of trainable scalars; a tensor that several nodes share counts once."""
    if "parameters" not in graph.notes:
        tensors: dict[str, int] = {}
        for node in graph:
            if node.weights:
                types = node.definition.weights(graph.input_types(node), node.attrs)
                tensors |= {node.weights[role]: type_.numel() for role, type_ in types.items() if node.trains(role)}
        graph.notes["parameters"] = sum(tensors.values())
    known: int = graph.notes["parameters"]
    return known


def flops_change(graph: Graph, edit: Edit) -> int:
    """The FLOPs of the child less those of ``graph``, counted over the region and the replacement alone."""
    key = "flops", edit.region
    if key not in graph.notes:
        graph.notes[key] = sum(2 * _macs(graph, graph[id]) for id in edit.region.nodes)
    lost: int = graph.notes[key]
    return flops(edit.replacement) - lost


def parameters_change(graph: Graph, edit: Edit) -> int:
    """The parameters of the child less those of ``graph``, counted over the region and the replacement alone."""
    region, new = edit.region, edit.replacement
    note = "parameters", region
    if note not in graph.notes:
        keys = {key for id in region.nodes for key in graph[id].weights.values()} & graph.trainable
        lost = (graph.weight_types[key].numel() for key in keys if not _trained_outside(graph, region, key))
        graph.notes[note] = sum(lost)
    change: int = parameters(new) - graph.notes[note]
    for key, carry in edit.carry.items():
        # Only a kept tensor remains one with what is outside; any other becomes a tensor of its own.
        if key in new.trainable and carry == Keep(key) and _trained_outside(graph, region, key):
            change -= new.weight_types[key].numel()
    return change


def _trained_outside(graph: Graph, region: Region, key: str) -> bool:
    return any(graph[id].trains(role) for id, role in region.others(graph, key))


def unknown(graph: Graph) -> tuple[str, ...]:
    """Ids of the nodes whose computation nothing here can count."""
    return tuple(node.id for node in graph if node.op == "frozen")


_MULTIPLYING: Final = CONVOLUTIONS | TRANSPOSED | {"linear", "matmul", "attention"}


def _macs(graph: Graph, node: Node) -> int:
    if node.op not in _MULTIPLYING:
        return 0
    given = graph.input_types(node)
    x, out = given[0], graph.output_types(node)[0]
    groups: int = node.attrs.get("groups", 1)
    match node.op:
        case op if op in CONVOLUTIONS:
            return out.numel() * x.concrete()[1] // groups * _taps(node)
        case op if op in TRANSPOSED:
            return x.numel() * out.concrete()[1] // groups * _taps(node)
        case "linear" | "matmul":
            return out.numel() * x.concrete()[-1]
        case _:  # attention: query times key, then the scores times value
            keys, width, returned = given[1].concrete()[-2], x.concrete()[-1], out.concrete()[-1]
            return out.numel() // returned * keys * (width + returned)


def _taps(node: Node) -> int:
    """Number of positions in the window of a convolution or pooling."""
    return prod(node.attrs["kernel"])


# What returns its input's own memory at inference.
_VIEWS: Final = frozenset({"identity", "dropout", "dropout2d", "drop_path", "flatten", "reshape", "unflatten_like"})


def activation_memory(graph: Graph) -> int:
    """Peak bytes of activations when the nodes run in graph order and each tensor is freed after its last use.

    Inputs and outputs of the graph count, stored tensors (weights and constants) do not. Nothing runs in place.
    """
    # The tensor whose memory each value is in.
    storage = {Value(given.id): Value(given.id) for given in graph.inputs}
    for node in graph:
        for value in _outputs(graph, node):
            storage[value] = storage[node.inputs[0]] if node.op in _VIEWS else value
    last_use = {storage[value]: step for step, node in enumerate(graph) for value in node.inputs}
    last_use |= {storage[value]: len(graph) for value in graph.outputs}

    peak = sum(_bytes(graph, Value(given.id)) for given in graph.inputs)
    live = {Value(given.id) for given in graph.inputs} & last_use.keys()
    for step, node in enumerate(graph):
        if node.op != "constant":
            live |= {value for value in _outputs(graph, node) if storage[value] == value}
        peak = max(peak, sum(_bytes(graph, value) for value in live))
        live = {value for value in live if last_use.get(value, step) > step}
    return peak


def _outputs(graph: Graph, node: Node) -> list[Value]:
    return [node.value(i) for i in range(len(graph.output_types(node)))]


def _bytes(graph: Graph, value: Value) -> int:
    return graph.types[value].numel() * graph.types[value].dtype.bytes


@dataclass(frozen=True)
class Machine:
    """How fast one thread of a processor runs the kernels of an inference engine: the constants of the estimate.

    The defaults are those of onnxruntime 1.31 on a server processor with AVX-512, fitted to chains of equal layers as
    in ``benchmarks/fit_latency_estimate.py``. On another processor the estimate is off by a factor that ratios do not
    see, and by what does not scale alike: blocks of 8 channels with AVX2, say.
    """

    run: float = 4.6
    """Microseconds for each call, whatever the network."""
    kernel: float = 0.5
    """Microseconds for each kernel started."""
    bandwidth: float = 72.0
    """Gigabytes per second of activations, which come from a cache."""
    cache: float = 2.0
    """Megabytes of weights that stay close to the core from one call to the next."""
    weights: float = 23.0
    """Gigabytes per second of weights where they do not."""
    dense: float = 232.0
    """GFLOP/s of a convolution in the blocked layout, with many filters and a large map."""
    blocks: float = 0.47
    """Blocks of filters (up to four are computed at once) at which such a convolution reaches half of ``dense``."""
    border: float = 2.1
    """How many times longer an output takes whose window reaches over the left or right edge, less one."""
    depthwise: float = 155.0
    """GFLOP/s of a depthwise convolution."""
    plain: float = 180.0
    """GFLOP/s of a convolution that does not fit the blocked layout: unrolled into columns and multiplied."""
    plain_filters: float = 20.0
    """Filters per group at which such a convolution reaches half of ``plain``."""
    matrix: float = 160.0
    """GFLOP/s of a matrix product."""
    block: int = 16
    """Channels in a block of the blocked layout."""

    def padded(self, channels: int) -> int:
        """Channels that are computed where ``channels`` are needed."""
        return -(-channels // self.block) * self.block


CALIBRATED: Final = Machine()

# Nanoseconds per element of the output, beyond moving it, as measured behind convolutions.
_ELEMENT: Final = {
    op: cost
    for cost, ops in {
        0.0: "relu batch_norm add mul sub div add_scalar mul_scalar linear matmul conv_transpose2d",
        0.15: "leaky_relu clamp relu6 hardsigmoid hardswish exp",
        0.25: "sigmoid tanh silu",
        0.7: "gelu layer_norm",
        1.2: "group_norm",
        2.0: "elu",
        3.0: "prelu pixel_shuffle pixel_unshuffle",
        8.5: "softmax log_softmax",
        12.0: "softplus mish",
    }.items()
    for op in ops.split()
}
# The same for whatever is not listed: mostly copies of tensors.
_OTHER: Final = 0.3

# The same per element that a window or a reduction looks at.
_WINDOW: Final = 0.035
_REDUCED: Final = 0.4

# The same per element that is put from the blocked into the plain layout.
_REORDERED: Final = 1.2

# What onnxruntime computes inside the convolution before it.
_FUSED: Final = frozenset(
    {"batch_norm", "relu", "relu6", "leaky_relu", "clamp", "sigmoid", "tanh", "hardsigmoid", "hardswish"}
)


def latency_estimate(graph: Graph, machine: Machine = CALIBRATED) -> float:
    """Milliseconds that onnxruntime needs on one thread, roughly: for ranking networks and for ratios between them.

    For each fused kernel: a fixed start; the longer of computing, at a rate that depends on the kind of operation, its
    channels and its map, and of fetching the weights (a roofline: Williams, Waterman, Patterson, CACM 2009); and moving
    the activations.
    """
    return sum(latency_by_kernel(graph, machine).values(), machine.run / 1e3)


def latency_by_kernel(graph: Graph, machine: Machine = CALIBRATED) -> dict[str, float]:
    """Estimated milliseconds of every fused kernel, by the id of its first node."""
    cached = _weight_bytes(graph, graph.weight_types) <= machine.cache * 1e6
    fetch = machine.bandwidth if cached else machine.weights
    return {group[0].id: _kernel_time(graph, group, machine, fetch) for group in _kernels(graph)}


def _kernels(graph: Graph) -> Iterator[tuple[Node, ...]]:
    """Nodes that run as one kernel: a convolution with the batch norm, addition and activation that follow it."""
    taken: set[str] = set()
    for node in graph:
        if node.id in taken or node.op in _VIEWS or node.op == "constant":
            continue
        group = [node]
        if node.op in ("conv2d", "conv_transpose2d"):
            while (follower := _follower(graph, group)) is not None and follower.id not in taken:
                group.append(follower)
        taken.update(member.id for member in group)
        yield tuple(group)


def _follower(graph: Graph, group: list[Node]) -> Node | None:
    """The node that joins a convolution's kernel next, if any."""
    value = group[-1].value()
    users = graph.users.get(value, ())
    if len(users) != 1 or value in graph.outputs or group[-1].op in _FUSED - {"batch_norm"}:
        return None
    user = users[0]
    if user.op == "batch_norm":
        return user if len(group) == 1 else None
    if user.op == "add":
        same = all(graph.types[v] == graph.types[value] for v in user.inputs)
        return user if same and all(member.op != "add" for member in group) else None
    return user if user.op in _FUSED else None


def _kernel_time(graph: Graph, group: tuple[Node, ...], machine: Machine, fetch: float) -> float:
    """Milliseconds of a kernel whose weights come at ``fetch`` gigabytes per second."""
    inside = {node.id for node in group}
    moved = {value for node in group for value in node.inputs if value.node not in inside}
    activations = sum(_bytes(graph, value) for value in moved.union(_outputs(graph, group[-1])))
    weights = _weight_bytes(graph, group[0].weights.values())
    computing = sum(_computing(graph, node, machine) for node in group)
    # Weights are fetched ahead while computing, activations are not.
    return machine.kernel / 1e3 + max(computing, weights / fetch / 1e6) + activations / machine.bandwidth / 1e6


def _weight_bytes(graph: Graph, keys: Iterable[str]) -> int:
    types = (graph.weight_types[key] for key in keys)
    return sum(type_.numel() * type_.dtype.bytes for type_ in types)


def _computing(graph: Graph, node: Node, machine: Machine) -> float:
    """Milliseconds of arithmetic."""
    elements = sum(graph.types[value].numel() for value in _outputs(graph, node))
    match node.op:
        case "conv2d":
            return _convolving(graph, node, machine)
        case "max_pool2d" | "avg_pool2d":
            return elements * _taps(node) * _WINDOW / 1e6
        case "adaptive_avg_pool2d" | "adaptive_max_pool2d" | "mean" | "sum":
            return graph.input_types(node)[0].numel() * _REDUCED / 1e6
        case _:
            return 2 * _macs(graph, node) / machine.matrix / 1e6 + elements * _ELEMENT.get(node.op, _OTHER) / 1e6


def _convolving(graph: Graph, node: Node, machine: Machine) -> float:
    _, channels, *size = graph.input_types(node)[0].concrete()
    _, filters, height, width = graph.output_types(node)[0].concrete()
    groups: int = node.attrs["groups"]
    rows, columns = (_inside(node, axis, size[axis], out) for axis, out in enumerate((height, width)))
    # Outputs whose window reaches over an edge are computed one by one, those between them several at once.
    padding: int = node.attrs["padding"][1]
    edges = 2 * min(padding, width)
    steps = 2 * rows * columns * (1 + machine.border * edges / width) / 1e6
    per_group, filters_per_group = channels // groups, filters // groups
    if per_group == filters_per_group == 1 and groups > 1:
        return steps * machine.padded(channels) / machine.depthwise
    if groups == 1:
        blocked = channels < machine.block or channels % 4 == 0
    else:
        blocked = per_group % machine.block == 0 and filters_per_group % machine.block == 0
    if not blocked:
        rate = machine.plain * filters_per_group / (filters_per_group + machine.plain_filters)
        windows = height * width * channels * _taps(node)
        # Every window is written out and read again, in four bytes an element.
        unrolling = 8 * windows / machine.bandwidth if _taps(node) > 1 else 0.0
        return (2 * windows * filters_per_group / rate + unrolling) / 1e6
    at_once = min(machine.padded(filters_per_group) // machine.block, 4)
    rate = machine.dense * at_once / (at_once + machine.blocks)
    inner = channels if channels < machine.block else machine.padded(per_group)
    products = steps * groups * machine.padded(filters_per_group) * inner / rate
    # Less than a block of channels is read from the plain layout, into which all but the network's input must be put.
    source = node.inputs[0]
    reordered = channels < machine.block and source.node in graph
    return products + (graph.types[source].numel() * _REORDERED / 1e6 if reordered else 0.0)


def _inside(node: Node, axis: int, size: int, out: int) -> int:
    """Along one axis: how many pairs of an output and a tap of its window lie inside the map, not in its padding."""
    kernel, stride, padding, dilation = (node.attrs[name][axis] for name in ("kernel", "stride", "padding", "dilation"))
    return sum(0 <= i * stride - padding + tap * dilation < size for i in range(out) for tap in range(kernel))
