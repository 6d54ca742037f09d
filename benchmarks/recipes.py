"""Published methods held to what their papers say: AMC beside a uniform ratio, CompactNet on its own two platforms.

    OMP_NUM_THREADS=1 python benchmarks/recipes.py amc ../shared/data/cifar10 --out build/recipes
    OMP_NUM_THREADS=1 python benchmarks/recipes.py compactnet ../shared/data/hardware --out build/recipes

``amc`` trims a network (a ResNet-20, where nothing else is said) to half of its FLOPs by AMC, by a uniform ratio, and
by the best of as many random episodes as AMC plays, all with the same importance and the same refit, and no
fine-tuning. AMC and chance choose on validation images, AMC in the end among five on the whole split; the table is of
the test images.

``compactnet`` trims a MobileNetV2 that was trained on handwritten digits by the latency tables of a phone's CPU and of
an NPU that CompactNet published, and looks at what each of the two runs gives on the other's platform, at the same
latency there.

Both train the network that they begin with once, and keep it in ``--out`` for another time.
"""

from __future__ import annotations

import argparse
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from averaging import first
from safetensors.numpy import load_file, save_file

import netgraft as ng
from netgraft import tasks, zoo
from netgraft.candidate import Trial, TrialState
from netgraft.channels import channels
from netgraft.convert.from_torch import from_module
from netgraft.convert.to_torch import to_module, weights_of
from netgraft.costs.analytic import flops
from netgraft.costs.published import CompactNet
from netgraft.events import Event, FinalsBegun
from netgraft.front import Front
from netgraft.ir import Edit, Graph, Model, apply
from netgraft.mutations.importance import reads
from netgraft.mutations.trim import trim_several, trimmable
from netgraft.recipes import amc, compactnet
from netgraft.recipes.amc import Walk
from netgraft.recipes.refit import Moments

CHOSEN = 5
"""Networks of AMC among which the whole validation split decides."""


def main() -> None:
    """Runs one of the two parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    one, other = parts.add_parser("amc"), parts.add_parser("compactnet")
    one.add_argument("data", help="folder with train.parquet and test.parquet of CIFAR-10")
    one.add_argument("--network", default="resnet20", help="of the zoo, for images of 32x32")
    one.add_argument("--width", type=float, default=1.0, help="of the network, as a share of its own")
    one.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    one.add_argument("--chance", type=int, nargs="*", default=[], help="seeds with which chance is tried, too")
    one.add_argument("--episodes", type=int, default=100)
    one.add_argument("--multiple", type=int, default=4)
    one.add_argument("--limit", type=float, default=0.5, help="FLOPs, as a share of the original's")
    one.add_argument("--subset", type=int, default=12_000, help="training examples used (a fifth validates)")
    one.add_argument("--validation", type=int, default=600, help="images of the validation split used")
    one.add_argument("--epochs", type=float, default=8.0, help="of training the original")
    one.set_defaults(run=run_amc)
    other.add_argument("tables", type=Path, help="folder with compactnet_cpu_latency_ms.npz and that of the NPU")
    other.add_argument("--pixels", type=int, default=16, help="in height and width of the enlarged digits")
    other.add_argument("--epochs", type=float, default=20.0, help="of training the original")
    other.add_argument("--iterations", type=int, default=5)
    other.add_argument("--limits", nargs=2, default=["latency<=0.6x", "latency<=0.72x"], help="CPU's and NPU's")
    other.add_argument("--tune-epochs", type=float, default=2.0)
    other.set_defaults(run=run_compactnet)
    for part in (one, other):
        part.add_argument("--out", type=Path, required=True, help="folder for trained networks and runs")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    options.run(options)


def trained(model: Model, task: tasks.Task, name: str, options: argparse.Namespace) -> Model:
    """The trained network, from ``--out`` where it is."""
    kept = options.out / f"{name}-{options.epochs:g}.safetensors"
    if not kept.exists():
        module = to_module(model)
        tasks.train(module, task, tasks.Schedule(options.epochs), seed=0)
        options.out.mkdir(parents=True, exist_ok=True)
        save_file(weights_of(module), kept)
    return Model(model.graph, load_file(kept), name)


def run_of(out: Path, recipe: Callable[..., Front], *given: object, **options: Any) -> list[Trial]:
    """The trials of a run without its finals: those that went through, the original first. A run that is there already
    is begun anew.
    """
    shutil.rmtree(out, ignore_errors=True)

    def enough(event: Event) -> None:
        if isinstance(event, FinalsBegun):
            raise KeyboardInterrupt

    front = recipe(*given, out=out, on_event=enough, **options)
    return [trial for trial in front.study.trials.values() if trial.state is not TrialState.FAILED]


# AMC


def run_amc(options: argparse.Namespace) -> None:
    """Prints the table of AMC."""
    task = tasks.load(options.data, input_shape=(3, 32, 32), classes=10, subset=options.subset)
    whole_task, task = task, replace(task, validation=first(task.validation, options.validation))
    torch.manual_seed(0)
    name = options.network if options.width == 1 else f"{options.network}-{options.width:g}"
    model = from_module(zoo.build(options.network, width=options.width), torch.zeros(2, 3, 32, 32), name=name)
    model = trained(model, task, f"{name}-{options.subset}", options)
    whole, bound = flops(model.graph), options.limit * flops(model.graph)
    started = time.process_time()

    def tested(network: Model) -> str:
        score = tasks.evaluate(to_module(network), task, "test")
        return f"{score.quality:.1f} ± {score.error:.1f} | {flops(network.graph) / whole:.3f}x"

    print("| network | seed | test accuracy (%) | FLOPs | validation accuracy (%) | networks tried |")
    print("|---|---|---|---|---|---|")
    print(f"| {name} | | {tested(model)} | | |", flush=True)
    groups = channels(model.graph).groups
    scores = [reads(model.graph, group, model.weights) for group in groups]
    for seed in options.seeds:
        moments = Moments.of(model, task, seed=seed)
        ratio = max(
            share
            for share in np.linspace(0.3, 0.95, 131)
            if flops(apply(model.graph, uniform(model.graph, scores, share))) <= bound
        )
        network = moments.refit(uniform(model.graph, scores, ratio))
        print(f"| uniform, {ratio:.3f} of every width | {seed} | {tested(network)} | | 1 |")
        out = options.out / f"amc-{seed}"
        limit = f"flops<={options.limit:g}x"
        plan = ng.Plan(final_epochs=1)
        given = {"limit": limit, "episodes": options.episodes, "multiple": options.multiple, "seed": seed, "plan": plan}
        trials = run_of(out, amc, model, task, **given)[1:]
        found, network = best_of(ng.Study.read(out), trials, whole_task)
        late = np.mean([trial.scores["quality"] for trial in trials[-10:]])
        quality = f"{found:.1f} (the last 10: {late:.1f})"
        print(f"| AMC | {seed} | {tested(network)} | {quality} | {len(trials)} |", flush=True)
        if seed in options.chance:
            found, network, count = by_chance(model, task, moments, bound, options, seed)
            print(f"| the best by chance | {seed} | {tested(network)} | {found:.1f} | {count} |", flush=True)
    print(f"\n{time.process_time() - started:.0f} s of processor time")


def best_of(study: ng.Study, trials: Sequence[Trial], task: tasks.Task) -> tuple[float, Model]:
    """Of the five networks with the largest rewards the one that is best on the whole validation split, and how good
    it is there: the best of a hundred on a few images is partly luck.
    """
    first = sorted((t for t in trials if t.model), key=lambda trial: -trial.scores["quality"])[:CHOSEN]
    networks = [study.load_model(trial.model or "") for trial in first]
    found = [(tasks.evaluate(to_module(network), task, "validation").quality, network) for network in networks]
    return max(found, key=lambda pair: pair[0])


def uniform(graph: Graph, scores: Sequence[np.ndarray], share: float) -> Edit:
    """The edit that leaves the same share of every group."""
    groups = channels(graph).groups
    edit = trim_several(graph, [(g, s, round(share * g.channels)) for g, s in zip(groups, scores, strict=True)])
    assert edit is not None
    return edit


def by_chance(
    model: Model, task: tasks.Task, moments: Moments, bound: float, options: argparse.Namespace, seed: int
) -> tuple[float, Model, int]:
    """The best of as many different networks as random episodes give."""
    rng = np.random.default_rng([seed, 1])  # not that of the agent, whose first episodes are by chance, too
    groups = trimmable(model.graph)
    scores = [reads(model.graph, group, model.weights) for group in groups]
    walk = Walk.through(model.graph, groups, scores, flops, bound, 0.2, options.multiple)
    tried = {tuple(walk.episode(lambda _: float(rng.random()))[0]) for _ in range(options.episodes)}
    found = []
    for widths in sorted(tried):
        edit = walk.edit(widths)
        assert edit is not None
        network = moments.refit(edit)
        found.append((tasks.evaluate(to_module(network), task, "validation").quality, network))
    quality, network = max(found, key=lambda pair: pair[0])
    return quality, network, len(found)


# CompactNet


@dataclass(frozen=True)
class Platform:
    """One of CompactNet's tables, for the networks that its filters describe."""

    name: str
    table: CompactNet
    engine: str = "onnxruntime"

    @property
    def digest(self) -> str:
        """The platform's name."""
        return f"CompactNet, {self.name}"

    def latency(self, graph: Graph) -> float:
        """Milliseconds."""
        return self.table.latency(filters(graph))


def filters(graph: Graph) -> list[int]:
    """The filters of a MobileNetV2's stem and of its 17 blocks' projections."""
    projections = ["features.1.conv.1", *(f"features.{n}.conv.2" for n in range(2, 18))]
    return [graph[id].attrs["out_channels"] for id in ["features.0.0", *projections]]


def run_compactnet(options: argparse.Namespace) -> None:
    """Prints the tables of CompactNet."""
    torch.manual_seed(0)
    model = ng.load(f"zoo:mobilenet_v2?channels=1&input=1x{options.pixels}x{options.pixels}")
    task = ng.task("digits", model)
    model = trained(model, task, f"mobilenet_v2-digits-{options.pixels}", options)
    platforms = [
        Platform(name, CompactNet.load(options.tables / f"compactnet_{name.lower()}_latency_ms.npz"))
        for name in ("CPU", "NPU")
    ]
    score = tasks.evaluate(to_module(model), task, "validation")
    print(
        f"MobileNetV2: {score.quality:.1f} ± {score.error:.1f} % of {len(task.validation)} validation images",
        flush=True,
    )
    started = time.process_time()
    paths = {}
    for platform, limit in zip(platforms, options.limits, strict=True):
        out = options.out / f"compactnet-{platform.name}"
        plan = ng.Plan(tune_epochs=options.tune_epochs, measure="end")
        given = {"limit": limit, "iterations": options.iterations, "table": platform, "plan": plan}
        trials = run_of(out, compactnet, model, task, **given)
        study = ng.Study.read(out)
        chosen = {trial.parent for trial in trials}
        last = [max((t for t in trials if t.generation == trials[-1].generation), key=lambda t: t.scores["quality"])]
        paths[platform.name] = [
            (filters(study.load_model(trial.model or "").graph), trial.scores["quality"])
            for trial in [*(t for t in trials if t.number in chosen), *last]
        ]
    print("\n| found for | iteration | CPU (ms) | NPU (ms) | accuracy, tuned shortly (%) | filters |")
    print("|---|---|---|---|---|---|")
    for name, path in paths.items():
        for number, (widths, quality) in enumerate(path):
            times = " | ".join(f"{platform.table.latency(widths):.2f}" for platform in platforms)
            print(f"| {name} | {number} | {times} | {quality:.1f} | {' '.join(map(str, widths))} |")
    print("\n| at the latency of | the network for it: ms, accuracy | the other's as fast there: ms, accuracy |")
    print("|---|---|---|")
    for platform in platforms:
        (other,) = (name for name in paths if name != platform.name)
        for widths, quality in paths[platform.name][1:]:
            reached = platform.table.latency(widths)
            rival = next((r for r in paths[other] if platform.table.latency(r[0]) <= reached), None)
            theirs = "none" if rival is None else f"{platform.table.latency(rival[0]):.2f}, {rival[1]:.1f}"
            print(f"| {platform.name} | {reached:.2f}, {quality:.1f} | {theirs} |")
    print(f"\n{time.process_time() - started:.0f} s of processor time")


if __name__ == "__main__":
    main()
