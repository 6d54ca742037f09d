"""HAQ's table of a simulated accelerator: cycles of MobileNetV2's layers by bits (Wang et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from netgraft.errors import DataError, OptionError

from .arrays import array

LAYERS: Final = 53
MOST: Final = 8


@dataclass(frozen=True)
class HAQ:
    """Cycles by layer, bits of its weights less one, and bits of its activations less one."""

    cycles: npt.NDArray[np.int64]

    @classmethod
    def load(cls, path: Path) -> HAQ:
        """From the .npy file of HAQ's repository (53 layers, 8 by 8); DataError where it has another shape."""
        found = array(path)
        if found.shape != (LAYERS, MOST, MOST):
            raise DataError(f"{path} must hold {LAYERS} layers of {MOST} by {MOST} bits, not {list(found.shape)}")
        return cls(found.astype(np.int64))

    def latency(self, bits: Sequence[tuple[int, int]]) -> int:
        """Cycles of a network with these bits of weights and activations in each layer.

        HAQ writes -1 for the activations of the first layer, as an image has 8 bits already, and 8 is what that means
        here: the published policy then costs 0.5965 of 8 bits everywhere. HAQ's own code looks -1 up two before the end
        of the table instead, at 7 bits, and comes to 0.5914; write 7 for that.
        """
        if len(bits) != LAYERS or not all(1 <= w <= MOST and (a == -1 or 1 <= a <= MOST) for w, a in bits):
            raise OptionError(f"bits must be {LAYERS} pairs from 1 to {MOST} (or -1 for activations left alone)")
        return int(sum(self.cycles[n, w - 1, (MOST if a == -1 else a) - 1] for n, (w, a) in enumerate(bits)))

    def share(self, bits: Sequence[tuple[int, int]]) -> float:
        """Cycles as a share of those with 8 bits everywhere."""
        return self.latency(bits) / self.latency([(MOST, MOST)] * LAYERS)
