"""Whether times are sums of what a network's parts take, as in FBNet's space (HW-NAS-Bench, Li et al., ICLR 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from netgraft.errors import DataError


@dataclass(frozen=True)
class Additive:
    """A table recovered from whole networks: ``entries[layer, choice]``, in the unit of the times.

    Only sums are determined: a constant can be moved from one layer to another, so single entries mean nothing. A
    choice that no network made has 0.
    """

    entries: npt.NDArray[np.float64]

    def latency(self, choices: Sequence[int] | npt.NDArray[np.int64]) -> float:
        """The time of the network with these choices, one a layer."""
        chosen = np.asarray(choices)
        return float(self.entries[np.arange(len(self.entries)), chosen].sum())

    def latencies(self, choices: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The times of several networks: choices of shape (networks, layers)."""
        return np.asarray(self.entries[np.arange(len(self.entries)), choices].sum(axis=1))


def additive(choices: npt.NDArray[np.int64], times: npt.NDArray[np.float64]) -> Additive:
    """The table whose sums come closest to the times (least squares over indicators of layer and choice).

    ``choices`` has the shape (networks, layers). Whether there *is* such a table is to be seen on other networks: for
    devices whose times were added up from tables it is exact, for measured GPUs it is not. DataError for shapes that do
    not fit, and for fewer networks than there are unknowns.
    """
    if choices.ndim != 2 or times.shape != choices.shape[:1] or choices.min(initial=0) < 0:
        raise DataError(f"choices of shape {list(choices.shape)} and times of shape {list(times.shape)} do not fit")
    networks, layers = choices.shape
    count = int(choices.max()) + 1
    if networks < layers * (count - 1) + 1:
        raise DataError(f"{networks} networks are too few for {layers} layers of {count} choices")
    design = np.zeros((networks, layers * count))
    design[np.arange(networks)[:, None], np.arange(layers) * count + choices] = 1.0
    found, *_ = np.linalg.lstsq(design, times, rcond=None)
    return Additive(np.asarray(found, np.float64).reshape(layers, count))
