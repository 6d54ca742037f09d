"""Sums of products: products of matrices, and layers where one operand is a weight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from reading import IMAGE, assert_same, only, ops, read
from torch import Tensor, nn

from netgraft.channels import channels
from netgraft.convert.einsum import as_layer, steps
from netgraft.convert.from_onnx import load_onnx
from netgraft.convert.onnx import to_onnx, verify
from netgraft.ir import Batch


class Mixed(nn.Module):
    """A sum of products of what comes in with a matrix."""

    def __init__(self, equation: str, turned: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.equation, self.turned = equation, turned
        self.weight, self.head = nn.Parameter(torch.randn(6, 4)), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        operands = (x, self.turned(self.weight) if self.turned else self.weight)
        return self.head(torch.einsum(self.equation, *(operands[::-1] if self.equation[0] == "o" else operands)))


AS_IT_IS = ["bchw,oc->bohw", "oc, bchw -> bohw", "bc...,oc->bo...", "oc,bc...->bo..."]


@pytest.mark.parametrize(
    ("equation", "turned"), [*((equation, None) for equation in AS_IT_IS), ("bchw,co->bohw", Tensor.t)]
)
def test_a_sum_of_products_with_a_weight_is_a_linear_layer(
    equation: str, turned: Callable[[Tensor], Tensor] | None
) -> None:
    module = Mixed(equation, turned)
    model = read(module, torch.randn(IMAGE))
    assert only(model, "linear").weights == {"weight": "weight"}
    assert {"matmul", "constant", "frozen"}.isdisjoint(ops(model))
    assert any("head" not in group.makers and len(group.units) == 6 for group in channels(model.graph).groups)
    assert_same(module, model, torch.randn(IMAGE))


@pytest.mark.parametrize(
    "equation", ["bchw,ch->bchw", "bchw,cc->bhw", "b...,...->b...", "bchw,o->bchwo", "bch,oc->boh"]
)
def test_what_is_no_layer_is_none(equation: str) -> None:
    assert as_layer(equation, (4, 2), 1) is None
    assert as_layer("bc,oc", (2, 2), 1) is not None


def test_a_matrix_the_other_way_round_keeps_its_name() -> None:
    module = Mixed("bchw,co->bohw")
    module.weight = nn.Parameter(torch.randn(4, 6))
    model = read(module, torch.randn(IMAGE))
    assert only(model, "constant").weights == {"value": "weight"} and "matmul" in ops(model)
    assert_same(module, model, torch.randn(IMAGE))


ONNX = [("bchw,oc->bohw", (6, 4)), ("co,bchw->bohw", (4, 6)), ("...c,cd", (8, 6)), ("bchw,chw->b", (4, 8, 8))]


@pytest.mark.parametrize(("equation", "shape"), ONNX)
def test_onnx_reads_them_as_torch_does(equation: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    first = equation.startswith("co")
    node = helper.make_node("Einsum", ["weight", "x"] if first else ["x", "weight"], ["y"], equation=equation)
    graph = helper.make_graph(
        [node],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "weight")],
    )
    path = tmp_path / "sum.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    model = load_onnx(path)
    assert "frozen" not in ops(model) and ("linear" in ops(model)) == (len(shape) == 2)
    assert verify(path.read_bytes(), model) < 1e-5 and verify(to_onnx(model), model) < 1e-5


SEVERAL = {
    "bi,oij,bj->bo": [(2, 5), (3, 5, 4), (2, 4)],  # a bilinear layer
    "bhld,bhsd,bhse->bhle": [(2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 7)],  # attention without a softmax
    "bi,ir,ro": [(2, 8), (8, 2), (2, 8)],  # low rank
    "b...c,cd,de,ef->b...f": [(2, 3, 3, 4), (4, 2), (2, 2), (2, 5)],
    "abc,cd,abd->ab": [(2, 3, 4), (4, 5), (2, 3, 5)],
}


@pytest.mark.parametrize(("equation", "shapes"), SEVERAL.items())
def test_a_sum_over_several_is_done_two_at_a_time(equation: str, shapes: list[tuple[int, ...]]) -> None:
    taken = steps(equation, shapes)
    assert len(taken) == len(shapes) - 1
    operands = left = [torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))) for shape in shapes]
    for step in taken:
        # Letters of our own stand for dots, which torch does not take.
        plain = step.equation.translate({0xE0 + i: "STUVWXYZ"[i] for i in range(8)})
        made = torch.einsum(plain, *(left[place] for place in step.places))
        left = [made, *(x for place, x in enumerate(left) if place not in step.places)]
    assert len(left) == 1 and torch.allclose(left[0], torch.einsum(equation, *operands), atol=1e-4)


def test_they_are_taken_from_left_to_right_where_they_make_a_product() -> None:
    assert [step.places for step in steps("ba,ac,cd->bd", [(Batch(), 8), (8, 2), (2, 8)])] == [(0, 1), (0, 1)]
    assert steps("bi,bj,bij->b", [(Batch(), 3), (Batch(), 4), (Batch(), 3, 4)])[0].places == (0, 2)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ab,bc,cc->a", [(2, 3), (3, 4), (4, 4)]),  # a diagonal
        ("ab,bc,ce->a", [(2, 3), (3, 4), (4, 5)]),  # e is in one alone
        ("a,b,c->abc", [(2,), (3,), (4,)]),
        ("ab,bc,cd->ad", [(2, 3), (1, 4), (4, 5)]),  # stretched
        ("ab", [(2, 3)]),
    ],
)
def test_what_cannot_be_done_by_products_has_no_steps(equation: str, shapes: list[tuple[int, ...]]) -> None:
    assert not steps(equation, shapes)


class Bilinear(nn.Module):
    """Every output a form of two parts of the input; and a layer of low rank before it."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(6, 2))
        self.form = nn.Parameter(torch.randn(3, 6, 4))

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.einsum("b...c,rc,or->b...o", x, self.down, self.up)
        return torch.einsum("bi,oij,bj->bo", mixed.mean(1), self.form, x.mean(1))


def test_sums_over_three_are_read_and_weights_among_them_are_layers() -> None:
    module = Bilinear()
    model = read(module, torch.randn(2, 8, 4))
    assert "frozen" not in ops(model)
    layers = [node.weights["weight"] for node in model.graph if node.op == "linear"]
    assert layers == ["down", "up"]
    assert {"down", "up", "form"} == set(model.weights)
    assert_same(module, model, torch.randn(2, 8, 4))
    assert verify(to_onnx(model), model) < 1e-5


def test_onnx_sums_over_three_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    held = {"form": rng.normal(size=(3, 8, 8)).astype(np.float32), "mix": rng.normal(size=(8, 8)).astype(np.float32)}
    node = helper.make_node("Einsum", ["x", "form", "mix"], ["y"], equation="bi,oij,jk->bok")
    graph = helper.make_graph(
        [node],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in held.items()],
    )
    path = tmp_path / "sum.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    model = load_onnx(path)
    assert "frozen" not in ops(model) and ops(model).count("matmul") == 2
    assert verify(path.read_bytes(), model) < 1e-4


@pytest.mark.parametrize("equation", ["bcij->bcji", "bcii->bci", "bcij->bci"])
def test_a_sum_over_one_operand_is_carried_as_it_is(equation: str) -> None:
    class Alone(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum(equation, torch.relu(x))

    model = read(Alone(), torch.randn(IMAGE))
    assert ops(model) == ["relu", "frozen"]
    assert_same(Alone(), model, torch.randn(IMAGE))
