"""Channels: what of a network can be dropped, what only together, and the edits that drop or repeat it.

Read in this order: :mod:`atoms` (labels of entries), :mod:`rules` (how they pass through operations), :mod:`analysis`
(groups of channels), :mod:`resize` (edits).
"""

from __future__ import annotations

from .analysis import Axis, ChannelGroup, Channels, Site, channels, droppable
from .resize import drop, repeat

__all__ = ["Axis", "ChannelGroup", "Channels", "Site", "channels", "drop", "droppable", "repeat"]
