"""NASWOT: whether examples are told apart by which units they switch on."""

from __future__ import annotations

import torch

from netgraft.errors import MeasureError

from .probe import RECTIFIERS, Probe


def naswot(probe: Probe) -> float:
    """The logarithm of |det K|: K[i, j] counts the units that are on for both of the examples i and j, or off for both.

    Mellor et al., "Neural Architecture Search without Training", ICML 2021, section 3 (the Hamming distance's kernel,
    summed over layers as in the released code). A unit is on where what its activation reads is above 0. Deviation:
    any activation of :data:`~netgraft.proxies.probe.RECTIFIERS` counts, not ReLU alone. Minus infinity where two
    examples are not told apart. MeasureError for a network without such activations.
    """
    n = len(probe.batch)
    read = [node.inputs[0] for node in probe.model.graph if node.op in RECTIFIERS]
    kernel = torch.zeros(n, n, dtype=torch.float64)
    for value in read:
        if len(probe.whole.values[value]) % n:
            continue  # the same for every example
        signs = (probe.whole.values[value].reshape(n, -1) > 0).float().mul_(2).sub_(1)
        kernel += (
            (signs @ signs.T).cpu().double() + signs.shape[1]
        ) / 2  # agreements, from agreements less disagreements
    if not kernel.any():
        raise MeasureError(f"{probe.model.name} has no ReLU, or activation like it, to look at")
    return float(torch.linalg.slogdet(kernel).logabsdet)
