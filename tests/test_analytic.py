"""Counted costs against torch and against sums done by hand; the estimate by what it must know."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from contracts import GOLDEN_NAMES, ZOO_NAMES, golden, random_inputs, sane_model, zoo_model
from hypothesis import given
from hypothesis import strategies as st
from strategies import edits, graphs
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from netgraft import zoo
from netgraft.convert.to_torch import to_module
from netgraft.costs.analytic import (
    CALIBRATED,
    activation_memory,
    flops,
    flops_by_node,
    flops_change,
    latency_by_kernel,
    latency_estimate,
    parameters,
    parameters_change,
    unknown,
)
from netgraft.ir import Batch, Builder, Edit, Graph, Keep, Region, TensorType, Value, apply

N = Batch()


def counted(graph: Graph, module: nn.Module | None = None) -> int:
    """FLOPs as torch counts them; attention is spelled out, which its counter knows."""
    module = module or to_module(sane_model(graph))
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        module.eval()(*random_inputs(graph, batch=1))
    return int(counter.get_total_flops())


@pytest.mark.parametrize("name", ZOO_NAMES)
def test_costs_of_the_zoo_are_those_of_its_modules(name: str) -> None:
    graph, module = zoo_model(name).graph, zoo.build(name, width=0.25)
    assert flops(graph) == counted(graph, module) > 0
    assert parameters(graph) == sum(p.numel() for p in module.parameters())
    assert unknown(graph) == ()
    assert 0 < activation_memory(graph) < 4 * sum(type_.numel() for type_ in graph.types.values())


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_flops_are_torchs(name: str) -> None:
    graph = golden(name)
    assert flops(graph) == counted(graph) > 0
    assert sum(flops_by_node(graph).values()) == flops(graph)
    assert list(flops_by_node(graph)) == [node.id for node in graph]


@given(st.data())
def test_a_change_is_the_childs_cost_less_its_parents(data: st.DataObject) -> None:
    """Whatever is shared, kept or left behind."""
    graph = data.draw(graphs())
    edit = data.draw(edits(graph))
    child = apply(graph, edit)
    assert flops_change(graph, edit) == flops(child) - flops(graph)
    assert parameters_change(graph, edit) == parameters(child) - parameters(graph)


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("was", [False, True])
@pytest.mark.parametrize("outside", [False, True])
def test_a_shared_constant_is_a_parameter_as_soon_as_one_node_trains_it(
    trainable: bool, was: bool, outside: bool
) -> None:
    def constants(*trained: bool) -> Graph:
        b = Builder()
        x = b.input("in0", TensorType((3,)))
        ends = [
            b.add("constant", id=f"c{i}", type=TensorType((3,)), trainable=t, weights={"value": "k"})
            for i, t in enumerate(trained)
        ]
        return b.build(b.add("add", x, *ends, id="sum"))

    graph = constants(outside, was)
    b = Builder()
    b.add("constant", id="c1", type=TensorType((3,)), trainable=trainable, weights={"value": "k"})
    edit = Edit(Region.of(["c1"]), b.build(Value("c1")), {"k": Keep("k")})
    assert parameters_change(graph, edit) == parameters(apply(graph, edit)) - parameters(graph)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_parameters_are_the_modules(name: str) -> None:
    graph = golden(name)
    assert parameters(graph) == sum(p.numel() for p in to_module(sane_model(graph)).parameters()) > 0


def image(channels: int, size: int) -> TensorType:
    return TensorType((N, channels, size, size))


def conv(b: Builder, x: Value, channels: int, kernel: int = 3, **attrs: Any) -> Value:
    padding = (kernel // 2, kernel // 2)
    return b.add("conv2d", x, out_channels=channels, kernel=(kernel, kernel), padding=padding, bias=False, **attrs)


def test_matrix_products_and_grouped_and_transposed_convolutions() -> None:
    b = Builder()
    x = b.input("x", image(8, 6))
    y = conv(b, x, 12, groups=4)
    y = b.add("conv_transpose2d", y, out_channels=6, kernel=(3, 2), stride=(2, 2), groups=3)
    graph = b.build(y, b.add("matmul", x, x))
    assert flops(graph) == counted(graph)


def test_attention_whose_heads_share_keys() -> None:
    b = Builder()
    q, k, v = (b.input(n, TensorType(s)) for n, s in (("q", (N, 3, 5, 4)), ("k", (N, 1, 6, 4)), ("v", (N, 1, 6, 2))))
    graph = b.build(b.add("attention", q, k, v))
    assert flops(graph) == counted(graph) == 2 * 3 * 5 * 6 * (4 + 2)


def test_a_shared_weight_counts_once_and_computes_twice() -> None:
    b = Builder()
    x = conv(b, b.input("x", image(4, 5)), 4, id="a")
    graph = b.build(conv(b, x, 4, id="b", weights={"weight": "a.weight"}))
    assert parameters(graph) == 4 * 4 * 9
    assert flops(graph) == 2 * 2 * 4 * 4 * 9 * 25


def test_frozen_nodes_are_listed_and_cost_bytes() -> None:
    graph = golden("tokens")
    assert unknown(graph) == ("rolled",)
    assert flops_by_node(graph)["rolled"] == 0
    assert latency_by_kernel(graph)["rolled"] > CALIBRATED.kernel / 1e3
    assert unknown(golden("residual")) == ()


def test_memory_of_a_chain_is_its_largest_pair() -> None:
    b = Builder()
    x = b.input("x", image(1, 8))  # 256 bytes
    y = conv(b, x, 4)  # 1024 bytes
    assert activation_memory(b.build(y)) == 256 + 1024
    z = conv(b, y, 2)  # 512 bytes
    assert activation_memory(b.build(z)) == 1024 + 512


def test_memory_of_a_shortcut_lasts_until_the_sum() -> None:
    b = Builder()
    x = b.input("x", image(4, 8))  # 1024 bytes, as every tensor here
    y = b.add("relu", conv(b, conv(b, x, 4), 4))
    chain = b.build(y)
    assert activation_memory(chain) == 2 * 1024
    assert activation_memory(b.build(b.add("add", x, y))) == 3 * 1024


def test_views_take_no_memory_and_keep_what_they_show() -> None:
    b = Builder()
    x = b.input("x", image(4, 8))
    flat = b.add("flatten", b.add("dropout", conv(b, x, 4)))
    assert activation_memory(b.build(flat)) == 2 * 1024
    other = conv(b, x, 4)
    assert activation_memory(b.build(flat, other)) == 3 * 1024


def test_an_unused_input_does_not_occupy_memory_to_the_end() -> None:
    b = Builder()
    b.input("unused", image(100, 8))
    x = b.input("x", image(4, 8))
    graph = b.build(conv(b, conv(b, x, 4), 4))
    assert activation_memory(graph) == (100 + 4) * 256


def layers(
    *channels: int, size: int = 16, kernel: int = 3, activation: str = "relu", norm: bool = True, **attrs: Any
) -> Graph:
    b = Builder()
    y = b.input("x", image(channels[0], size))
    for c in channels[1:]:
        y = conv(b, y, c, kernel, **attrs)
        if norm:
            y = b.add("batch_norm", y)
        y = b.add(activation, y)
    return b.build(y)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_the_estimate_is_a_sum_of_kernels(name: str) -> None:
    graph = golden(name)
    kernels = latency_by_kernel(graph)
    assert latency_estimate(graph) == pytest.approx(CALIBRATED.run / 1e3 + sum(kernels.values()))
    assert min(kernels.values()) >= CALIBRATED.kernel / 1e3
    assert latency_estimate(graph) == latency_estimate(golden(name))


def test_norm_activation_and_sum_are_part_of_the_convolution() -> None:
    kernels = latency_by_kernel(golden("residual"))
    assert set(kernels) == {
        *("stem.conv", "one.conv1", "one.conv2", "two.conv1", "two.conv2", "two.short.conv", "pool", "head")
    }
    assert latency_estimate(layers(16, 16, norm=False)) == latency_estimate(layers(16, 16))
    assert latency_estimate(layers(16, 16, activation="silu")) > latency_estimate(layers(16, 16))


def test_channels_cost_by_the_block() -> None:
    assert latency_estimate(layers(32, 24, 32)) == pytest.approx(latency_estimate(layers(32, 32, 32)), rel=0.1)
    assert latency_estimate(layers(32, 16, 32)) < 0.7 * latency_estimate(layers(32, 32, 32))
    assert latency_estimate(layers(32, 30, 32)) > latency_estimate(layers(32, 32, 32))  # no whole blocks at all


def test_what_is_not_flops_still_takes_time() -> None:
    """Depthwise convolutions save far fewer milliseconds than FLOPs, and many thin layers cost more than one."""
    dense, depthwise = layers(64, 64), layers(64, 64, groups=64)
    saved = latency_estimate(dense) / latency_estimate(depthwise)
    assert 1 < saved < flops(dense) / flops(depthwise) / 2
    deep, wide = layers(*[16] * 17, size=4), layers(64, 64, size=4)
    assert flops(deep) == flops(wide)
    assert latency_estimate(deep) > latency_estimate(wide)


def test_another_machine_gives_another_estimate() -> None:
    graph = golden("residual")
    slow = replace(CALIBRATED, dense=CALIBRATED.dense / 10)
    assert latency_estimate(graph, slow) > 2 * latency_estimate(graph)
