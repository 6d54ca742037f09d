"""How many examples a batch of training should hold where there are few: quality after equally many epochs.

    OMP_NUM_THREADS=1 python benchmarks/batches.py ../shared/data [--subjects digits unet] [--epochs 10]

Trains a network from scratch with batches of several sizes, at the same learning rates. Quality on the validation
split, with batch-norm statistics estimated anew; and processor time. Stars mark what netgraft takes by itself.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from rivals import SUBJECTS, Subject

from netgraft import data, tasks
from netgraft.convert.from_torch import from_module
from netgraft.convert.to_torch import to_module
from netgraft.recipes.run import batch_size_of

DIGITS = Subject("resnet20", {"channels": 1}, (8, 8), "digits", 0, 0, 0)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with camvid/ and the others")
    parser.add_argument("--subjects", nargs="+", default=["digits", "unet"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 64, 32, 16, 8])
    parser.add_argument("--rates", nargs="+", type=float, default=[0.1, 0.02])
    parser.add_argument("--epochs", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| subject | examples | batch | learning rate | quality | processor time, s |\n|---|---|---|---|---|---|")
    for name in options.subjects:
        subject = DIGITS if name == "digits" else SUBJECTS[name]
        channels = subject.options.get("channels", 3)
        torch.manual_seed(0)
        model = from_module(subject.build(), torch.zeros(2, channels, *subject.size), name=name)
        task = data.task(subject.data.format(data=options.data), model, subset=subject.subset)
        for size in options.sizes:
            mark = "*" if size == batch_size_of(task) else ""
            for rate in options.rates:
                found, began = [], time.process_time()
                for seed in range(options.seeds):
                    module = to_module(model)
                    tasks.train(module, task, tasks.Schedule(options.epochs, size, rate), seed=seed)
                    tasks.recalibrate(module, task, batches=-(-1024 // size), batch_size=size, seed=seed)
                    found.append(tasks.evaluate(module, task, "validation").quality)
                seconds = (time.process_time() - began) / options.seeds
                qualities = " ".join(f"{quality:.2f}" for quality in found)
                print(
                    f"| {name} | {len(task.train)} | {size}{mark} | {rate} | {qualities} | {seconds:.0f} |", flush=True
                )


if __name__ == "__main__":
    main()
