"""Shape fitting: make a segment map given types onto given types by choosing its strides and widths.

The "resolution propagation" of AutoGO (Salameh et al., NeurIPS 2023, section 3.3), in two stages: the image sizes by a
shortest path (:mod:`~netgraft.fit.sizes`), then the widths by equations (:mod:`~netgraft.fit.widths`), whose open
choices are settled one by one, or by a small integer program where they hang together (:mod:`~netgraft.fit.choice`).

Deviations from the paper, which solves one integer program for both: sizes are the ones that the ops' own shape rules
give, so odd maps, 1x1 maps and padded or ceiled windows are right; widths may be any integers; concatenations, splits,
groups, depthwise and transposed convolutions, pixel shuffles and reshapes have their rules; strides, paddings and
factors are changed as little as possible, and an operation is never turned into another, so that a region that
enlarges its images takes a segment that can; the objective asks for the segment's own widths scaled as its ends are
(the geometric mean over inputs and outputs; where they are parts of a given total, as that is), so that a small tensor
is no better than a faithful one. Among equals the cheaper is taken: strides early, narrow widths.
"""

from __future__ import annotations

from functools import lru_cache

from netgraft.errors import GraphError
from netgraft.ir import Graph, Signature

from .outcome import Misfit, NoFit
from .sizes import fit_sizes
from .widths import fit_widths

__all__ = ["NoFit", "fit"]


def fit(segment: Graph, signature: Signature, *, multiple: int = 1) -> Graph | NoFit:
    """The segment with strides and widths chosen so that its signature is ``signature``, or why there is no such one.

    Inputs and outputs correspond in order. Freely chosen are the output channels of convolutions and linear layers
    (multiples of ``multiple`` where the surroundings leave it open), as near as possible to the segment's own, scaled
    by how much wider the new inputs and outputs are; and, as few as possible, the strides (1, 2 or 4, never above the
    kernel unless they were) and paddings of convolutions and poolings and the factors of interpolations and pixel
    shuffles. Everything else follows or stays, but where only an odd kernel gives the size, an even one becomes the odd
    one below (3 at least). The answers last given are kept: asked again, the same object comes back.
    """
    return _fitted(segment, signature, multiple)


@lru_cache(maxsize=1024)
def _fitted(segment: Graph, signature: Signature, multiple: int) -> Graph | NoFit:
    own = segment.signature
    if (len(own.inputs), len(own.outputs)) != (len(signature.inputs), len(signature.outputs)):
        return NoFit(f"a segment {own} has not as many inputs and outputs as {signature}")
    if own == signature and multiple == 1:
        return segment
    for has, wanted in zip(own.inputs + own.outputs, signature.inputs + signature.outputs, strict=True):
        if (has.rank, has.dtype) != (wanted.rank, wanted.dtype):
            return NoFit(f"{has} has another rank or element type than {wanted}")
    try:
        fitted = fit_widths(segment, fit_sizes(segment, signature), signature, multiple)
    except (Misfit, GraphError) as error:
        return NoFit(str(error))
    if fitted.signature != signature:
        return NoFit(f"the nearest fit is {fitted.signature} instead of {signature}")
    return fitted
