"""What fitting gives back where there is no fit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NoFit:
    """Why a segment cannot be given a signature."""

    reason: str


class Misfit(Exception):
    """No choice exists; its text becomes the reason of a :class:`NoFit`."""
