"""``netgraft device plan | measure | fit | predict``: latency on a device from a few measurements."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TextIO

import numpy as np
import typer
from rich.console import Console

from netgraft.costs.measured import ENGINES
from netgraft.costs.measured import measure as measure_one
from netgraft.devices import Sheet, read_device, read_measurements, read_sheet, shipped, space_of
from netgraft.devices import fit as fit_device
from netgraft.errors import DataError, OptionError
from netgraft.ir import untrained
from netgraft.spaces.tabular import SPACES

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

commands = typer.Typer(
    no_args_is_help=True,
    help="Latency on a device that nobody measured: plan 10 or 20 measurements, fit, predict the rest. "
    "The spaces are nats-tss (or nasbench201) and fbnet.",
)

Space = Annotated[str, typer.Option(help="nats-tss (or nasbench201), or fbnet", show_default=False)]
_SURPRISING = 4.0


@commands.command()
def plan(
    space: Space,
    count: Annotated[int, typer.Option(help="how many measurements", min=5, max=40)] = 20,
    out: Annotated[Path | None, typer.Option(help="a CSV file to fill in (default: to the terminal)")] = None,
) -> None:
    """Say which architectures to measure, the most telling first: chosen from how known devices differ.

    Measure them on the device, in one batch size and engine, and write the times (ms) into the column ms.
    'netgraft device measure' does it where netgraft measures; FAMILY?arch=ARCH names their networks as sources, such as
    'family:nasbench201_benchmark?arch=...' or 'family:fbnet?arch=...' for 'netgraft export'.
    """
    archs = shipped(space).plan[:count]
    if out is None:
        _write(sys.stdout, archs)
        return
    if out.exists():
        raise OptionError(f"{out} exists; a plan never overwrites measurements")
    with _opened(out) as file:
        _write(file, archs)
    console.print(
        f"fill in the column ms of {out}, then: netgraft device fit {out} --space {space} --out my.device",
        soft_wrap=True,
    )


@commands.command()
def measure(
    space: Space,
    out: Annotated[Path, typer.Option(help="the CSV file; what it holds already is not measured again")],
    count: Annotated[int, typer.Option(help="how many measurements", min=5, max=40)] = 20,
    engine: Annotated[str, typer.Option(help=f"what runs them: {', '.join(ENGINES)}")] = "onnxruntime",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or int8")] = "fp32",
    batch: Annotated[int, typer.Option(min=1)] = 1,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    seconds: Annotated[float, typer.Option(help="about how long to measure each at most", min=1)] = 5.0,
    on: Annotated[
        str | None, typer.Option(help="another machine: a folder that 'netgraft worker' serves, or ssh://host[:port]")
    ] = None,
) -> None:
    """Measure a plan on this machine, or another one, and write the times; it can be stopped and called again.

    The first line of the file says what was measured in: times of another engine, precision, batch size, number of
    threads or machine go into another file.
    """
    family = SPACES[space_of(space)].families[0]
    where = " ".join(on.split()) if on else "this machine"
    setting = f"engine {engine}, precision {precision}, batch {batch}, threads {threads}, on {where}"
    _writable(out)
    sheet = _begun(out, setting)
    done = {row["arch"] for row in sheet.rows if row["ms"]}
    for number, arch in enumerate(shipped(space).plan[:count], 1):
        if arch not in done:
            model = untrained(family.build(arch), f"{family.name}{number}", 0)
            found = measure_one(
                model, engine=engine, precision=precision, batch=batch, threads=threads, seconds=seconds, on=on
            )
            sheet = _filled(sheet, arch, found.median_ms)
            sheet.write(out)  # as they come: measuring is what takes time
            noisy = ", on a machine too busy for a sharp answer" if found.noisy else ""
            line = f"{number} of {count}: {found.median_ms:.4g} ms [{found.low_ms:.4g}, {found.high_ms:.4g}]{noisy}"
            console.print(line, markup=False, soft_wrap=True)
    console.print(f"next: netgraft device fit {out} --space {space} --out my.device", soft_wrap=True)


@commands.command()
def fit(
    measurements: Annotated[Path, typer.Argument(help="CSV with the columns arch and ms", show_default=False)],
    space: Space,
    out: Annotated[Path, typer.Option(help="the file to write", show_default=False)],
) -> None:
    """Fit a device to measurements, of the plan or of other architectures of the space."""
    device = fit_device(shipped(space), *read_measurements(measurements))
    _writable(out)
    device.save(out)
    for arch, ms, surprise in zip(device.archs, device.ms, device.surprises(), strict=True):
        if abs(surprise) > _SURPRISING:
            errors.print(
                f"[yellow]note:[/] {ms:g} ms for {arch} is {abs(surprise):.0f} standard deviations from what the "
                "others say; measure it again, or leave it out",
                soft_wrap=True,
            )
    console.print(
        f"{out}: {len(device.archs)} measurements from {device.ms.min():.4g} to {device.ms.max():.4g} ms, "
        f"noise about {device.noise:.0%}"
        + (f"; of a cell it seems to run {device.way} only" if device.way != "everything" else ""),
        soft_wrap=True,
    )
    console.print(f"next: netgraft device predict {out} ARCH", soft_wrap=True)


@commands.command()
def predict(
    device: Annotated[Path, typer.Argument(help="a file of 'netgraft device fit'", show_default=False)],
    archs: Annotated[list[str] | None, typer.Argument(metavar="ARCH...", help="architectures of its space")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="a file with one arch a line, instead")] = None,
    out: Annotated[Path | None, typer.Option(help="write CSV with arch, ms, low and high")] = None,
) -> None:
    """Predict latencies, each with a 95 % interval."""
    if (file is None) == (not archs):
        raise OptionError("name architectures, or with --file a file of them")
    known = read_device(device)
    wanted = archs or []
    if file is not None:
        try:
            wanted = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read: {error}") from None
        if not wanted:
            raise DataError(f"{file} names no architecture")
    found = known.predict(wanted)
    if out is None:
        for arch, ms, low, high in zip(wanted, *found, strict=True):
            console.print(f"{ms:.4g} ms [{low:.4g}, {high:.4g}]  {arch}", markup=False, soft_wrap=True)
        return
    with _opened(out) as stream:
        writer = csv.writer(stream)
        writer.writerow(["arch", "ms", "low", "high"])
        writer.writerows([a, *np.round(values, 6).tolist()] for a, *values in zip(wanted, *found, strict=True))
    console.print(f"{out}: {len(wanted):,} architectures", soft_wrap=True)


def _begun(out: Path, setting: str) -> Sheet:
    """A new sheet of measurements in a setting, or the one to go on with; OptionError for one of another setting."""
    if not out.exists():
        return Sheet(setting, ("arch", "ms"), ())
    sheet = read_sheet(out)
    if sheet.setting is not None and sheet.setting != setting:
        raise OptionError(f"{out} holds times of another setting ({sheet.setting}), not {setting}; name another --out")
    if sheet.setting is None and any(row["ms"] for row in sheet.rows):
        errors.print(
            f"note: {out} does not say what its times were measured in; they are taken to be of: {setting}",
            markup=False,
            soft_wrap=True,
        )
    return replace(sheet, setting=setting)


def _filled(sheet: Sheet, arch: str, ms: float) -> Sheet:
    """The sheet with the time of an architecture: in the row that waits for it, or in a new one."""
    rows = [dict(row) for row in sheet.rows]
    waiting = next((row for row in rows if row["arch"] == arch and not row["ms"]), None)
    if waiting is None:
        rows.append(waiting := dict.fromkeys(sheet.columns, "") | {"arch": arch})
    waiting["ms"] = f"{ms:.6g}"
    return replace(sheet, rows=tuple(rows))


def _write(stream: TextIO, archs: Sequence[str]) -> None:
    """A CSV file of measurements, its times left open."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["arch", "ms"])
    writer.writerows([arch, ""] for arch in archs)


def _writable(path: Path) -> None:
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise OptionError(f"--out {path} is no file that can be written")


def _opened(path: Path) -> TextIO:
    _writable(path)
    return path.open("w", newline="", encoding="utf-8")
