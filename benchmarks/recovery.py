"""What is left of a loss of quality after more training: networks of finished runs, trained to the end.

    OMP_NUM_THREADS=1 python benchmarks/recovery.py ../shared/data/cifar10 runs/first runs/second [--count 5]

Takes the networks of each run that lost most in their short fine-tuning, whether they began the finals or not, trains
them by one schedule until they have had as many epochs as the finalists, and sets the loss that is left on the
validation split beside what a power of the epochs expects (:mod:`netgraft.search.outlook`). The loss then is against
the original as it was given, in the end against what the run trained equally long. As those that lost most are taken,
a part of what they lost is noise, and powers come out too large.
"""

from __future__ import annotations

import argparse
import math
import statistics
import warnings
from pathlib import Path

import torch

import netgraft as ng
from netgraft import data, tasks
from netgraft.candidate import TrialState
from netgraft.convert.to_torch import to_module
from netgraft.recipes.evaluation import Trainer
from netgraft.recipes.finals import tolerance_of
from netgraft.recipes.run import examples_of
from netgraft.search.outlook import remaining


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="what the runs were trained on, as --data takes it")
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=5, help="networks of a run")
    parser.add_argument("--subset", type=int, default=5_000, help="training examples that the runs used")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("| run | # | time | FLOPs | epochs | lost then | epochs in the end | lost in the end | expected | power |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    powers = []
    for run in options.runs:
        study = ng.Study.read(run)
        if not study.finalists:
            raise SystemExit(f"{run} has not ended: resume it first")
        first, last = study.trials[0], study.finalists[0]
        original = study.load_model(first.model or "")
        task = data.task(options.data, original, subset=options.subset)
        if examples_of(task) != study.settings["examples"]:
            raise SystemExit(f"{run} was trained on other examples than {options.data} gives with --subset")
        plan = study.settings["recipe"]
        trainer = Trainer(original, task, study.settings["seed"], plan["learning_rate"], batch_size=plan["batch_size"])
        sign = 1 if task.quality.higher_is_better else -1
        complete = [t for t in study.trials.values() if t.number and t.state is TrialState.COMPLETE]
        lost = {t.number: sign * (first.scores["quality"] - t.scores["quality"]) for t in complete}
        worst = sorted((t for t in complete if lost[t.number] > tolerance_of(first)), key=lambda t: -lost[t.number])
        for trial in worst[: options.count]:
            model = trainer.train(
                study.load_model(trial.model or ""), last.epochs - trial.epochs, "final", trial.number
            )
            if model is None:
                continue
            quality = tasks.evaluate(to_module(model), task, "validation").quality
            begun, ended = lost[trial.number], sign * (last.validation - quality)
            expected = begun * remaining(trial.epochs, last.epochs)
            longer = math.log(last.epochs / trial.epochs)
            power = math.log(begun / ended) / longer if ended > 0 else math.inf
            powers.append(power)
            flops = trial.scores["flops"] / first.scores["flops"]
            time = f"{trial.scores['time']:.2f}" if "time" in trial.scores else ""
            print(
                f"| {run.parent.name}/{run.name} | {trial.number} | {time} | {flops:.2f}x | {trial.epochs:.1f} "
                f"| {begun:.1f} | {last.epochs:.1f} | {ended:.1f} | {expected:.1f} | {power:.2f} |",
                flush=True,
            )
    if powers:
        print(f"\npower, median of {len(powers)}: {statistics.median(powers):.2f}")


if __name__ == "__main__":
    main()
