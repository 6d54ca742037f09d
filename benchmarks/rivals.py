"""What netgraft makes of a network, beside uniform width scaling and Torch-Pruning at the same measured latency.

    OMP_NUM_THREADS=1 python benchmarks/rivals.py ../shared/data --out runs/rivals [--subjects vgg16 unet] [--seeds 3]
        [--parts picks searches fastnas]

Each subject is a network of the zoo and its data. The network is trained once. Then, for each seed, netgraft evolves it
within its own latency, and three of the finalists are taken, as ``netgraft export`` picks them by validation: the
fastest without a loss, the knee, and the best. A narrower network of the zoo, and what Torch-Pruning (DepGraph) leaves
of the original, are brought to the measured latency of each: as wide as is nearest to it. All are trained for the
same number of epochs more, with the original as teacher; the narrower one, which has no weights to begin with, as long
as the original was before. Torch-Pruning has two tries, by the magnitude of groups with the same ratio everywhere and
by first-order Taylor importance with one threshold for all, of which validation chooses. Test data is asked once.

Images that are classified have a second part: two other searches, which end with the same training. Random grafts
fine-tune as many networks as netgraft did, without any choice; the best three by validation go on, and the best of
these is taken. The other makes AutoGO's own choices: predictor and FLOPs alone say which network is the best at no more
FLOPs, and that is trained from scratch (:mod:`rival_searches`). The third part, for who has it installed, is NVIDIA's
FastNAS at the latency of the picks (:mod:`fastnas`). The networks of a part are measured interleaved with the original.

What was done is kept in OUT, and not done again. Prints one table with the mean over the seeds, and the lowest and
highest. Needs ``pip install netgraft[bench]``.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from equal_latency import STEPS, TorchPruning, as_fast, measured
from fastnas import FastNAS
from rival_searches import autogo_choice, random_grafts
from safetensors.numpy import load_file, save_file

import netgraft as ng
from netgraft import data, tasks, zoo
from netgraft.convert.from_torch import from_module
from netgraft.convert.to_torch import to_module
from netgraft.costs.analytic import flops, parameters
from netgraft.costs.measured import compare
from netgraft.events import Event, FinalBegun, RunFinished, TrialRecorded
from netgraft.front import Front
from netgraft.ir import Model, untrained
from netgraft.recipes.evaluation import Trainer
from netgraft.recipes.run import batch_size_of

PRETRAIN_RATE = 0.1
"""The learning rate of what is trained from scratch."""


@dataclass(frozen=True)
class Subject:
    """A network of the zoo, with its options and the size of its input, and what it is trained on.

    ``test`` names other data to be judged by, beside the data's own test split. ``tune`` and ``final`` are epochs of
    netgraft's plan, ``subset`` the training examples used (a fifth of them validates).
    """

    network: str
    options: dict[str, Any]
    size: tuple[int, int]
    data: str
    pretrain: float
    tune: float
    final: float
    subset: int | None = None
    test: dict[str, str] = field(default_factory=dict)

    def build(self, width: float = 1.0) -> torch.nn.Module:
        """The network as it is made, ``width`` times as wide as the subject's."""
        return zoo.build(self.network, **{**self.options, "width": width * self.options.get("width", 1.0)})

    @property
    def example(self) -> torch.Tensor:
        """An input."""
        return torch.zeros(2, 3, *self.size)


_T91 = "super-resolution:{data}/super_resolution/t91.parquet,{data}/super_resolution/%s.parquet"
_CIFAR = ("{data}/cifar10", 25, 1, 4, 5_000)

SUBJECTS = {
    "resnet20": Subject("resnet20", {}, (32, 32), *_CIFAR),
    "vgg16": Subject("vgg16", {"width": 0.25, "classes": 10}, (32, 32), *_CIFAR),
    "mobilenet_v2": Subject("mobilenet_v2", {"width": 0.5, "classes": 10}, (32, 32), *_CIFAR),
    "fsrcnn": Subject(
        *("fsrcnn", {}, (24, 24), _T91 % "set5", 20, 1, 4),
        test={"Set14": _T91 % "set14", "BSD100": _T91 % "bsd100"},
    ),
    "dncnn": Subject(
        *("dncnn", {"width": 0.25, "depth": 8}, (40, 40)),
        data="denoising:{data}/super_resolution/t91.parquet,{data}/denoise/cbsd68.parquet?sigma=25",
        pretrain=12,
        tune=0.5,
        final=2,
    ),
    "unet": Subject("unet", {"width": 0.125, "classes": 11}, (96, 128), "segmentation:{data}/camvid", 30, 2, 8),
    "unet_shapes": Subject("unet", {"width": 0.125, "classes": 6}, (64, 64), "segmentation:shapes", 80, 2, 8),
    "hourglass": Subject("hourglass", {"width": 0.125, "classes": 5}, (64, 64), "key-points:shapes", 80, 4, 16),
}


CLASSIFIERS = ("resnet20", "vgg16", "mobilenet_v2")
PARTS = {"picks": tuple(SUBJECTS), "searches": CLASSIFIERS, "fastnas": CLASSIFIERS}
"""The subjects of each part."""
PICKS = ("fastest", "knee", "best")
COLUMNS = 4
"""Panels beside each other in a picture, at most."""
LOOKS = {
    "original": ("0.4", "o"),
    "netgraft": ("#1f5fbf", "o"),
    "uniform width": ("#b45f06", "s"),
    "Torch-Pruning": ("#a02020", "D"),
    "FastNAS": ("#2e7d32", "^"),
    "random grafts": ("#7b4fa3", "v"),
    "AutoGO's choices": ("#00838f", "P"),
}
"""The colour and the mark of each way in a picture."""


@dataclass(frozen=True)
class Entry:
    """A row of one seed: ``test`` by the name of the data, ``seconds`` of processor time that it took in all."""

    way: str
    test: dict[str, float]
    error: float
    latency: float
    low: float
    high: float
    flops: float
    parameters: float
    seconds: float


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with cifar10/, super_resolution/, denoise/ and camvid/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--parts", nargs="+", default=["picks", "searches"], choices=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=20, help="networks that a search fine-tunes")
    parser.add_argument("--seconds", type=float, default=30.0, help="of the measurement that is reported")
    parser.add_argument("--picture", type=Path, help="draw the table into this file, too")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for part in [part for part in PARTS if part in {"picks", *options.parts}]:  # the others are set beside the picks
        for seed in range(options.seeds):
            for name in options.subjects:
                file = options.out / name / f"{part}-{seed}.json"
                if name in PARTS[part] and not file.exists():
                    entries = run(name, part, seed, options)
                    file.write_text(json.dumps([asdict(entry) for entry in entries], indent=1))
                    print(f"\n{name}, {part}, seed {seed}", *entries, sep="\n", flush=True)
    print("\n| subject | network | test | measured latency [99 %] | FLOPs | parameters | processor time, min |")
    print("|---|---|---|---|---|---|---|")
    found = {n: [list(read(options.out / n, seed)) for seed in range(options.seeds)] for n in options.subjects}
    for name, seeds in found.items():
        for line in lines(seeds):
            print(f"| {name} | {line}")
    if options.picture:
        draw(found, options.picture)


def read(folder: Path, seed: int) -> Iterator[Entry]:
    """The rows of one seed."""
    for part in PARTS:
        if (file := folder / f"{part}-{seed}.json").exists():
            yield from (Entry(**entry) for entry in json.loads(file.read_text()))


def lines(seeds: list[list[Entry]]) -> Iterator[str]:
    """The rows of a subject's table: means over the seeds that have the row, with the lowest and the highest."""
    for way in dict.fromkeys(entry.way for entries in seeds for entry in entries):
        pairs = [(row, original_of(entries)) for entries in seeds for row in entries if row.way == way]
        rows = [row for row, _ in pairs]
        tests = []
        for name in rows[0].test:
            gains = [row.test[name] - original.test[name] for row, original in pairs]
            gained = f", {_spread(gains, '+.2f')}" if way != "original" else ""
            tests.append(f"{name + ' ' if name else ''}{mean(row.test[name] for row in rows):.2f}{gained}")
        counted = f"{mean(r.flops for r in rows):.2f}x | {mean(r.parameters for r in rows):.2f}x"
        minutes = mean(row.seconds for row in rows) / 60
        latency = _spread([row.latency for row in rows], ".2f")
        partly = f" ({len(rows)} of {len(seeds)} seeds)" if len(rows) < len(seeds) else ""
        yield f"{way}{partly} | {'; '.join(tests)} | {latency} | {counted} | {minutes:.1f} |"


def original_of(entries: Sequence[Entry]) -> Entry:
    """The row of the original."""
    return next(entry for entry in entries if entry.way == "original")


def _spread(values: list[float], form: str) -> str:
    middle, low, high = (format(value, form) for value in (mean(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def draw(found: dict[str, list[list[Entry]]], file: Path) -> None:
    """A panel a subject: how far each network's quality is from the original's, against its measured time."""
    from matplotlib import pyplot

    rows = -(-len(found) // COLUMNS)
    columns = -(-len(found) // rows)
    figure, grid = pyplot.subplots(rows, columns, figsize=(3.4 * columns, 3.2 * rows + 0.4), layout="constrained")
    panels = np.ravel(grid)
    met = {e.way.partition(",")[0] for seeds in found.values() for entries in seeds for e in entries}
    ways = [way for way in LOOKS if way in met]
    for unused in panels[len(found) :]:
        unused.axis("off")
    for panel, (name, seeds) in zip(panels, found.items(), strict=False):
        for way in ways:
            colour, marker = LOOKS[way]
            points = [(e, original_of(entries)) for entries in seeds for e in entries if e.way.partition(",")[0] == way]
            times = [entry.latency for entry, _ in points]
            gains = [entry.test[""] - original.test[""] for entry, original in points]
            panel.plot(times, gains, marker, color=colour, label=way, markersize=8, alpha=0.8)
        panel.axhline(0, color="0.5", linewidth=0.8)
        panel.axvline(1, color="0.5", linewidth=0.8)
        panel.set_title(name)
        panel.set_xlabel("measured time, original = 1")
    for panel in panels[::columns]:
        panel.set_ylabel("quality, less the original's")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 2 * columns), frameon=False)
    figure.savefig(file, dpi=160)


def run(name: str, part: str, seed: int, options: argparse.Namespace) -> list[Entry]:
    """One part of one seed of one subject."""
    subject, out = SUBJECTS[name], options.out / name
    fresh = from_module(subject.build(), subject.example, name=subject.network)
    task = data.task(subject.data.format(data=options.data), fresh, subset=subject.subset)
    original = pretrained(subject, fresh, task, out / "original.safetensors")
    front, searched = evolved(subject, original, task, out, seed, options.trials)
    summary, study = front.summary, front.study
    longer = study.load_model(study.finalists[0].model)
    epochs, plan = study.finalists[0].epochs, study.settings["recipe"]
    trainer = Trainer(original, task, seed, plan["learning_rate"], batch_size=plan["batch_size"])
    networks: dict[str, tuple[Model, float]] = {"original": (longer, 0.0)}
    makes: dict[str, tuple[Callable[[], Sequence[Model]], float]] = {}  # and the epochs that are left for each
    if part == "searches":
        asked = (original, trainer, options.trials, subject.tune, plan["imitation"], plan["finalists"], seed)
        makes["random grafts"] = partial(random_grafts, *asked), epochs - subject.tune
        makes["AutoGO's choices"] = partial(chosen_by_autogo, subject, original, task, seed), epochs
    else:
        fastnas = FastNAS(subject.build, original, task, out / f"fastnas-{seed}.pth")
        for number in dict.fromkeys(summary.picks[pick] for pick in PICKS if pick in summary.picks):
            ours = study.load_model(study.finalists[number].model)
            said = " and ".join(pick for pick in PICKS if summary.picks.get(pick) == number)
            target = measured(ours, original)
            if part == "fastnas":
                makes[f"FastNAS, as fast as the {said}"] = partial(by_fastnas, fastnas, target), epochs
                continue
            networks[f"netgraft, {said}"] = ours, searched
            makes[f"uniform width, as fast as the {said}"] = (
                partial(narrowed, subject, original, task, target, seed),
                epochs,
            )
            makes[f"Torch-Pruning, as fast as the {said}"] = partial(pruned, subject, original, task, target), epochs
    for way, (make, left) in makes.items():
        began = time.process_time()
        try:
            models = make()
        except ImportError:
            raise
        except Exception as error:  # whatever a rival raises for a network that it cannot prune
            print(f"{way} fails on {name}: {error}", flush=True)
            continue
        trained = [trainer.train(trainer.recalibrated(model), left, "final", 0) for model in models]
        ended = [(validated(model, task), model) for model in trained if model is not None]
        if ended:
            networks[way] = max(ended, key=lambda each: each[0])[1], time.process_time() - began
    ratios = compare([model for model, _ in networks.values()], longer, seconds=options.seconds)
    return [
        Entry(
            *(way, qualities(subject, model, task, options.data)),
            tasks.evaluate(to_module(model), task, "test").error,
            *(ratio.ratio, ratio.low, ratio.high),
            flops(model.graph) / flops(longer.graph),
            parameters(model.graph) / parameters(longer.graph),
            seconds,
        )
        for (way, (model, seconds)), ratio in zip(networks.items(), ratios, strict=True)
        if part == "picks" or way != "original"
    ]


def validated(model: Model, task: tasks.Task) -> float:
    """Higher is better."""
    quality = tasks.evaluate(to_module(model), task, "validation").quality
    return quality if task.quality.higher_is_better else -quality


def evolved(
    subject: Subject, original: Model, task: tasks.Task, out: Path, seed: int, trials: int
) -> tuple[Front, float]:
    """What netgraft makes of the original, and the seconds of processor time that it took in all."""
    clock = out / f"seed-{seed}.seconds"
    before = float(clock.read_text()) if clock.exists() else 0.0  # until it was interrupted
    began = time.process_time()

    def count(event: Event) -> None:
        if isinstance(event, TrialRecorded | FinalBegun | RunFinished):
            clock.write_text(f"{before + time.process_time() - began:.1f}")

    front = ng.optimize(
        *(original, task),
        limits=["latency<=1x"],
        budget=f"{trials} trials",
        out=out / f"seed-{seed}",
        seed=seed,
        resume=True,
        on_event=count,
        plan=ng.Plan(
            population=24, finalists=3, tune_epochs=subject.tune, final_epochs=subject.final, measure_seconds=20
        ),
    )
    return front, float(clock.read_text())


def chosen_by_autogo(subject: Subject, original: Model, task: tasks.Task, seed: int) -> list[Model]:
    """What AutoGO's choices lead to, trained as long as the original was."""
    return [scratch(untrained(autogo_choice(original.graph, seed), "chosen", seed), task, subject, seed)]


def by_fastnas(fastnas: FastNAS, target: float) -> list[Model]:
    """What FastNAS finds in about the same time."""
    return [as_fast(cache(fastnas.without), target)]


def qualities(subject: Subject, model: Model, task: tasks.Task, folder: Path) -> dict[str, float]:
    """What the test data says: the task's own, and the others by their names."""
    found = {"": tasks.evaluate(to_module(model), task, "test").quality}
    for name, spec in subject.test.items():
        other = data.task(spec.format(data=folder), model)
        found[name] = tasks.evaluate(to_module(model), other, "test").quality
    return found


def pretrained(subject: Subject, model: Model, task: tasks.Task, file: Path) -> Model:
    """The original, trained from scratch; kept in ``file``."""
    if file.exists():
        return replace(model, weights=load_file(file))
    torch.manual_seed(0)
    model = scratch(from_module(subject.build(), subject.example, name=subject.network), task, subject, 0)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(model.weights), file)
    return model


def scratch(model: Model, task: tasks.Task, subject: Subject, seed: int) -> Model:
    """A network trained as long as the original was."""
    trainer = Trainer(model, task, seed, PRETRAIN_RATE, teaching=False, batch_size=batch_size_of(task))
    trained = trainer.train(model, subject.pretrain, "pretrain", 0)
    if trained is None:
        raise ArithmeticError("the training from scratch diverged")
    return trained


def narrowed(subject: Subject, original: Model, task: tasks.Task, target: float, seed: int) -> list[Model]:
    """The network of the zoo that is measured to take the most nearly ``target`` of the original's, trained."""

    def scaled(ratio: int) -> tuple[Model, float]:
        torch.manual_seed(seed)
        model = from_module(subject.build(1 - ratio / STEPS), subject.example, name="narrower")
        return model, measured(model, original)

    return [scratch(as_fast(cache(scaled), target), task, subject, seed)]


def pruned(subject: Subject, original: Model, task: tasks.Task, target: float) -> list[Model]:
    """What Torch-Pruning leaves of the original in about the same time, by either importance."""
    rival = TorchPruning(subject.build, original, task)
    return [as_fast(cache(way), target) for way in (rival.by_magnitude, rival.by_taylor)]


if __name__ == "__main__":
    main()
