"""``netgraft predictor train | show | score``: predictors on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from netgraft import console as screen
from netgraft import sources
from netgraft.console import plain
from netgraft.errors import OptionError
from netgraft.predictor import Label, Predictor, load, read_labels, save
from netgraft.predictor import train as learn

console = Console(highlight=False)

commands = typer.Typer(
    no_args_is_help=True,
    help="Predictors: how good networks become when they are trained, learned from labelled networks.",
)

File = Annotated[Path | None, typer.Argument(help="a predictor [default: netgraft's own]", show_default=False)]


@commands.command()
def train(
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA",
            help="a folder of *.jsonl files of labelled networks, such a file, an AutoGO or GENNAPE cache (.pkl, "
            ".json), or the folder of a finished study",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="the file to write", show_default=False)],
    seed: Annotated[int, typer.Option(help="the same seed gives the same predictor", min=0)] = 0,
    heads: Annotated[int, typer.Option(help="how many networks are trained and averaged", min=2)] = 8,
) -> None:
    """Learn from labelled networks; a line of a *.jsonl file is one of them:

    {"group": "cifar10-short", "score": 71.24, "graph": "graph(x: ..."} or, in place of the graph's text,
    "source": "family:hiaml?seed=3". Labels of one group can be compared with each other; higher is better.
    """
    if out.is_dir() or not out.parent.is_dir():
        raise OptionError(f"--out {out} is no file that can be written")
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(20),
        TextColumn("{task.completed:,.0f}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        lines: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int | None) -> None:
            if what not in lines:
                lines[what] = progress.add_task(what, total=total)
            progress.update(lines[what], completed=done)

        predictor = learn(_labels(data), seed, heads, tell)
    save(predictor, out)
    _describe(predictor, str(out))


def _labels(data: list[Path]) -> Iterator[Label]:
    for path in data:
        yield from read_labels(path)


@commands.command()
def show(file: File = None) -> None:
    """Say what a predictor learned from, and how right it was about labels that it had not seen."""
    _describe(load(file), "netgraft's own predictor" if file is None else str(file))


@commands.command()
def score(
    networks: Annotated[
        list[str], typer.Argument(metavar="SOURCE", help=f"{sources.FORMS}, or several in one", show_default=False)
    ],
    predictor: Annotated[Path | None, typer.Option(help="[default: netgraft's own]", show_default=False)] = None,
    input_shape: Annotated[
        str | None, typer.Option("--input", help="shape of one input, such as 3x32x32, for a FILE.py:NAME")
    ] = None,
) -> None:
    """Rank networks by what a predictor says of them, in standard deviations of the labels that it learned from."""
    chosen = load(predictor)
    shape = sources.parse_shape(input_shape) if input_shape else None
    named = [found for source in networks for found in sources.graphs(source, input_shape=shape)]
    said = chosen.scores(graph for _, graph in named)
    order = sorted(range(len(named)), key=lambda i: -said.mean[i])
    rows = [(_short(named[i][0]), f"{said.mean[i]:+.2f}", f"{said.deviation[i]:.2f}") for i in order]
    console.print(screen.columns("predicted", ("network", "score", "deviation"), rows))


def _describe(predictor: Predictor, name: str) -> None:
    console.print(f"[bold]{plain(name)}[/]  {predictor.digest}", soft_wrap=True)
    groups = predictor.card.get("groups", {})
    rows = [
        (
            plain(group),
            f"{figures['networks']:,}",
            f"{figures['least']:.4g} to {figures['greatest']:.4g}",
            f"{figures['rank_correlation']:.3f}",
            f"{figures['within_two_deviations']:.0%}",
        )
        for group, figures in groups.items()
    ]
    header = ("group", "networks", "scores", "rank corr.", "in 2 sd")
    console.print(screen.columns("what it learned from", header, rows))
    console.print("Figures are of labels left out: each is compared with a network that was trained without it.")


def _short(name: str, most: int = 56) -> str:
    """A name that leaves room for figures in a terminal of 80 columns."""
    return plain(name if len(name) <= most else f"{name[: most - 1]}…")
