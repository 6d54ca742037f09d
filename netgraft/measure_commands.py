"""``netgraft measure`` and ``netgraft worker``: the time that networks take, here or on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from netgraft.console import counted
from netgraft.costs.measured import ENGINES, Network, check_counters, compare, energy, engines, footprint
from netgraft.costs.measured import measure as measure_one
from netgraft.costs.measured.worker import pack as pack_worker
from netgraft.costs.measured.worker import serve
from netgraft.errors import OptionError
from netgraft.table_commands import table_from
from netgraft.terminal import InputShape, console, errors, load


def measure(
    source: Annotated[
        str, typer.Argument(help="a network, FILE.onnx, or a folder that export wrote", show_default=False)
    ],
    second: Annotated[str | None, typer.Argument(help="a second one, measured interleaved")] = None,
    input_shape: InputShape = None,
    engine: Annotated[str, typer.Option(help=f"what runs them: {', '.join(ENGINES)}")] = "onnxruntime",
    precision: Annotated[
        str, typer.Option(help="fp32, bf16 (where the processor has it) or int8 (quantised first, on random inputs)")
    ] = "fp32",
    batch: Annotated[int, typer.Option(min=1)] = 1,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    seconds: Annotated[float, typer.Option(help="about how long to measure at most", min=1)] = 30.0,
    on: Annotated[
        str | None, typer.Option(help="another machine: a folder that 'netgraft worker' serves, or ssh://host[:port]")
    ] = None,
    memory: Annotated[bool, typer.Option("--memory", help="say peak memory (Linux) and the file's size, too")] = False,
    joules: Annotated[
        bool, typer.Option("--energy", help="measure the energy of a run, too, where the processor counts it (RAPL)")
    ] = False,
    table: Annotated[
        str | None,
        typer.Option(
            help="measure nothing, but estimate by a latency table: a file of 'netgraft table build', or shipped"
        ),
    ] = None,
) -> None:
    """Measure latency with a 99 % interval; of two networks, the ratio of the second to the first."""
    if table is not None:
        latencies = table_from(table)
        if (engine, precision, batch, threads, on) != (latencies.engine, "fp32", 1, 1, None) or memory or joules:
            raise OptionError(
                f"--table estimates for {latencies.engine}, fp32, a batch of 1, one thread; leave out --table"
            )
        names = [source] if second is None else [source, second]
        estimates = [latencies.estimate(load(name, input_shape).graph) for name in names]
        for name, estimate in zip(names, estimates, strict=True):
            unknown = (
                f"; {1 - estimate.known:.0%} of it in kernels that the table never saw"
                if estimate.known < 0.995
                else ""
            )
            console.print(
                f"{name}: about {estimate.milliseconds:.4g} ms, "
                f"90 % interval [{estimate.low:.4g}, {estimate.high:.4g}] "
                f"(estimated by the table for {latencies.about.get('processor', 'an unknown processor')}, "
                f"{latencies.engine}{unknown})",
                markup=False,
                soft_wrap=True,
            )
        return
    if joules:
        check_counters()  # before time is spent on the rest
    if (memory or joules) and on:
        raise OptionError("--memory and --energy are measured on this machine; leave out --on")
    first = _network(source, input_shape)
    where = f"{engine}, {precision}, CPU, batch {batch}, {counted(threads, 'thread')}" + (f", on {on}" if on else "")
    if second is None:
        found = measure_one(
            first, engine=engine, precision=precision, batch=batch, threads=threads, seconds=seconds, on=on
        )
        interval = f"[{found.low_ms:.4g}, {found.high_ms:.4g}]"
        console.print(
            f"{found.median_ms:.4g} ms, 99 % interval {interval} ({where}, {found.sessions} sessions)",
            markup=False,
            soft_wrap=True,
        )
        noisy = found.noisy
    else:
        other = _network(second, input_shape)
        (ratio,) = compare(
            [other], first, engine=engine, precision=precision, batch=batch, threads=threads, seconds=seconds, on=on
        )
        console.print(
            f"{source}: {ratio.baseline_ms:.4g} ms; {second}: {ratio.model_ms:.4g} ms ({where})",
            markup=False,
            soft_wrap=True,
        )
        console.print(
            f"time of the second: {ratio.ratio:.3f}x [{ratio.low:.3f}, {ratio.high:.3f}] of the first (99 % interval), "
            f"a speed-up of {ratio.speedup:.2f}x: {ratio.verdict} "
            f"({ratio.pairs} fresh session pairs; the first against itself: "
            f"{ratio.null:.3f} [{ratio.null_low:.3f}, {ratio.null_high:.3f}])",
            soft_wrap=True,
        )
        noisy = ratio.noisy
    for name, network in [(source, first)] if second is None else [(source, first), (second, other)]:
        if memory:
            taken = footprint(network, engine=engine, precision=precision, batch=batch, threads=threads)
            console.print(
                f"{name}: {taken.memory / 1e6:,.1f} MB of memory at its peak, a file of {taken.file / 1e6:,.2f} MB",
                markup=False,
                soft_wrap=True,
            )
        if joules:
            used = energy(network, engine=engine, precision=precision, batch=batch, threads=threads)
            console.print(
                f"{name}: {1e3 * used.run:.4g} mJ a run, {1e3 * used.extra:.4g} mJ more than the machine takes idle",
                markup=False,
                soft_wrap=True,
            )
    if noisy:
        errors.print("[yellow]this machine is too busy for a sharp answer; measure again when it is quiet[/]")


def worker(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="shared with those who ask; made where it is missing")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="do the jobs that wait, and end")] = False,
    pack: Annotated[
        Path | None, typer.Option(help="instead write the worker as one file, such as worker.pyz", show_default=False)
    ] = None,
) -> None:
    """Measure what 'netgraft measure --on DIR' asks for, until Ctrl-C: on the machine whose time counts.

    A device needs no netgraft: copy the file that --pack writes there, and run 'python3 worker.pyz DIR' with Python
    3.11, numpy and an engine installed (pip install numpy onnxruntime). DIR is any folder that both machines see.
    """
    if (folder is None) == (pack is None):
        raise OptionError("name either a folder to serve, or with --pack a file to write")
    if pack:
        pack_worker(pack)
        console.print(
            f"copy {pack} to the device, and run there: python3 {pack.name} DIR", markup=False, soft_wrap=True
        )
    if folder:
        console.print(f"serving {folder} with {', '.join(engines())}; Ctrl-C ends it", markup=False, soft_wrap=True)
        serve(folder, once=once, say=lambda line: console.print(line, markup=False, soft_wrap=True))


def _network(source: str, input_shape: str | None) -> Network:
    """What is to be measured: a file that engines read as it is, or else a network."""
    written = Path(source, "model.onnx")  # in a folder that export wrote
    if written.is_file():
        return written
    return Path(source) if source.endswith((".onnx", ".tflite", ".pte")) else load(source, input_shape)
