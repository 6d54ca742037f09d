"""Spaces: where a search takes its candidates from."""

from __future__ import annotations

from .space import GraphScores, Guide, Space

__all__ = ["GraphScores", "Guide", "Space"]
