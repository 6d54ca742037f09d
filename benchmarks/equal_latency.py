"""What a run trimmed a network to, beside Torch-Pruning at the same measured latency, both fine-tuned equally.

    OMP_NUM_THREADS=1 python benchmarks/recipes.py amc ../shared/data/cifar10 --out build/recipes
    OMP_NUM_THREADS=1 python benchmarks/equal_latency.py ../shared/data/cifar10 build/recipes/amc-{0,1,2}

Takes folders of runs of ``amc`` on a network (they need not have ended), one a seed. Of each the network with the
best quality, as it came out of the search, without any training, is measured in onnxruntime beside the original.
Torch-Pruning (DepGraph) prunes the same original to the nearest measured latency, in two ways: its
GroupMagnitudeImportance with the same ratio everywhere, and its GroupTaylorImportance with one threshold for the whole
network; widths are rounded to multiples of four, as ``amc``'s were. Batch-norm statistics are re-estimated where that
helps, and every network is fine-tuned with the same schedule, examples and seed, with the original as teacher. Accuracy
on test images. Needs ``pip install netgraft[bench]``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from math import log
from pathlib import Path

import numpy as np
import torch
from torch import nn

import netgraft as ng
from netgraft import tasks, zoo
from netgraft.channels import channels
from netgraft.convert.from_torch import from_module
from netgraft.convert.to_torch import to_module
from netgraft.costs.analytic import flops
from netgraft.costs.measured import compare
from netgraft.ir import Model

MULTIPLE = 4
STEPS = 64
"""Ratios that are tried are multiples of one over this."""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with train.parquet and test.parquet of CIFAR-10")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs on the same network, one a seed")
    parser.add_argument("--network", default="resnet20", help="of the zoo: what the runs began with")
    parser.add_argument("--width", type=float, default=1.0, help="of the network, as a share of its own")
    parser.add_argument("--subset", type=int, default=12_000, help="training examples used (a fifth validates)")
    parser.add_argument("--tune-epochs", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement that is reported")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    task = tasks.load(options.data, input_shape=(3, 32, 32), classes=10, subset=options.subset)
    studies = [ng.Study.read(run) for run in options.runs]
    model = studies[0].load_model(studies[0].trials[0].model or "")
    original = tasks.evaluate(to_module(model), task, "test")
    print(f"{model.name}: {original.quality:.1f} ± {original.error:.1f} % of the test images\n")
    print("| trimmed by | seed | measured latency [99 %] | FLOPs | before (%) | fine-tuned (%) |")
    print("|---|---|---|---|---|---|", flush=True)
    rival = TorchPruning(partial(zoo.build, options.network, width=options.width), model, task)
    by_magnitude, by_taylor = cache(rival.by_magnitude), cache(rival.by_taylor)  # seeds ask for the same ratios
    after: dict[str, list[float]] = {}
    for seed, study in enumerate(studies):
        best = max((t for t in study.trials.values() if t.number and t.model), key=lambda t: t.scores["quality"])
        ours = study.load_model(best.model or "")
        target = measured(ours, model)
        networks = {
            "netgraft": ours,
            "Torch-Pruning, magnitude, one ratio": as_fast(by_magnitude, target),
            "Torch-Pruning, Taylor, one threshold": as_fast(by_taylor, target),
        }
        ratios = compare(list(networks.values()), model, seconds=options.seconds)
        for (way, network), ratio in zip(networks.items(), ratios, strict=True):
            before, tuned = qualities(network, model, task, options.tune_epochs, seed)
            after.setdefault(way, []).append(tuned)
            share = flops(network.graph) / flops(model.graph)
            latency = f"{ratio.ratio:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
            print(f"| {way} | {seed} | {latency} | {share:.2f}x | {before:.1f} | {tuned:.1f} |", flush=True)
    for way, found in after.items():
        print(f"\n{way}: {np.mean(found):.2f} % (from {min(found):.1f} to {max(found):.1f})")
    print(f"\n{time.process_time():.0f} s of processor time")


def measured(network: Model, model: Model) -> float:
    """Its latency as a share of the model's, measured shortly."""
    (ratio,) = compare([network], model, seconds=2.0)
    return ratio.ratio


def qualities(network: Model, model: Model, task: tasks.Task, epochs: float, seed: int) -> tuple[float, float]:
    """Validation accuracy, with new batch-norm statistics where that is better, and test accuracy after fine-tuning."""
    plain, recalibrated = to_module(network), to_module(network)
    tasks.recalibrate(recalibrated, task, seed=0)
    before, module = max(
        ((tasks.evaluate(each, task, "validation").quality, each) for each in (plain, recalibrated)),
        key=lambda pair: pair[0],
    )
    tasks.train(module, task, tasks.Schedule(epochs, learning_rate=0.05), seed=seed, teacher=to_module(model))
    return before, tasks.evaluate(module, task, "test").quality


def as_fast(prune: Callable[[int], tuple[Model, float]], target: float) -> Model:
    """What a ratio leaves whose measured time is the nearest to ``target``, as a share of the model's, of all ratios
    that a bisection asks for: latencies are a staircase, and noisy.
    """
    low, high = 0, STEPS - 4
    tried = [prune(low), prune(high)]
    while high - low > 1:
        middle = (low + high) // 2
        tried.append(prune(middle))
        low, high = (low, middle) if tried[-1][1] <= target else (middle, high)
    return min(tried, key=lambda pruned: abs(log(pruned[1] / target)))[0]


def with_weights(module: nn.Module, model: Model) -> nn.Module:
    """The module with the weights of the network that was read from it."""
    missing, unexpected = module.load_state_dict(to_module(model).state_dict(), strict=False)
    assert not unexpected and all("num_batches" in key for key in missing), "the parameters keep their names"
    return module.eval()


@dataclass(frozen=True, eq=False)
class TorchPruning:
    """Prunes what ``build`` gives, with the weights of ``model``."""

    build: Callable[[], nn.Module]
    model: Model
    task: tasks.Task

    def by_magnitude(self, ratio: int) -> tuple[Model, float]:
        """Its default: the L2 norm of groups, the same ratio of each."""
        import torch_pruning as tp

        return self._pruned(self._module(), ratio, tp.importance.GroupMagnitudeImportance(p=2), everywhere=False)

    def by_taylor(self, ratio: int) -> tuple[Model, float]:
        """First-order Taylor importance from 512 training images, ranked over the whole network."""
        import torch_pruning as tp

        module = self._module()
        for start in range(0, 512, 128):
            rows = slice(start, start + 128)
            task = self.task
            torch.autograd.backward(task.loss(module(task.prepare(task.train.inputs[rows])), task.train.targets[rows]))
        return self._pruned(module, ratio, tp.importance.GroupTaylorImportance(), everywhere=True)

    def _module(self) -> nn.Module:
        return with_weights(self.build(), self.model)

    def _pruned(self, module: nn.Module, ratio: int, importance: object, *, everywhere: bool) -> tuple[Model, float]:
        """The network and its measured latency. Torch-Pruning is told which layers give the outputs, as its manual asks
        for.
        """
        import torch_pruning as tp

        (given,) = self.model.graph.inputs
        x = torch.zeros(given.type.concrete(2))
        held = {id for id, why in channels(self.model.graph).held.items() if why == "the network's output"}
        ignored = [part for name, part in module.named_modules() if name in held]
        pruner = tp.pruner.BasePruner(
            module,
            x,
            importance=importance,
            global_pruning=everywhere,
            pruning_ratio=ratio / STEPS,
            max_pruning_ratio=15 / 16,
            ignored_layers=ignored,
            round_to=MULTIPLE,
        )
        pruner.step()
        module.zero_grad()
        network = from_module(module, x, name=self.model.name)
        return network, measured(network, self.model)


if __name__ == "__main__":
    main()
