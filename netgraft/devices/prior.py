"""What known devices say about unknown ones: how latencies vary between devices, and what to measure first."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from netgraft.costs.arrays import read_arrays
from netgraft.errors import DataError, OptionError

from .features import FEATURES, WAYS, Array, features

LEVEL: Final = 3.0
"""Standard deviation of a device's speed, in logarithms: any speed is possible."""

_PLANNED: Final = 40
_CANDIDATES, _TARGETS = 1500, 600
_RIDGE: Final = 1.0
_NAMES: Final = {"nasbench201": "nats-tss"}


@dataclass(frozen=True)
class Prior:
    """A prior over the weights of a linear model of log latency, learned from known devices.

    A device's log latency is its level plus ``weights @ (features - centre)``. Its weights are ``mean``, plus a random
    combination of the ``directions`` in which known devices differ from it, plus something small of their own. ``plan``
    are architectures to measure, the most telling first.
    """

    space: str
    centre: Array
    mean: Array
    directions: Array
    plan: tuple[str, ...]
    devices: tuple[str, ...]

    def rows(self, archs: Sequence[str], way: str = "everything") -> Array:
        """The centred features of archs, for a device that runs them in one of the ways of their space."""
        return features(self.space, archs, way) - self.centre


def hardware(device: str) -> str:
    """The hardware that a device of the tables is: ``titan_rtx_256`` without its batch size, ``titan_rtx``."""
    return re.sub(r"_\d{1,3}$", "", device)


def space_of(name: str) -> str:
    """The space that a user means; OptionError where no device is known for it."""
    space = _NAMES.get(name, name)
    if space not in FEATURES:
        raise OptionError(f"no devices are known for the space {name!r}; there are: {', '.join(FEATURES)}")
    return space


@dataclass(frozen=True)
class Known:
    """Known devices: the weights of each, fitted to its latencies of ``archs``, whose centred features are ``rows``.

    What a device runs of an arch is decided by which of the ways fits its latencies best.
    """

    space: str
    archs: tuple[str, ...]
    centre: Array
    rows: Array
    weights: Mapping[str, Array]

    @classmethod
    def of(cls, space: str, archs: Sequence[str], latencies: Mapping[str, Array]) -> Known:
        """The devices of a table: ``latencies`` (ms) of ``archs`` by device, NaN where there is none."""
        x = features(space, archs)
        centre = x.mean(0)
        seen = [features(space, archs, way) - centre for way in WAYS[space]]
        weights = {}
        for device, column in latencies.items():
            known = ~np.isnan(column)
            fits = [_fitted(rows[known], np.log(column[known])) for rows in seen]
            weights[device] = min(fits, key=lambda fitted: fitted[1])[0]
        return cls(space, tuple(archs), centre, x - centre, weights)

    def prior(self, without: Collection[str] = (), planned: int = _PLANNED, seed: int = 0) -> Prior:
        """The prior that the devices give, those ``without`` left out, with a plan of ``planned`` measurements.

        The variants of one hardware (batch sizes) count as one device. DataError where fewer than two are left.
        """
        by_hardware: dict[str, list[Array]] = {}
        for device, weights in self.weights.items():
            if device not in without:
                by_hardware.setdefault(hardware(device), []).append(weights)
        if len(by_hardware) < 2:
            raise DataError("a prior is learned from two devices at least")
        mean = np.mean([np.mean(weights, axis=0) for weights in by_hardware.values()], axis=0)
        scale = np.sqrt(len(by_hardware) - 1)
        directions = np.array(
            [(w - mean) / (np.sqrt(len(all_)) * scale) for all_ in by_hardware.values() for w in all_]
        )
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(self.archs), min(_CANDIDATES, len(self.archs)), replace=False)
        plan = tuple(self.archs[chosen[i]] for i in _design(self.rows[chosen], directions, planned))
        devices = tuple(device for device in self.weights if device not in without)
        return Prior(self.space, self.centre, mean, directions, plan, devices)


def _fitted(rows: Array, logs: Array) -> tuple[Array, float]:
    """Weights by ridge regression, a level left free, and the standard deviation of what they leave over."""
    mean, level = rows.mean(0), logs.mean()
    x, y = rows - mean, logs - level
    weights = np.asarray(np.linalg.solve(x.T @ x + _RIDGE * np.eye(x.shape[1]), x.T @ y))
    return weights, float(np.std(y - x @ weights))


def _design(rows: Array, directions: Array, count: int, own: float = 0.005, noise: float = 0.05) -> list[int]:
    """Greedily, the rows whose measurement leaves least variance over the first few hundred rows."""
    shared = rows @ directions.T
    k = LEVEL**2 + shared @ shared.T + own**2 * rows @ rows.T
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        total = np.diag(k) + noise**2
        gain = (k[:_TARGETS] ** 2).sum(0) / total
        gain[chosen] = -1
        best = int(np.argmax(gain))
        chosen.append(best)
        k = k - np.outer(k[:, best], k[best]) / total[best]
    return chosen


_ARRAYS: Final = ("centre", "mean", "directions")


def arrays_of(prior: Prior) -> dict[str, Any]:
    """The prior as arrays for a file of numpy's."""
    single = {name: getattr(prior, name).astype(np.float32) for name in _ARRAYS}
    return single | {"space": np.array(prior.space), "plan": np.array(prior.plan), "devices": np.array(prior.devices)}


def read_file(path: Path) -> dict[str, Any]:
    """The arrays of a file that :func:`save` or a device wrote; DataError for anything else. Nothing is unpickled."""
    return read_arrays(path, "file of 'netgraft device'")


def prior_of(arrays: Mapping[str, Any], path: Path) -> Prior:
    """The prior among the arrays of a file."""
    missing = {*_ARRAYS, "space", "plan", "devices"} - arrays.keys()
    if missing:
        raise DataError(f"{path} is no file of 'netgraft device': it has no {min(missing)}")
    space, plan, devices = str(arrays["space"]), arrays["plan"].tolist(), arrays["devices"].tolist()
    centre, mean, directions = (arrays[name].astype(np.float64) for name in _ARRAYS)
    width = len(FEATURES[space_of(space)](plan[0])) if plan else 0
    if not (centre.shape == mean.shape == directions.shape[1:] == (width,)):
        raise DataError(f"{path} was written for other features than this version of netgraft has")
    if not all(np.isfinite(array).all() for array in (centre, mean, directions)):
        raise DataError(f"{path} is damaged: its prior holds numbers that are none")
    return Prior(space, centre, mean, directions, tuple(plan), tuple(devices))


def save(prior: Prior, path: Path) -> None:
    """Writes a prior for :func:`load`."""
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays_of(prior))


def load(path: Path) -> Prior:
    """The prior that a file holds; DataError where it holds none."""
    return prior_of(read_file(path), path)


def shipped(space: str) -> Prior:
    """The prior that netgraft ships for a space, learned from the devices of HELP and HW-NAS-Bench (MIT)."""
    return load(Path(__file__).with_name(f"{space_of(space)}.npz"))
