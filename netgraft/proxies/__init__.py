"""Training-free scores of networks (zero-cost proxies): from one mini-batch, before any training.

.. code-block:: python

    from netgraft.proxies import anew, proxies

    proxies(anew(model))  # {'synflow': 61.2, 'naswot': 402.9, 'fisher': 0.0021, ...}
    proxies(anew(model), of_task(task))  # on real examples

Higher means better, of networks for one task seen on the same mini-batch; a score by itself means nothing. They were
proposed for networks as they are initialised (:func:`anew`); a trained one can be asked too. To be read beside FLOPs
and parameters (:mod:`netgraft.costs.analytic`), which many of them hardly beat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from netgraft.errors import MeasureError, OptionError
from netgraft.ir import Model

from .fisher import fisher, fisher_potential
from .gradients import grad_norm, snip, zico
from .naswot import naswot
from .probe import Minibatch, Probe, anew, at_random, of_task
from .synflow import synflow

__all__ = [
    "PROXIES",
    "Minibatch",
    "Probe",
    "Proxy",
    "anew",
    "at_random",
    "fisher_potential",
    "of_task",
    "proxies",
]


@dataclass(frozen=True)
class Proxy:
    """A training-free score: ``score`` raises MeasureError for a network that has none."""

    paper: str
    score: Callable[[Probe], float]


PROXIES: Final[Mapping[str, Proxy]] = {
    "synflow": Proxy("Tanaka et al., NeurIPS 2020; Abdelfattah et al., ICLR 2021", synflow),
    "naswot": Proxy("Mellor et al., ICML 2021", naswot),
    "fisher": Proxy("Turner et al., ICLR 2020 and ASPLOS 2021", fisher),
    "grad_norm": Proxy("Abdelfattah et al., ICLR 2021", grad_norm),
    "snip": Proxy("Lee et al., ICLR 2019", snip),
    "zico": Proxy("Li et al., ICLR 2023", zico),
}
"""The proxies by name."""


def proxies(
    model: Model, batch: Minibatch | None = None, names: Sequence[str] | None = None, *, seed: int = 0
) -> dict[str, float]:
    """The scores of a network with the weights that it has, by name: those of :data:`PROXIES` in ``names``, or all that
    the network has.

    ``batch`` is the mini-batch to look at (None: 64 random inputs, drawn by ``seed``). The same arguments give the same
    scores; the model is not changed. OptionError for an unknown name, MeasureError where the network has not the score.
    """
    unknown = [name for name in names or () if name not in PROXIES]
    if unknown:
        raise OptionError(f"there is no proxy {unknown[0]!r}; there are {', '.join(PROXIES)}")
    probe = Probe(model, at_random(model.graph, seed=seed) if batch is None else batch, seed)
    if names is not None:
        return {name: PROXIES[name].score(probe) for name in names}
    found = {}
    for name, proxy in PROXIES.items():
        with suppress(MeasureError):
            found[name] = proxy.score(probe)
    return found
