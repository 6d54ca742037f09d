"""Energy of a run, by the counters of the processor (RAPL) that Linux shows."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from netgraft.errors import MeasureError, OptionError

from .engines import engine as engine_named
from .networks import Network, Setting, Variant, label_of
from .sampling import Subject, check_processors, checked

COUNTERS = Path("/sys/class/powercap")
"""Where the kernel shows them (Documentation/power/powercap): ``intel-rapl:N`` for the packages, of AMD's, too, and on
some machines for the whole platform (``psys``), of which the packages are parts.
"""
REPEATS = 5
SHORTEST = 0.1
"""Seconds, at least: the counters are renewed every millisecond or so, and a tenth of the time is measured at once."""


@dataclass(frozen=True)
class Energy:
    """Joules of one run of one batch: ``run`` of all packages while it runs, ``extra`` of that beyond what the machine
    takes in the same time without it; medians of a few repeats. Whatever else runs on the machine is in both.
    """

    run: float
    extra: float
    repeats: int


def energy(
    model: Network | Variant,
    *,
    engine: str = "onnxruntime",
    precision: str = "fp32",
    batch: int = 1,
    threads: int = 1,
    seconds: float = 10.0,
) -> Energy:
    """Measure for about ``seconds``; MeasureError where the machine offers no counters, or not to this user."""
    checked(batch, threads)
    check_processors(threads)
    if not SHORTEST <= seconds < math.inf:
        raise OptionError(f"energy needs {SHORTEST:g} seconds at least to be measured, not {seconds:g}")
    check_counters()  # before a network is loaded for nothing
    variant = Variant.of(model, engine, precision)
    with engine_named(variant.engine).running(threads):
        subject = Subject(label_of(variant.model, "the model"), variant, Setting(batch, threads))
        session = subject.open()
        subject.warm_up(session)
        span = seconds / (2 * REPEATS)
        whole, extra = [], []
        for _ in range(REPEATS):
            before, start, runs = _read(), time.monotonic(), 0
            while not runs or time.monotonic() - start < span:
                session()
                runs += 1
            took, used = time.monotonic() - start, _used(before, _read())
            before, start = _read(), time.monotonic()
            time.sleep(span)
            idle = _used(before, _read()) / (time.monotonic() - start)
            whole.append(used / runs)
            extra.append((used - idle * took) / runs)
    return Energy(sorted(whole)[REPEATS // 2], sorted(extra)[REPEATS // 2], REPEATS)


def check_counters() -> None:
    """MeasureError where the machine offers no counters, or not to this user."""
    _read()


def _read() -> Mapping[str, tuple[int, int]]:
    """Microjoules of every package so far, and where its counter starts again."""
    found = {}
    try:
        for zone in sorted(COUNTERS.glob("intel-rapl:*")):
            # Parts of a package have a second number; of psys the packages are parts.
            if zone.name.count(":") == 1 and (zone / "name").read_text().startswith("package"):
                counts = (int((zone / name).read_text()) for name in ("energy_uj", "max_energy_range_uj"))
                found[zone.name] = (next(counts), next(counts))
    except PermissionError as error:
        raise MeasureError(
            f"energy is read from {error.filename}, which this user may not read: run as root, or let root say "
            f"'chmod a+r {COUNTERS}/intel-rapl:*/energy_uj'"
        ) from None
    except (OSError, ValueError) as error:
        raise MeasureError(f"the energy counters of {COUNTERS} cannot be read: {error}") from None
    if not found:
        raise MeasureError(
            f"this machine shows no energy counters in {COUNTERS}: it takes Linux on a processor of Intel's or AMD's, "
            "not in a virtual machine"
        )
    return found


def _used(before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]) -> float:
    """Joules between two readings; a counter that started again did so once."""
    total = 0
    for zone, (count, most) in after.items():
        since = count - before[zone][0]
        total += since if since >= 0 else since + most
    return total / 1e6
