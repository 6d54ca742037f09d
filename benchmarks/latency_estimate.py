"""How well the estimated latency ranks networks: against onnxruntime, on the zoo and on children of a ResNet-20.

    python benchmarks/latency_estimate.py [--children 40] [--seconds 60] [--seed 0]

Prints, for the zoo (ratios to its ResNet-20) and for children of one to six edits for images of 32x32 and of 8x8
(ratios to their parent), the rank correlation of estimated and measured ratios and how far the ratios are apart.
Nothing of the estimate was fitted to these networks: its constants come from single layers.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr

from netgraft import zoo
from netgraft.convert.from_torch import from_module
from netgraft.convert.onnx import to_onnx
from netgraft.costs.analytic import flops, latency_estimate
from netgraft.costs.measured import compare
from netgraft.ir import Graph, Model, apply, inherit
from netgraft.mutations import Mix
from netgraft.mutations.swap import Swap
from netgraft.mutations.trim import Trim


def read(name: str, size: int | None = None) -> Model:
    """A network of the zoo, for images of ``size`` by ``size`` if one is given."""
    channels, height, width = zoo.entry(name).input_shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return from_module(zoo.build(name), torch.zeros(2, channels, size or height, size or width), name=name)


def descendants(parent: Model, rng: np.random.Generator) -> Iterator[Model]:
    """Different networks, each one to six random edits away from ``parent``."""
    mutation = Mix([Swap(), Trim()])
    seen = {parent.graph.digest}
    for number in count():
        graph, weights = parent.graph, parent.weights
        for _ in range(int(rng.integers(1, 7))):
            edit = next(mutation.edits(graph, weights, rng))
            weights, _ = inherit(graph, edit, weights, rng)
            graph = apply(graph, edit)
        if graph.digest not in seen:
            seen.add(graph.digest)
            yield Model(graph, weights, f"child {number}")


def report(title: str, baseline: Model, models: Sequence[Model], seconds: float) -> None:
    """Measures the models beside the baseline and prints how the estimates compare."""
    found = compare([to_onnx(model) for model in models], to_onnx(baseline), seconds=seconds)
    measured = np.array([ratio.ratio for ratio in found])
    print(f"\n{title}\n")
    print("| network | measured ms | measured ratio | estimated ratio | FLOPs ratio |\n|---|---|---|---|---|")
    estimated = _ratios(latency_estimate, baseline, models)
    counted = _ratios(flops, baseline, models)
    for model, ratio, guess, share in zip(models, found, estimated, counted, strict=True):
        print(f"| {model.name} | {ratio.model_ms:.3f} | {ratio.ratio:.3f} | {guess:.3f} | {share:.3f} |")
    print()
    for name, ratios in (("estimated latency", estimated), ("FLOPs", counted)):
        off = np.exp(np.abs(np.log(ratios / measured))) - 1
        rank = spearmanr(ratios, measured).statistic
        print(
            f"{name}: rank correlation {rank:.3f}, ratios off by {np.median(off):.1%} (median), "
            f"{np.percentile(off, 90):.1%} (90th percentile), {off.max():.1%} (worst)",
            flush=True,
        )


def _ratios(cost: Callable[[Graph], float], baseline: Model, models: Sequence[Model]) -> npt.NDArray[np.float64]:
    return np.array([cost(model.graph) / cost(baseline.graph) for model in models])


def main() -> None:
    """Runs the three comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--children", type=int, default=40, help="children for each image size")
    parser.add_argument("--seconds", type=float, default=60.0, help="time to measure each comparison")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    baseline = read("resnet20")
    others = [read(name) for name in zoo.names() if name != "resnet20"]
    report("The zoo, each network at its own image size, against ResNet-20", baseline, others, args.seconds)
    for size in (32, 8):
        parent = read("resnet20", size)
        children = descendants(parent, np.random.default_rng(args.seed))
        title = f"Children of ResNet-20 for {size}x{size} images, against their parent"
        report(title, parent, list(islice(children, args.children)), args.seconds)


if __name__ == "__main__":
    main()
