"""Recipes: one short function a method, over the shared parts."""

from __future__ import annotations

from .optimize import Plan, optimize

__all__ = ["Plan", "optimize"]
