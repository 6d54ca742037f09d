"""``netgraft table build | show``: latency tables on the command line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from netgraft import console as screen
from netgraft import sources
from netgraft.console import plain
from netgraft.costs.measured.engines import engine as engine_named
from netgraft.costs.published import recognised
from netgraft.costs.tables import SHIPPED, Entry, Table, fitted
from netgraft.costs.tables.observed import Observed
from netgraft.errors import DataError, MeasureError, OptionError
from netgraft.recipes.table import FEWEST, REFERENCE, collect

console = Console(highlight=False)

commands = typer.Typer(
    no_args_is_help=True,
    help="Latency tables: what kernels take on a device, measured once, for 'measure' and 'optimize --table'.",
)


def table_from(text: str) -> Table:
    """The table that ``--table`` names: a file, or ``shipped``. DataError, which says so where the file is one of the
    published tables that commands do not take.
    """
    path = SHIPPED if text == "shipped" else Path(text)
    try:
        return Table.load(path)
    except DataError:
        if found := recognised(path):
            raise DataError(f"{path} is no latency table of 'netgraft table build': it holds {found}") from None
        raise


@commands.command()
def build(
    out: Annotated[Path, typer.Option(help="the file to write; OUT.part beside it keeps what is measured")],
    spaces: Annotated[
        str,
        typer.Option(
            help="networks to measure, separated by commas: zoo (in several sizes, with random children), a family "
            "such as hiaml, or SOURCES as 'bank mine' takes them"
        ),
    ] = "zoo",
    engine: Annotated[str, typer.Option(help="onnxruntime: the one whose kernels can be told apart")] = "onnxruntime",
    on: Annotated[
        str | None, typer.Option(help="another machine: a folder that 'netgraft worker' serves, or ssh://host[:port]")
    ] = None,
    seed: Annotated[int, typer.Option(help="the same seed measures the same networks", min=0)] = 0,
) -> None:
    """Measure kernels, inside of networks, on this machine or with --on another, and write a latency table. The same
    command goes on after Ctrl-C.

    The zoo takes a quarter of an hour to an hour of one core. The machine that measures needs a processor with AVX-512,
    whose kernels are the ones that are known; networks go there, times come back, and only numpy and onnxruntime are
    needed there.
    """
    if engine != "onnxruntime":
        engine_named(engine)  # says so where it is none, or not here
        raise OptionError(
            "a table needs to know which kernels an engine makes of a network that it never ran, and what it fuses: "
            f"that is known of onnxruntime only. 'netgraft measure --engine {engine}' measures whole networks; "
            f"'netgraft device measure --engine {engine}' learns from 20 of them to estimate all of nats-tss or fbnet"
        )
    if out.is_dir() or not out.parent.is_dir():
        raise OptionError(f"--out {out} is no file that can be written")
    journal = out.with_name(out.name + ".part")
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
    ) as progress:
        line = progress.add_task("measuring")

        def told(observed: Observed, count: int) -> None:
            progress.update(line, description=f"{count} networks measured, the last one {plain(observed.name)}")
            if not console.is_terminal and count % 20 == 0:
                console.print(f"{count} networks measured")

        try:
            observed, machine = collect(spaces.split(","), journal, seed, told, on)
        except KeyboardInterrupt:
            console.print(
                f"what was measured is kept in {plain(str(journal))}; the same command goes on", soft_wrap=True
            )
            raise typer.Exit(130) from None
        if len(observed) < FEWEST:
            raise MeasureError(
                f"{spaces}: too few networks run for a table: {len(observed)}; it takes {FEWEST} (kept in {journal})"
            )
        progress.update(line, description=f"fitting {len(observed)} networks")
        table = fitted(observed, REFERENCE, engine, _about(machine, spaces))
    table.save(out)
    kinds = len({entry.kind for entry in table.entries})
    console.print(
        f"{plain(str(out))}: {len(table.entries):,} sizes of {kinds} kinds of kernels, of {table.networks} networks; "
        f"{out.stat().st_size / 1e3:,.0f} kB",
        soft_wrap=True,
    )


@commands.command()
def show(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="a file of 'table build', or shipped")] = "shipped",
    source: Annotated[str | None, typer.Argument(help="a network, to see what its kernels take")] = None,
    most: Annotated[int, typer.Option(help="how many of its kernels", min=1)] = 20,
) -> None:
    """Show where a latency table comes from and what it holds, or by it the kernels of a network that take longest."""
    found = table_from(table)
    if source is None:
        rows = [(plain(name), plain(value)) for name, value in found.about.items()]
        rows.append(("networks", str(found.networks)))
        rows.append(("the reference", f"{plain(found.reference)}: {found.reference_ms:.3f} ms"))
        console.print(screen.columns(f"a latency table of {plain(found.engine)}", ("", "value"), rows))
        by_kind: dict[str, list[Entry]] = defaultdict(list)
        for entry in found.entries:
            by_kind[entry.kind].append(entry)
        console.print(
            screen.columns(
                "kernels",
                ("kind", "sizes", "microseconds", "regression"),
                [
                    (
                        plain(kind),
                        str(len(es)),
                        _range([e.microseconds for e in es]),
                        "yes" if kind in found.shapes else "no",
                    )
                    for kind, es in sorted(by_kind.items(), key=lambda item: -len(item[1]))
                ],
            )
        )
        return
    graph = sources.load(source).graph
    estimate = found.estimate(graph)
    kernels = found.by_kernel(graph)
    longest = sorted(kernels, key=lambda kernel: -kernel[2])[:most]
    console.print(
        screen.columns(
            f"{plain(source)}: {estimate.milliseconds:.4g} ms in {len(kernels)} kernels",
            ("node", "kernel", "microseconds", "share"),
            [
                (plain(node), plain(kind), f"{1e3 * ms:.1f}", f"{ms / estimate.milliseconds:.1%}")
                for node, kind, ms in longest
            ],
        )
    )


def _range(values: list[float]) -> str:
    return f"{min(values):.3g} to {max(values):.4g}"


def _about(machine: Mapping[str, str], spaces: str) -> dict[str, str]:
    """What a person wants to know of a table before using it elsewhere."""
    return {
        **machine,
        "setting": "batch 1, one thread, fp32",
        "spaces": spaces,
        "made": datetime.now(UTC).date().isoformat(),
    }
