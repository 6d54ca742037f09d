"""Fisher potential: how much the loss would change if channels were taken away."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .probe import Probe


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
    maps and the last one of everything else. GraphError for a node that does not exist.
    """
    graph = probe.model.graph
    if nodes is None:
        values = [node.value() for node in probe.layers]
        seen = probe.whole
    else:
        values = [graph[id].value() for id in nodes]
        seen = probe.run(probe.batch, tuple(dict.fromkeys(values)))
    return {value.node: _potential(seen.values[value], seen.gradients[value]) for value in values}


def _potential(activation: Tensor, gradient: Tensor) -> float:
    effect = (activation * gradient).double()
    if effect.ndim == 4:
        effect = effect.sum((2, 3))
    elif effect.ndim > 2:
        effect = effect.sum(tuple(range(1, effect.ndim - 1)))
    return float(0.5 * effect.square().mean(0).sum())
