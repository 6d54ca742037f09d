"""ResNet-20 on CIFAR-10: netgraft against uniform width scaling and Torch-Pruning at equal measured latency.

    python benchmarks/first_result.py ../shared/data/cifar10 --out runs/first-result

Everybody starts from the same trained ResNet-20 (the narrower one, which cannot, is trained from scratch for as
long as the original was), receives the same extra training with the same teacher, data, schedule and seed, and is
judged once on the test split; latencies are measured interleaved in one session at the end. The rivals are brought
to the latency of netgraft's pick by bisection on *measured* time. Needs ``pip install -e .[bench]`` for Torch-Pruning.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

import netgraft as ng
from netgraft import tasks, zoo
from netgraft.convert.from_torch import from_module
from netgraft.convert.onnx import to_onnx
from netgraft.convert.to_torch import to_module
from netgraft.costs.analytic import flops, parameters
from netgraft.costs.measured import Ratio, compare
from netgraft.events import FinalsBegun, GenerationProposed, MeasuringBegun
from netgraft.ir import Model
from netgraft.recipes.evaluation import Trainer

EXAMPLE = torch.zeros(2, 3, 32, 32)


@dataclass(frozen=True)
class Entry:
    """One row of the table."""

    name: str
    model: Model
    extra_epochs: float


def width_scaled(width: float) -> Model:
    """A fresh ResNet-20 of another width."""
    torch.manual_seed(0)
    return from_module(zoo.build("resnet20", width=width), EXAMPLE, name=f"width {width:.3f}")


def pruned(original: Model, ratio: float) -> Model:
    """The original with a share of its channels removed by Torch-Pruning's group magnitude (DepGraph, Fang et
    al., CVPR 2023), ranked over the whole network.
    """
    import torch_pruning as tp

    module = zoo.build("resnet20")
    module.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in original.weights.items()}, strict=True)
    heads = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    pruner = tp.pruner.GroupNormPruner(
        module,
        EXAMPLE,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        max_pruning_ratio=0.9,
        global_pruning=True,
        ignored_layers=heads,
    )
    pruner.step()
    return from_module(module, EXAMPLE, name=f"Torch-Pruning {ratio:.3f}")


def trained(model: Model | None, before: Model) -> Model:
    """The trained network; an error where the training of ``before`` diverged, because no row may stand for that."""
    if model is None:
        raise SystemExit(f"the training of {before.name} diverged: nothing fair can be said")
    return model


def at_time(make: Callable[[float], Model], low: float, high: float, wanted: float, baseline: bytes) -> Model:
    """The network of ``make(x)``, ``low`` <= x <= ``high``, whose measured time is nearest ``wanted``."""
    best: tuple[float, Model] | None = None
    for _ in range(7):
        middle = (low + high) / 2
        model = make(middle)
        (found,) = compare([to_onnx(model)], baseline, seconds=6)
        if best is None or abs(found.ratio - wanted) < best[0]:
            best = abs(found.ratio - wanted), model
        low, high = (middle, high) if found.ratio < wanted else (low, middle)
    assert best is not None
    return best[1]


def main() -> None:
    """Runs everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with train.parquet and test.parquet of CIFAR-10")
    parser.add_argument("--out", type=Path, required=True, help="folder of netgraft's run")
    parser.add_argument("--subset", type=int, default=25_000, help="training examples used (a fifth validates)")
    parser.add_argument("--pretrain", type=float, default=15.0, help="epochs of the original's training")
    parser.add_argument("--tune-epochs", type=float, default=0.75)
    parser.add_argument("--final-epochs", type=float, default=6.0)
    parser.add_argument("--budget", default="40 trials", help="of the search")
    parser.add_argument("--limit", default="latency<=0.66x")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()

    task = tasks.load(options.data, input_shape=(3, 32, 32), classes=10, subset=options.subset)
    torch.manual_seed(options.seed)
    untrained = from_module(zoo.build("resnet20"), EXAMPLE, name="resnet20")
    plan = ng.Plan(
        pretrain_epochs=options.pretrain,
        tune_epochs=options.tune_epochs,
        final_epochs=options.final_epochs,
        finalists=3,
    ).for_task(task)
    front = ng.optimize(
        untrained,
        task,
        goals=("quality", "latency"),
        limits=(options.limit,),
        budget=options.budget,
        out=options.out,
        seed=options.seed,
        resume=options.out.exists(),
        plan=plan,
        on_event=lambda event: (
            print(f"[{time.perf_counter() - started:6.0f} s] {event}", flush=True)
            if isinstance(event, GenerationProposed | FinalsBegun | MeasuringBegun)
            else None
        ),
    )
    study, pick = front.study, front.fastest()
    original = study.load_model(study.trials[0].model or "")
    equally_long = study.load_model(study.finalists[0].model)
    extra = study.finalists[0].epochs
    baseline = to_onnx(equally_long)
    assert plan.learning_rate is not None and plan.batch_size is not None, "decided by for_task"
    trainer = Trainer(original, task, options.seed, plan.learning_rate, batch_size=plan.batch_size)
    scratch = Trainer(original, task, options.seed, 0.1, teaching=False, batch_size=plan.batch_size)

    def finish(model: Model) -> Model:
        return trained(trainer.train(trainer.recalibrated(model), extra, "final", 0), model)

    entries = [Entry("the original, no extra training", original, 0.0), Entry("the original", equally_long, extra)]
    entries += [
        Entry(
            f"netgraft {row.digest} ({'/'.join(front.summary.names(row)) or 'finalist'})",
            front[row.digest].model,
            row.epochs,
        )
        for row in front.summary.rows
        if not row.is_original
    ]
    narrow = at_time(width_scaled, 0.3, 1.0, pick.figures.time, baseline)
    narrow_trained = trained(scratch.train(narrow, options.pretrain, "pretrain", 0), narrow)
    entries.append(Entry(f"uniform {narrow.name}, from scratch", finish(narrow_trained), extra))
    rival = at_time(lambda x: pruned(original, 1 - x), 0.3, 1.0, pick.figures.time, baseline)
    entries.append(Entry(rival.name, finish(rival), extra))

    ratios = compare([to_onnx(entry.model) for entry in entries], baseline, seconds=120)
    report(entries, ratios, task, time.perf_counter() - started, options)


def report(
    entries: list[Entry], ratios: list[Ratio], task: tasks.Task, seconds: float, options: argparse.Namespace
) -> None:
    """Prints the table in Markdown."""
    print(f"\n{date.today()}, {platform.machine()}, torch {version('torch')}, onnxruntime {version('onnxruntime')}, ")
    print(f"{len(task.train):,} training images, seed {options.seed}, {seconds / 60:.0f} min in all\n")
    print("| network | test accuracy (%) | speed-up, measured | 99 % interval | FLOPs | parameters | extra epochs |")
    print("|---|---|---|---|---|---|---|")
    base = entries[1].model.graph
    for entry, ratio in zip(entries, ratios, strict=True):
        score = tasks.evaluate(to_module(entry.model), task, "test")
        graph = entry.model.graph
        print(
            f"| {entry.name} | {score.quality:.2f} ± {score.error:.2f} | {ratio.speedup:.2f}x "
            f"| [{1 / ratio.high:.2f}, {1 / ratio.low:.2f}] | {flops(graph) / flops(base):.2f}x "
            f"| {parameters(graph) / parameters(base):.2f}x | {entry.extra_epochs:g} |"
        )


if __name__ == "__main__":
    main()
