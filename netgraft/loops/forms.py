"""The forms of a convolution, each a named composition of rewrites.

Every form is one function from a nest and a parameter to steps (:class:`~netgraft.loops.rewrites.Step`). GraphError
where the sizes do not allow it. To add a form, write such a function and its line in :data:`FORMS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from netgraft.errors import GraphError

from .nest import Layer, Nest
from .rewrites import Factor, Group, Interchange, Shrink, Split, Step, Unroll

Steps = tuple[Step, ...]


def group(nest: Nest, groups: int, at: tuple[int, ...] = (), *, outputs: int = 0, inputs: int = 0) -> Steps:
    """Filters and input channels in ``groups`` runs, each of which reads only its own: split, split, interchange,
    group (Turner et al., 2021, section 5).

    ``at`` is the part of the program to do this to, ``outputs`` and ``inputs`` what is left of the nest's there.
    """
    layer = _dense(nest)
    filters, channels = _share(outputs or layer.outputs, groups), _share(inputs or layer.inputs, groups)
    split = (Split("o", filters), Split("i", channels), Interchange(("o.0", "i.0")), Group())
    return tuple(Step(rewrite, at) for rewrite in split)


def depthwise(nest: Nest, _: None = None) -> Steps:
    """Each input channel for itself: as many groups as channels (Turner et al., 2021, section 5)."""
    return group(nest, _dense(nest).inputs)


def output_bottleneck(nest: Nest, factor: int) -> Steps:
    """One of ``factor`` runs of the filters; the others are copies of it."""
    return _shrunk(nest, "o", _share(_dense(nest).outputs, factor), inner=False)


def input_bottleneck(nest: Nest, factor: int) -> Steps:
    """The first of ``factor`` runs of the input channels is all that is read: interchange, bottleneck."""
    return Step(Interchange(("i",))), Step(Shrink(0, _share(_dense(nest).inputs, factor)))


def spatial_bottleneck(nest: Nest, factor: int) -> Steps:
    """One of ``factor`` places along each side is computed, and the others repeat it: interchange and bottleneck, once
    a side (as Peng et al., "Accelerating Deep Neural Networks with Spatial Bottleneck Modules", 2018, but with nothing
    learned in the way back).
    """
    for size in nest.layer.places:
        _share(size, factor)
    return tuple(step for side in nest.layer.sides for step in _shrunk(nest, f"y{side}", factor, inner=True))


def split_group(nest: Nest, groups: Sequence[int]) -> Steps:
    """Filters in as many runs as there are ``groups``, each over all input channels, in groups of its own: unroll, then
    group each part (Turner et al., 2021, section 7.3, sequence 1).
    """
    layer = _dense(nest)
    run = _share(layer.outputs, len(groups))
    cuts = tuple(range(run, layer.outputs, run))
    parts = [group(nest, count, (number,), outputs=run) for number, count in enumerate(groups) if count > 1]
    return (Step(Unroll("o", cuts)), *(step for part in parts for step in part))


def unroll_group(nest: Nest, parameters: tuple[int, int]) -> Steps:
    """``filters`` of them dense, the others in ``groups`` over the input channels from number ``filters`` on: unroll,
    shrink and group the second part (Turner et al., 2021, section 7.3, sequence 2).
    """
    filters, groups = parameters
    layer = _dense(nest)
    if not 0 < filters < min(layer.outputs, layer.inputs):
        raise GraphError(f"{filters} filters of {layer.outputs} over {layer.inputs} channels leave none to group")
    rest = {"outputs": layer.outputs - filters, "inputs": layer.inputs - filters}
    return (
        Step(Unroll("o", (filters,))),
        Step(Interchange(("i",)), (1,)),
        Step(Shrink(filters, layer.inputs), (1,)),
        *group(nest, groups, (1,), **rest),
    )


def strips(nest: Nest, count: int) -> Steps:
    """The first side of the image in ``count`` strips, each with a kernel of its own: unroll (Turner et al., 2021,
    section 7.3, as in the authors' code). It starts as what it was; nothing is saved.
    """
    size = nest.layer.places[0]
    run = _share(size, count)
    return (Step(Unroll("y0", tuple(range(run, size, run)))),)


def low_rank(nest: Nest, share: float) -> Steps:
    """``share`` of the filters with the whole window, and a 1x1 convolution to all of them: factor (Zhang et al.,
    "Accelerating Very Deep Convolutional Networks", TPAMI 2016, section 3).
    """
    layer = _dense(nest)
    return (Step(Factor(_rounded(share * layer.outputs), tuple(layer.sides))),)


def spatial_low_rank(nest: Nest, share: float) -> Steps:
    """A window along the first side to ``share`` of the filters, then one along the others: factor (Jaderberg, Vedaldi
    and Zisserman, BMVC 2014, scheme 2).
    """
    layer = _dense(nest)
    if len(layer.sides) < 2 or min(layer.kernel) < 2:
        raise GraphError("a window of one tap along some side has no rank along it")
    return (Step(Factor(_rounded(share * layer.outputs), (0,))),)


def bottleneck(nest: Nest, factor: int) -> Steps:
    """A 1x1 convolution to ``1 / factor`` of the filters, the window there, and a 1x1 convolution back: factor, factor
    (the bottleneck of He et al., CVPR 2016; weights as Tucker-2 of Kim et al., ICLR 2016, found one after the other).
    """
    layer = _dense(nest)
    if max(layer.kernel) == 1:
        raise GraphError("a window of one tap has no inside")
    width = _share(layer.outputs, factor)
    return Step(Factor(width, ())), Step(Factor(width, tuple(layer.sides)), (1,))


def separable(nest: Nest, _: None = None) -> Steps:
    """A window for each input channel, then a 1x1 convolution (MobileNets, Howard et al., 2017, section 3.1): input
    channels outermost, factor each by itself at rank 1. Nothing stands between the two, as in Xception (Chollet, CVPR
    2017, section 4.7): a new normalisation would undo the scale of the kept weights.
    """
    layer = _dense(nest)
    if max(layer.kernel) == 1:
        raise GraphError("a window of one tap is a 1x1 convolution already")
    return Step(Interchange(("i",))), Step(Factor(1, tuple(layer.sides)))


@dataclass(frozen=True)
class Form:
    """A named composition: ``compose`` gives the steps for each of ``parameters`` that its sizes allow."""

    compose: Callable[[Nest, Any], Steps]
    parameters: tuple[Any, ...]


FORMS: Final[Mapping[str, Form]] = {
    "group": Form(group, (2, 4, 8)),
    "depthwise": Form(depthwise, (None,)),
    "output_bottleneck": Form(output_bottleneck, (2, 4)),
    "input_bottleneck": Form(input_bottleneck, (2, 4)),
    "spatial_bottleneck": Form(spatial_bottleneck, (2,)),
    "split_group": Form(split_group, ((1, 2), (1, 4), (2, 4), (1, 2, 4, 8))),
    "unroll_group": Form(unroll_group, ((8, 2), (16, 2), (16, 4))),
    "low_rank": Form(low_rank, (0.25, 0.5)),
    "spatial_low_rank": Form(spatial_low_rank, (0.25, 0.5)),
    "bottleneck": Form(bottleneck, (2, 4)),
    "separable": Form(separable, (None,)),
    "strips": Form(strips, (2,)),
}
"""The forms by name, each with the parameters that a search tries."""


def _dense(nest: Nest) -> Layer:
    if nest.layer.groups > 1:
        raise GraphError("only a dense convolution takes this form")
    return nest.layer


def _share(size: int, parts: int) -> int:
    if size % parts or size == parts == 1:
        raise GraphError(f"{size} cannot be cut into {parts} equal parts")
    return size // parts


def _shrunk(nest: Nest, loop: str, size: int, *, inner: bool) -> Steps:
    """A loop cut into runs of ``size``, of which the first is kept; ``inner``: of each run the first iteration."""
    part = f"{loop}.1" if inner else f"{loop}.0"
    return Step(Split(loop, size)), Step(Interchange((part,))), Step(Shrink(0, 1))


def _rounded(width: float) -> int:
    """A width that suits processors: a multiple of eight where there are that many."""
    return max(1, round(width)) if width < 8 else round(width / 8) * 8
