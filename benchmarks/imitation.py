"""What keeping and passing on what was learned brings: children of one edit of a trained ResNet-20, at equal cost.

    python benchmarks/imitation.py ../shared/data/cifar10 --out runs/imitation [--kind graft] [--children 12] [--seed 0]

Children are drawn that do not cost more than the original (by estimate) and take over less than all of its weights or
have a tenth less of its operations, one for each draw of the mutation's random state. Each is judged right after
grafting (batch-norm statistics re-estimated), after its new part has imitated the one that it replaced, and after fine-
tuning with the original as teacher: with imitation, without it, and from scratch (fresh weights, no teacher), all three
within the same processor time: that of ``--epochs`` of fine-tuning. Accuracy is that on the validation split. Prints a
row a child, means and standard deviations, and in how many children imitation was ahead. New parts imitate however
large they are. Results are lines of OUT/KIND.jsonl; started again, the benchmark goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from kinds import KINDS, trained

from netgraft import tasks
from netgraft.convert.to_torch import to_module
from netgraft.costs.analytic import flops, latency_estimate
from netgraft.ir import Edit, Model, apply, inherit, untrained
from netgraft.mutations import Mutation
from netgraft.recipes.evaluation import Trainer
from netgraft.recipes.imitation import imitate
from netgraft.recipes.run import RATES
from netgraft.tasks import evaluate

STAGES = ("grafted", "imitating", "fine-tuned", "both", "from scratch")


def children(model: Model, mutation: Mutation, seed: int) -> Iterator[tuple[Edit, Model, float]]:
    """Edits that change something: the edit, the child, and the share of weights that it inherited."""
    most = latency_estimate(model.graph)
    for draw in range(seed, seed + 10_000):
        for edit in mutation.edits(model.graph, model.weights, np.random.default_rng(draw)):
            graph = apply(model.graph, edit)
            weights, inheritance = inherit(model.graph, edit, model.weights, np.random.default_rng(0))
            changed = inheritance.share < 0.97 or flops(graph) < 0.9 * flops(model.graph)
            if latency_estimate(graph) <= 1.02 * most and changed:
                yield edit, Model(graph, weights, "child"), inheritance.share
                break


def spent(work: Callable[[], Model]) -> tuple[Model, float]:
    """What it makes, and the processor time that it took."""
    begun = time.process_time()
    made = work()
    return made, time.process_time() - begun


def row(trainer: Trainer, child: Model, epochs: float) -> dict[str, float]:
    """The accuracy after each stage, and the time of an epoch and of imitating."""
    task = trainer.task

    def accuracy(model: Model) -> float:
        return evaluate(to_module(model), task, "validation").quality

    def tuned(model: Model, epochs: float, by: Trainer = trainer) -> Model:
        result = by.train(model, epochs, "tune", 1)
        assert result is not None, "the training diverged"
        return result

    grafted = trainer.recalibrated(child)
    taught, imitating = spent(lambda: imitate(trainer.original, child, task, largest=1.0, seed=0).model)
    fine_tuned, whole = spent(lambda: tuned(grafted, epochs))
    both = tuned(taught, max(0.1, epochs * (1 - imitating / whole)))
    alone = Trainer(trainer.original, task, trainer.seed, 0.1, teaching=False)
    torch.manual_seed(0)
    fresh = untrained(child.graph, "child")
    _, quick = spent(lambda: tuned(fresh, 0.5, alone))
    scratch = tuned(fresh, 0.5 * whole / quick, alone)
    models = (grafted, taught, fine_tuned, both, scratch)
    return dict(zip(STAGES, map(accuracy, models), strict=True)) | {
        "epoch": whole / epochs,
        "imitation": imitating,
    }


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with train.parquet and test.parquet of CIFAR-10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kind", default="graft", choices=[kind for kind in KINDS if kind != "all"])
    parser.add_argument("--children", type=int, default=12)
    parser.add_argument("--epochs", type=float, default=2.0, help="of fine-tuning, whose time each arm has")
    parser.add_argument("--subset", type=int, default=4_000, help="training examples used (a fifth validates)")
    parser.add_argument("--pretrain", type=float, default=25.0, help="epochs of the original's training")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    task = tasks.load(options.data, input_shape=(3, 32, 32), classes=10, subset=options.subset)
    model = trained(task, options.pretrain, options.out / f"resnet20-{options.subset}-{options.pretrain:g}.pt")
    trainer = Trainer(model, task, 0, RATES[task.optimiser])
    journal = options.out / f"{options.kind}.jsonl"
    done = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    print(f"the original: {evaluate(to_module(model), task, 'validation').quality:.1f} % on the validation split\n")
    print(f"| {options.kind} | inherited | {' | '.join(STAGES)} | imitation, in epochs |")
    print("|---|---|" + "---|" * (len(STAGES) + 1))
    for number, (edit, child, share) in enumerate(children(model, KINDS[options.kind], options.seed)):
        if number == options.children:
            break
        if number == len(done):
            found = row(trainer, child, options.epochs)
            done.append({"nodes": [len(edit.region.nodes), len(edit.replacement)], "share": share, **found})
            with journal.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
        one = done[number]
        cells = " | ".join(f"{one[stage]:.1f}" for stage in STAGES)
        before, after = one["nodes"]
        print(
            f"| {before} nodes to {after} | {one['share']:.0%} | {cells} | {one['imitation'] / one['epoch']:.2f} |",
            flush=True,
        )
    columns = {stage: [one[stage] for one in done[: options.children]] for stage in STAGES}
    summary = " | ".join(f"{mean(c):.1f} ± {stdev(c):.1f}" if len(c) > 1 else f"{c[0]:.1f}" for c in columns.values())
    print(f"| mean | | {summary} | |")
    ahead = sum(one["both"] > one["fine-tuned"] for one in done[: options.children])
    print(f"\nwith imitation ahead of fine-tuning alone in {ahead} of {len(columns['both'])}")


if __name__ == "__main__":
    main()
