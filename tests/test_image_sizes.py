"""Networks read at one size of images, run at others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netgraft.channels import channels, drop
from netgraft.convert.from_torch import from_module
from netgraft.convert.source import emit
from netgraft.convert.to_torch import to_module
from netgraft.ir import Graph, Model, apply, inherit

EXAMPLE = (2, 3, 24, 16)


class Pyramid(nn.Module):
    """Pools to fixed sizes and enlarges to the map's again, as PSPNet and DeepLab do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.inner = nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in range(3))
        self.head = nn.Conv2d(8 + 3 * 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        f = self.stem(x).relu()
        pooled = [conv(F.adaptive_avg_pool2d(f, k)) for k, conv in zip((1, 2, 3), self.inner, strict=True)]
        up = [F.interpolate(p, f.shape[2:], mode="bilinear", align_corners=False) for p in pooled]
        return F.interpolate(self.head(torch.cat([f, *up], 1)), x.shape[2:], mode="bilinear")


class Decoder(nn.Module):
    """Enlarges to the size of a skip connection, gates by a global pool, shuffles channels."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.gate = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 3, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(x).relu()
        gate = self.gate(F.avg_pool2d(y, y.shape[2:])).sigmoid()
        y = y * gate.expand_as(y)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        y = F.interpolate(self.up(y), x.shape[2:])
        return torch.cat([y, x[:, :, 1:, :]], 2)


class Unpooling(nn.Module):
    """Undoes its poolings, as SegNet and ENet do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
        self.down, self.up = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        y, where = self.down(self.stem(x).relu())
        y = self.up(self.inner(y), where)
        return self.head(torch.cat([y[:, :2], torch.zeros(y.shape[0], 2, *y.shape[2:])], 1))


class SmallPool(nn.Module):
    """A pool of a fixed window that happens to see the whole map, beside a size that follows the image."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.conv = nn.Conv2d(3, 4, (12, 8), (12, 8)), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(x)
        return y * F.interpolate(self.conv(F.avg_pool2d(y, 2)), y.shape[2:]).sigmoid()


class Tokens(nn.Module):
    """Maps as tokens and tokens as maps in both orders, and as heads of an attention, as SegFormer and FocalNet do."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.qkv = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 24)
        self.grow, self.mix, self.back = nn.Linear(8, 16), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Linear(16, 8)
        self.down, self.gate, self.head = nn.Conv2d(8, 6, 2, 2), nn.Conv2d(6, 2, 1), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x)
        n, c, h, w = y.shape
        y = self.norm(y.flatten(2).transpose(1, 2))
        q, k, v = (z.view(n, h * w, 2, c // 2).transpose(1, 2) for z in self.qkv(y).chunk(3, -1))
        y = y + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, h * w, c)
        z = self.mix(self.grow(y).transpose(1, 2).view(n, 16, h, w)).flatten(2).transpose(1, 2)
        y = y + self.back(F.gelu(z))
        y = self.down(y.view(n, h, w, c).permute(0, 3, 1, 2))
        y = (y * self.gate(y).sigmoid()[:, 1, :, :].unsqueeze(1)).permute(0, 2, 3, 1)
        return self.head(y.reshape(n, -1, 6).mean(1))


class Fixed(nn.Module):
    """Whatever comes is resized to one size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.conv(x), (12, 8))


def _ops(graph: Graph) -> set[str]:
    return {node.op for node in graph}


@pytest.mark.parametrize("build", [Pyramid, Decoder, Unpooling, SmallPool, Tokens, Fixed])
def test_other_sizes_of_images_give_the_same(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = build().eval()
    model = from_module(module, torch.randn(EXAMPLE))
    back = to_module(model).eval()
    names: dict[str, type[nn.Module]] = {}
    exec(compile(emit(model.graph, class_name="Net"), "model.py", "exec"), names)
    written = names["Net"]().eval()
    written.load_state_dict(back.state_dict())
    for size in ((24, 16), (48, 32), (48, 64)):
        x = torch.randn(1, 3, *size)
        for found in (back(x), written(x)):
            torch.testing.assert_close(found, module(x), rtol=1e-5, atol=1e-5)


def test_sizes_follow_a_map_where_they_are_no_multiple_and_a_scale_where_they_are() -> None:
    graph = from_module(Pyramid(), torch.randn(EXAMPLE)).graph
    assert sum(node.op == "interpolate_like" for node in graph) == 3
    assert [node.attrs["scale"] for node in graph if node.op == "interpolate"] == [(2.0, 2.0)]


def test_who_only_gives_a_size_can_be_trimmed() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            f = self.conv(x)
            return self.head(F.interpolate(F.adaptive_avg_pool2d(f, 3), f.shape[2:]))

    graph = from_module(Sized(), torch.randn(EXAMPLE)).graph
    assert any(node.op == "interpolate_like" and node.inputs[1].node == "conv" for node in graph)
    (group,) = channels(graph).groups
    assert set(group.makers) == {"conv"}
    child = apply(graph, drop(graph, group.units[5:]))
    assert child["conv"].attrs["out_channels"] == 5


def test_channels_of_tokens_that_become_a_map_can_be_trimmed() -> None:
    torch.manual_seed(0)
    module = Tokens().eval()
    model = from_module(module, torch.randn(EXAMPLE))
    found = channels(model.graph)
    (group,) = (group for group in found.groups if "grow" in group.makers)
    edit = drop(model.graph, group.units[5:])
    child = apply(model.graph, edit)
    weights, _ = inherit(model.graph, edit, model.weights, np.random.default_rng(0))
    assert (child["grow"].attrs["out_features"], child["mix"].attrs["groups"]) == (5, 5)
    # What was dropped no longer counts; the rest does what it did, for images of any size.
    for weight in (module.grow.weight, module.grow.bias, module.mix.weight, module.mix.bias):
        weight.data[5:] = 0
    back = to_module(Model(child, weights, "child")).eval()
    for size in ((24, 16), (48, 64)):
        x = torch.randn(1, 3, *size)
        torch.testing.assert_close(back(x), module(x), rtol=1e-5, atol=1e-5)


def test_tokens_that_are_as_many_as_a_map_has_places_by_chance_stay() -> None:
    class Chance(nn.Module):
        """16 features are taken apart into 4 times 4, as large as a map that follows the image's size."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 16)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            apart = self.linear(y.mean((2, 3))).view(-1, 1, 4, 4)
            y = y.flatten(2).transpose(1, 2).view(-1, y.shape[2], y.shape[3], 8)
            return F.interpolate(apart, y.shape[1:3]).flatten(1).mean(1) + y.mean((1, 2, 3))

    module = Chance().eval()
    graph = from_module(module, torch.randn(2, 3, 16, 16)).graph
    assert [graph.input_types(node)[0].rank for node in graph if node.op == "unflatten_like"] == [3]


def test_a_size_that_was_meant_stays() -> None:
    graph = from_module(Fixed(), torch.randn(EXAMPLE)).graph
    assert [node.attrs["size"] for node in graph if node.op == "interpolate"] == [(12, 8)]


def test_only_the_expansion_that_arithmetic_does_anyway_vanishes() -> None:
    graph = from_module(Decoder(), torch.randn(EXAMPLE)).graph
    assert "expand" not in _ops(graph) and "adaptive_avg_pool2d" in _ops(graph)
