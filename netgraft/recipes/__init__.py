"""Recipes: one short function a method, over the shared parts."""

from __future__ import annotations

from .amc import amc
from .blockswap import blockswap
from .compactnet import compactnet
from .netadapt import netadapt
from .optimize import optimize
from .program import program
from .proposals import Proposal
from .run import Plan, Run

__all__ = ["Plan", "Proposal", "Run", "amc", "blockswap", "compactnet", "netadapt", "optimize", "program"]
