"""Reading PyTorch: batches, inputs, outputs, what is refused, and exported programs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from reading import IMAGE, Block, Function, assert_same, ops, randomised, read, run
from torch import Tensor, nn
from torch.export import Dim, export

from netgraft.convert.from_torch import from_exported, from_module
from netgraft.convert.to_torch import to_module
from netgraft.errors import SourceError
from netgraft.ir import Batch

# Batches, inputs, outputs


def test_a_batch_of_one_will_do() -> None:
    module = nn.Sequential(Block(), nn.Flatten())
    assert read(module, torch.randn(1, *IMAGE[1:])).graph == read(module, torch.randn(4, *IMAGE[1:])).graph


def test_a_batch_size_that_the_code_fixes_is_made_variable() -> None:
    def reversed_batch(x: Tensor) -> Tensor:
        parts = [x[i : i + 1] for i in range(len(x))]
        return torch.cat(parts[::-1])

    model = from_module(Function(lambda x: x.relu().reshape(len(list(range(x.shape[0]))), -1)), torch.randn(IMAGE))
    assert model.graph.signature.outputs[0].shape == (Batch(), 256)
    with pytest.warns(UserWarning, match="batches of 2 only"):
        model = from_module(Function(reversed_batch), torch.randn(IMAGE))
    assert model.graph.inputs[0].type.shape == IMAGE


def test_several_inputs_share_the_batch() -> None:
    module = Function(lambda x, y, scale: x * y.unsqueeze(2) + scale)
    inputs = torch.randn(3, 4, 5), torch.randn(3, 4), torch.randn(5)
    model = read(module, *inputs)
    assert [given.type.shape for given in model.graph.inputs] == [(Batch(), 4, 5), (Batch(), 4), (5,)]
    (ours,), (theirs,) = run(to_module(model), *inputs), run(module, *inputs)
    torch.testing.assert_close(ours, theirs)


def test_outputs_come_in_order_out_of_whatever_holds_them() -> None:
    @dataclass
    class Output:
        logits: Tensor
        features: Tensor

    # Not registered with torch.export, as users' are not.
    module = Function(lambda x: {"a": [x + 1, (x + 2, x + 3)], "b": Output(x + 4, x + 5), "c": None, "d": x})
    model = read(module, torch.zeros(2, 1))
    assert [int(y[0]) for y in run(to_module(model), torch.zeros(1, 1))] == [1, 2, 3, 4, 5, 0]


def test_outputs_that_are_no_tensors_are_left_out_and_named() -> None:
    with pytest.warns(UserWarning, match="returns int, str besides tensors"):
        model = from_module(Function(lambda x: (x + 1, "name", len(x))), torch.zeros(2, 1))
    assert int(to_module(model)(torch.zeros(1, 1))) == 1


def _with_frame(x: Tensor) -> Tensor:
    if x.sum() > 0:
        return x
    return -x


class Phases(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.ones(3, dtype=torch.complex128))

    def forward(self, x: Tensor) -> Tensor:
        return torch.view_as_real(x * self.turn)


REFUSED = {
    "values decide": (
        Function(_with_frame),
        torch.ones(2, 3),
        r"cannot be traced.*values of tensors.*test_inputs_and_outputs",
    ),
    "returns nothing": (Function(lambda x: None), torch.ones(2, 3), "no tensor"),
    "rare numbers": (
        Function(lambda x: x.to(torch.float8_e4m3fn).float()),
        torch.ones(2, 3),
        "float8_e4m3fn, .*one of",
    ),
    "doubly complex weights": (Phases(), torch.ones(2, 3), "'turn' is complex128, which safetensors lacks"),
    "wrong channels": (nn.Conv2d(3, 4, 1), torch.ones(2, 1, 4, 4), r"does not run .*\(2, 1, 4, 4\).*3 channels"),
    "no batch": (nn.Identity(), torch.tensor(1.0), "batch dimension"),
    "no tensor": (nn.Identity(), "x", "must be a tensor"),
}


@pytest.mark.parametrize(("module", "inputs", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_said_in_one_line(module: nn.Module, inputs: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        from_module(module, inputs)
    assert "\n" not in str(caught.value)


def test_a_buffer_that_changes_is_refused() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return x * self.count

    with pytest.raises(SourceError, match="'count'"):
        from_module(Counter(), torch.ones(2, 3))


# Exported programs


def _network() -> nn.Sequential:
    layers = (
        nn.Conv2d(4, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(216, 3),
    )
    net = randomised(nn.Sequential(*layers))
    assert isinstance(net, nn.Sequential)
    return net


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("decomposed", [True, False])
@pytest.mark.parametrize("dynamic", [True, False])
def test_exported_programs_come_back(training: bool, decomposed: bool, dynamic: bool) -> None:
    module, x = _network(), torch.randn(IMAGE)
    shapes = ({0: Dim("batch")},) if dynamic else None
    program = export(copy.deepcopy(module).train(training), (x,), dynamic_shapes=shapes, strict=False)
    if decomposed:
        program = program.run_decompositions()
    model = from_exported(program)
    assert "frozen" not in ops(model)
    assert set(model.weights) == set(module.state_dict())
    # Decomposing a network exported for evaluation loses its dropout.
    assert_same(module, model, x, training=training or not decomposed)


def test_dynamic_sizes_other_than_the_batch_are_refused() -> None:
    program = export(nn.ReLU(), (torch.randn(2, 3),), dynamic_shapes=({1: Dim("width")},), strict=False)
    with pytest.raises(SourceError, match="first dimension"):
        from_exported(program)


def test_pytorchcv_comes_back() -> None:
    models = pytest.importorskip("pytorchcv.models.seresnet_cifar")
    module = randomised(models.seresnet20_cifar10(pretrained=False))
    model = read(module, torch.randn(2, 3, 32, 32))
    assert "frozen" not in ops(model)
    assert_same(module, model, torch.randn(2, 3, 32, 32))
