"""Recipes: one short function a method, over the shared parts."""

from __future__ import annotations

from .amc import amc
from .compactnet import compactnet
from .netadapt import netadapt
from .optimize import optimize
from .run import Plan

__all__ = ["Plan", "amc", "compactnet", "netadapt", "optimize"]
