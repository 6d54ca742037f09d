"""What a benchmark measured, behind one interface: compact tables in parquet files here, official files elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from netgraft.errors import DataError

Column = npt.NDArray[np.float64]


class Training(NamedTuple):
    """A series of trainings: the data, the split that they were judged on, and their epochs (0: the table's own)."""

    dataset: str
    split: str
    epochs: int

    def __str__(self) -> str:
        return f"{self.dataset} {self.split}" + (f" after {self.epochs} epochs" if self.epochs else "")


class Labels(Protocol):
    """The measurements of the architectures of a space, by index. None stands for what was not measured."""

    @property
    def trainings(self) -> Sequence[Training]:
        """What there are accuracies of."""

    @property
    def metrics(self) -> Sequence[str]:
        """What there are costs of, ``latency@DEVICE`` (ms) for example."""

    def accuracy(self, index: int, training: Training, at: int | None, trial: int | None) -> float | None:
        """Accuracy in percent, of one of several trials or else their mean; ``at`` an epoch (from 1) or at the end."""

    def trials(self, index: int, training: Training) -> int:
        """How many trials there are."""

    def seconds(self, index: int, training: Training, at: int | None) -> float | None:
        """The time of training up to an epoch, or to the end, and one pass over the split."""

    def cost(self, index: int, metric: str) -> float | None:
        """A cost."""


@dataclass(frozen=True)
class Columns:
    """Labels held as columns, NaN where there is none."""

    accuracies: Mapping[Training, Sequence[Column]]
    """The columns of the trials."""
    costs: Mapping[str, Column] = field(default_factory=dict)
    times: Mapping[Training, Column] = field(default_factory=dict)

    @property
    def trainings(self) -> Sequence[Training]:
        """See :class:`Labels`."""
        return tuple(self.accuracies)

    @property
    def metrics(self) -> Sequence[str]:
        """See :class:`Labels`."""
        return tuple(self.costs)

    def accuracy(self, index: int, training: Training, at: int | None, trial: int | None) -> float | None:
        """See :class:`Labels`; a compact table knows the end of a training only."""
        if at not in (None, training.epochs):
            return None
        known = self._known(index, training)
        chosen = known if trial is None else known[trial : trial + 1]
        return sum(chosen) / len(chosen) if chosen else None

    def trials(self, index: int, training: Training) -> int:
        """See :class:`Labels`."""
        return len(self._known(index, training))

    def seconds(self, index: int, training: Training, at: int | None) -> float | None:
        """See :class:`Labels`."""
        column = self.times.get(training) if at in (None, training.epochs) else None
        return None if column is None else _known(float(column[index]))

    def cost(self, index: int, metric: str) -> float | None:
        """See :class:`Labels`."""
        return _known(float(self.costs[metric][index]))

    def _known(self, index: int, training: Training) -> list[float]:
        """The accuracies of the trials that there are."""
        found = (float(column[index]) for column in self.accuracies[training])
        return [accuracy for accuracy in found if not np.isnan(accuracy)]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


_NAMES = {"imagenet16": "imagenet16-120"}
_ACCURACY = re.compile(r"(\w+?)_(test|valid|train)_acc_(\d+)ep")
_SECONDS = re.compile(r"(\w+?)_(test|valid|train)_seconds_(\d+)ep")
_TRIAL = re.compile(r"test_acc_(\d+)")
_COSTS = {"params": "parameters", "flops": "macs"}


def read_parquet(path: Path) -> tuple[list[str], dict[str, Column]]:
    """The archs of a table and its columns of numbers, by name; DataError for a file that is no such table."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as a parquet file: {error}") from None
    if "arch" not in table.column_names:
        raise DataError(f"{path} has no column arch; it has: {', '.join(table.column_names)}")
    archs: list[str] = table["arch"].to_pylist()
    numeric = [f.name for f in table.schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]
    columns = {name: np.asarray(table[name].to_numpy(), dtype=np.float64) for name in numeric if name != "index"}
    return archs, columns


def columns_of(files: Sequence[Path], number: Mapping[str, int] | None) -> tuple[list[str], Columns]:
    """Tables in parquet files, as labels by the index that ``number`` gives an arch, or else by the order of the files.

    A column ``arch``; accuracies like ``cifar10_valid_acc_12ep``, and their times like ``cifar10_valid_seconds_12ep``;
    ``test_acc_1``, ``test_acc_2`` and so on are trials of CIFAR-10; ``params``, ``flops``; in a file whose name has
    ``latency`` in it, every other column is a device in ms. What is not :func:`plausible` counts as not measured.
    Columns of one name are one column: files may hold parts of a table, and the first that knows a value is believed.
    """
    tables = [(path, *read_parquet(path)) for path in files]
    if number is None:
        number = {arch: i for i, arch in enumerate(dict.fromkeys(arch for _, rows, _ in tables for arch in rows))}
    found: dict[str, Column] = {}
    latencies: dict[str, Column] = {}
    for path, rows, columns in tables:
        unknown = next((arch for arch in rows if arch not in number), None)
        if unknown is not None:
            raise DataError(f"{path} has an arch that the space does not have: {unknown!r}")
        places = np.array([number[arch] for arch in rows], dtype=np.int64)
        held = latencies if "latency" in path.name else found
        for name, values in columns.items():
            column = held.setdefault(name, np.full(len(number), np.nan))
            column[places] = np.where(np.isnan(column[places]), values, column[places])
    accuracies: dict[Training, list[Column]] = {}
    costs = {f"latency@{name}": np.where(plausible(column), column, np.nan) for name, column in latencies.items()}
    times: dict[Training, Column] = {}
    for name, column in found.items():
        if match := _ACCURACY.fullmatch(name):
            accuracies[_training(match)] = [column]
        elif match := _SECONDS.fullmatch(name):
            times[_training(match)] = column
        elif name in _COSTS:
            costs[_COSTS[name]] = column
    trials = {int(match[1]): column for name, column in found.items() if (match := _TRIAL.fullmatch(name))}
    if trials:
        accuracies[Training("cifar10", "test", 0)] = [trials[i] for i in sorted(trials)]
    return list(number), Columns(accuracies, costs, times)


def _training(match: re.Match[str]) -> Training:
    return Training(_NAMES.get(match[1], match[1]), match[2], int(match[3]))


BROKEN = 0.1
"""A latency below this share of a device's median cannot be one."""


def plausible(latencies: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which latencies of one device can be ones: a tenth of its median at least.

    The published tables hold entries of microseconds between ones of many milliseconds (Pixel 3), and the networks of
    a space differ by no such factor. NaN where nothing was measured is not plausible either.
    """
    with np.errstate(invalid="ignore"):
        kept: npt.NDArray[np.bool_] = latencies >= BROKEN * np.nanmedian(latencies)
    return kept
