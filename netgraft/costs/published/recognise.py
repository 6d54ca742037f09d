"""Which of the published tables a file holds, to tell those who give it to a command that wants another."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from netgraft.errors import DataError

from .compactnet import CompactNet
from .haq import HAQ
from .proxylessnas import ProxylessNAS
from .single_path import SinglePath

TABLES: Final[Mapping[str, type[CompactNet | HAQ | ProxylessNAS | SinglePath]]] = {
    "CompactNet": CompactNet,
    "HAQ": HAQ,
    "Single-Path NAS": SinglePath,
    "ProxylessNAS": ProxylessNAS,
}
"""What reads the table of each method."""
_FBNET: Final = 22
"""Choices of a network of FBNet's space."""


def recognised(path: Path) -> str | None:
    """What a file holds, and what reads it in Python, in words; None where it is none of the published tables."""
    for method, table in TABLES.items():
        with suppress(DataError):
            table.load(path)
            return f"the latency table of {method}; in Python netgraft.costs.published.{table.__name__}.load reads it"
    if _is_fbnet(path):
        return (
            "latencies of FBNet's networks; in Python netgraft.costs.published.additive makes a table of its columns "
            "arch and those of the devices"
        )
    return None


def _is_fbnet(path: Path) -> bool:
    """Whether it is a parquet file with the choices of networks of FBNet's space in a column ``arch``."""
    try:
        with pq.ParquetFile(path) as file:
            (arch,) = next(file.iter_batches(1, columns=["arch"]))["arch"].to_pylist()
    except (pa.ArrowException, OSError, KeyError, StopIteration):
        return False
    return isinstance(arch, str) and len(arch.split()) == _FBNET
