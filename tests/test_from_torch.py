"""Reading PyTorch: what comes back computes what went in, for any batch, in evaluation and in training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from reading import IMAGE, Block, Function, assert_same, only, ops, randomised, read, run
from torch import Tensor, nn
from torch.nn import functional as F

from netgraft import zoo
from netgraft.convert import aten, aten_layout
from netgraft.convert.from_torch import from_module
from netgraft.convert.frozen import constant, encode
from netgraft.convert.source import emit
from netgraft.convert.to_torch import to_module
from netgraft.errors import ConversionError, SourceError
from netgraft.ir import Batch, DType, Model, TensorType, parse, render

ZOO: dict[str, dict[str, object]] = {
    "resnet20": {},
    "vgg11": {},
    "squeezenet": {},
    "shufflenet_v2": {"width": 0.5},
    "edsr": {"blocks": 2},
    "unet": {},
    "vit_tiny": {"blocks": 2},
}
"""Every kind of operation in the zoo, each in a network that is quick to trace."""


@pytest.mark.parametrize("name", ZOO)
def test_zoo_comes_back(name: str) -> None:
    module = randomised(zoo.build(name, **{"width": 0.25} | ZOO[name]))
    x = torch.randn(2, 3, 32, 32)
    model = read(module, x)
    assert "frozen" not in ops(model)
    assert set(model.weights) == set(module.state_dict())
    assert model.graph.inputs[0].type == TensorType((Batch(), 3, 32, 32))
    assert_same(module, model, x)


def test_a_wrong_weight_would_be_noticed() -> None:
    module = randomised(zoo.build("resnet20", width=0.25))
    model = read(module, torch.randn(2, 3, 16, 16))
    for key in ("bn1.running_var", "layer3.2.bn2.bias", "fc.weight"):
        faulty = Model(model.graph, {**model.weights, key: np.asarray(model.weights[key]) * 1.05})
        with pytest.raises(AssertionError):
            assert_same(module, faulty, torch.randn(2, 3, 16, 16))


# Names


def test_ids_are_module_paths() -> None:
    model = read(nn.Sequential(Block(), Block(), nn.Flatten()), torch.randn(IMAGE))
    block = ["conv1", "bn1", "act", "add", "add_scalar", "act_2", "mul"]
    assert [node.id for node in model.graph] == [f"{i}.{name}" for i in "01" for name in block] + ["2"]
    assert model.graph["1.conv1"].weights == {"weight": "1.conv1.weight"}


def test_an_input_does_not_take_a_modules_name() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.x(x)

    model = read(Net(), torch.randn(2, 8))
    assert model.graph.inputs[0].id == "x"
    assert only(model, "linear").weights["weight"] == "x.weight"


def test_shared_modules_and_tied_weights_are_stored_once() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(8, 8)
            self.shared = nn.Linear(8, 8)
            self.out = nn.Linear(8, 8, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.shared(F.relu(self.shared(self.embed(x)))))

    module, x = Net(), torch.randint(0, 8, (2, 5))
    model = read(module, x)
    first, second, last = (node for node in model.graph if node.op == "linear")
    assert first.weights == second.weights == {"weight": "shared.weight", "bias": "shared.bias"}
    assert last.weights == {"weight": "embed.weight"}
    assert set(model.weights) == {"embed.weight", "shared.weight", "shared.bias"} == model.graph.trainable
    assert_same(module, model, x)


def test_parameters_and_buffers_as_values() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.rand(4, 1, 1))
            self.register_buffer("scale", torch.rand(4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gamma + self.scale + torch.arange(8) / 8

    module = Net()
    model = read(module, torch.randn(IMAGE))
    assert model.graph.trainable == {"gamma"}
    assert model.graph["gamma"].attrs["trainable"] and not model.graph["scale"].attrs["trainable"]
    assert ops(model).count("constant") == 3  # the positions are folded into one
    assert_same(module, model, torch.randn(IMAGE))


# What is refused, and what is read all the same


def _nonzero(x: Tensor) -> Tensor:
    return torch.nonzero(x[0] > 0).float()


def _masked(x: Tensor) -> Tensor:
    return x[x > 0].sum()


@pytest.mark.parametrize("select", [_nonzero, _masked])
def test_sizes_that_values_decide_are_refused(select: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(SourceError, match=r"how much (nonzero|index) in 1 returns depends on the values of tensors"):
        from_module(nn.Sequential(nn.ReLU(), Function(select)), torch.randn(IMAGE))


def test_lazy_layers_need_their_sizes() -> None:
    with pytest.raises(SourceError, match="lazy layers without sizes yet; call it once"):
        from_module(nn.Sequential(nn.LazyConv2d(4, 1)), torch.randn(IMAGE))


class Spectral(nn.Module):
    """Filters of frequencies with weights in pairs (Rao et al., "Global filter networks", 2021), and with complex ones
    (Li et al., "Fourier neural operator", 2021).
    """

    def __init__(self, width: int, size: int, kept: int) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(width, size, size // 2 + 1, 2))
        self.mixing = nn.Parameter(torch.randn(width, width, kept, kept, dtype=torch.complex64) / width)
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        x = torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(self.filter), norm="ortho")
        found = torch.fft.rfft2(x)
        chosen = found[:, :, : self.kept, : self.kept]
        mixed = torch.zeros_like(found)
        mixed[:, :, : self.kept, : self.kept] = torch.einsum("bixy,ioxy->boxy", chosen, self.mixing)
        return x + torch.fft.irfft2(mixed)


def test_complex_numbers() -> None:
    module = Spectral(4, 8, 3)
    model = read(module, torch.randn(IMAGE))
    assert model.graph.weight_types["mixing"] == TensorType((4, 4, 3, 3), DType.C64)
    assert "mixing" in model.graph.trainable and parse(render(model.graph)) == model.graph
    assert_same(module, model, torch.randn(IMAGE))
    written: dict[str, Any] = {}
    exec(emit(model.graph), written)
    network = written["Network"]()
    network.load_state_dict(to_module(model).state_dict(), strict=True)
    x = torch.randn(IMAGE)
    network(x).square().mean().backward()
    assert network.mixing.grad is not None and network.mixing.grad.abs().sum() > 0
    torch.testing.assert_close(run(network.eval(), x), run(module.eval(), x))


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_a_number_from_a_buffer_is_a_number() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("factor", torch.tensor(2.5))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.factor.item()

    model = read(Net(), torch.randn(IMAGE))
    assert only(model, "mul_scalar").attrs["value"] == 2.5
    assert_same(Net(), model, torch.randn(IMAGE))


def test_reading_leaves_the_module_alone() -> None:
    module = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, momentum=None), nn.ReLU(inplace=True))
    module[1].eval()
    before = copy.deepcopy(module.state_dict())
    read(module, torch.randn(IMAGE))
    assert [part.training for part in module] == [True, False, True]
    assert module[1].momentum is None
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


# Operations


@dataclass
class Case:
    function: Callable[..., Any]
    op: str
    shape: tuple[int, ...] = IMAGE


def _with(x: Tensor, index: Any, part: Tensor) -> Tensor:
    """A copy with a part overwritten."""
    copied = x.clone()
    copied[index] = part
    return copied


CASES = {
    "hardtanh is relu6": Case(lambda x: F.hardtanh(x, 0.0, 6.0), "relu6"),
    "clamp": Case(lambda x: x.clamp(-0.5, 0.5), "clamp"),
    "hardtanh": Case(F.hardtanh, "clamp"),
    "leaky_relu": Case(lambda x: F.leaky_relu(x, 0.2), "leaky_relu"),
    "elu": Case(lambda x: F.elu(x, 0.5), "elu"),
    "gelu": Case(lambda x: F.gelu(x, approximate="tanh"), "gelu"),
    "softplus": Case(lambda x: F.softplus(x, 2.0), "softplus"),
    "hardswish": Case(F.hardswish, "hardswish"),
    "rsqrt": Case(lambda x: (x * x + 1).rsqrt(), "pow"),
    "scaled sum": Case(lambda x: torch.add(x, x.relu(), alpha=2), "add"),
    "difference": Case(lambda x: x - x.relu(), "sub"),
    "scaled difference": Case(lambda x: torch.sub(x, x.relu(), alpha=3), "add"),
    "reversed difference": Case(lambda x: 2 - x, "add_scalar"),
    "negation": Case(lambda x: -x, "mul_scalar"),
    "division": Case(lambda x: x / 3, "mul_scalar"),
    "ratio": Case(lambda x: x / (x.exp() + 1), "div"),
    "number as tensor": Case(lambda x: x * torch.tensor(0.5), "mul_scalar"),
    "stack": Case(lambda x: torch.stack([x, x.relu()], 1), "concat"),
    "softmax": Case(lambda x: x.softmax(-1), "softmax"),
    "log_softmax": Case(lambda x: F.log_softmax(x, 1), "log_softmax"),
    "mean": Case(lambda x: x.mean((-1, 2), keepdim=True), "mean"),
    "sum": Case(lambda x: x.sum(1), "sum"),
    "max pool": Case(lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), "max_pool2d"),
    "average pool": Case(lambda x: F.avg_pool2d(x, (3, 2), padding=(1, 1), count_include_pad=False), "avg_pool2d"),
    "adaptive average": Case(lambda x: F.adaptive_avg_pool2d(x, (3, 2)), "adaptive_avg_pool2d"),
    "adaptive maximum": Case(lambda x: F.adaptive_max_pool2d(x, 2), "adaptive_max_pool2d"),
    "flatten": Case(lambda x: x.flatten(1), "flatten"),
    "view as flatten": Case(lambda x: x.view(x.size(0), -1), "flatten"),
    "reshape": Case(lambda x: x.reshape(-1, 2, 2, 8, 8), "reshape"),
    "windows": Case(lambda x: x.view(x.shape[0] * 2, 2, 8, 8), "reshape"),
    "unsqueeze": Case(lambda x: x.unsqueeze(1), "reshape"),
    "unflatten": Case(lambda x: x.unflatten(1, (2, 2)), "reshape"),
    "permute": Case(lambda x: x.permute(0, 2, 3, 1), "permute"),
    "transpose": Case(lambda x: x.transpose(1, -1), "permute"),
    "movedim": Case(lambda x: x.movedim(1, -1), "permute"),
    "slice": Case(lambda x: x[:, 1:-1:2], "slice"),
    "select": Case(lambda x: x[:, -1], "slice"),
    "chunk": Case(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), "split"),
    "split": Case(lambda x: x.split([1, 3], 1), "split"),
    "unbind": Case(lambda x: x.unbind(1)[2], "split"),
    "write into a slice": Case(lambda x: _with(x, (slice(None), slice(1, 3)), x[:, :2].relu()), "concat"),
    "write one channel": Case(lambda x: _with(x, (slice(None), -1), x[:, 0].relu()), "concat"),
    "write a number": Case(lambda x: _with(x, (..., slice(2, None)), x[:, :1, :1, :1]), "expand"),
    "expand": Case(lambda x: x[:, :1].expand(-1, 6, -1, -1), "expand"),
    "reflection": Case(lambda x: F.pad(x, (1, 2, 0, 1), "reflect"), "pad"),
    "constant pad": Case(lambda x: F.pad(x, (1, 2), value=3.0), "pad"),
    "nearest": Case(lambda x: F.interpolate(x, scale_factor=2.0), "interpolate"),
    "bilinear": Case(lambda x: F.interpolate(x, (5, 6), mode="bilinear", align_corners=True), "interpolate"),
    "bicubic": Case(lambda x: F.interpolate(x, scale_factor=1.5, mode="bicubic"), "interpolate"),
    "antialias": Case(lambda x: F.interpolate(x, (3, 3), mode="bilinear", antialias=True), "interpolate"),
    "pixel shuffle": Case(lambda x: F.pixel_shuffle(x, 2), "pixel_shuffle"),
    "pixel unshuffle": Case(lambda x: F.pixel_unshuffle(x, 2), "pixel_unshuffle"),
    "channel shuffle": Case(lambda x: F.channel_shuffle(x, 2), "permute"),
    "matmul": Case(lambda x: x @ x.transpose(-1, -2), "matmul"),
    "attention": Case(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3), "attention"),
    "bmm": Case(lambda x: torch.bmm(x, x), "matmul", (2, 4, 4)),
    "sum of products": Case(lambda x: torch.einsum("bchw,bdhw->bcd", x, x + 1), "matmul"),
    "sum of products with a vector": Case(lambda x: torch.einsum("bchw, bw -> hcb", x, x[:, 0, 0]), "matmul"),
    "sum of all products": Case(lambda x: torch.einsum("bchw,bchw->", x, x) + x, "matmul"),
    "sum of products without an output": Case(lambda x: torch.einsum("bchi,bchj", x, x + 1), "matmul"),
    "sum of products with an ellipsis": Case(lambda x: torch.einsum("...hw,...hv->...wv", x, x + 1), "matmul"),
    "sum of products with two ellipses": Case(lambda x: torch.einsum("b...hw,...wv", x, x.mean(0)), "matmul"),
    "sum of products with a constant": Case(lambda x: torch.einsum("ck,bchw->bhkw", torch.ones(4, 3), x), "matmul"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_operations_are_recognised(case: Case) -> None:
    module = Function(case.function)
    model = read(module, torch.randn(case.shape))
    assert case.op in ops(model)
    assert "frozen" not in ops(model)
    assert_same(module, model, torch.randn(case.shape), training=False)


LAYERS = {
    "same padding": (nn.Conv2d(4, 6, 3, padding="same", dilation=2), ["conv2d"]),
    "even same padding": (nn.Conv2d(4, 6, (4, 3), padding="same"), ["pad", "conv2d"]),
    "valid padding": (nn.Conv2d(4, 6, 3, padding="valid"), ["conv2d"]),
    "reflection padding": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), ["pad", "conv2d"]),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, stride=(2, 1)), ["conv2d"]),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), ["conv_transpose2d"]),
    "layer norm": (nn.LayerNorm([8, 8], bias=False), ["layer_norm"]),
    "group norm": (nn.GroupNorm(2, 4), ["group_norm"]),
    "instance norm": (nn.Sequential(nn.InstanceNorm2d(4)), ["group_norm"]),
    "batch norm without affine": (nn.BatchNorm2d(4, affine=False), ["batch_norm"]),
    "prelu": (nn.PReLU(4), ["prelu"]),
    "linear": (nn.Linear(8, 3), ["linear"]),
}


@pytest.mark.parametrize(("module", "expected"), LAYERS.values(), ids=LAYERS)
def test_layers_are_recognised(module: nn.Module, expected: list[str]) -> None:
    model = read(randomised(module), torch.randn(IMAGE))
    assert ops(model) == expected
    assert set(model.weights) == set(module.state_dict())
    assert_same(module, model, torch.randn(IMAGE))


def test_every_rule_is_about_an_operation_that_exists() -> None:
    for target in aten.RULES | aten_layout.RULES:
        name, overload = target.split(".")
        assert hasattr(getattr(torch.ops.aten, name), overload), target


# Frozen nodes


class Unknown(nn.Module):
    """Operations that no table has: weights, several results, lists, element types, sizes of the batch, randomness."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)
        self.noise, self.norm = nn.AlphaDropout(0.3), nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        highest, where = self.conv(self.norm(x).flatten(2)).max(1)
        rolled = torch.roll(self.noise(x), (1, 2), (2, 3))
        return highest, where.to(torch.int32), rolled, x.new_zeros(x.shape[0], 3) + x.sum((2, 3))[:, :3]


@pytest.fixture(scope="module")
def unknown() -> tuple[nn.Module, Model]:
    module = Unknown()
    return module, read(module, torch.randn(IMAGE))


def test_unknown_operations_are_frozen(unknown: tuple[nn.Module, Model]) -> None:
    module, model = unknown
    frozen = {node.attrs["target"]: node for node in model.graph if node.op == "frozen"}
    assert {"aten.max.dim", "aten.roll.default"} <= set(frozen)
    assert all(node.attrs["reason"] for node in frozen.values())
    assert "running statistics" in frozen["aten.batch_norm.default"].attrs["reason"]
    assert ("training",) in frozen["aten.alpha_dropout.default"].attrs["args"]
    assert set(model.weights) == set(module.state_dict()) == model.graph.trainable
    assert_same(module, model, torch.randn(IMAGE))


def test_frozen_nodes_are_plain_data(unknown: tuple[nn.Module, Model]) -> None:
    _, model = unknown
    assert parse(render(model.graph)) == model.graph


def test_a_stopped_gradient_stays_stopped() -> None:
    back = to_module(read(Function(lambda x: x * 2 + x.detach()), torch.randn(IMAGE)))
    x = torch.ones(IMAGE, requires_grad=True)
    back(x).sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.full(IMAGE, 2.0))


def test_automatic_casts_are_written_out() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.linear(x)

    module = Net()
    model = read(module, torch.randn(2, 8))
    assert model.graph.signature.outputs[0].dtype is DType.BF16
    assert_same(module, model, torch.randn(2, 8))


@pytest.mark.parametrize(
    ("argument", "data"),
    [
        ([1, [2.5, None]], (1, (2.5, None))),
        (torch.float16, DType.F16),
        (torch.complex32, ("dtype", "complex32")),
        (torch.channels_last, ("memory_format", "channels_last")),
        (torch.strided, ("layout", "strided")),
        (torch.device("cpu"), ("device", "cpu")),
        ([Batch(2), "text"], (Batch(2), "text")),
    ],
)
def test_arguments_as_data(argument: object, data: object) -> None:
    assert encode(argument, lambda x: None) == data
    if isinstance(data, tuple) and isinstance(data[0], str):
        assert constant(*data) == argument


@pytest.mark.parametrize("data", [("dtype", "load"), ("layout", "float32"), ("ops", "aten")])
def test_only_constants_of_torch_are_decoded(data: tuple[str, str]) -> None:
    with pytest.raises(ConversionError, match="unreadable"):
        constant(*data)


def test_an_argument_without_a_form_as_data_is_refused() -> None:
    with pytest.raises(ConversionError, match="object"):
        encode(object(), lambda x: None)


COMPLEX = {
    "imaginary unit": lambda x: (1j * x).abs(),
    "factor of a spectrum": lambda x: torch.fft.ifft(torch.fft.fft(x) * (2 - 0.5j)).real,
    "sum": lambda x: (x + 1j * x.flip(-1)).angle(),
    "filled": lambda x: x + torch.full_like(x, 3j, dtype=torch.complex64).imag,
    "infinite": lambda x: x.to(torch.complex64).mul(complex(1, float("inf"))).real.isnan().float() + x,
}


@pytest.mark.parametrize("function", COMPLEX.values(), ids=COMPLEX)
def test_complex_numbers_in_a_forward(function: Callable[[Tensor], Tensor]) -> None:
    module, x = Function(function), torch.randn(IMAGE)
    model = read(module, x)
    assert parse(render(model.graph)) == model.graph
    assert_same(module, model, x)
    written: dict[str, Any] = {}
    exec(emit(model.graph), written)
    torch.testing.assert_close(run(written["Network"](), x), run(module, x))
