"""A small run of each task with something to see: writes docs/gallery.md and its pictures.

    python benchmarks/gallery.py ../shared/data --out runs/gallery

Super-resolution (FSRCNN, T91, judged on Set5), denoising (a narrow DnCNN, CBSD68), segmentation (a narrow U-Net) and
key points (a narrow hourglass), both on generated shapes. Each network is trained first, then evolved; all finalists
and the original are trained equally long and measured interleaved. Started again, a run goes on where it was.

The pictures are of what may be published: for restoration the networks are shown scikit-learn's two photographs, as
those of the data sets may not be copied.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

import netgraft as ng
from netgraft import data, tasks
from netgraft.convert.to_torch import to_module, weights_of
from netgraft.ir import Model
from netgraft.recipes.run import Plan
from netgraft.report import Row, summarize, words
from netgraft.report.page import write
from netgraft.sources import load
from netgraft.study import Study
from netgraft.tasks.examples import Example, png

DOCS = Path(__file__).resolve().parent.parent / "docs"


@dataclass(frozen=True)
class Subject:
    """A run: the network, its data (below the folder of data) and what is shown of it, and for how many epochs it is
    trained before, while, and after it is searched. Of photographs so many ``pictures`` are used.
    """

    network: str
    data: str
    shown: str
    pretrain: float
    tune: float
    final: float
    pictures: int | None
    said: str


SUBJECTS = {
    "super-resolution": Subject(
        "zoo:fsrcnn?input=3x16x16",
        "super-resolution:{data}/super_resolution/t91.parquet,{data}/super_resolution/set5.parquet",
        "super-resolution:samples",
        *(6, 0.5, 3),
        40,
        "FSRCNN, twice as large, with 40 pictures of T91 (8 of them for validation); judged on Set5, whole pictures",
    ),
    "denoising": Subject(
        "zoo:dncnn?width=0.25&depth=8&input=3x32x32",
        "denoising:{data}/denoise/cbsd68.parquet?sigma=25",
        "denoising:samples?sigma=25",
        *(4, 0.3, 2),
        20,
        "a DnCNN of 8 layers and 16 channels against noise of deviation 25, on 20 pictures of CBSD68, of which 4 "
        "are for validation and 4 are the test split, judged whole",
    ),
    "segmentation": Subject(
        "zoo:unet?width=0.125&classes=6&input=3x64x64",
        "segmentation:shapes",
        "segmentation:shapes",
        *(6, 0.5, 2),
        None,
        "a U-Net of 8 to 128 channels on generated shapes of 64 x 64",
    ),
    "key points": Subject(
        "zoo:hourglass?width=0.125&classes=5&input=3x64x64",
        "key-points:shapes",
        "key-points:shapes",
        *(12, 1, 4),
        None,
        "an hourglass of 32 channels and five corners of generated figures, 64 x 64",
    ),
}


def trained(model: Model, task: tasks.Task, epochs: float, file: Path) -> Model:
    """The network that the run is given, trained in small batches; kept in ``file``."""
    module = to_module(model)
    if file.exists():
        module.load_state_dict(load_file(file))
    else:
        tasks.train(module, task, tasks.Schedule(epochs, batch_size=16, learning_rate=0.05), seed=0)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(module.state_dict(), file)
    return replace(model, weights=weights_of(module))


def run(name: str, folder: Path, out: Path, trials: int, seed: int) -> Study:
    """The finished study of a subject."""
    subject = SUBJECTS[name]
    model = load(subject.network)
    task = data.task(subject.data.format(data=folder), model, seed=seed, subset=subject.pictures)
    plan = Plan(
        population=4,
        keep=2,
        finalists=1,
        tune_epochs=subject.tune,
        final_epochs=subject.final,
        measure_seconds=10,
        imitation=10,
        measure="end",
    )
    began = time.process_time()
    model = trained(model, task, subject.pretrain, out.with_suffix(".safetensors"))
    limits = ["flops<=0.9x"]
    front = ng.optimize(
        model, task, limits=limits, budget=f"{trials} trials", out=out, resume=True, seed=seed, plan=plan
    )
    write(front.study)
    print(f"{name}: {time.process_time() - began:.0f} s of processor time", flush=True)
    return front.study


def shown(name: str, study: Study) -> Iterator[tuple[Row, list[Example]]]:
    """The original and the pick, with what they make of two examples."""
    summary = summarize(study)
    for row in dict.fromkeys(row for row in (summary.original, summary.pick) if row is not None):
        model = study.load_model(study.finalists[row.number].model)
        yield row, tasks.examples(to_module(model), data.task(SUBJECTS[name].shown, model), "test", 2)


def strip(networks: Sequence[Sequence[Example]]) -> npt.NDArray[np.uint8]:
    """A line an example: input, target, and the output of each network; white between them."""
    lines = []
    for outputs in zip(*networks, strict=True):
        cells = [outputs[0].input, outputs[0].target, *(one.output for one in outputs)]
        lines.append(np.concatenate([np.pad(c, ((0, 6), (0, 6), (0, 0)), constant_values=255) for c in cells], 1))
    return np.concatenate(lines)


def entry(name: str, study: Study) -> str:
    """The part of the page about a run; its picture is written beside the page."""
    summary, unit = summarize(study), summarize(study).quality.unit
    pairs = list(shown(name, study))
    file = f"gallery-{name.replace(' ', '-')}.png"
    (DOCS / file).write_bytes(png(strip([examples for _, examples in pairs])))
    labels = [" ".join([row.label, *summary.names(row)[:1]]) for row, _ in pairs]
    times = [words.factors([row.time, row.low, row.high]) for row in summary.rows]
    rows = [
        f"| {' '.join([row.label, *summary.names(row)])} | {', '.join(row.origins) or 'trained equally long'} "
        f"| {words.quality(row.test, row.test_error, unit)} {words.error(row.test_error)} "
        f"| {middle} [{low}, {high}] "
        f"| {words.ratio(row.flops_ratio)} | {words.ratio(row.parameters_ratio)} |"
        for row, (middle, low, high) in zip(summary.rows, times, strict=True)
    ]
    each = ["; ".join(words.quality(one.quality, None, unit) for one in examples) for _, examples in pairs]
    return "\n".join(
        [
            f"## {name[0].upper()}{name[1:]}",
            "",
            f"{SUBJECTS[name].said[0].upper()}{SUBJECTS[name].said[1:]}.",
            "",
            f"![{', '.join(['input', 'target', *labels])}]({file})",
            "",
            f"From left to right: input, target, {', '.join(f'{n} ({q})' for n, q in zip(labels, each, strict=True))}: "
            f"{summary.quality.name} of each example.",
            "",
            f"| network | how it came about | test {summary.quality.name} | time [99 %] | FLOPs | parameters |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


HEAD = """# What comes out of small runs

Made by `{command}` on {day}: one run a task, one seed, {trials} networks fine-tuned in each, about two minutes
of processor time on one core; limit `flops<=0.9x`. Every network of a table was trained for the same number of epochs
since the run began, and tested once. Time is a multiple of the original's, measured interleaved, with its 99 %
interval; ± is the standard error of the test split, and says nothing about another seed. The networks are far from
trained out: the pictures show what a report shows, not how good such networks can be.

Pictures of restoration are scikit-learn's photographs (by danielbuechele and vultilion,
[CC BY 2.0](https://creativecommons.org/licenses/by/2.0/); cropped, made noisy or small, and restored), which none of
the networks was trained on: those of the data sets may not be copied here. The tables are of the data sets named.
"""


def main() -> None:
    """Runs what is missing, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with super_resolution/ and denoise/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--trials", type=int, default=4, help="networks that are fine-tuned in each run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    command = "python benchmarks/gallery.py ../shared/data --out runs/gallery"
    page = HEAD.format(command=command, day=f"{date.today():%-d %B %Y}", trials=options.trials)
    for name in SUBJECTS:
        study = run(name, options.data, options.out / name.replace(" ", "-"), options.trials, options.seed)
        page += f"\n{entry(name, study)}"
    (DOCS / "gallery.md").write_text(page)


if __name__ == "__main__":
    main()
