"""How numbers are written for people: the same way on the page and on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, isfinite, log10

MISSING = "–"
"""What stands for a number that is not there."""


def quality(value: float | None, error: float | None = None, unit: str = "") -> str:
    """A quality with its unit, to the first digit of its standard error: ``91.2 %``."""
    if value is None or not isfinite(value):
        return MISSING
    return (
        f"{value:.{decimals(error)}f} {unit}".rstrip()
        if decimals(error) is not None
        else f"{value:.4g} {unit}".rstrip()
    )


def error(value: float | None, unit: str = "") -> str:
    """A standard error: ``± 0.3 %``; nothing where there is none."""
    places = decimals(value)
    return "" if value is None or places is None else f"± {value:.{places}f} {unit}".rstrip()


def difference(value: float | None, error: float | None, unit: str = "") -> str:
    """A difference in quality, to the first digit of its standard error: ``-0.2 ± 0.3 points``, where those are of
    percent; nothing where there is no error known.
    """
    if value is None or error is None or not isfinite(value) or not isfinite(error):
        return ""
    unit = "points" if unit == "%" else unit
    places = decimals(error)
    if places is None:  # one example, or two networks that do the same
        return f"{value:+.3g} {unit}".rstrip()
    rounded = round(value, places) + 0.0  # no -0.0
    return f"{rounded:+.{places}f} ± {error:.{places}f} {unit}".rstrip()


def decimals(error: float | None) -> int | None:
    """Places after the point that an error leaves meaningful; None where it says nothing."""
    if error is None or not isfinite(error) or error <= 0:
        return None
    return min(6, max(0, -floor(log10(error))))


def factors(values: Sequence[float]) -> list[str]:
    """Factors with two places, or three where one is so close to 1 that two would hide the side it lies on."""
    places = 3 if any(0 < abs(value - 1) < 0.01 for value in values) else 2
    return [f"{value:.{places}f}" for value in values]


def ratio(value: float | None) -> str:
    """``0.62x``."""
    return MISSING if value is None or not isfinite(value) else f"{factors([value])[0]}x"


def count(value: float | None, suffix: str = "") -> str:
    """Three digits and a decimal prefix: ``41.2 M``; with ``suffix="B"`` for bytes: ``1.25 MB``."""
    if value is None or not isfinite(value):
        return MISSING
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * scale:
            return f"{_three_digits(value / scale)} {prefix}{suffix}"
    return f"{value:.0f} {suffix}".rstrip()


def milliseconds(value: float | None) -> str:
    """``1.23 ms``, or microseconds below a tenth of one."""
    if value is None or not isfinite(value):
        return MISSING
    return f"{_three_digits(value)} ms" if value >= 0.1 else f"{_three_digits(1e3 * value)} µs"


def share(value: float | None) -> str:
    """``87 %``; short of everything is never called 100 %, more than nothing never 0 %."""
    if value is None or not isfinite(value):
        return MISSING
    percent = round(100 * value)
    if 0 < value < 1:
        percent = min(99, max(1, percent))
    return f"{percent} %"


def _three_digits(value: float) -> str:
    places = max(0, 2 - floor(log10(abs(value)))) if value else 0
    return f"{value:.{min(places, 2)}f}"
