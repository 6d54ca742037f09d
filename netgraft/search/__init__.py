"""The search: strategies propose, rungs evaluate, the study remembers."""

from __future__ import annotations

from .guided import Guided, Predictor
from .outlook import Outlook
from .population import Population
from .strategy import Budget, Result, Rung, Strategy, search, spent

__all__ = ["Budget", "Guided", "Outlook", "Population", "Predictor", "Result", "Rung", "Strategy", "search", "spent"]
