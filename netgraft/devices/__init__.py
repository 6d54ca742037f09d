"""Latency on a device that nobody has measured before, from a few measurements and many known devices.

.. code-block:: python

    from netgraft import devices

    prior = devices.shipped("nats-tss")
    archs = prior.plan[:20]                              # measure these
    device = devices.fit(prior, archs, ms)
    device.predict(other_archs)                          # ms, and a 95 % interval

The reference is HELP (Lee et al., NeurIPS 2021, arXiv:2106.08630), which meta-learns a network for the same task and
from the same tables. Here it is a linear model: log latency is linear in features of the architecture, and the known
devices give the prior of its weights, their covariance included (Bayesian linear regression with an empirical prior).
"""

from __future__ import annotations

from .device import Device, Prediction, Sheet, fit, read_device, read_measurements, read_sheet
from .prior import Known, Prior, hardware, load, save, shipped, space_of

__all__ = [
    "Device",
    "Known",
    "Prediction",
    "Prior",
    "Sheet",
    "fit",
    "hardware",
    "load",
    "read_device",
    "read_measurements",
    "read_sheet",
    "save",
    "shipped",
    "space_of",
]
