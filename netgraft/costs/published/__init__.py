"""Latency tables that others published, read from their own files: what a network of a space takes on a device.

None of the data ships with netgraft, whatever its licence: each is read from a path that the user gives. The files of
CompactNet are under the GPL and those of ProxylessNAS have no licence, which is to be known before they are passed on.
"""

from __future__ import annotations

from .compactnet import CompactNet
from .fbnet import Additive, additive
from .haq import HAQ
from .proxylessnas import ProxylessNAS
from .recognise import recognised
from .single_path import SinglePath

__all__ = ["HAQ", "Additive", "CompactNet", "ProxylessNAS", "SinglePath", "additive", "recognised"]
