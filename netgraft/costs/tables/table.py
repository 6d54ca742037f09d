"""A latency table: what kernels took on one device, and an estimate for any graph from it.

Between the sizes that were measured, a Gaussian process (Rasmussen and Williams, 2006) for each kind of kernel says
by what factor the time departs from a roofline, and how sure it is. Kernels of a kind that was never seen are taken to
depart like others of their family, and make the estimate less sure.
"""

from __future__ import annotations

import json
import math
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netgraft.errors import DataError
from netgraft.ir import Graph

from .kernels import NAMES, Key, kernels
from .observed import Observed
from .prior import features, guess, surroundings

FORMAT: Final = 1
FEWEST: Final = 8
"""Sizes of a kind that must have been measured for a regression of its own."""
MOST: Final = 1500
"""Sizes of a kind that a regression is made of at most."""
LEARNED: Final = 300
"""Sizes of a kind that its length scales are learned from at most."""
FLOOR: Final = 0.12
"""Standard deviation of the logarithm of one measurement of a kernel, at least: kernels of the same sizes in networks
with as many weights differed by that (0.10 by their median, 0.25 by their squares, in the shipped collection).
"""
UNSEEN: Final = 0.7
"""The same of a kernel of a kind that was never seen."""
QUANTILE: Final = 1.645
"""How many standard deviations the 90 % interval reaches to either side."""
DOUBTFUL: Final = 0.25
"""How much shorter than usual, as a logarithm, a network's kernels may be than itself for that to be believed."""
LEAST: Final = 0.05
"""Microseconds that a kernel is taken to need at least: some vanish into others."""

Floats = npt.NDArray[np.float64]

SHIPPED: Final = Path(__file__).with_name("onnxruntime.table")
"""A table that comes with netgraft: of one machine, which its ``about`` names."""


@dataclass(frozen=True)
class Entry:
    """One size of a kind of kernel: the mean of what was measured, in microseconds, and in how many networks.

    ``around`` is what :func:`~.prior.surroundings` says of these.
    """

    kind: str
    sizes: tuple[int, ...]
    around: int
    microseconds: float
    count: int

    @property
    def key(self) -> Key:
        """What tells kernels of different time apart."""
        return self.kind, self.sizes


@dataclass(frozen=True)
class Estimate:
    """Milliseconds of a network by a table, and the interval that should hold the measured time in 90 % of cases.

    ``known`` is the share of the time that kernels of kinds take which the table has measurements of.
    """

    milliseconds: float
    low: float
    high: float
    known: float


@dataclass(frozen=True)
class Table:
    """Times of kernels at batch 1 on one thread.

    ``run`` is the microseconds of every call, ``spread`` the standard deviation of the logarithm of a network's time
    that sums of kernels do not explain; ``shapes`` holds, for each kind, the logarithms of the length scales and
    variances that its regression has learned. ``about`` says where it was measured, for people.
    """

    engine: str
    about: Mapping[str, str]
    reference: str
    reference_ms: float
    networks: int
    run: float
    spread: float
    entries: tuple[Entry, ...]
    shapes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    # --- asking ---

    def latency(self, graph: Graph) -> float:
        """Milliseconds that the network is estimated to take: what :func:`estimate` gives, without its interval."""
        return self.total(kernel.key for kernel in kernels(graph)) / 1e3

    def total(self, keys: Iterable[Key]) -> float:
        """Microseconds of a network that becomes these kernels."""
        return self.run + sum(time for time, _, _ in self._times(keys))

    def estimate(self, graph: Graph) -> Estimate:
        """Milliseconds with an interval."""
        return self.interval(kernel.key for kernel in kernels(graph))

    def interval(self, keys: Iterable[Key]) -> Estimate:
        """The same of a network that becomes these kernels. Errors of kernels of one kind are taken to go together."""
        found = list(keys)
        by_kind: dict[str, float] = defaultdict(float)
        total, known = self.run, self.run
        for key, (time, deviation, seen) in zip(found, self._times(found), strict=True):
            total += time
            known += time if seen else 0.0
            by_kind[key[0]] += time * deviation
        deviation = math.hypot(self.spread, math.sqrt(sum(d * d for d in by_kind.values())) / total)
        factor = math.exp(QUANTILE * deviation)
        return Estimate(total / 1e3, total / factor / 1e3, total * factor / 1e3, known / total)

    def by_kernel(self, graph: Graph) -> list[tuple[str, str, float]]:
        """The node (the last one of a kernel), the kind and the estimated milliseconds of every kernel, in order."""
        found = kernels(graph)
        return [
            (k.nodes[-1], k.kind, t[0] / 1e3) for k, t in zip(found, self._times(k.key for k in found), strict=True)
        ]

    def _times(self, asked: Iterable[Key]) -> list[tuple[float, float, bool]]:
        """Microseconds of the kernels of a network, the standard deviations of their logarithms, and whether their kind
        was seen.
        """
        keys = list(asked)
        around = surroundings(keys)
        new: dict[str, list[Key]] = defaultdict(list)
        for key in dict.fromkeys(keys):
            if (key, around) not in self._memory:
                new[key[0]].append(key)
        for kind, unknown in new.items():
            means, deviations, seen = self._departures(kind, unknown, around)
            for key, mean, deviation in zip(unknown, means, deviations, strict=True):
                self._memory[key, around] = guess(key) * math.exp(mean), float(deviation), seen
        return [self._memory[key, around] for key in keys]

    @cached_property
    def _memory(self) -> dict[tuple[Key, int], tuple[float, float, bool]]:
        return {}

    def _departures(self, kind: str, keys: Sequence[Key], around: int) -> tuple[Floats, Floats, bool]:
        """Logarithms of the factors by which kernels depart from the first guess, with their standard deviations."""
        regression = self._regression(kind)
        if regression is not None:
            middle, process = regression
            mean, deviation = process.predict(np.stack([features(key, around) for key in keys]), return_std=True)
            return middle + mean, deviation, True
        seen = self._by_kind.get(kind, [])
        family = kind.partition(".")[0]
        near = seen or [e for name, es in self._by_kind.items() if name.partition(".")[0] == family for e in es]
        logs = np.array([_departure(entry) for entry in near] or [0.0])
        spread = UNSEEN if not seen else max(0.3, float(logs.std()))
        return np.full(len(keys), float(np.median(logs))), np.full(len(keys), spread), bool(seen)

    @cached_property
    def _by_kind(self) -> dict[str, list[Entry]]:
        kinds: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries:
            kinds[entry.kind].append(entry)
        return kinds

    def _regression(self, kind: str) -> tuple[float, Any] | None:
        if kind not in self._regressions:
            entries = self._by_kind.get(kind, [])
            enough = len(entries) >= FEWEST and kind in self.shapes
            self._regressions[kind] = _process(entries, np.array(self.shapes[kind])) if enough else None
        return self._regressions[kind]

    @cached_property
    def _regressions(self) -> dict[str, tuple[float, Any] | None]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """The table without what was worked out from it: workers do that themselves."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @cached_property
    def digest(self) -> str:
        """16 hex digits that tell tables apart."""
        return blake2b(json.dumps(self._data(), sort_keys=True).encode(), digest_size=8).hexdigest()

    # --- files ---

    def save(self, path: Path) -> None:
        """Write the table: compressed JSON."""
        path.write_bytes(zlib.compress(json.dumps(self._data(), separators=(",", ":")).encode(), 9))

    def _data(self) -> dict[str, Any]:
        return {
            "netgraft_table": FORMAT,
            **{name: getattr(self, name) for name in (*_NAMED, *_NUMBERS)},
            "about": dict(self.about),
            "entries": [[e.kind, list(e.sizes), e.around, round(e.microseconds, 3), e.count] for e in self.entries],
            "shapes": {kind: [round(value, 3) for value in values] for kind, values in self.shapes.items()},
        }

    @classmethod
    def load(cls, path: Path) -> Table:
        """Read a table, a stranger's too: every number is checked here. DataError says what is wrong with the file."""
        try:
            packed = zlib.decompressobj()
            text = packed.decompress(path.read_bytes(), LARGEST)
            data = json.loads(text)
            if data["netgraft_table"] != FORMAT:
                raise DataError(f"{path} is a table of format {data['netgraft_table']}; this netgraft reads {FORMAT}")
            entries = tuple(_entry(*row) for row in data["entries"])
            shapes = {str(kind): _theta(kind, values) for kind, values in data["shapes"].items()}
            about = {str(name): str(value) for name, value in data["about"].items()}
            plain: dict[str, Any] = {name: str(data[name]) for name in _NAMED}
            plain |= {name: _number(name, data[name], *limits) for name, limits in _NUMBERS.items()}
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        except _BROKEN:
            raise DataError(
                f"{path} is no latency table of 'netgraft table build', or it is damaged or cut short"
            ) from None
        except ValueError as error:
            raise DataError(f"{path} is no latency table of 'netgraft table build': {error}") from None
        return cls(about=about, entries=entries, shapes=shapes, **plain)


LARGEST: Final = 1 << 26
"""Bytes that a table may have when it is unpacked."""
# What a file that is another, or only part of one, makes its parsers say.
_BROKEN: Final = (
    *(zlib.error, json.JSONDecodeError, UnicodeDecodeError, RecursionError),
    *(KeyError, TypeError, AttributeError, OverflowError),
)
_NAMED: Final = ("engine", "reference")
# The type, the least and the most of every number.
_NUMBERS: Final[Mapping[str, tuple[type[int] | type[float], float, float]]] = {
    "reference_ms": (float, 0.0, 1e9),
    "networks": (int, 0, 1 << 31),
    "run": (float, 0.0, 1e9),
    "spread": (float, 0.0, 10.0),
}
_THETA: Final = 10.0  # the logarithms of scales and variances lie within; their bounds are those of _kernel


def _number(name: str, value: Any, kind: type[int] | type[float], least: float, most: float) -> Any:
    """A number of a file; ValueError where it is none of this type between these two."""
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}, where {kind.__name__} from {least:g} to {most:g} is needed")
    return kind(value)


def _entry(kind: Any, sizes: Any, around: Any, microseconds: Any, count: Any) -> Entry:
    family = str(kind).partition(".")[0]
    if family not in NAMES or len(sizes) != len(NAMES[family].split()):
        raise ValueError(f"there is no kernel {kind!r} of {len(sizes)} sizes")
    if not 0 < float(microseconds) < 1e9 or int(count) < 1:
        raise ValueError(f"{kind!r} takes {microseconds} microseconds in {count} networks")
    least = [0] * len(sizes)
    if family == "conv":
        groups = _number("groups", sizes[2], int, 1, 1 << 31)
        # The last two are flags.
        least = [groups, groups, *[1] * (len(sizes) - 4), 0, 0]
    names = NAMES[family].split()
    found = (
        _number(f"{kind}'s {name}", s, int, at, (1 << 31) - 1) for name, s, at in zip(names, sizes, least, strict=True)
    )
    return Entry(str(kind), tuple(found), _number("around", around, int, 0, 1000), float(microseconds), int(count))


def _theta(kind: Any, values: Any) -> tuple[float, ...]:
    """What the regression of a kind has learned."""
    family = str(kind).partition(".")[0]
    if family not in NAMES:
        raise ValueError(f"there is no kernel {kind!r}")
    length = len(_kernel(len(features((str(kind), (1,) * len(NAMES[family].split())), 0))).theta)
    if len(values) != length:
        raise ValueError(f"it holds {len(values)} numbers for the regression of {kind!r}, not {length}")
    return tuple(_number(f"a number for {kind!r}", value, float, -_THETA, _THETA) for value in values)


# --- making one ---


def fitted(observed: Sequence[Observed], reference: str, engine: str, about: Mapping[str, str]) -> Table:
    """A table from what was observed of at least a few dozen networks.

    What the profiler says of a network's kernels is longer than the truth by something each time it reads the clock,
    and by a factor where the machine was busy. So kernels are made shorter and scaled until they add up to the
    network's own time.
    """
    reference_ms = float(np.median([one.reference_ms for one in observed]))
    totals = np.array([one.ratio * reference_ms * 1e3 for one in observed])
    sums = np.array([sum(row.microseconds for row in one.kernels) + one.strange for one in observed])
    runs = np.array([sum(row.runs for row in one.kernels) for one in observed], np.float64)
    run, looking = _overheads(totals, sums, runs)
    values: dict[tuple[str, tuple[int, ...], int], list[float]] = defaultdict(list)
    factors = sums / np.maximum(totals - run + looking * runs, 1.0)
    usual = float(np.median(factors))
    # A busy machine makes kernels longer. Where they are much shorter than the whole, that was disturbed instead.
    factors[factors < usual * math.exp(-DOUBTFUL)] = usual
    for one, factor in zip(observed, factors, strict=True):
        around = surroundings(row.key for row in one.kernels)
        for row in one.kernels:
            values[row.kind, row.sizes, around].append(max(LEAST, row.microseconds / factor - looking * row.runs))
    entries = tuple(Entry(*what, float(np.mean(times)), len(times)) for what, times in sorted(values.items()))
    by_kind: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_kind[entry.kind].append(entry)
    shapes = {kind: _shape(found) for kind, found in by_kind.items() if len(found) >= FEWEST}
    rough = Table(engine, about, reference, reference_ms, len(observed), run, 0.0, entries, shapes)
    off = np.log(
        [rough.total(row.key for row in one.kernels) / total for one, total in zip(observed, totals, strict=True)]
    )
    return replace(rough, spread=1.48 * float(np.median(np.abs(off))))


def _overheads(totals: Floats, sums: Floats, runs: Floats) -> tuple[float, float]:
    """Microseconds of a call beside its kernels, and of the profiler's looking at one; neither is negative."""
    from scipy.optimize import least_squares

    def off(parameters: Floats) -> Floats:
        run, looking, factor = parameters
        return np.asarray(np.log(factor * np.maximum(totals - run + looking * runs, 1.0) / sums))

    bounds = ([0.0, 0.0, 0.5], [min(10.0, 0.5 * float(totals.min())), 10.0, 2.0])
    found = least_squares(
        off, [min(5.0, 0.1 * float(totals.min())), 1.0, 1.0], bounds=bounds, loss="soft_l1", f_scale=0.05
    )
    run, looking, _ = found.x
    return float(run), float(looking)


def _departure(entry: Entry) -> float:
    return math.log(entry.microseconds / guess(entry.key))


def _kernel(dimensions: int) -> Any:
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern, WhiteKernel

    smooth = ConstantKernel(0.3, (1e-3, 10.0)) * Matern([3.0] * dimensions, (0.3, 100.0), nu=1.5)
    wide = ConstantKernel(0.1, (1e-3, 10.0)) * RBF(8.0, (2.0, 50.0))
    return smooth + wide + WhiteKernel(0.002, (1e-4, 0.1))


def _data(entries: Sequence[Entry]) -> tuple[Floats, Floats, Floats, float]:
    x = np.stack([features(entry.key, entry.around) for entry in entries])
    y = np.array([_departure(entry) for entry in entries])
    noise = np.array([FLOOR**2 / entry.count for entry in entries])
    middle = float(np.median(y))
    return x, y - middle, noise, middle


def _shape(entries: Sequence[Entry]) -> tuple[float, ...]:
    """Length scales and variances, by maximum likelihood."""
    import warnings

    from sklearn.gaussian_process import GaussianProcessRegressor

    chosen = np.random.default_rng(0).permutation(len(entries))[:LEARNED]
    x, y, noise, _ = _data([entries[i] for i in sorted(chosen)])
    process = GaussianProcessRegressor(_kernel(x.shape[1]), alpha=noise, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length scale at its bound: that size does not matter
        process.fit(x, y)
    return tuple(float(value) for value in process.kernel_.theta)


def _process(entries: Sequence[Entry], theta: Floats) -> tuple[float, Any]:
    from sklearn.gaussian_process import GaussianProcessRegressor

    if len(entries) > MOST:
        chosen = np.random.default_rng(0).permutation(len(entries))[:MOST]
        entries = [entries[i] for i in sorted(chosen)]
    x, y, noise, middle = _data(entries)
    kernel = _kernel(x.shape[1])
    process = GaussianProcessRegressor(kernel.clone_with_theta(theta), alpha=noise, optimizer=None)
    return middle, process.fit(x, y)
