"""Mutations: sources of edits. One file a kind."""

from __future__ import annotations

from .mutation import Draft, Mix, Mutation, drafts

__all__ = ["Draft", "Mix", "Mutation", "drafts"]
