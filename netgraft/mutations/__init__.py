"""Mutations: sources of edits. One file a kind."""

from __future__ import annotations

from .mutation import Mix, Mutation

__all__ = ["Mix", "Mutation"]
