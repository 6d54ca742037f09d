"""Keeping to a list of operations."""

from __future__ import annotations

import numpy as np
import pytest
from contracts import check_mutation, golden, sane_model

from netgraft.errors import OptionError
from netgraft.ir import Graph, apply
from netgraft.mutations import Mutation
from netgraft.mutations.swap import Swap
from netgraft.mutations.within import Within
from netgraft.recipes.optimize import default_mutations

OPS = frozenset(["conv2d", "batch_norm", "relu", "add"])


def ops(graph: Graph) -> set[str]:
    return {node.op for node in graph}


def brought_in(mutation: Mutation, graph: Graph, most: int = 200) -> set[str]:
    """Operations of the first children that the graph itself lacks."""
    edits = mutation.edits(graph, sane_model(graph).weights, np.random.default_rng(0))
    return set().union(*(ops(apply(graph, edit)) for edit, _ in zip(edits, range(most), strict=False))) - ops(graph)


def test_edits_within_keep_the_promises_of_every_mutation() -> None:
    assert check_mutation(Within(Swap(), OPS), sane_model(golden("residual")), seeds=(0,), limit=100)


def test_no_operation_comes_in_that_is_not_allowed() -> None:
    graph = golden("residual")
    assert brought_in(Swap(), graph) - OPS, "otherwise this says nothing"
    assert brought_in(default_mutations(), graph, 60) - OPS
    assert brought_in(Within(Swap(), OPS), graph) <= OPS
    assert brought_in(default_mutations(ops=OPS), graph, 60) <= OPS


def test_operations_that_do_not_exist_are_named() -> None:
    with pytest.raises(OptionError, match="there is no operation 'conv'"):
        default_mutations(ops=frozenset(["conv"]))
