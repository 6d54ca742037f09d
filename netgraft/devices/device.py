"""One device: a few measurements, and what they say about every architecture of the space."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, product
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from netgraft.errors import DataError

from .features import WAYS, Array
from .prior import LEVEL, Prior, arrays_of, prior_of, read_file

LEAST: Final = 5
"""Fewer measurements than this say too little."""

_OWN: Final = (0.002, 0.005, 0.015)
_SHARED: Final = (0.7, 1.5, 3.0)
_NOISE: Final = (0.01, 0.02, 0.04, 0.08, 0.15)
_UNLIKELY: Final = 6.0  # in log likelihood
_WRONG: Final = float(np.log(0.02 / 4))  # two in a hundred measurements are wrong, by any factor within exp(4)


class Prediction(NamedTuple):
    """Latencies in ms, and the ends of a 95 % interval for one measurement of each."""

    ms: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class _View:
    """The measured architectures as a device sees them that runs them in one way."""

    way: str
    rows: Array
    shared: Array
    residuals: Array


class _Setting(NamedTuple):
    """How this device may treat architectures, and how far it may differ: in weights of its own, along the known
    directions, and by noise; the covariance of its measurements, those that stand, its inverse, and its say.
    """

    view: _View
    own: float
    shared: float
    noise: float
    covariance: Array
    kept: npt.NDArray[np.int64]
    inverse: Array
    weight: float


@dataclass(frozen=True)
class Device:
    """A device of which ``archs`` were measured: ``ms`` each, in the order of ``archs``.

    A Bayesian linear model of log latency under the :class:`~.prior.Prior`. What the device runs of an architecture,
    how far it may depart from the known ones, and its noise are averaged over a small grid by their likelihood given
    the measurements. Those must be alike: one batch size, one engine, one power mode. Noise is assumed to be relative;
    up to a tenth of the measurements may be wrong.
    """

    prior: Prior
    archs: tuple[str, ...]
    ms: Array

    def predict(self, archs: Sequence[str]) -> Prediction:
        """The latencies of any architectures of the space, measured anywhere before or not."""
        means, squares = np.zeros(len(archs)), np.zeros(len(archs))
        for _, group in groupby(self._settings, key=lambda setting: setting.view.way):
            settings = list(group)
            view = settings[0].view
            rows = self.prior.rows(archs, view.way)
            shared = rows @ self.prior.directions.T
            own_cross, shared_cross = rows @ view.rows.T, shared @ view.shared.T
            own_self, shared_self = (rows**2).sum(1), (shared**2).sum(1)
            base = rows @ self.prior.mean
            for setting in settings:
                cross = LEVEL**2 + setting.shared**2 * shared_cross + setting.own**2 * own_cross
                mean = base + cross @ (setting.inverse @ view.residuals)
                before = LEVEL**2 + setting.shared**2 * shared_self + setting.own**2 * own_self
                left = before - np.einsum("ij,jk,ik->i", cross, setting.inverse, cross)
                means += setting.weight * mean
                squares += setting.weight * (np.maximum(left, 0.0) + setting.noise**2 + mean**2)
        spread = np.sqrt(np.maximum(squares - means**2, 0.0)) * stats.t.ppf(0.975, len(self.archs) - 1)
        return Prediction(*(np.exp(value) for value in (means, means - spread, means + spread)))

    @property
    def noise(self) -> float:
        """The relative noise of a measurement, as far as the model can tell."""
        return sum(setting.weight * setting.noise for setting in self._settings)

    @property
    def way(self) -> str:
        """What the device most probably runs of an architecture: one of the ways of the space."""
        ways = WAYS[self.prior.space]
        return max(ways, key=lambda way: sum(s.weight for s in self._settings if s.view.way == way))

    def surprises(self) -> Array:
        """How far each measurement is from what the others say, in standard deviations: beyond 4 it may be wrong."""
        best = max(self._settings, key=lambda setting: setting.weight)
        k, r = best.covariance, best.view.residuals
        found = np.zeros(len(r))
        for i in range(len(r)):
            others = best.kept[best.kept != i]
            weights = np.linalg.solve(k[np.ix_(others, others)], k[others, i])
            found[i] = (r[i] - weights @ r[others]) / np.sqrt(k[i, i] - weights @ k[others, i])
        return found

    @cached_property
    def _settings(self) -> list[_Setting]:
        """The grid, less what is most unlikely; those of one view follow each other."""
        found = []
        for way in WAYS[self.prior.space]:
            rows = self.prior.rows(self.archs, way)
            residuals = np.log(self.ms) - rows @ self.prior.mean
            view = _View(way, rows, rows @ self.prior.directions.T, residuals)
            gram_shared, gram_own = view.shared @ view.shared.T, rows @ rows.T
            for own, shared, noise in product(_OWN, _SHARED, _NOISE):
                k = LEVEL**2 + shared**2 * gram_shared + own**2 * gram_own + noise**2 * np.eye(len(rows))
                kept, inverse, likelihood = _without_outliers(k, residuals)
                found.append(_Setting(view, own, shared, noise, k, kept, inverse, likelihood))
        top = max(setting.weight for setting in found)
        likely = [s._replace(weight=float(np.exp(s.weight - top))) for s in found if s.weight > top - _UNLIKELY]
        total = sum(setting.weight for setting in likely)
        return [setting._replace(weight=setting.weight / total) for setting in likely]

    def save(self, path: Path) -> None:
        """Writes the device, its prior included, for :func:`read_device`."""
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays_of(self.prior), archs=np.array(self.archs), ms=self.ms)


def _without_outliers(k: Array, residuals: Array) -> tuple[npt.NDArray[np.int64], Array, float]:
    """Which measurements stand, the inverse covariance of these (zero for the others), and the likelihood of all.

    What the others make less likely than a wrong measurement is counted as one: up to a tenth, one by one.
    """
    n = len(residuals)
    kept = np.arange(n)
    while True:
        inverse = np.linalg.inv(k[np.ix_(kept, kept)])
        precisions = np.diag(inverse)
        told = -0.5 * ((inverse @ residuals[kept]) ** 2 / precisions - np.log(precisions / (2 * np.pi)))
        worst = int(np.argmin(told))
        if told[worst] > _WRONG or n - len(kept) == n // 10:
            break
        kept = np.delete(kept, worst)
    r = residuals[kept]
    likelihood = -0.5 * float(r @ inverse @ r - np.linalg.slogdet(inverse)[1] + len(r) * np.log(2 * np.pi))
    full = np.zeros((n, n))
    full[np.ix_(kept, kept)] = inverse
    return kept, full, likelihood + (n - len(kept)) * _WRONG


def fit(prior: Prior, archs: Sequence[str], ms: Sequence[float]) -> Device:
    """The device on which these architectures took these times (ms), each measured once or several times."""
    times = np.asarray(ms, dtype=np.float64)
    if len(archs) != len(times):
        raise DataError(f"{len(archs)} architectures, but {len(times)} times")
    if len(set(archs)) < LEAST:
        raise DataError(f"{len(set(archs))} architectures were measured; {LEAST} are needed, 10 or 20 are better")
    wrong = next((i for i, time in enumerate(times) if not (np.isfinite(time) and time > 0)), None)
    if wrong is not None:
        raise DataError(f"{archs[wrong]} cannot have taken {times[wrong]} ms; times are positive numbers")
    prior.rows(archs)  # an arch of another space is better heard of now
    return Device(prior, tuple(archs), times)


def read_device(path: Path) -> Device:
    """The device in a file that :meth:`Device.save` wrote; DataError where it is none."""
    arrays = read_file(path)
    prior = prior_of(arrays, path)
    if not {"archs", "ms"} <= arrays.keys():
        raise DataError(f"{path} holds a prior but no device; write one with 'netgraft device fit'")
    return fit(prior, arrays["archs"].tolist(), arrays["ms"].tolist())


@dataclass(frozen=True)
class Sheet:
    """A CSV file of measurements, planned or made, as it stands.

    ``setting`` is its first line where that starts with ``#``, without that: what netgraft measured in. ``rows`` hold
    at least ``arch`` and ``ms`` (empty where there is no time yet), and what else somebody has written into columns.
    """

    setting: str | None
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]

    def write(self, path: Path) -> None:
        """Write the file. Whatever interrupts that, what ``path`` held before is there, or all of this."""
        part = path.with_name(path.name + ".part")
        with part.open("w", newline="", encoding="utf-8") as file:
            if self.setting is not None:
                file.write(f"# {self.setting}\n")
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        part.replace(path)


def read_sheet(path: Path) -> Sheet:
    """All rows of a CSV file with the columns arch and ms; DataError where it is none, or where a time is no number."""
    setting, rows = None, []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            if (first := file.readline()).startswith("#"):
                setting = first.removeprefix("#").strip()
            else:
                file.seek(0)
            reader = csv.DictReader(file, restval="")
            columns = tuple(reader.fieldnames or ())
            if not {"arch", "ms"} <= set(columns):
                raise DataError(f"{path} needs the columns arch and ms; its first line is {reader.fieldnames}")
            for row in reader:
                found = {name: row[name].strip() for name in columns}
                try:
                    float(found["ms"] or 0)
                except ValueError:
                    line = reader.line_num + (setting is not None)
                    raise DataError(f"{path}, line {line}: {found['ms']!r} is no time in ms") from None
                rows.append(found)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; 'netgraft device plan' writes one to fill in") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from None
    return Sheet(setting, columns, tuple(rows))


def read_measurements(path: Path) -> tuple[list[str], list[float]]:
    """Architectures and times of a CSV file with the columns arch and ms; lines without a time are left out."""
    made = [row for row in read_sheet(path).rows if row["ms"]]
    return [row["arch"] for row in made], [float(row["ms"]) for row in made]
