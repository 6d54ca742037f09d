"""Networks in eight bits beside themselves in float32."""

from __future__ import annotations

import onnx
import pytest
import torch

import netgraft as ng
from netgraft import tasks
from netgraft.convert.to_torch import to_module
from netgraft.int8 import side_by_side


def test_eight_bits_keep_the_quality_and_a_quarter_of_the_file() -> None:
    layers = [torch.nn.Conv2d(1, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(32, 64, 3, 2, 1), torch.nn.ReLU()]
    module = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(64 * 16, 10))
    task = ng.task("digits", ng.load(module, input_shape=(1, 8, 8)))
    tasks.train(module, task, tasks.Schedule(3, batch_size=64), seed=0)
    model = ng.load(module, input_shape=(1, 8, 8))

    found = side_by_side({"trained": model}, task, images=128, seconds=1)
    assert [(one.network, one.precision) for one in found] == [("trained", "fp32"), ("trained", "int8")]
    exact, eight = found
    assert exact.test.quality == pytest.approx(tasks.evaluate(to_module(model), task, "test").quality, abs=0.5)
    assert exact.test.quality > 85 and abs(eight.test.quality - exact.test.quality) < 3
    assert exact.difference_error is None and 0 < eight.difference_error < 0.8 * eight.test.error
    assert len(eight.onnx) < 0.4 * len(exact.onnx)
    ops = {node.op_type for node in onnx.load_from_string(eight.onnx).graph.node}
    assert "QuantizeLinear" in ops and exact.time.low <= exact.time.ratio <= exact.time.high


def test_ranges_come_from_training_images_alone() -> None:
    """The same network, calibrated on other images, becomes another file; on the same ones, the same."""
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 10)
    )
    model = ng.load(module, input_shape=(1, 8, 8))
    task = ng.task("digits", model)
    files = [side_by_side({"it": model}, task, images=4, seed=seed, seconds=1)[1].onnx for seed in (0, 0, 1)]
    assert files[0] == files[1] != files[2]
