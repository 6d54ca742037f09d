"""Program transformation: what is legal, how much faster it is, and what it costs in accuracy.

    OMP_NUM_THREADS=1 python benchmarks/program.py ../shared/data/cifar10 --out runs/program

``forms``: every form of every convolution of a ResNet-20, one by one: how often its Fisher potential is not below the
original layer's, on one mini-batch of CIFAR-10. ``speed``: a ResNet-34, a ResNeXt-29 (2x64d) and a DenseNet through
the recipe: how many candidates are legal, and how fast the fastest are, measured in onnxruntime beside the original.
``accuracy``: the same networks of a quarter of their width (``--networks``), trained on CIFAR-10 (kept in ``--out``),
and random candidates that inherit their weights, all trained equally long; and how well Fisher potential, FLOPs and
parameters rank their accuracy.

All three in turn, or those named with ``--parts``. How Fisher potential ranks trained networks of NAS-Bench-201 is part
of ``benchmarks/training_free.py``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from scipy.stats import spearmanr
from torch import nn

from netgraft import tasks, zoo
from netgraft.convert.from_torch import from_module
from netgraft.convert.to_torch import to_module, weights_of
from netgraft.costs.analytic import flops, parameters
from netgraft.costs.measured import compare
from netgraft.data import task as load_data
from netgraft.ir import Model
from netgraft.mutations.program import Program
from netgraft.proxies import of_task
from netgraft.recipes.program import drawn, fastest_legal
from netgraft.recipes.proposals import Potential, child_of
from netgraft.recipes.run import RATES
from netgraft.zoo.resnet import Bottleneck

SPEED = {"ResNet-34": 64, "ResNeXt-29 (2x64d)": 32, "DenseNet-BC-40": 32}
"""Networks of the second part, and the height and width of their images."""


def main() -> None:
    """Runs the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with train.parquet and test.parquet of CIFAR-10")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained network")
    parser.add_argument("--parts", nargs="+", default=["forms", "speed", "accuracy"])
    parser.add_argument("--candidates", type=int, default=100, help="drawn for each network of the second part")
    parser.add_argument("--keep", type=int, default=3, help="legal ones that are measured")
    parser.add_argument("--batch", type=int, default=32, help="images of the mini-batch for Fisher potential")
    parser.add_argument("--width", type=float, default=0.5, help="of the networks of the second part")
    parser.add_argument("--subset", type=int, default=10_000, help="training examples used (a fifth validates)")
    parser.add_argument("--epochs", type=float, default=5.0, help="for which the original is trained")
    parser.add_argument("--tune", type=float, default=1.0, help="epochs for it and for each child afterwards")
    parser.add_argument("--children", type=int, default=10, help="of each network of the third part")
    parser.add_argument("--networks", nargs="+", default=list(SPEED), choices=list(SPEED), help="of the third part")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for part in options.parts:
        started = time.process_time()
        {"forms": run_forms, "speed": run_speed, "accuracy": run_accuracy}[part](options)
        print(f"\n{time.process_time() - started:.0f} s of processor time\n", flush=True)


# forms


def run_forms(options: argparse.Namespace) -> None:
    """Prints the first table."""
    model = network("ResNet-20", 32, 1.0)
    task = load_data(options.data, model, subset=2000)
    ratios: defaultdict[str, list[float]] = defaultdict(list)
    convolutions = [node.id for node in model.graph if node.op == "conv2d"]
    batch = of_task(task, options.batch, 0)
    seen: Counter[tuple[str, str]] = Counter()
    potentials = {id: Potential(model, (id,), batch) for id in convolutions}
    for edit in Program().edits(model.graph, model.weights, np.random.default_rng(0)):
        (at,) = edit.region.nodes
        seen[at, edit.origin] += 1
        if seen[at, edit.origin] == 1:
            ratios[edit.origin].append(potentials[at].of((edit,)))
    print(
        f"**Forms**: ResNet-20, a form at a time, Fisher potential of the layer over the original's, {batch.origin}\n"
    )
    print("| form | layers | legal | quartiles of the quotient |\n|---|---|---|---|")
    for name, found in sorted(ratios.items()):
        quartiles = " / ".join(f"{q:.2f}" for q in np.percentile(found, [25, 50, 75]))
        print(f"| {name} | {len(found)} | {np.mean(np.array(found) >= 1):.0%} | {quartiles} |")


# speed


def run_speed(options: argparse.Namespace) -> None:
    """Prints the second table."""
    print(f"**Speed**: {options.candidates} candidates, width {options.width:g}; the fastest legal ones, one thread\n")
    print("| network | probed | legal | FLOPs | parameters | Fisher | speed-up [99 %] | forms used most |")
    print("|---|---|---|---|---|---|---|---|")
    for name, size in SPEED.items():
        model = network(name, size, options.width)
        task = load_data(options.data, model, subset=2000)
        probes = [(0, 0)]

        def heard(probed: int, legal: int, probes: list[tuple[int, int]] = probes) -> None:
            probes.append((probed, legal))

        found = fastest_legal(
            model, task, candidates=options.candidates, keep=options.keep, batch=options.batch, on_probe=heard
        )
        for one in found:
            assert one.time is not None
            speed = f"{one.time.speedup:.2f}x [{1 / one.time.high:.2f}, {1 / one.time.low:.2f}]"
            forms = Counter(edit.origin.removeprefix("program.") for edit in one.edits).most_common(3)
            print(
                f"| {name} | {probes[-1][0]} | {probes[-1][1]} "
                f"| {flops(one.model.graph) / flops(model.graph):.2f}x "
                f"| {parameters(one.model.graph) / parameters(model.graph):.2f}x "
                f"| {one.fisher:.2f} | {speed} | {', '.join(f'{count} {form}' for form, count in forms)} |",
                flush=True,
            )


# accuracy


def run_accuracy(options: argparse.Namespace) -> None:
    """Prints the third table, a network at a time."""
    for name in options.networks:
        accuracy_of(name, options)


def accuracy_of(name: str, options: argparse.Namespace) -> None:
    """Prints what candidates of one network come to."""
    model = network(name, SPEED[name], 0.25)
    task = load_data(options.data, model, subset=options.subset)
    model = trained(model, task, options)
    places, candidates = drawn(model, options.children, seed=1)
    potential = Potential(model, places, of_task(task, options.batch, 0))
    children = [child_of(model, edits)[0] for edits in candidates]
    times = compare(children, model, seconds=2.0 * len(children))
    start = tasks.evaluate(to_module(model), task, "validation")
    whole = tuned(model, task, options)
    print(
        f"**Accuracy**: {name} at a quarter of its width, {start.quality:.1f} % after {options.epochs:g} epochs; "
        f"children inherit its weights, and all are trained for {options.tune:g} more\n"
    )
    print("| network | Fisher | FLOPs | parameters | speed-up [99 %] | accuracy |\n|---|---|---|---|---|---|")
    print(f"| original | 1.00 | 1.00x | 1.00x | | {whole.quality:.1f} ± {whole.error:.1f} % |", flush=True)
    rows = []
    for number, (child, edits, ratio) in enumerate(zip(children, candidates, times, strict=True), 1):
        fisher, score = potential.of(edits), tuned(child, task, options)
        costs = flops(child.graph) / flops(model.graph), parameters(child.graph) / parameters(model.graph)
        rows.append((score.quality, fisher, *costs, -ratio.ratio))
        print(
            f"| {number}: {len(edits)} layers{'' if fisher >= 1 else ', not legal'} | {fisher:.2f} | {costs[0]:.2f}x "
            f"| {costs[1]:.2f}x | {ratio.speedup:.2f}x [{1 / ratio.high:.2f}, {1 / ratio.low:.2f}] "
            f"| {score.quality:.1f} ± {score.error:.1f} % |",
            flush=True,
        )
    quality, *others = np.array(rows).T
    named = zip(("Fisher potential", "FLOPs", "parameters", "slowness"), others, strict=True)
    found = ", ".join(f"{what} {spearmanr(values, quality).statistic:.2f}" for what, values in named)
    print(f"\nSpearman's correlation with the children's accuracy: {found}")


def trained(model: Model, task: tasks.Task, options: argparse.Namespace) -> Model:
    """The network after its training, from ``--out`` where it is."""
    kept = options.out / f"{model.name.partition(' ')[0].lower()}-{options.subset}-{options.epochs:g}.safetensors"
    if not kept.exists():
        module = to_module(model)
        tasks.train(module, task, tasks.Schedule(options.epochs), seed=0)
        options.out.mkdir(parents=True, exist_ok=True)
        save_file(weights_of(module), kept)
    return Model(model.graph, load_file(kept), model.name)


def tuned(model: Model, task: tasks.Task, options: argparse.Namespace) -> tasks.Score:
    """Validation accuracy after the same short training for everybody."""
    module = to_module(model)
    tasks.train(module, task, tasks.Schedule(options.tune, learning_rate=RATES[task.optimiser]), seed=0)
    tasks.recalibrate(module, task, batches=8, seed=0)
    return tasks.evaluate(module, task, "validation")


def network(name: str, size: int, width: float) -> Model:
    """An untrained network for ten classes."""
    torch.manual_seed(0)
    modules = {
        "ResNet-20": lambda: zoo.build("resnet20", width=width),
        "ResNet-34": lambda: zoo.build("resnet34", classes=10, width=width),
        "ResNeXt-29 (2x64d)": lambda: resnext29(width),
        "DenseNet-BC-40": lambda: zoo.build("densenet40", width=2 * width),
    }
    return from_module(modules[name](), torch.zeros(2, 3, size, size), name=name)


def resnext29(width: float) -> nn.Module:
    """ResNeXt-29, 2x64d, for small images (Xie et al., CVPR 2017, section 5.2)."""
    stem = round(64 * width)
    layers: list[nn.Module] = [nn.Conv2d(3, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem), nn.ReLU()]
    inputs = stem
    for stage, features in enumerate((64, 128, 256)):
        for index in range(3):
            stride = 2 if stage and not index else 1
            layers.append(Bottleneck(inputs, round(features * width), stride, inner=2, groups=2))
            inputs = 4 * round(features * width)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


if __name__ == "__main__":
    main()
