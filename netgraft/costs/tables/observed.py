"""What was measured of one network: the whole, and its kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One kernel as it ran in a network: its key, microseconds, and how many of the engine's kernels it is (0 where the
    engine did not run it after all).
    """

    kind: str
    sizes: tuple[int, ...]
    microseconds: float
    runs: int

    @property
    def key(self) -> tuple[str, tuple[int, ...]]:
        """What tells kernels of different time apart."""
        return self.kind, self.sizes


@dataclass(frozen=True)
class Observed:
    """A network of a collection, measured.

    ``ratio`` is its time over the reference network's, which took ``reference_ms`` then; ``null`` is what the
    reference's twin took over the reference. ``strange`` is the microseconds of what the engine ran that could not be
    matched with a kernel.
    """

    name: str
    origin: str
    digest: str
    ratio: float
    reference_ms: float
    null: float
    kernels: tuple[Row, ...]
    strange: float

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Observed:
        """From what ``dataclasses.asdict`` made of one."""
        rows = tuple(Row(k["kind"], tuple(k["sizes"]), k["microseconds"], k["runs"]) for k in data["kernels"])
        return cls(**{**data, "kernels": rows})
