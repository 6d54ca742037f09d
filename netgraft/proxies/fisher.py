"""Fisher potential: how much the loss would change if channels were taken away."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from netgraft.ir import OPS, Graph, Value

from .probe import Probe

_CHANNELS_FIRST = frozenset(op for op, definition in OPS.items() if "kernel" in definition.attrs) | {
    "batch_norm",
    "group_norm",
}
"""Convolutions, pools and norms, whatever the number of sides that their maps have."""


def fisher(probe: Probe) -> float:
    """The sum over all layers of :func:`fisher_potential`."""
    return sum(fisher_potential(probe).values())


def fisher_potential(probe: Probe, nodes: Sequence[str] | None = None) -> dict[str, float]:
    """The potential of each layer (convolutions and linear ones), or of the nodes named, by id: sum over channels k of
    1/2 mean over examples n of (sum over places of a_nk dL/da_nk)^2, a being what the node gives.

    Turner et al., "BlockSwap: Fisher-guided Block Substitution for Network Compression on a Budget", ICLR 2020, section
    3; "Neural Architecture Search as Program Transformation Exploration", ASPLOS 2021, where a transformed layer is
    legal if its potential is not below the original's: ask for the node that ends the layer before and after. Both look
    at the outputs of blocks; the sum over layers is Abdelfattah et al.'s (ICLR 2021). Channels are the second axis of
    maps (what has four axes, what convolutions, pools and batch norms give, and what activations and sums make of
    that) and the last one of everything else. GraphError for a node that does not exist.
    """
    graph = probe.model.graph
    if nodes is None:
        values = [node.value() for node in probe.layers]
        seen = probe.whole
    else:
        values = [graph[id].value() for id in nodes]
        seen = probe.run(probe.batch, tuple(dict.fromkeys(values)))
    return {v.node: _potential(seen.values[v], seen.gradients[v], _is_map(graph, v)) for v in values}


def _is_map(graph: Graph, value: Value) -> bool:
    """Whether a value is [N, C, sides...]: three axes may as well be those of a sequence [N, length, C]."""
    if graph.types[value].rank == 4:
        return True
    while value.node in graph and graph[value.node].op not in _CHANNELS_FIRST:
        node = graph[value.node]
        if node.op == "layer_norm" or not (node.definition.pointwise or node.definition.commutative):
            return False
        value = node.inputs[0]
    return value.node in graph


def _potential(activation: Tensor, gradient: Tensor, is_map: bool) -> float:
    effect = (activation * gradient).double()
    places = tuple(range(2, effect.ndim)) if is_map else tuple(range(1, effect.ndim - 1))
    if places:
        effect = effect.sum(places)
    return float(0.5 * effect.square().mean(0).sum())
