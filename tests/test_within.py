"""Keeping to a list of operations."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from contracts import check_mutation, golden, sane_model
from networks import CASES, randomised

from netgraft.convert.onnx import to_onnx
from netgraft.errors import OptionError
from netgraft.ir import Graph, apply
from netgraft.mutations import Mutation
from netgraft.mutations.swap import Swap
from netgraft.mutations.within import ENGINES, Within, operations
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


def test_an_engine_stands_for_what_it_runs() -> None:
    assert operations("conv2d, relu") == {"conv2d", "relu"}
    assert operations("openvino") == ENGINES["openvino"] > OPS
    assert operations("frozen,openvino") == ENGINES["openvino"] | {"frozen"}
    with pytest.raises(OptionError, match=r"no operation 'tensorrt' to allow, and no engine .* onnxruntime, openvino"):
        operations("conv2d,tensorrt")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.op in ENGINES["openvino"]])
def test_openvino_runs_what_it_is_said_to_run(name: str) -> None:
    openvino = pytest.importorskip("openvino", reason="needs openvino, an optional engine")
    case = CASES[name]
    written = to_onnx(randomised(case.graph()))
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    given = {x.name: v.numpy() for x, v in zip(session.get_inputs(), case.inputs(), strict=True)}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(written), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kept = {name for port in compiled.inputs for name in port.names}  # an input read for its size alone is dropped
    fed = {name: value for name, value in given.items() if name in kept}
    for found, expected in zip(compiled(fed).values(), session.run(None, given), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
