"""What a predicted gain is worth in this run: a straight line, learned from every network that was fine-tuned in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SLOPE = 0.2
"""How many tolerances of quality a gain of one deviation of the labels brings, as long as nothing is known of a run."""
_PRECISION = np.diag([1.0, 1.0])  # of offset and slope, in units of the noise: as if each had been seen once
_SHAPE, _RATE = 2.0, 2.0  # of the noise's variance: two tolerances squared are expected, and little is known of it


@dataclass(frozen=True)
class Calibration:
    """Change of quality = ``offset`` + ``slope`` x gain + noise, in the quality's unit, with what is not known of it.

    The posterior of a Bayesian linear regression with conjugate priors (normal, inverse gamma; Bishop, "Pattern
    Recognition and Machine Learning", 2006, section 3.3 and exercise 3.12). ``covariance`` is that of offset and slope
    over the noise's variance, ``noise`` the deviation of what the line leaves open.
    """

    offset: float
    slope: float
    covariance: Floats
    noise: float

    @classmethod
    def of(cls, outcomes: Sequence[tuple[float, float]], unit: float) -> Calibration:
        """The line through (gain, change of quality) pairs, in any order; ``unit`` is a change that matters."""
        pairs = np.array(outcomes, np.float64).reshape(-1, 2)
        x, y = np.column_stack([np.ones(len(pairs)), pairs[:, 0]]), pairs[:, 1] / unit
        prior = np.array([0.0, SLOPE])
        precision = _PRECISION + x.T @ x
        mean = np.linalg.solve(precision, _PRECISION @ prior + x.T @ y)
        left = y - x @ mean
        rate = _RATE + 0.5 * float(left @ left + (mean - prior) @ _PRECISION @ (mean - prior))
        noise = sqrt(rate / (_SHAPE + 0.5 * len(pairs) - 1))
        return cls(float(mean[0]) * unit, float(mean[1]) * unit, np.linalg.inv(precision), noise * unit)

    def change(self, gain: float, deviation: float) -> tuple[float, float]:
        """The change of quality to expect of a gain with its deviation, and the deviation of that."""
        x = np.array([1.0, gain])
        variance = self.noise**2 * (1 + float(x @ self.covariance @ x)) + (self.slope * deviation) ** 2
        return self.offset + self.slope * gain, sqrt(variance)
