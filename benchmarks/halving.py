"""What stopping finalists early rests on: whether the heat tells who will be good, and what it may cost.

    python benchmarks/halving.py ../shared/data/cifar10 --out runs/halving [--children 6]

Children of a trained ResNet-20 for CIFAR-10 (grafts and trims in turn) are fine-tuned shortly, as a search does; then
each is trained to the end twice with the original as teacher, once by one schedule, and once by two within the same
epochs: a heat of a quarter of them, down to a learning rate of 0, and the rest. Prints the accuracy after each stage on
images of the test split, the mean difference between one schedule and two, and the rank correlation (Spearman) of the
accuracy after the fine-tuning, and after the heat, with that at the end. Results are lines of OUT/children.jsonl;
started again, the benchmark goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import torch
from averaging import first, trimmed
from imitation import children
from kinds import trained
from scipy.stats import spearmanr

from netgraft import tasks
from netgraft.convert.to_torch import to_module
from netgraft.ir import Model
from netgraft.mutations.graft import Graft
from netgraft.recipes.evaluation import Trainer
from netgraft.recipes.finals import HEAT
from netgraft.tasks import evaluate

STAGES = ("fine-tuned", "heat", "two schedules", "one schedule")


def row(trainer: Trainer, child: Model, number: int, tune: float, final: float) -> dict[str, float]:
    """The accuracy after each stage."""

    def onwards(model: Model, epochs: float, stage: str) -> Model:
        result = trainer.train(model, epochs, stage, number)
        assert result is not None, "the training diverged"
        return result

    tuned = onwards(trainer.recalibrated(child), tune, "tune")
    heat = onwards(tuned, HEAT * final, "heat")
    models = (tuned, heat, onwards(heat, (1 - HEAT) * final, "final"), onwards(tuned, final, "final"))
    found = (evaluate(to_module(model), trainer.task, "test").quality for model in models)
    return dict(zip(STAGES, found, strict=True))


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with train.parquet and test.parquet of CIFAR-10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--children", type=int, default=6)
    parser.add_argument("--subset", type=int, default=4_000, help="training examples of the original, a fifth left out")
    parser.add_argument("--pretrain", type=float, default=25.0, help="epochs of the original's training")
    parser.add_argument("--examples", type=int, default=1_600, help="training examples of the children")
    parser.add_argument("--judged", type=int, default=1_000, help="images that they are judged on")
    parser.add_argument("--tune", type=float, default=1.0, help="epochs of fine-tuning")
    parser.add_argument("--final", type=float, default=4.0, help="epochs of the final training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    task = tasks.load(options.data, input_shape=(3, 32, 32), classes=10, subset=options.subset)
    original = trained(task, options.pretrain, options.out / f"resnet20-{options.subset}-{options.pretrain:g}.pt")
    task = replace(task, train=first(task.train, options.examples), test=first(task.test, options.judged))
    trainer = Trainer(original, task, 0, 0.05)
    journal = options.out / "children.jsonl"
    done = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    print(f"| child | {' | '.join(STAGES)} |")
    print("|---|" + "---|" * len(STAGES))
    for number in range(options.children):
        if number == len(done):
            seed = 1000 * number
            child = trimmed(original, seed) if number % 2 else next(children(original, Graft(), seed))[1]
            done.append(row(trainer, child, number, options.tune, options.final))
            with journal.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
        cells = " | ".join(f"{done[number][stage]:.1f}" for stage in STAGES)
        print(f"| {'trim' if number % 2 else 'graft'} | {cells} |", flush=True)
    found = done[: options.children]
    columns = {stage: [one[stage] for one in found] for stage in STAGES}
    print(f"| mean | {' | '.join(f'{mean(column):.1f}' for column in columns.values())} |")
    gains = [one["two schedules"] - one["one schedule"] for one in found]
    print(f"\ntwo schedules less one: {mean(gains):+.2f} ± {stdev(gains) / len(gains) ** 0.5:.2f} points")
    for stage in ("fine-tuned", "heat"):
        rank = spearmanr(columns[stage], columns["two schedules"]).statistic
        print(f"rank correlation of the accuracy after {stage} with that at the end: {rank:.2f}")


if __name__ == "__main__":
    main()
