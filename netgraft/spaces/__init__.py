"""Spaces: where a search takes its candidates from."""

from __future__ import annotations

from .space import Space

__all__ = ["Space"]
