"""NATS-Bench's own files in fast mode: a folder with one bz2-compressed pickle an architecture, read as data.

The package ``nats_bench`` writes and looks for ``000011.pickle.pbz2`` and ``meta.pickle.pbz2``, and older copies of the
benchmark have ``000011.pbz2`` and ``meta.pbz2``: both are read.
"""

from __future__ import annotations

import bz2
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from netgraft.convert.pickles import read_pickle
from netgraft.errors import DataError, SourceError

from .labels import Training

_META: Final = ("meta.pickle.pbz2", "meta.pbz2")
_FILE: Final = re.compile(r"0*(\d+)(\.pickle)?\.pbz2")
_LARGEST: Final = 256 << 20  # bytes of one file unpacked: hundreds of times what one is

# Data and split of the search, and what the files call the data and the evaluation. CIFAR-10's validation accuracy is
# that of a network trained on half of the training images, its test accuracy that of one trained on all of them.
_SETS: Final[Mapping[tuple[str, str], tuple[str, str]]] = {
    ("cifar10", "valid"): ("cifar10-valid", "x-valid"),
    ("cifar10", "test"): ("cifar10", "ori-test"),
    ("cifar100", "valid"): ("cifar100", "x-valid"),
    ("cifar100", "test"): ("cifar100", "x-test"),
    ("imagenet16-120", "valid"): ("ImageNet16-120", "x-valid"),
    ("imagenet16-120", "test"): ("ImageNet16-120", "x-test"),
}
_COSTS: Final = {"macs": ("flop", 1e6), "parameters": ("params", 1e6), "latency": ("latency", 1e3)}


class _End(NamedTuple):
    """How a training ended: the accuracies of its trials, in the order of their seeds, and their mean time."""

    accuracies: tuple[float | None, ...] = ()
    seconds: float | None = None


class NatsFiles:
    """Labels in a folder such as ``NATS-tss-v1_0-3ffb9-simple``; an architecture is read when it is asked for.

    Costs are those of CIFAR-10: multiply-accumulates, parameters, and latency in ms on the benchmark's GPU.
    """

    metrics: Sequence[str] = tuple(_COSTS)

    def __init__(self, folder: Path, archs: Sequence[str]) -> None:
        """``folder`` must list the same ``archs`` in its meta file; DataError says what is missing."""
        self.folder, self._archs = folder, archs
        listed = meta_of(folder) or folder / _META[0]
        meta = _read(listed)
        if not isinstance(meta, dict) or meta.get("meta_archs") != list(archs):
            raise DataError(f"{listed} lists other architectures than this space has")
        self._files = {int(match[1]): path for path in folder.iterdir() if (match := _FILE.fullmatch(path.name))}
        self.indices = frozenset(self._files)
        """Which architectures the folder holds."""
        if not self.indices:
            raise DataError(f"{folder} holds no architecture, as 000011.pickle.pbz2 would be one")
        # A file takes 60 ms to decode, and 2 MB once decoded. Searches ask for the ends of trainings of all of them,
        # again and again: these are kept, a few kB each; of the rest just what was asked for last.
        self._record = lru_cache(maxsize=16)(self._read_record)
        self._ends = lru_cache(maxsize=len(archs))(self._read_ends)
        epochs = sorted(int(hp) for hp in self._record(min(self.indices)))
        self.trainings: Sequence[Training] = tuple(Training(*key, hp) for hp in epochs for key in _SETS)

    def accuracy(self, index: int, training: Training, at: int | None, trial: int | None) -> float | None:
        """See :class:`Labels`."""
        if at in (None, training.epochs):
            found = self._end(index, training).accuracies
        else:
            with _naming(self._file(index)):
                found = _accuracies(self._runs(index, training), training, at)
        found = found if trial is None else found[trial : trial + 1]
        known = [accuracy for accuracy in found if accuracy is not None]
        return sum(known) / len(known) if known and len(known) == len(found) else None

    def trials(self, index: int, training: Training) -> int:
        """See :class:`Labels`."""
        return len(self._end(index, training).accuracies)

    def seconds(self, index: int, training: Training, at: int | None) -> float | None:
        """See :class:`Labels`: the mean over the trials, as the benchmark's ``simulate_train_eval`` counts it."""
        if at in (None, training.epochs):
            return self._end(index, training).seconds
        with _naming(self._file(index)):
            return _seconds(self._runs(index, training), training, at)

    def cost(self, index: int, metric: str) -> float | None:
        """See :class:`Labels`."""
        name, unit = _COSTS[metric]
        with _naming(self._file(index)):
            values = [run[name] for run in self._runs(index, self.trainings[0])]
            flat = [float(v) for value in values for v in (value if isinstance(value, list) else [value])]
        return unit * sum(flat) / len(flat) if flat else None

    def _end(self, index: int, training: Training) -> _End:
        return self._ends(index)[training] if index in self.indices else _End()

    def _read_ends(self, index: int) -> Mapping[Training, _End]:
        found = {}
        with _naming(self._file(index)):
            for training in self.trainings:
                runs = self._runs(index, training)
                accuracies = _accuracies(runs, training, training.epochs)
                found[training] = _End(accuracies, _seconds(runs, training, training.epochs))
        return found

    def _runs(self, index: int, training: Training) -> list[dict[str, Any]]:
        """The trials of one training, in the order of their seeds."""
        if index not in self.indices:
            return []
        entry = self._record(index)[f"{training.epochs:02d}"]
        if entry["arch_str"] != self._archs[index]:
            raise DataError(f"{self._file(index)} is of another architecture: {entry['arch_str']}")
        name = _SETS[training[:2]][0]
        return [entry["all_results"][name, seed] for seed in entry["dataset_seed"].get(name, ())]

    def _file(self, index: int) -> Path:
        return self._files.get(index, self.folder / f"{index:06d}.pickle.pbz2")

    def _read_record(self, index: int) -> dict[str, Any]:
        record = _read(self._file(index))
        if not isinstance(record, dict) or not all(isinstance(hp, str) and hp.isdecimal() for hp in record):
            raise DataError(f"{self._file(index)} does not hold the trainings of an architecture")
        return record


def _accuracies(runs: Sequence[Mapping[str, Any]], training: Training, at: int) -> tuple[float | None, ...]:
    """Of each trial after epoch ``at``."""
    name = f"{_SETS[training[:2]][1]}@{at - 1}"
    found = [run["eval_acc1es"].get(name) for run in runs]
    return tuple(None if accuracy is None else float(accuracy) for accuracy in found)


def _seconds(runs: Sequence[Mapping[str, Any]], training: Training, at: int) -> float | None:
    """The mean time of the trials up to epoch ``at``, and of judging them there."""
    name = f"{_SETS[training[:2]][1]}@{at - 1}"
    timed = [run for run in runs if name in run["eval_times"] and run["train_times"]]
    spent = [float(sum(run["train_times"][e] for e in range(at)) + run["eval_times"][name]) for run in timed]
    return sum(spent) / len(spent) if spent else None


def meta_of(folder: Path) -> Path | None:
    """The file that makes a folder one of NATS-Bench, if there is one."""
    return next((path for name in _META if (path := folder / name).exists()), None)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """A DataError that names the file, for whatever is not where a record of NATS-Bench has it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} is damaged, or no record of NATS-Bench ({type(error).__name__}: {error}); "
            "take it anew from where the folder came from"
        ) from None


def _read(path: Path) -> Any:
    """What a compressed pickle holds; DataError where it is missing or damaged, or asks for more than data."""
    try:
        with bz2.open(path) as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise DataError(f"{path} is no file of NATS-Bench: it unpacks to more than {_LARGEST >> 20} MB")
        return read_pickle(data, ())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; a folder of NATS-Bench in fast mode has it") from None
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be unpacked: {error}") from None
    except SourceError as error:
        raise DataError(f"{path} {error}") from None
