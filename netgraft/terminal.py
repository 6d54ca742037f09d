"""What commands share: networks by SOURCE, a recipe with its progress on the terminal, and what comes after it."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shutil import which
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.markup import escape

from netgraft import console as screen
from netgraft import report as report_page
from netgraft import sources, tasks, zoo
from netgraft.engine import WorkerDied, apart
from netgraft.errors import OptionError, SourceError
from netgraft.front import Front
from netgraft.ir import Model
from netgraft.spaces.families import FAMILIES
from netgraft.study import Study

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


# Paragraphs for the end of a command's help.
SOURCES_HELP = (
    "[bold]SOURCE[/] is an ONNX file of any exporter (FILE.onnx), a saved torch.export program (FILE.pt2), a module or "
    "a function that returns one (FILE.py:NAME), a graph of AutoGO's (FILE.pkl), a folder that 'netgraft export' "
    "wrote, a network of the zoo, with options as in 'zoo:resnet20?classes=100&input=3x32x32', or a member of a "
    "family, as in 'family:hiaml?seed=3'. "
    f"The zoo has {', '.join(zoo.names())}. The families are {', '.join(FAMILIES)}."
)
DATA_HELP = (
    "[bold]--data[/] is digits (scikit-learn's, built in); FILE.parquet, TRAIN.parquet,TEST.parquet or a folder with "
    "train.parquet, in the Hugging Face image layout; a folder with a folder of images a class, perhaps below train/ "
    "and test/; or FILE.py:NAME, a variable or a function without arguments that gives train, (train, test) or (train, "
    "validation, test), each a torch Dataset of (image, class number) or a pair (inputs, targets) of tensors, or that "
    "gives a netgraft.tasks.Task. For networks that give pictures or maps: denoising:PICTURES?sigma=25, "
    "super-resolution:PICTURES (the scale is the network's; both with ?quality=ssim instead of psnr, and judged on "
    "whole pictures where the network takes them), segmentation:PICTURES and key-points:FOLDER. PICTURES is a parquet "
    "file or TRAIN.parquet,TEST.parquet with a "
    "column image (and mask); a folder of images (with masks: images/ and masks/), perhaps with train/, val/ and test/ "
    "in it; or samples (two photographs of scikit-learn's). FOLDER is laid out as COCO's. Without any data, "
    "segmentation:shapes and key-points:shapes are generated."
)
Source = Annotated[str, typer.Argument(help=sources.FORMS, show_default=False)]
InputShape = Annotated[
    str | None, typer.Option("--input", help="shape of one input, such as 3x32x32, for a FILE.py:NAME that names none")
]


def load(source: str, input_shape: str | None) -> Model:
    """The network that SOURCE names. What runs a user's code or torch.export, which may crash, does so in a process of
    its own.
    """
    found = apart(partial(_read, source, _shape(input_shape) if input_shape else None))
    if isinstance(found, WorkerDied):
        raise SourceError(
            f"{source} cannot be read: {found.reason}. torch.export, or code that the network calls, crashed: export "
            "the network yourself, with strict=True say, save it with torch.export.save, and give the .pt2 file"
        )
    model, notices = found
    note(notices)
    return model


def _read(source: str, input_shape: tuple[int, ...] | None) -> tuple[Model, list[str]]:
    """The network, and the warnings that are meant for the user."""
    torch.set_num_threads(1)  # those of the parent did not survive the fork
    with heard() as notices:
        model = sources.load(source, input_shape=input_shape)
    return model, notices


@contextmanager
def heard() -> Iterator[list[str]]:
    """Collects the warnings that are meant for the user."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        yield texts
    texts += [str(warning.message) for warning in given]


def note(notices: Sequence[str]) -> None:
    """Tells what was :func:`heard`."""
    for notice in notices:
        errors.print(f"[yellow]note:[/] {escape(notice)}", soft_wrap=True)


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise OptionError(f"--input {text!r} is no shape; write it like 3x32x32 (channels x height x width)")
    return shape


def pretrain_epochs(source: str, task: tasks.Task, asked: float | None) -> float:
    """How long the original is trained first: as asked, or else, for a network of the zoo, enough to be worth evolving
    (about 200,000 images, 20 epochs at the most), which is said.
    """
    if asked is not None or not source.startswith("zoo:"):
        return asked or 0.0
    epochs = float(max(3, min(20, round(200_000 / len(task.train)))))
    console.print(f"{source} comes without trained weights: training it first for {epochs:g} epochs")
    return epochs


def evolve(model: Model, task: tasks.Task, command: str, recipe: Callable[..., Front]) -> None:
    """Runs ``recipe(on_event=...)`` with progress on the terminal, and ends with the table and the report; exit code
    130 after Ctrl-C, with the ``command`` that goes on.
    """
    for told in task.notes:
        console.print(f"[dim]{told}[/]")
    chance = 100 / model.graph.signature.outputs[0].concrete()[-1] if task.quality.name == "accuracy" else None
    with screen.Watcher(console, chance) as watcher:
        front = recipe(on_event=watcher)
    show(front.study)
    if watcher.interrupted:
        words = [_program(), *shlex.split(command)[1:]]
        again = words if "--resume" in words else [*words, "--resume"]
        console.print(f"go on with: {shlex.join(again)}", markup=False, soft_wrap=True)
        raise typer.Exit(130)


def show(study: Study) -> None:
    """Prints the table of finalists (or of what there is so far), writes the report, and says what to do next."""
    summary = report_page.summarize(study)
    picks = summary.picks
    if summary.rows:
        console.print(screen.finalists(summary))
    else:
        entries, picks = report_page.standings(study)
        if entries:
            console.print(screen.so_far(entries))
    console.print(summary.headline, markup=False)
    if summary.prediction:
        console.print(str(summary.prediction), markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {report_page.write(study)}", soft_wrap=True)
    for row in summary.rows:
        if row.breaks:
            console.print(f"[yellow]{row.label} was measured beyond the limit {row.breaks}[/]")
    if picks:
        console.print("picks: " + ", ".join(f"{pick} #{number}" if number else pick for pick, number in picks.items()))
        again = shlex.join([_program(), "export", str(study.path), "--pick", "knee", "--to", "better"])
        console.print(f"take it home: {again}", markup=False, soft_wrap=True)


def _program() -> str:
    """How this program can be called from where the user is: by its name, or by its path (``.venv/bin/netgraft``)."""
    called = Path(sys.argv[0])
    return str(called) if called.name == "netgraft" and not which("netgraft") else "netgraft"
