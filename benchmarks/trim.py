"""Trimming channels: by which importance, what the refit gives, and which networks it reaches, beside Torch-Pruning.

    OMP_NUM_THREADS=1 python benchmarks/trim.py accuracy ../shared/data/cifar10 --out runs/trim
    OMP_NUM_THREADS=1 python benchmarks/trim.py reach [NAME ...]

``accuracy`` trains a ResNet-20 on CIFAR-10 (kept in ``--out`` for another time), drops the same share of every group
of its channels by each importance, and prints the accuracy on the validation images right afterwards, without any
training: with batch-norm statistics re-estimated, and with every layer that reads fewer channels refitted before.

``reach`` halves the channels of the zoo's networks (random weights), by netgraft and by Torch-Pruning with its
GroupMagnitudeImportance, and counts who gets a network that runs. Torch-Pruning is told which layers give the outputs,
and how many heads a layer has, as its manual asks for; netgraft finds out. Needs ``pip install netgraft[bench]``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from netgraft import tasks, zoo
from netgraft.channels import channels, drop, droppable
from netgraft.convert.from_torch import from_module
from netgraft.convert.to_torch import to_module, weights_of
from netgraft.costs.analytic import flops, parameters
from netgraft.ir import Edit, Model, apply, inherit
from netgraft.mutations.importance import Activations, Filters, Importance, Random, Taylor, reads, scales
from netgraft.recipes.refit import gradients, magnitudes, refit


def main() -> None:
    """Runs one of the two parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    accuracy = parts.add_parser("accuracy")
    accuracy.add_argument("data", help="folder with train.parquet and test.parquet of CIFAR-10")
    accuracy.add_argument("--out", type=Path, required=True, help="folder for the trained network")
    accuracy.add_argument("--subset", type=int, default=12_000, help="training examples used (a fifth validates)")
    accuracy.add_argument("--epochs", type=float, default=8.0)
    accuracy.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5], help="of channels to drop")
    accuracy.add_argument("--seeds", type=int, default=3, help="for what depends on chance")
    accuracy.add_argument("--images", type=int, default=1000, help="training images for the refit")
    accuracy.set_defaults(run=run_accuracy)
    reach = parts.add_parser("reach")
    reach.add_argument("names", nargs="*", help="networks of the zoo (default: all)")
    reach.add_argument("--width", type=float, default=1.0, help="of the networks, as a share of their own")
    reach.add_argument("--pixels", type=int, default=10**9, help="images of at most so many pixels in height and width")
    reach.set_defaults(run=run_reach)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    options.run(options)


# Accuracy


def run_accuracy(options: argparse.Namespace) -> None:
    """Prints the first table."""
    task = tasks.load(options.data, input_shape=(3, 32, 32), classes=10, subset=options.subset)
    model = trained(task, options)
    score = tasks.evaluate(to_module(model), task, "validation")
    print(f"ResNet-20: {score.quality:.1f} % ± {score.error:.1f} on {len(task.validation):,} validation images\n")
    header = [f"{share:.0%} dropped: statistics | {share:.0%} dropped: refitted" for share in options.shares]
    print(f"| channels kept by | {' | '.join(header)} |")
    print("|---|" + "---|---|" * len(header), flush=True)
    for name, importances in importances_of(model, task, options.seeds).items():
        cells = []
        for share in options.shares:
            found = [
                qualities(model, task, importance, share, options.images, seed)
                for seed, importance in enumerate(importances)
            ]
            cells += [f"{np.mean(column):.1f}{spread(column)}" for column in zip(*found, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    for share in options.shares:
        child = apply(model.graph, trimmed(model, reads, share))
        costs = flops(child) / flops(model.graph), parameters(child) / parameters(model.graph)
        print(f"\n{share:.0%} dropped: {costs[0]:.2f}x the FLOPs, {costs[1]:.2f}x the parameters")


def trained(task: tasks.Task, options: argparse.Namespace) -> Model:
    """The ResNet-20, from ``--out`` where it is."""
    torch.manual_seed(0)
    model = from_module(zoo.build("resnet20"), torch.zeros(2, 3, 32, 32), name="resnet20")
    kept = options.out / f"resnet20-{options.subset}-{options.epochs:g}.safetensors"
    if not kept.exists():
        module = to_module(model)
        tasks.train(module, task, tasks.Schedule(options.epochs), seed=0)
        options.out.mkdir(parents=True, exist_ok=True)
        save_file(weights_of(module), kept)
    return Model(model.graph, load_file(kept), "resnet20")


def importances_of(model: Model, task: tasks.Task, seeds: int) -> dict[str, list[Importance]]:
    """The importances by name, each as often as it is to be tried."""
    grads, sizes = gradients(model, task, seed=0), magnitudes(model, task, seed=0)
    return {
        "what readers take, L1 (the default)": [reads],
        "filters, L1": [Filters(1)],
        "filters, L2": [Filters(2)],
        "batch norm's scale": [scales],
        "Taylor, first order": [Taylor(grads)],
        "activations": [Activations(sizes)],
        "chance": [Random(seed) for seed in range(seeds)],
    }


def trimmed(model: Model, importance: Importance, share: float) -> Edit:
    """The edit that drops a share of every group's channels."""
    units = []
    for group in channels(model.graph).groups:
        order = np.argsort(importance(model.graph, group, model.weights), kind="stable")
        units += [group.units[i] for i in order[: round(share * group.channels)]]
    return drop(model.graph, droppable(model.graph, units))


def qualities(
    model: Model, task: tasks.Task, importance: Importance, share: float, images: int, seed: int
) -> tuple[float, float]:
    """Validation accuracy with new statistics, without and with a refit."""
    edit = trimmed(model, importance, share)
    weights, _ = inherit(model.graph, edit, model.weights, np.random.default_rng(0))
    module = to_module(Model(apply(model.graph, edit), weights))
    tasks.recalibrate(module, task, seed=seed)
    refitted = to_module(refit(model, edit, task, images=images, seed=seed))
    before, after = (tasks.evaluate(each, task, "validation").quality for each in (module, refitted))
    return before, after


def spread(values: Any) -> str:
    """The range of several values."""
    return f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""


# Reach


def run_reach(options: argparse.Namespace) -> None:
    """Prints the second table."""
    rows, ours, theirs = [], 0, 0
    print("| network | netgraft: parameters | seconds | Torch-Pruning: parameters | seconds |\n|---|---|---|---|---|")
    for name in options.names or zoo.names():
        one, other = (
            attempt(halve, name, options.width, options.pixels) for halve in (halved_by_us, halved_by_torch_pruning)
        )
        ours, theirs = ours + (not isinstance(one, str)), theirs + (not isinstance(other, str))
        cells = [found if isinstance(found, str) else f"{found[0]:.2f}x | {found[1]:.1f}" for found in (one, other)]
        cells = [cell if " | " in cell else f"{cell} |" for cell in cells]
        rows.append(name)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"\nnetgraft: {ours} of {len(rows)}; Torch-Pruning: {theirs} of {len(rows)}")


def attempt(
    halve: Callable[[nn.Module, torch.Tensor], nn.Module], name: str, width: float, pixels: int
) -> tuple[float, float] | str:
    """The share of parameters left of a network that runs, and seconds of processor time; or what failed."""
    torch.manual_seed(0)
    planes, *size = zoo.entry(name).input_shape
    module, x = zoo.build(name, width=width).eval(), torch.randn(2, planes, *(min(pixels, n) for n in size))
    before, shapes = sum(p.numel() for p in module.parameters()), shapes_of(module, x)
    started = time.process_time()
    try:
        child = halve(module, x).eval()
        seconds = time.process_time() - started
        after = shapes_of(child, x)
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:80]}".replace("|", "/")
    share = sum(p.numel() for p in child.parameters()) / before
    if after != shapes:
        return f"outputs became {after}"
    return (share, seconds) if share < 0.75 else f"only {share:.2f}x"


def shapes_of(module: nn.Module, x: torch.Tensor) -> list[tuple[int, ...]]:
    """The shapes of a network's outputs; they must be finite."""
    with torch.no_grad():
        out = module(x)
    outputs = list(out) if isinstance(out, list | tuple) else [out]
    assert all(torch.isfinite(o).all() for o in outputs), "outputs that are not finite"
    return [tuple(o.shape) for o in outputs]


def halved_by_us(module: nn.Module, x: torch.Tensor) -> nn.Module:
    """Half of every group of channels dropped."""
    model = from_module(module, x)
    edit = trimmed(model, Filters(2), 0.5)
    weights, _ = inherit(model.graph, edit, model.weights, np.random.default_rng(0))
    return to_module(Model(apply(model.graph, edit), weights))


def halved_by_torch_pruning(module: nn.Module, x: torch.Tensor) -> nn.Module:
    """The same, by Torch-Pruning."""
    import torch_pruning as tp

    model = from_module(module, x)
    held = {id for id, why in channels(model.graph).held.items() if why == "the network's output"}
    ignored = [part for name, part in module.named_modules() if name in held]
    heads = {part.qkv: part.heads for part in module.modules() if hasattr(part, "qkv")}
    pruner = tp.pruner.GroupNormPruner(
        module,
        x,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=ignored,
        num_heads=heads,
    )
    pruner.step()
    return module


if __name__ == "__main__":
    main()
