from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from networks import CASES, NETWORKS, Case, mixed_batch_norm, randomised, residual, shared
from torch import nn

from netgraft.convert.lowering import LOWERED
from netgraft.convert.operations import operation
from netgraft.convert.to_torch import to_module, weights_of
from netgraft.errors import ConversionError
from netgraft.ir import OPS, Batch, Builder, Model, TensorType


def test_every_op_is_lowered_and_tested() -> None:
    assert OPS.keys() == LOWERED
    assert {case.op for case in CASES.values()} == OPS.keys()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_op_computes_what_it_should(case: Case) -> None:
    model = randomised(case.graph())
    node = model.graph["block.node"]
    inputs = case.inputs()
    weights = {role: torch.tensor(model.weights[key]) for role, key in node.weights.items()}
    expected = case.expected(*inputs, **weights)
    returned = to_module(model).eval()(*inputs)
    expected, returned = (x if isinstance(x, tuple) else (x,) for x in (expected, returned))
    types = [model.graph.types[value] for value in model.graph.outputs]
    for a, b, type_ in zip(expected, returned, types, strict=True):
        torch.testing.assert_close(b, a)
        assert tuple(b.shape) == type_.concrete(3)


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dict_has_the_keys_of_the_weights(name: str) -> None:
    model = randomised(NETWORKS[name]())
    module = to_module(model)
    assert module.state_dict().keys() == model.weights.keys()
    assert {key for key, _ in module.named_parameters()} == model.graph.trainable
    for key, array in weights_of(module).items():
        np.testing.assert_array_equal(array, model.weights[key])


def test_layers_are_modules_at_their_names() -> None:
    module = to_module(randomised(residual()))
    assert isinstance(module.get_submodule("stages.1.0.shortcut.0"), nn.Conv2d)
    assert isinstance(module.get_submodule("stem.1"), nn.BatchNorm2d)


def test_the_module_has_weights_of_its_own() -> None:
    model = randomised(residual())
    before = {key: array.copy() for key, array in model.weights.items()}
    module = to_module(model)
    module(torch.randn(4, 3, 8, 8)).sum().backward()
    torch.optim.SGD(module.parameters(), 0.1).step()
    after = weights_of(module)
    for key, array in before.items():
        np.testing.assert_array_equal(model.weights[key], array)
        assert not np.array_equal(after[key], array)
    copied = weights_of(module)
    copied["head.bias"][:] = 0
    assert not np.array_equal(weights_of(module)["head.bias"], copied["head.bias"])


def test_shared_weights_are_one_tensor() -> None:
    model = randomised(shared())
    module = to_module(model)
    x = torch.randn(2, 4, 6, 8)
    once = module(x)
    with torch.no_grad():
        module.get_parameter("same.weight").mul_(2)
        module.get_parameter("same.bias").mul_(2)
    doubled = dict(model.weights) | {k: model.weights[k] * 2 for k in ("same.weight", "same.bias")}
    torch.testing.assert_close(module(x), to_module(Model(model.graph, doubled))(x))
    assert not torch.allclose(once, module(x))


def reference_batch_norms() -> nn.Module:
    """What the graph ``mixed_batch_norm`` is in PyTorch's own layers."""
    model = randomised(mixed_batch_norm())
    one, two = nn.BatchNorm2d(4), nn.BatchNorm2d(4, momentum=None)
    network = nn.Sequential(one, nn.ReLU(), two)
    for layer, name in ((one, "one"), (two, "two")):
        state = {role: model.weights.get(f"{name}.{role}", model.weights["one.weight"]) for role in layer.state_dict()}
        layer.load_state_dict({role: torch.tensor(array) for role, array in state.items()})
    return network


def test_batch_norm_without_a_layer_trains_like_one() -> None:
    module, reference = to_module(randomised(mixed_batch_norm())), reference_batch_norms()
    for _ in range(3):
        x = torch.randn(5, 4, 6, 8)
        torch.testing.assert_close(module(x), reference(x))
    state = module.state_dict()
    torch.testing.assert_close(state["two.running_var"], reference[2].running_var)
    assert state["two.num_batches_tracked"] == 3
    x = torch.randn(5, 4, 6, 8)
    torch.testing.assert_close(module.eval()(x), reference.eval()(x))


def test_batch_statistics_follow_the_batches_in_training_only() -> None:
    module = to_module(randomised(residual()))
    before = weights_of(module)
    module.eval()(torch.randn(4, 3, 8, 8))
    assert all(np.array_equal(a, before[k]) for k, a in weights_of(module).items())
    module.train()(torch.randn(4, 3, 8, 8))
    changed = {k for k, a in weights_of(module).items() if not np.array_equal(a, before[k])}
    assert changed == model_buffers()


def model_buffers() -> set[str]:
    graph = residual()
    return set(graph.weight_types) - graph.trainable


@pytest.mark.parametrize("op", ["dropout", "dropout2d", "drop_path"])
def test_dropout_drops_in_training_only(op: str) -> None:
    b = Builder()
    module = to_module(Model(b.build(b.add(op, b.input("x", TensorType((Batch(), 50, 4, 4))), p=0.25)), {}))
    x = torch.ones(20, 50, 4, 4)
    assert torch.equal(module.eval()(x), x)
    dropped = module.train()(x)
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    channels = (dropped == 0).float().mean((2, 3))
    assert (set(channels.unique().tolist()) == {0.0, 1.0}) == (op != "dropout")
    assert (set(channels.mean(1).tolist()) == {0.0, 1.0}) == (op == "drop_path")


def test_any_batch_size() -> None:
    module = to_module(randomised(NETWORKS["tokens"]())).eval()
    images = torch.randn(7, 3, 8, 8)
    torch.testing.assert_close(module(images)[:2], module(images[:2]))


def test_the_module_can_be_copied_and_keeps_its_graph() -> None:
    module = to_module(randomised(residual())).eval()
    other = copy.deepcopy(module)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(other(x), module(x))
    with torch.no_grad():
        other.get_parameter("head.bias").add_(1)
    torch.testing.assert_close(other(x), module(x) + 1)


def test_inputs_are_counted() -> None:
    with pytest.raises(TypeError, match="takes 1 inputs, got 2"):
        to_module(randomised(residual()))(torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize("key", ["forward.weight", "a.training.weight", "a..weight"])
def test_a_key_that_no_module_can_hold(key: str) -> None:
    b = Builder()
    x = b.add(
        "conv2d",
        b.input("x", TensorType((Batch(), 3, 4, 4))),
        out_channels=2,
        kernel=(1, 1),
        bias=False,
        weights={"weight": key},
    )
    with pytest.raises(ConversionError, match=key.removesuffix(".weight")):
        to_module(randomised(b.build(x)))


@pytest.mark.parametrize(
    "target",
    [
        "load_library",
        "aten.roll",
        "aten.no_such_op.default",
        "aten.__class__",
        "",
        "os.system",
        "aten.from_file.default",
    ],
)
def test_only_operations_can_be_named(target: str) -> None:
    with pytest.raises(ConversionError, match="no operation"):
        operation(target)
