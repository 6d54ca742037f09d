"""What a short fine-tuning gives: by the learning rate that it begins with, and by the statistics that it ends with.

    OMP_NUM_THREADS=1 python benchmarks/tuning.py ../shared/data/cifar10 --out runs/kinds

A ResNet-20 for CIFAR-10 is trained as for ``benchmarks/kinds.py`` (and kept in OUT for both). It and children of one to
three random edits (of all kinds, at no more FLOPs) are fine-tuned with it as teacher, from the same weights, with the
same order of examples, for every rate and length. Prints the accuracy on images of the test split: before fine-tuning,
and after it with the statistics that training ends with and with such that are estimated anew.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from averaging import first
from kinds import trained

from netgraft import tasks
from netgraft.candidate import Candidate
from netgraft.convert.to_torch import to_module
from netgraft.ir import Model
from netgraft.metrics import parse_limit
from netgraft.recipes.evaluation import PRECISE, Trainer, counted
from netgraft.recipes.optimize import default_mutations
from netgraft.spaces import Space
from netgraft.tasks import Schedule, evaluate, recalibrate, train


def networks(original: Model, count: int, trainer: Trainer) -> dict[str, Model]:
    """The original and children of it, as the search hands them to fine-tuning."""
    limit = parse_limit("flops<=1x", counted(original.graph))
    space, rng = Space(original, default_mutations(), counted, [limit]), np.random.default_rng(0)
    found = {"original": original}
    while len(found) <= count:
        child = space.child(Candidate(0, original), len(found), rng)
        if child is not None:
            origins = "+".join(edit.origin.partition(" of ")[0] for edit in child.edits)
            found[f"{len(found)}: {origins}"] = trainer.recalibrated(child.model)
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with train.parquet and test.parquet of CIFAR-10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subset", type=int, default=4_000, help="training examples used (a fifth left out)")
    parser.add_argument("--pretrain", type=float, default=25.0, help="epochs of the original's training")
    parser.add_argument("--children", type=int, default=5)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.05, 0.02])
    parser.add_argument("--epochs", type=float, nargs="+", default=[0.25, 1.0])
    parser.add_argument("--judged", type=int, default=3_000, help="images that it is judged on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    task = tasks.load(options.data, input_shape=(3, 32, 32), classes=10, subset=options.subset)
    original = trained(task, options.pretrain, options.out / f"resnet20-{options.subset}-{options.pretrain:g}.pt")
    trainer = Trainer(original, task, 0, 0.05)
    judged = replace(task, test=first(task.test, options.judged))
    arms = [(epochs, rate) for epochs in options.epochs for rate in options.rates]
    print(f"| network | before | {' | '.join(f'{epochs:g} epochs from {rate:g} | anew' for epochs, rate in arms)} |")
    print("|---" * (2 * len(arms) + 2) + "|", flush=True)
    table = []
    for name, model in networks(original, options.children, trainer).items():
        cells = [evaluate(to_module(model), judged, "test").quality]
        for epochs, rate in arms:
            module = to_module(model)
            train(module, task, Schedule(epochs, learning_rate=rate), seed=0, teacher=trainer.teacher)
            cells.append(evaluate(module, judged, "test").quality)
            recalibrate(module, task, batches=PRECISE // 128, seed=0)
            cells.append(evaluate(module, judged, "test").quality)
        table.append(cells)
        print(f"| {name} | {' | '.join(f'{cell:.1f}' for cell in cells)} |", flush=True)
    print(f"| mean | {' | '.join(f'{cell:.1f}' for cell in np.mean(table, 0))} |")


if __name__ == "__main__":
    main()
