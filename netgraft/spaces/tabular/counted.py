"""What the spaces whose networks are built to be counted have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from netgraft.costs.analytic import flops, parameters
from netgraft.spaces.families import Family


def by_building(family: Family) -> Callable[[str], Mapping[str, float]]:
    """Multiply-accumulates and parameters of a family's networks, counted on their graphs."""

    @lru_cache(maxsize=4096)
    def counts(arch: str) -> Mapping[str, float]:
        graph = family.build(arch)
        return {"macs": flops(graph) // 2, "parameters": parameters(graph)}

    return counts


def checked(family: Family, split: Callable[[str], tuple[str, ...]]) -> Callable[[str], tuple[str, ...]]:
    """Reads an arch by splitting it; SourceError, as the family says it, where it is none."""

    def read(arch: str) -> tuple[str, ...]:
        family.build(arch)
        return split(arch)

    return read
