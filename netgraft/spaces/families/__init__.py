"""Families of networks for small images, as graphs: drawn by their own rules, or built from a readable configuration.

Some are what AutoGO's segments were mined from, some what benchmark tables were measured on.
``family:NAME?arch=TEXT`` names a member as a source; the names that :func:`sample` and :func:`enumerated` give are
``NAME?arch=TEXT``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from netgraft.errors import SourceError, unknown
from netgraft.ir import Graph

from .family import Family
from .fbnet import FAMILY as _FBNET
from .fbnet import fbnet
from .hiaml import FAMILY as _HIAML
from .hiaml import hiaml
from .inception import FAMILY as _INCEPTION
from .inception import FAMILY_PUBLISHED as _INCEPTION_PUBLISHED
from .inception import inception
from .nasbench101 import FAMILY as _NASBENCH101
from .nasbench101 import nasbench101
from .nasbench201 import BENCHMARK as _NASBENCH201_BENCHMARK
from .nasbench201 import FAMILY as _NASBENCH201
from .nasbench201 import nasbench201, nasbench201_benchmark, nasbench201_cells
from .nasbench_macro import FAMILY as _NASBENCH_MACRO
from .nasbench_macro import nasbench_macro
from .nats_size import FAMILY as _NATS_SIZE
from .nats_size import nats_size
from .two_path import FAMILY as _TWO_PATH
from .two_path import two_path

__all__ = [
    "FAMILIES",
    "Family",
    "enumerated",
    "family",
    "fbnet",
    "hiaml",
    "inception",
    "member",
    "nasbench101",
    "nasbench201",
    "nasbench201_benchmark",
    "nasbench201_cells",
    "nasbench_macro",
    "nats_size",
    "sample",
    "two_path",
]

FAMILIES: Final[Mapping[str, Family]] = {
    family.name: family
    for family in (
        _NASBENCH101,
        _NASBENCH201,
        _NASBENCH201_BENCHMARK,
        _NASBENCH_MACRO,
        _NATS_SIZE,
        _FBNET,
        _HIAML,
        _TWO_PATH,
        _INCEPTION,
        _INCEPTION_PUBLISHED,
    )
}
"""The families by name."""


def family(name: str) -> Family:
    """The family called ``name``; SourceError, with the nearest name, where there is none."""
    if name not in FAMILIES:
        raise SourceError(unknown("There is no family", name, FAMILIES))
    return FAMILIES[name]


def sample(name: str, count: int, seed: int) -> Iterator[tuple[str, Graph]]:
    """``count`` different members of a family with their names; all that there are where those are fewer.

    The same seed draws the same members in the same order, whatever the count. SourceError for an unknown family.
    """
    chosen = family(name)
    rng = np.random.default_rng(seed)
    seen: set[str] = set()
    while len(seen) < (count if chosen.size is None else min(count, chosen.size)):
        arch = chosen.draw(rng)
        key = chosen.key(arch)
        if key not in seen:
            seen.add(key)
            yield member(chosen, arch)


def enumerated(name: str) -> Iterator[tuple[str, Graph]]:
    """All members of a family with their names; SourceError where there are too many to list."""
    chosen = family(name)
    if chosen.members is None:
        listed = ", ".join(other.name for other in FAMILIES.values() if other.members is not None)
        raise SourceError(f"{name} has too many members to list; sample some. These can be listed: {listed}")
    for arch in chosen.members():
        yield member(chosen, arch)


def member(of: Family, arch: str) -> tuple[str, Graph]:
    """One member of a family, by its configuration, with its name."""
    return f"{of.name}?arch={arch}", of.build(arch)
