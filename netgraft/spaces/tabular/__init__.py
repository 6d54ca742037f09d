"""Benchmark tables as search spaces: what somebody trained and measured, asked for by architecture.

.. code-block:: python

    table = ng.tabular("nats-tss", data="NATS-tss-v1_0-3ffb9-simple")   # or a folder with accuracy.parquet
    table.accuracy("|nor_conv_3x3~0|+...", "cifar10", "test")           # by arch, index or graph
    table.cost(11, "macs"), table.simulate(11)                          # what it costs, and what training it takes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from netgraft.errors import DataError, OptionError, unknown

from .benchmark import Benchmark, Observation, Space
from .chains import FBNET, MACRO
from .choices import Choices, Decisions
from .hardware import Price, prices
from .labels import Columns, Labels, Training, columns_of, plausible
from .nats import NatsFiles, meta_of
from .size import SIZE
from .topology import TOPOLOGY

__all__ = [
    "SPACES",
    "Benchmark",
    "Choices",
    "Columns",
    "Decisions",
    "Labels",
    "Observation",
    "Price",
    "Space",
    "Training",
    "plausible",
    "tabular",
]

SPACES: Final[Mapping[str, Space]] = {space.name: space for space in (TOPOLOGY, SIZE, MACRO, FBNET)}
"""The spaces by name."""


def space(name: str) -> Space:
    """The space called ``name``; OptionError, with the nearest name, where there is none."""
    if name not in SPACES:
        raise OptionError(unknown("there is no benchmark space", name, SPACES))
    return SPACES[name]


def tabular(name: str, data: str | Path | Sequence[str | Path]) -> Benchmark:
    """The benchmark of a space, with the measurements in ``data``.

    ``name``: ``nats-tss`` (NAS-Bench-201's cells), ``nats-sss``, ``nasbench-macro`` or ``fbnet``. ``data``: a folder of
    NATS-Bench in fast mode (one ``000011.pickle.pbz2`` an architecture, read without unpickling, as they are asked
    for), or parquet files, or a folder of these, with the columns that :func:`.labels.columns_of` describes; beside
    either, or alone, ``HW-NAS-Bench-v1_0.pickle`` for the costs that :func:`.hardware.prices` describes. The project
    ships no table: data under other licences stays with those who publish it. DataError says what is wrong with a file.
    """
    chosen = space(name)
    given = [Path(data)] if isinstance(data, str | Path) else [Path(path) for path in data]
    missing = next((path for path in given if not path.exists()), None)
    if missing is not None:
        raise DataError(
            f"{missing} does not exist; {name} needs a folder of NATS-Bench in fast mode, parquet files with a column "
            "arch, or HW-NAS-Bench-v1_0.pickle"
        )
    archs = list(chosen.members()) if chosen.members else None
    whole = next((path for path in given if path.is_file() and path.name.endswith(".pbz2")), None)
    if whole is not None:
        raise DataError(
            f"{whole} is NATS-Bench's one large file, which takes tens of GB of memory; take its archive, "
            "NATS-tss-v1_0-3ffb9-simple.tar or NATS-sss-v1_0-50262-simple.tar, and name the folder in it"
        )
    costs: dict[str, Price] = {}
    paths = [path for path in given if path.suffix not in _PICKLES]
    for path in given:
        if path not in paths:
            costs |= prices(path, name, archs or ())
    if not paths:
        return Benchmark(chosen, archs or [], Columns({}), costs)
    if len(paths) == 1 and meta_of(paths[0]):
        if archs is None or name not in (TOPOLOGY.name, SIZE.name):
            raise DataError(f"{paths[0]} is a folder of NATS-Bench, which has no {name}")
        return Benchmark(chosen, archs, NatsFiles(paths[0], archs), costs)
    files = [file for path in paths for file in (sorted(path.glob("*.parquet")) if path.is_dir() else [path])]
    if not files:
        raise DataError(f"{paths[0]} holds neither a meta.pickle.pbz2 of NATS-Bench nor a parquet file")
    number = None if archs is None else {arch: i for i, arch in enumerate(archs)}
    return Benchmark(chosen, *columns_of(files, number), costs)


_PICKLES: Final = (".pickle", ".pkl")
