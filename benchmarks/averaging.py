"""What averaging the weights over a training brings, beside the last weights of the same training.

    python benchmarks/averaging.py ../shared/data/cifar10 --out runs/averaging [--seeds 3]

With each seed a ResNet-20 for CIFAR-10 is trained from scratch, and two children of a trained one (a graft and a trim,
drawn anew for each seed) are fine-tuned for each of ``--epochs`` with it as teacher. During each training averages over
several shares of its steps (``netgraft.tasks.training.averaged``) are taken of the same weights, so that arms differ in
nothing else. Prints for each length of training the accuracy of the last weights on images of the test split, and by
how many points each average differs from that: mean and standard error over trainings; with the averaged statistics of
batch norms, and for one share with statistics estimated anew. Results are lines of OUT/trainings.jsonl; started again,
the benchmark goes on with what is missing.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from imitation import children
from kinds import trained
from torch import nn
from torch.optim.swa_utils import AveragedModel

from netgraft import tasks, zoo
from netgraft.convert.to_torch import to_module
from netgraft.ir import Model, apply, inherit
from netgraft.mutations.graft import Graft
from netgraft.mutations.trim import Trim
from netgraft.recipes.evaluation import Trainer
from netgraft.tasks import Mixed, Schedule, Split, Task, evaluate, recalibrate, train
from netgraft.tasks.training import averaged

SHARES = (0.05, 0.1, 0.2)
ANEW = 0.1
"""The share for which batch-norm statistics are estimated anew, too."""


def row(module: nn.Module, task: Task, schedule: Schedule, seed: int, teacher: nn.Module | None) -> dict[str, float]:
    """The accuracy of the last weights and of every average of one training."""
    averages: dict[float, AveragedModel] = {}

    def take(step: int, total: int, loss: float) -> None:
        if not averages:
            averages.update((share, averaged(module, share * total)) for share in SHARES)
        for average in averages.values():
            average.update_parameters(module)

    train(module, task, schedule, seed=seed, teacher=teacher, on_step=take)
    found = {"last": evaluate(module, task, "test").quality}
    found |= {str(share): evaluate(average.module, task, "test").quality for share, average in averages.items()}
    anew = copy.deepcopy(averages[ANEW].module)
    recalibrate(anew, task, seed=seed)
    return found | {"anew": evaluate(anew, task, "test").quality}


def first(split: Split | Mixed, examples: int) -> Split:
    """So many examples of it, which are of one size."""
    (split,) = split.parts
    return Split(split.inputs[:examples], split.targets[:examples])


def trimmed(model: Model, seed: int) -> Model:
    """A child with channels taken away."""
    edit = next(iter(Trim().edits(model.graph, model.weights, np.random.default_rng(seed))))
    weights, _ = inherit(model.graph, edit, model.weights, np.random.default_rng(0))
    return Model(apply(model.graph, edit), weights, "trimmed")


def trainings(
    task: Task, original: Model, seed: int, scratch: float, lengths: list[float]
) -> Iterator[dict[str, object]]:
    """Every training of one seed."""
    torch.manual_seed(seed)
    fresh = zoo.build("resnet20")
    yield {"what": "from scratch", "epochs": scratch} | row(fresh, task, Schedule(scratch), seed, None)
    trainer = Trainer(original, task, seed, 0.05)
    _, graft, _ = next(children(original, Graft(), 1000 * seed))
    for what, child in (("graft", graft), ("trim", trimmed(original, seed))):
        begun = trainer.recalibrated(child)
        for epochs in lengths:
            schedule = Schedule(epochs, learning_rate=0.05)
            yield {"what": what, "epochs": epochs} | row(to_module(begun), task, schedule, seed, trainer.teacher)


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with train.parquet and test.parquet of CIFAR-10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--subset", type=int, default=4_000, help="training examples of the original, a fifth left out")
    parser.add_argument("--pretrain", type=float, default=25.0, help="epochs of the original's training")
    parser.add_argument("--examples", type=int, default=1_600, help="training examples of what is compared")
    parser.add_argument("--judged", type=int, default=1_000, help="images that it is judged on")
    parser.add_argument("--scratch", type=float, default=8.0, help="epochs from scratch")
    parser.add_argument("--epochs", type=float, nargs="+", default=[0.25, 2.0], help="of fine-tuning")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    task = tasks.load(options.data, input_shape=(3, 32, 32), classes=10, subset=options.subset)
    original = trained(task, options.pretrain, options.out / f"resnet20-{options.subset}-{options.pretrain:g}.pt")
    task = replace(task, train=first(task.train, options.examples), test=first(task.test, options.judged))
    journal = options.out / "trainings.jsonl"
    done = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    for seed in range(options.seeds):
        if any(one["seed"] == seed for one in done):
            continue
        found = [{"seed": seed, **one} for one in trainings(task, original, seed, options.scratch, options.epochs)]
        with journal.open("a") as file:
            file.writelines(json.dumps(one) + "\n" for one in found)
        done += found
    arms = [*map(str, SHARES), "anew"]
    print(f"| training | number | last weights (%) | {' | '.join(arms)} |")
    print("|---|---|---|" + "---|" * len(arms))
    for what, epochs in dict.fromkeys((one["what"] == "from scratch", one["epochs"]) for one in done):
        alike = [one for one in done if ((one["what"] == "from scratch"), one["epochs"]) == (what, epochs)]
        cells = []
        for arm in arms:
            gains = [one[arm] - one["last"] for one in alike]
            cells.append(f"{mean(gains):+.2f} ± {stdev(gains) / len(gains) ** 0.5:.2f}" if len(gains) > 1 else "")
        name = f"{'from scratch' if what else 'fine-tuning'}, {epochs:g} epochs"
        print(f"| {name} | {len(alike)} | {mean(one['last'] for one in alike):.1f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
