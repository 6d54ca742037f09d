"""``netgraft bank mine | show | merge``: segment banks on the command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from netgraft import console as screen
from netgraft import sources
from netgraft.console import counted, plain
from netgraft.errors import NetgraftError, OptionError, SourceError
from netgraft.ir import Graph
from netgraft.picture import picture
from netgraft.segments import Bank, Quarry, default, load, save
from netgraft.segments import merge as merge_banks

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

commands = typer.Typer(
    no_args_is_help=True,
    help="Segment banks: what other networks proved, for 'netgraft optimize --bank' to graft with.",
)

Out = Annotated[Path, typer.Option(help="the file to write", show_default=False)]


@commands.command()
def mine(
    networks: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="FILE.pt2, FILE.onnx, FILE.pkl, a folder of these, or one that 'netgraft export' wrote, FILE.py:NAME, "
            "zoo:NAME, zoo:*, family:NAME?count=500&seed=0",
            show_default=False,
        ),
    ],
    out: Out,
    input_shape: Annotated[
        str | None,
        typer.Option("--input", help="shape of one input, such as 3x32x32, for a FILE.py:NAME that names none"),
    ] = None,
    vocabulary: Annotated[int, typer.Option(help="most merges that byte-pair encoding learns", min=1)] = 2000,
    cuts: Annotated[int, typer.Option(help="random cuts of each network, besides that of the vocabulary", min=0)] = 8,
    at_least: Annotated[int, typer.Option(help="leave out segments found in fewer places", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="the same seed gives the same bank", min=0)] = 0,
) -> None:
    """Cut networks into the segments that they have in common, and write these as a bank."""
    if out.is_dir() or not out.parent.is_dir():
        raise OptionError(f"--out {out} is no file that can be written")
    shape = sources.parse_shape(input_shape) if input_shape else None
    quarry = Quarry()
    with _progress() as progress:
        for source in networks:
            line = progress.add_task(f"reading {plain(source)}", total=None)
            try:
                before = len(quarry)
                for name, graph in _named(source, shape):
                    quarry.add(name, graph)
                    progress.advance(line)
                console.print(f"{plain(source)}: {counted(len(quarry) - before, 'network')}", soft_wrap=True)
            except NetgraftError as error:
                if len(networks) == 1:
                    raise
                errors.print(f"[yellow]left out:[/] {plain(str(error))}", soft_wrap=True)
            progress.remove_task(line)
        if not len(quarry):
            raise SourceError(f"none of {', '.join(networks)} could be read")
        line = progress.add_task("learning the vocabulary", total=None)
        words = quarry.learn(vocabulary)
        console.print(f"vocabulary: {counted(len(words.tokens), 'token')}, {counted(len(words.merges), 'merge')}")
        progress.update(line, description="cutting")
        bank = quarry.mine(
            words, cuts, seed, at_least, lambda done, total: progress.update(line, completed=done, total=total)
        )
    if not len(bank):
        raise SourceError(
            f"{', '.join(networks)}: there is nothing to mine: no two joined operations, one of them a layer or a "
            f"pooling, before the last layer, in {counted(at_least, 'place')}"
        )
    save(bank, out)
    console.print(
        f"{plain(str(out))}: {counted(len(bank), 'segment')}, {out.stat().st_size / 1e3:,.0f} kB", soft_wrap=True
    )
    missing = quarry.names - {name for names in bank.columns.provenances for name in names}
    if missing:
        errors.print(
            f"[yellow]no segment of the bank comes from {plain(', '.join(sorted(missing)[:20]))}[/]", soft_wrap=True
        )


def _named(source: str, shape: sources.Shape | None) -> Iterator[tuple[str, Graph]]:
    """The graphs of a source; the members of a family all go by its name."""
    family = source.removeprefix("family:").partition("?")[0] if source.startswith("family:") else None
    for name, graph in sources.graphs(source, input_shape=shape):
        yield family or name, graph


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(20),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@commands.command()
def show(
    file: Annotated[Path | None, typer.Argument(help="a bank [default: netgraft's own]", show_default=False)] = None,
    top: Annotated[int, typer.Option(help="how many of the most frequent segments to draw", min=0)] = 3,
) -> None:
    """Say what is in a bank: how many segments, of what size, from where; and draw the most frequent."""
    bank = default() if file is None else load(file)
    words = bank.vocabulary
    console.print(
        f"[bold]{plain(bank.name)}[/]: {counted(len(bank), 'segment')}, "
        f"found in {counted(int(bank.columns.numbers['frequency'].sum()), 'place')}; "
        f"vocabulary of {counted(len(words.tokens), 'token')} and {counted(len(words.merges), 'merge')}",
        soft_wrap=True,
    )
    for title, header, counts in (
        ("sizes", "operations", _sizes(bank)),
        ("ends", "inputs and outputs", _ends(bank)),
        ("where they come from", "network or family", _origins(bank)),
        ("what they are made of", "operation", _operations(bank)),
    ):
        rows = [(plain(str(what)), f"{count:,}", f"{count / len(bank):.1%}") for what, count in counts]
        console.print(screen.columns(title, (header, "segments", "share"), _shortened(rows)))
    for number, segment in enumerate(bank[:top], 1):
        console.print(
            f"[bold]#{number}  {segment.digest}[/]  found in {counted(segment.frequency, 'place')} of "
            f"{plain(_several(segment.provenance))}; "
            f"{segment.flops / 1e6:,.2f} MFLOPs, {counted(segment.parameters, 'parameter')}",
            soft_wrap=True,
        )
        for line in picture(segment.graph):
            console.print(f"  {line}", markup=False, no_wrap=True, soft_wrap=True)
        console.print()


def _sizes(bank: Bank) -> list[tuple[object, int]]:
    counts = np.bincount(bank.columns.numbers["nodes"])
    return [(size, int(count)) for size, count in enumerate(counts) if count]


def _ends(bank: Bank) -> list[tuple[object, int]]:
    counts: Counter[str] = Counter()
    per_signature = np.bincount(bank.columns.numbers["signature"], minlength=len(bank.columns.signatures))
    for signature, count in zip(bank.columns.signatures, per_signature.tolist(), strict=True):
        counts[f"{len(signature.inputs)} to {len(signature.outputs)}"] += count
    return list(counts.most_common())


def _origins(bank: Bank) -> list[tuple[object, int]]:
    counts: Counter[str] = Counter()
    per_origin = np.bincount(bank.columns.numbers["provenance"], minlength=len(bank.columns.provenances))
    for names, count in zip(bank.columns.provenances, per_origin.tolist(), strict=True):
        for name in names:
            counts[name] += count
    return list(counts.most_common())


def _operations(bank: Bank) -> list[tuple[object, int]]:
    counts: Counter[str] = Counter()
    for ops, count in bank.opsets.items():
        for op in sorted(ops):  # equal counts are listed in the order of their names
            counts[op] += count
    return list(counts.most_common())


def _shortened(rows: list[tuple[str, str, str]], most: int = 20) -> list[tuple[str, str, str]]:
    return rows if len(rows) <= most else [*rows[: most - 1], (f"and {len(rows) - most + 1} more", "", "")]


def _several(names: tuple[str, ...], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@commands.command()
def merge(
    files: Annotated[list[Path], typer.Argument(metavar="BANK", show_default=False)],
    out: Out,
) -> None:
    """Put several banks into one: the same segment once, with all its places and origins."""
    banks = [load(file) for file in files]
    for bank in banks:
        bank.check()  # a damaged copy of a segment must not stand for a sound one
    merged = merge_banks(banks)
    save(merged, out)
    console.print(
        f"{plain(str(out))}: {counted(len(merged), 'segment')} of {sum(map(len, banks)):,}, "
        f"{out.stat().st_size / 1e3:,.0f} kB",
        soft_wrap=True,
    )
