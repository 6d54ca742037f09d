"""Fit the constants of the latency estimate to this machine: chains of equal layers, run by onnxruntime.

    python benchmarks/fit_latency_estimate.py [--seconds 0.3]

Prints the constants as ``Machine`` of ``netgraft/costs/analytic.py`` takes them, and how far the estimate is off the
measurements with them. The measurements take about three seconds a chain, most of it for writing the ONNX file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import least_squares

from netgraft.convert.onnx import to_onnx
from netgraft.costs.analytic import CALIBRATED, Machine, latency_estimate
from netgraft.costs.measured import measure
from netgraft.ir import Batch, Builder, Fresh, Graph, Model, TensorType
from netgraft.ir.carry import resolve

FITTED = ["run", "kernel", "bandwidth", "weights", "dense", "blocks", "border", "depthwise", "plain", "plain_filters"]


def chain(length: int, channels: int, kernel: int, size: int, groups: int = 1) -> Graph:
    """Convolutions that keep their input's shape, each with an activation, one after the other."""
    builder = Builder()
    y = builder.input("x", TensorType((Batch(), channels, size, size)))
    for _ in range(length):
        sizes, padding = (kernel, kernel), (kernel // 2, kernel // 2)
        y = builder.add("conv2d", y, out_channels=channels, kernel=sizes, padding=padding, groups=groups)
        y = builder.add("relu", y)
    return builder.build(y)


def chains() -> Iterator[Graph]:
    """Layers of the sizes that networks for images of 8x8 to 224x224 pixels have."""
    for length in (1, 4, 16, 32):
        yield chain(length, 16, 1, 4)
    for channels, sizes in ((16, (4, 8, 16, 32)), (32, (4, 8, 16, 32)), (64, (2, 4, 8, 16, 32)), (256, (4, 8, 16))):
        for size in sizes:
            for kernel in (1, 3, 5):
                yield chain(8, channels, kernel, size)
    for channels in (32, 96, 192):
        for size in (4, 8, 16, 56):
            for kernel in (3, 5):
                yield chain(8, channels, kernel, size, groups=channels)
    for channels, groups in ((8, 1), (12, 1), (18, 1), (30, 1), (50, 1), (64, 4), (64, 8)):
        for size in (8, 32):
            for kernel in (1, 3):
                yield chain(8, channels, kernel, size, groups)


def milliseconds(graph: Graph, seconds: float) -> float:
    """Measured latency of a graph with new weights."""
    rng = np.random.default_rng(0)
    roles = {key: role for node in graph for role, key in node.weights.items()}
    weights = {key: resolve(Fresh(), {}, roles[key], type_, rng)[0] for key, type_ in graph.weight_types.items()}
    return measure(to_onnx(Model(graph, weights)), seconds=seconds).median_ms


def main() -> None:
    """Measures, fits and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.3, help="time to measure each chain")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    graphs = list(chains())
    measured = np.log([milliseconds(graph, seconds) for graph in graphs])

    def machine(logs: np.ndarray) -> Machine:
        return replace(CALIBRATED, **dict(zip(FITTED, np.exp(logs).tolist(), strict=True)))

    def off(logs: np.ndarray) -> np.ndarray:
        return np.log([latency_estimate(graph, machine(logs)) for graph in graphs]) - measured

    start = np.log([getattr(CALIBRATED, name) for name in FITTED])
    fit = least_squares(off, start, loss="soft_l1", f_scale=0.1, diff_step=1e-3)
    print(f"{len(graphs)} chains")
    for name, logs in (("as committed", start), ("fitted", fit.x)):
        wrong = np.abs(off(logs))
        print(f"{name}: off by {np.median(wrong):.1%} (median), {np.percentile(wrong, 90):.1%} (90th percentile)")
    print({name: round(float(value), 3) for name, value in zip(FITTED, np.exp(fit.x), strict=True)})


if __name__ == "__main__":
    main()
