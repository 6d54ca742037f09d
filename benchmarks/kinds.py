"""What each kind of edit brings: searches with grafts, swaps, trims or program edits alone, and with all together.

    python benchmarks/kinds.py ../shared/data/cifar10 --out runs/kinds [--kinds trim all] [--budget 6m] [--seeds 3]

A ResNet-20 for CIFAR-10 is trained once. Then every kind has the same budget in time to evolve it, finals included,
from the same weights, with the same training, teacher and data. Prints one row a kind and seed: how many networks were
fine-tuned, the finalists' measured speed-up and test accuracy less that of the original trained equally long, the
fastest of those that lose at most a point, and the area: of the square from no time to the original's and from five
points less than its accuracy to that, the share that the finalists dominate (Zitzler and Thiele's hypervolume), by test
accuracy. Each search is a run folder in OUT; started again, the benchmark goes on with what is missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch

import netgraft as ng
from netgraft import tasks, zoo
from netgraft.candidate import TrialState
from netgraft.convert.from_torch import from_module
from netgraft.front import Front
from netgraft.ir import Model
from netgraft.mutations import Mutation
from netgraft.mutations.graft import Graft
from netgraft.mutations.program import Program
from netgraft.mutations.swap import Swap
from netgraft.mutations.trim import Trim
from netgraft.recipes.evaluation import Trainer
from netgraft.recipes.optimize import default_mutations
from netgraft.study import Study

KINDS: Mapping[str, Mutation] = {
    "graft": Graft(),
    "swap": Swap(),
    "trim": Trim(),
    "program": Program(),
    "all": default_mutations(),
}
LOST = 5.0
"""Points of accuracy below the original where the area ends."""


def trained(task: tasks.Task, epochs: float, path: Path) -> Model:
    """The original: from ``path``, or trained from scratch and kept there."""
    module = zoo.build("resnet20")
    example = torch.zeros(2, 3, 32, 32)
    if path.exists():
        module.load_state_dict(torch.load(path, weights_only=True))
        return from_module(module, example, name="resnet20")
    torch.manual_seed(0)
    untrained = from_module(zoo.build("resnet20"), example, name="resnet20")
    model = Trainer(untrained, task, 0, 0.1, teaching=False).train(untrained, epochs, "pretrain", 0)
    assert model is not None, "the training diverged"
    module.load_state_dict({key: torch.from_numpy(array) for key, array in model.weights.items()})
    torch.save(module.state_dict(), path)
    return model


def area(front: Front) -> float:
    """The share of the square that the finalists dominate; 0 where none is faster than the original."""
    original, *children = front.summary.rows
    points = sorted((row.time, max(0.0, original.test - row.test) / LOST) for row in children)
    covered, lowest = 0.0, 1.0
    for time, loss in points:
        if time < 1 and loss < lowest:
            covered += (1 - time) * (lowest - loss)
            lowest = loss
    return covered


def line(kind: str, seed: int, front: Front) -> str:
    """A row of the table."""
    original, *children = front.summary.rows
    tuned = sum(t.state is TrialState.COMPLETE for t in front.study.trials.values()) - 1
    found = ", ".join(f"{row.speedup:.2f}x {row.test - original.test:+.1f}" for row in children)
    good = max((row.speedup for row in children if row.test >= original.test - 1), default=1.0)
    return f"| {kind} | {seed} | {tuned} | {original.test:.1f} | {found} | {max(1.0, good):.2f}x | {area(front):.3f} |"


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with train.parquet and test.parquet of CIFAR-10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--budget", default="6m", help="of each search")
    parser.add_argument("--subset", type=int, default=4_000, help="training examples used (a fifth validates)")
    parser.add_argument("--pretrain", type=float, default=25.0, help="epochs of the original's training")
    parser.add_argument("--population", type=int, default=24, help="proposals in a generation")
    parser.add_argument("--tune-epochs", type=float, default=1.0)
    parser.add_argument("--final-epochs", type=float, default=4.0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    task = tasks.load(options.data, input_shape=(3, 32, 32), classes=10, subset=options.subset)
    model = trained(task, options.pretrain, options.out / f"resnet20-{options.subset}-{options.pretrain:g}.pt")
    plan = ng.Plan(
        population=options.population,
        tune_epochs=options.tune_epochs,
        final_epochs=options.final_epochs,
        measure_seconds=20.0,
    )
    header = f"area, {LOST:g} points"
    print(f"| kind | seed | fine-tuned | original (%) | finalists: speed-up, points | within a point | {header} |")
    print("|---|---|---|---|---|---|---|")
    for seed in range(options.seeds):
        for kind in options.kinds:
            out = options.out / f"{kind}-{seed}"
            if not ((out / "run.json").exists() and Study.read(out).finalists):
                ng.optimize(
                    model,
                    task,
                    budget=options.budget,
                    out=out,
                    seed=seed,
                    resume=out.exists(),
                    plan=plan,
                    mutation=KINDS[kind],
                )
            print(line(kind, seed, Front(Study.read(out))), flush=True)


if __name__ == "__main__":
    main()
