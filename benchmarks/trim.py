"""Trimming channels: by which importance, and what the refit gives.

    OMP_NUM_THREADS=1 python benchmarks/trim.py ../shared/data/cifar10 --out runs/trim

Trains a ResNet-20 on CIFAR-10 (kept in ``--out`` for another time), drops the same share of every group of its channels
by each importance, and prints the accuracy on the validation images right afterwards, without any training: with
batch-norm statistics re-estimated, and with every layer that reads fewer channels refitted before.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from netgraft import tasks, zoo
from netgraft.channels import channels, drop, droppable
from netgraft.convert.from_torch import from_module
from netgraft.convert.to_torch import to_module, weights_of
from netgraft.costs.analytic import flops, parameters
from netgraft.ir import Edit, Model, apply, inherit
from netgraft.mutations.importance import Activations, Filters, Importance, Random, Taylor, reads, scales
from netgraft.recipes.refit import gradients, magnitudes, refit


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with train.parquet and test.parquet of CIFAR-10")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained network")
    parser.add_argument("--subset", type=int, default=12_000, help="training examples used (a fifth validates)")
    parser.add_argument("--epochs", type=float, default=8.0)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5], help="of channels to drop")
    parser.add_argument("--seeds", type=int, default=3, help="for what depends on chance")
    parser.add_argument("--images", type=int, default=1000, help="training images for the refit")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
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


if __name__ == "__main__":
    main()
