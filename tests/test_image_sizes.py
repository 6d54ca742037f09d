"""Networks read at one size of images, run at others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netgraft.channels import channels, drop
from netgraft.convert.from_torch import from_module
from netgraft.convert.source import emit
from netgraft.convert.to_torch import to_module
from netgraft.ir import Graph, apply

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


class Fixed(nn.Module):
    """Whatever comes is resized to one size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.conv(x), (12, 8))


def _ops(graph: Graph) -> set[str]:
    return {node.op for node in graph}


@pytest.mark.parametrize("build", [Pyramid, Decoder, Unpooling, SmallPool, Fixed])
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


def test_a_size_that_was_meant_stays() -> None:
    graph = from_module(Fixed(), torch.randn(EXAMPLE)).graph
    assert [node.attrs["size"] for node in graph if node.op == "interpolate"] == [(12, 8)]


def test_only_the_expansion_that_arithmetic_does_anyway_vanishes() -> None:
    graph = from_module(Decoder(), torch.randn(EXAMPLE)).graph
    assert "expand" not in _ops(graph) and "adaptive_avg_pool2d" in _ops(graph)
