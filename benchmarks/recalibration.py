"""Which examples batch-norm statistics are re-estimated from: augmented ones, as training sees, or others.

    OMP_NUM_THREADS=1 python benchmarks/recalibration.py ../shared/data/cifar10 --out runs/kinds

A ResNet-20 for CIFAR-10 is trained as for ``benchmarks/kinds.py`` (and kept in OUT for both). Its statistics are then
re-estimated, although nothing was changed: a good estimate leaves its accuracy as it was and agrees with it. Prints the
validation accuracy and the agreement (imitation loss on training images, 0 is the same) over seeds.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from kinds import trained

from netgraft import tasks
from netgraft.convert.to_torch import to_module


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with train.parquet and test.parquet of CIFAR-10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subset", type=int, default=4_000, help="training examples used (a fifth validates)")
    parser.add_argument("--pretrain", type=float, default=25.0, help="epochs of the original's training")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 16], help="of 128 images")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    task = tasks.load(options.data, input_shape=(3, 32, 32), classes=10, subset=options.subset)
    model = trained(task, options.pretrain, options.out / f"resnet20-{options.subset}-{options.pretrain:g}.pt")
    said = tasks.answers(to_module(model), task, batches=4, seed=0)
    score = tasks.evaluate(to_module(model), task, "validation")
    print(f"as trained: {score.quality:.1f} ± {score.error:.1f} %\n")
    print("| images | accuracy (%), augmented | agreement | accuracy (%), not augmented | agreement |")
    print("|---|---|---|---|---|")
    for batches in options.batches:
        cells = []
        for data in (task, replace(task, augment=None)):
            found = []
            for seed in range(options.seeds):
                module = to_module(model)
                tasks.recalibrate(module, data, batches=batches, seed=seed)
                found.append((tasks.evaluate(module, task, "validation").quality, tasks.agreement(module, task, said)))
            qualities, losses = np.transpose(found)
            cells += [
                f"{qualities.mean():.1f} ({qualities.min():.1f} to {qualities.max():.1f})",
                f"{losses.mean():.3f}",
            ]
        print(f"| {128 * batches:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
