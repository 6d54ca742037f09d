"""FLOPs as AutoGO (Salameh et al., NeurIPS 2023) and GENNAPE count them, to compare with what they publish.

Twice a multiply-accumulate, and batch norms, activations, sums and pools count too; a sum of n terms counts n times for
each element. A linear layer counts a bias that it may not have. Parameters need no counter of their own:
:func:`netgraft.costs.analytic.parameters` agrees.
"""

from __future__ import annotations

from typing import Final

from netgraft.errors import GraphError
from netgraft.ir import Graph, Node

_BY_ELEMENT: Final = frozenset({"add", "mul", "max_pool2d", "avg_pool2d", "mean"})
_FREE: Final = frozenset(
    {
        *("identity", "dropout", "dropout2d", "drop_path", "concat", "slice", "split", "pad"),
        *("flatten", "reshape", "unflatten_like"),
    }
)


def autogo_flops(graph: Graph) -> int:
    """FLOPs at batch 1; GraphError, naming the node, for an operation that nothing like it stands for in AutoGO.

    An activation that AutoGO lacks counts as those that it has, once for each element.
    """
    return 2 * sum(_operations(graph, node) * max(1, len(set(node.inputs))) for node in graph)


def _operations(graph: Graph, node: Node) -> int:
    if node.op in _FREE:
        return 0
    given, out = graph.input_types(node), graph.output_types(node)[0]
    match node.op:
        case "conv2d":
            height, width = node.attrs["kernel"]
            inner = given[0].concrete()[1] // node.attrs["groups"]
            return int(out.numel() * (height * width * inner + node.attrs["bias"]))
        case "linear":
            return out.numel() * (given[0].concrete()[-1] + 1)
        case "batch_norm":
            return 2 * out.numel()
    if node.op in _BY_ELEMENT or node.definition.pointwise:
        return out.numel()
    raise GraphError(f"{node.id}: AutoGO's count of FLOPs knows no {node.op}")
