"""What the runs of ``rivals.py`` made of networks for pictures: writes docs/gallery.md and what it shows.

    OMP_NUM_THREADS=1 python benchmarks/rivals.py ../shared/data --out runs/rivals --parts picks
    python benchmarks/gallery.py runs/rivals

Takes the study of one seed of each subject that has something to see, and shows what the original and the picks make of
the same examples. These are of what may be published: networks of restoration are shown scikit-learn's two photographs,
which none of them was trained on, as those of the data sets may not be copied; shapes are generated.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt

from netgraft import data, tasks
from netgraft.convert.to_torch import to_module
from netgraft.report import Row, summarize, words
from netgraft.study import Study
from netgraft.tasks.examples import Example, png

DOCS = Path(__file__).resolve().parent.parent / "docs"

SUBJECTS = {
    "fsrcnn": (
        "Super-resolution",
        "super-resolution:samples",
        "FSRCNN, twice as large, trained on T91; judged on Set5, whole pictures",
    ),
    "dncnn": (
        "Denoising",
        "denoising:samples?sigma=25",
        "A DnCNN of 8 layers and 16 channels against noise of deviation 25, trained on T91; judged on CBSD68, whole "
        "pictures",
    ),
    "unet_shapes": ("Segmentation", "segmentation:shapes", "A U-Net of 8 to 128 channels on generated shapes"),
    "hourglass": (
        "Key points",
        "key-points:shapes",
        "An hourglass of 32 channels and five corners of generated figures",
    ),
}
"""By the subject of ``rivals.py``: a heading, the data that is shown, and what is to be said."""
HEAD = """# What comes out of runs

Made by `{command}` on {day}, of the runs behind the tables of [results.md](results.md): one seed of each. Every network
of a table was trained for the same number of epochs since the run began, and tested once. Time is a multiple of the
original's, measured interleaved, with its 99 % interval; after the test quality stands its difference from the
original's, with the standard error of that: it says nothing about another seed.

Pictures of restoration are scikit-learn's photographs (by danielbuechele and vultilion,
[CC BY 2.0](https://creativecommons.org/licenses/by/2.0/); cropped, made noisy or small, and restored), which none of
the networks was trained on: those of the data sets may not be copied here. The tables are of the data sets named.
"""


def shown(study: Study, spec: str) -> Iterator[tuple[Row, list[Example]]]:
    """The original and the picks, with what they make of two examples."""
    summary = summarize(study)
    for row in summary.rows:
        if row is summary.original or summary.names(row):
            model = study.load_model(study.finalists[row.number].model)
            yield row, tasks.examples(to_module(model), data.task(spec, model), "test", 2)


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
    heading, spec, said = SUBJECTS[name]
    pairs = list(shown(study, spec))
    file = f"gallery-{name.replace('_', '-')}.png"
    (DOCS / file).write_bytes(png(strip([examples for _, examples in pairs])))
    labels = [" ".join([row.label, *summary.names(row)]) for row, _ in pairs]
    times = [words.factors([row.time, row.low, row.high]) for row in summary.rows]
    rows = [
        f"| {' '.join([row.label, *summary.names(row)])} | {', '.join(row.origins) or 'trained equally long'} "
        f"| {words.quality(row.test, row.difference_error or row.test_error, unit)}"
        f"{f' ({gain})' if (gain := words.difference(row.difference, row.difference_error, unit)) else ''} "
        f"| {middle} [{low}, {high}] "
        f"| {words.ratio(row.flops_ratio)} | {words.ratio(row.parameters_ratio)} |"
        for row, (middle, low, high) in zip(summary.rows, times, strict=True)
    ]
    each = ["; ".join(words.quality(one.quality, None, unit) for one in examples) for _, examples in pairs]
    return "\n".join(
        [
            f"## {heading}",
            "",
            f"{said}.",
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


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="what rivals.py was given as --out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    page = HEAD.format(command="python benchmarks/gallery.py runs/rivals", day=f"{date.today():%-d %B %Y}")
    for name in SUBJECTS:
        page += f"\n{entry(name, Study.read(options.runs / name / f'seed-{options.seed}'))}"
    (DOCS / "gallery.md").write_text(page)


if __name__ == "__main__":
    main()
