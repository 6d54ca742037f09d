"""What ordinary code calls an operation: asked of PyTorch's dispatcher, never guessed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from netgraft.convert.operations import operation, public_name
from netgraft.errors import ConversionError
from netgraft.ir import Batch, DType, TensorType

X = TensorType((Batch(), 4, 8, 8))
FLAGS = TensorType((Batch(), 4, 8, 8), DType.BOOL)
INPUT = ("input", 0)


@pytest.mark.parametrize(
    ("target", "args", "inputs", "name"),
    [
        ("aten.roll.default", (INPUT, (1, 2), (2, 3)), (X,), "torch.roll"),
        ("aten.linalg_vector_norm.default", (INPUT, 2.0, (-1,), True), (X,), "torch.linalg.vector_norm"),
        ("aten.masked_fill.Scalar", (INPUT, ("input", 1), 0.5), (X, FLAGS), "torch.masked_fill"),
        ("aten.repeat.default", (INPUT, (1, 2, 1, 1)), (X,), ".repeat"),
        ("aten.im2col.default", (INPUT, (3, 3), (1, 1), (1, 1), (1, 1)), (X,), None),
        ("aten.arange.start", (0, 8), (), "torch.arange"),
        # A function of the same name that does something else than this overload.
        ("aten.split_with_sizes_copy.default", (INPUT, (1, 3), 1), (X,), "torch.split_with_sizes_copy"),
        ("aten._softmax.default", (INPUT, 1, False), (X,), None),
    ],
)
def test_the_name_in_ordinary_code(target: str, args: tuple[Any, ...], inputs: tuple[Any, ...], name: str) -> None:
    assert public_name(target, args, (), inputs) == (name or f"torch.ops.{target}")


def test_arguments_decide_what_a_name_means() -> None:
    """torch.max of two tensors is another operation than that of one and a dimension."""
    assert public_name("aten.max.dim", (INPUT, 1), (), (X,)) == "torch.max"
    assert public_name("aten.maximum.default", (INPUT, ("input", 1)), (), (X, X)) == "torch.maximum"


def test_the_same_name_with_another_meaning_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    public_name.cache_clear()
    monkeypatch.setattr(torch, "roll", lambda x, shifts, dims: torch.flip(x, dims))
    assert public_name("aten.roll.default", (INPUT, (3,), (2,)), (), (X,)) == ".roll"
    public_name.cache_clear()


@pytest.mark.parametrize("target", ["load_library", "aten.nothing.default", "aten.from_file.default", "os.system.x"])
def test_what_is_no_operation_is_refused(target: str) -> None:
    with pytest.raises(ConversionError, match="has no operation"):
        operation(target)
