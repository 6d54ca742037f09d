"""What trimming needs from data: gradients and magnitudes to rank channels by, and the refit of what reads them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from netgraft.channels import Site, channels
from netgraft.convert.to_torch import to_module, weights_of
from netgraft.ir import Batch, Carry, Edit, Graph, Keep, Model, Node, Slice, Value, apply, inherit
from netgraft.tasks import Task, recalibrate
from netgraft.tasks.running import running

from .looking import Look, some_training_data


def gradients(model: Model, task: Task, *, images: int = 512, seed: int) -> dict[str, npt.NDArray[Any]]:
    """Gradients of the task's loss by the keys of the weights, on some training images (eval mode): for
    :class:`~netgraft.mutations.importance.Taylor`.
    """
    module = to_module(model)
    with running(module, task.device, training=False):
        for inputs, targets in some_training_data(task, images, seed):
            loss = task.loss(module(inputs), targets) * len(inputs) / images
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return {key: p.grad.cpu().numpy() for key, p in module.named_parameters() if p.grad is not None}


def magnitudes(model: Model, task: Task, *, images: int = 512, seed: int) -> dict[Site, npt.NDArray[np.floating]]:
    """Mean magnitudes of tensors along each of their dimensions in which channels can be dropped, on some training
    images: for :class:`~netgraft.mutations.importance.Activations`.
    """
    graph = model.graph
    read = {value for group in channels(graph).groups for id in group.readers for value in graph[id].inputs}
    sites = [site for group in channels(graph).groups for site in group.sites if site[0] in read]
    sites = [(value, dim) for value, dim in dict.fromkeys(sites) if not _is_batch(graph, value, dim)]
    values = list(dict.fromkeys(value for value, _ in sites))
    total: defaultdict[Site, Any] = defaultdict(float)
    look = Look(model, values)
    for inputs, _ in some_training_data(task, images, seed):
        found = look(inputs)
        for value, dim in sites:
            size = found[value].abs().transpose(0, dim).flatten(1).mean(dim=1)
            total[value, dim] = total[value, dim] + size.cpu().numpy() * len(inputs) / images
    return dict(total)


def refit(
    parent: Model, edit: Edit, task: Task, *, images: int = 1000, positions: int = 10, ridge: float = 1e-3, seed: int
) -> Model:
    """The child of an edit that drops channels, in which the layers that read fewer are refitted: they are made to give
    on real images what the parent's gave, by least squares (He, Zhang and Sun, "Channel Pruning for Accelerating Very
    Deep Neural Networks", ICCV 2017, section 3.1; AMC, He et al., ECCV 2018, section 3.3). Batch-norm statistics are
    re-estimated afterwards.

    Layers are taken in the graph's order, so that each makes up for what those before it changed: the features are the
    child's, the targets the parent's, at ``positions`` random places of each of ``images`` training images. ``ridge``
    is the pull towards the weights that were inherited, as a share of the features' mean square. Deviations: AMC
    refits 1x1 convolutions and linear layers only; its features are the parent's; and nothing pulls there. Layers in
    groups, and convolutions of one or three sides, keep what they inherited.
    """
    weights, _ = inherit(parent.graph, edit, parent.weights, np.random.default_rng(seed))
    child = Model(apply(parent.graph, edit), weights, parent.name)
    for node in child.graph:
        rows = _rows_if_trimmed(node, edit)
        if rows is not None:
            new = _refitted(
                node, rows, parent, child, list(some_training_data(task, images, seed)), positions, ridge, seed
            )
            child = replace(child, weights={**child.weights, **new})
    module = to_module(child)
    recalibrate(module, task, seed=seed)
    return replace(child, weights=weights_of(module))


@dataclass(frozen=True)
class Moments:
    """What a network's layers read and give at some places of some training images, summed up, for many refits of
    it: sums of products of a layer's features with one another, and with its outputs, by the layer's id.
    """

    model: Model
    sums: Mapping[str, tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, model: Model, task: Task, *, images: int = 1000, positions: int = 10, seed: int) -> Moments:
        """From one pass over the images. A layer takes 8 bytes for each pair of its features, of which a convolution
        has as many as weights a filter.
        """
        read = {id for group in channels(model.graph).groups for id in group.readers}
        layers = [node for node in model.graph if node.id in read and _is_refitted(node)]
        sums: dict[str, tuple[Tensor, Tensor]] = {}
        if layers:
            look = Look(model, list(dict.fromkeys(v for node in layers for v in (node.inputs[0], node.value()))))
            generator = torch.Generator().manual_seed(seed)
            for inputs, _ in some_training_data(task, images, seed):
                found = look(inputs)
                for node in layers:
                    x, y = _sampled(node, found[node.inputs[0]], found[node.value()], positions, generator)
                    square, product = sums.get(node.id, (0.0, 0.0))
                    sums[node.id] = square + x.T @ x, product + x.T @ y
        return cls(model, sums)

    def refit(self, edit: Edit, ridge: float = 1e-3) -> Model:
        """The child of an edit that drops channels, with the layers that read fewer refitted as AMC does: on the
        features of the network itself, each layer alone. No images are looked at, so it takes milliseconds; it leaves
        more to be made up for than :func:`refit`, and batch-norm statistics as they were.
        """
        parent = self.model
        weights, _ = inherit(parent.graph, edit, parent.weights, np.random.default_rng(0))
        child = Model(apply(parent.graph, edit), weights, parent.name)
        for node in child.graph:
            rows = _rows_if_trimmed(node, edit)
            if rows is not None and node.id in self.sums:
                square, product = self.sums[node.id]
                columns = _columns(node, edit, parent.weights[node.weights["weight"]].shape)
                if "bias" in node.weights:
                    columns = torch.cat([columns, torch.tensor([len(square) - 1])])
                normal = square[columns][:, columns], product[columns][:, rows]
                weights.update(_solved(node, child, *normal, _matrix(node, child), ridge))
        return child


def _columns(node: Node, edit: Edit, shape: Sequence[int]) -> Tensor:
    """Which of the parent's features a layer still reads."""
    kept = torch.tensor(dict(_slices(edit.carry[node.weights["weight"]]))[1])
    taps = prod(shape[2:])
    return (kept[:, None] * taps + torch.arange(taps)).flatten()


def _is_refitted(node: Node) -> bool:
    return node.op in ("conv2d", "linear") and node.attrs.get("groups", 1) == 1


def _rows_if_trimmed(node: Node, edit: Edit) -> tuple[int, ...] | slice | None:
    """Which of the parent's outputs a layer still gives, if it reads fewer channels than the parent's."""
    if node.id not in edit.region.nodes or not _is_refitted(node):
        return None
    left = dict(_slices(edit.carry.get(node.weights["weight"])))
    return left.get(0, slice(None)) if 1 in left else None


def _slices(carry: Carry | None) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The axes of a kept weight that lost entries, with those that are left."""
    while isinstance(carry, Slice):
        yield carry.axis, carry.indices
        carry = carry.source
    assert carry is None or isinstance(carry, Keep), "an edit that drops channels"


def _refitted(
    node: Node,
    rows: tuple[int, ...] | slice,
    parent: Model,
    child: Model,
    batches: Sequence[tuple[Tensor, Tensor]],
    positions: int,
    ridge: float,
    seed: int,
) -> dict[str, npt.NDArray[Any]]:
    """The weights of one layer, by their keys, from normal equations."""
    generator = torch.Generator().manual_seed(seed)
    wanted, given = Look(parent, [node.value()]), Look(child, [node.inputs[0]])
    old = _matrix(node, child)
    square = torch.zeros(old.shape[1], old.shape[1], dtype=torch.float64)
    product = torch.zeros(old.shape[1], old.shape[0], dtype=torch.float64)
    for inputs, _ in batches:
        features, targets = given(inputs)[node.inputs[0]], wanted(inputs)[node.value()]
        x, y = _sampled(node, features, targets, positions, generator)
        square += x.T @ x
        product += x.T @ y[:, rows]
    return _solved(node, child, square, product, old, ridge)


def _solved(
    node: Node, child: Model, square: Tensor, product: Tensor, old: Tensor, ridge: float
) -> dict[str, npt.NDArray[Any]]:
    """The weights by their keys that solve the normal equations, with a pull towards the ``old`` ones."""
    key, bias = node.weights["weight"], node.weights.get("bias")
    pull = ridge * square.diagonal().mean().clamp(min=1e-12)
    square = square + pull * torch.eye(len(square), dtype=square.dtype)
    new = torch.linalg.solve(square, product + pull * old.T).T.float().numpy()
    if bias is None:
        return {key: new.reshape(child.weights[key].shape)}
    return {key: new[:, :-1].reshape(child.weights[key].shape), bias: np.ascontiguousarray(new[:, -1])}


def _matrix(node: Node, model: Model) -> Tensor:
    """A layer's weights as a matrix of its outputs by its features, the bias last."""
    matrix = torch.as_tensor(model.weights[node.weights["weight"]]).double().flatten(1)
    if "bias" not in node.weights:
        return matrix
    return torch.cat([matrix, torch.as_tensor(model.weights[node.weights["bias"]]).double()[:, None]], dim=1)


def _sampled(
    node: Node, features: Tensor, targets: Tensor, positions: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What a layer reads at some places, with a one for its bias, and what it should give there."""
    sample = _at_places if node.op == "conv2d" else _at_tokens
    # Equations of many thousands of sums are solved in float64, which is at home on the CPU.
    x, y = (part.cpu().double() for part in sample(node, features, targets, positions, generator))
    if "bias" in node.weights:
        x = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    return x, y


def _at_places(
    node: Node, features: Tensor, targets: Tensor, positions: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What a convolution reads and should give at some places of each image."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = (node.attrs[a] for a in ("kernel", "stride", "padding", "dilation"))
    padded = torch.nn.functional.pad(features, (pw, pw, ph, ph))
    count, _, height, width = targets.shape
    pictures = torch.arange(count)[:, None].expand(count, positions)
    top = torch.randint(height, (count, positions), generator=generator)
    left = torch.randint(width, (count, positions), generator=generator)
    taps = [padded[pictures, :, top * sh + i * dh, left * sw + j * dw] for i in range(kh) for j in range(kw)]
    return torch.stack(taps, dim=3).flatten(0, 1).flatten(1), targets[pictures, :, top, left].flatten(0, 1)


def _at_tokens(
    node: Node, features: Tensor, targets: Tensor, positions: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What a linear layer reads and should give for some tokens of each image, or for the images if these are all."""
    x, y = features.flatten(0, -2), targets.flatten(0, -2)
    most = positions * len(features)
    if len(x) > most:
        some = torch.randperm(len(x), generator=generator)[:most]
        x, y = x[some], y[some]
    return x, y


def _is_batch(graph: Graph, value: Value, dim: int) -> bool:
    return isinstance(graph.types[value].shape[dim], Batch)
