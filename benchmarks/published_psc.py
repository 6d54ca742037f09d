"""The predictor of AutoGO as published (Salameh et al., NeurIPS 2023, section 4), for comparison: P, S and C through
one graph network, averaged over their nodes, joined and read by an MLP; and the same network over whole graphs.

Node embedding of 32 (operation 14, shapes 8, kernel 8, bias 2), six GraphConv layers of 32 with tanh. Deviations, in
its favour where it matters: trained by Adam at 2e-3 with one cycle and batches of 128 rather than 1e-4 and 32, and on
normal scores rather than on accuracies; one random cut of each network an epoch. Graphs are single cells (everything
else is the same in all networks of NAS-Bench-201), held as dense adjacency matrices; the score of a network is the mean
of 25 cuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from netgraft.ir import OPS, Graph

_OPS = {op: i for i, op in enumerate(OPS)}


@dataclass(frozen=True)
class Cells:
    """Graphs as tensors [networks, nodes, ...]: operation, kernel and bias as numbers, shapes, edges, who is there."""

    ops: Tensor
    kernels: Tensor
    biases: Tensor
    shapes: Tensor
    edges: Tensor
    there: Tensor
    reach: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, graphs: Sequence[Graph]) -> Cells:
        """The graphs, padded to the largest."""
        count, most = len(graphs), max(map(len, graphs))
        ops, kernels, biases = np.zeros((3, count, most), int)
        shapes, edges = np.zeros((count, most, 6), np.float32), np.zeros((count, most, most), np.float32)
        there = np.zeros((count, most), np.float32)
        for g, graph in enumerate(graphs):
            for n, node in enumerate(graph):
                ops[g, n], there[g, n] = _OPS[node.op], 1.0
                kernels[g, n] = max(node.attrs.get("kernel", (0,)))
                biases[g, n] = int(bool(node.attrs.get("bias", False)))
                for offset, types in ((0, graph.input_types(node)), (3, graph.output_types(node))):
                    if types and types[0].rank == 4:
                        _, c, h, w = types[0].concrete()
                        shapes[g, n, offset : offset + 3] = h / 256, w / 256, c / 512
                for value in node.inputs:
                    if value.node in graph:
                        edges[g, n, graph.position[value.node]] = 1.0
        reach = edges > 0
        for _ in range(5):
            reach |= np.einsum("gij,gjk->gik", reach.astype(np.float32), reach.astype(np.float32)) > 0
        return cls(
            ops=torch.from_numpy(ops),
            kernels=torch.from_numpy(np.minimum(kernels, 7)),
            biases=torch.from_numpy(biases),
            shapes=torch.from_numpy(shapes),
            edges=torch.from_numpy(edges),
            there=torch.from_numpy(there),
            reach=reach,
        )

    def parts(self, rows: npt.NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """A random cut of each network: 0 for P, 1 for S (a run of its order), 2 for C, and 3 where nothing is."""
        sizes = self.there[rows].sum(1).numpy().astype(int)
        start = (rng.random(len(rows)) * sizes).astype(int)
        stop = start + 1 + (rng.random(len(rows)) * np.minimum(8, sizes - start)).astype(int)
        return self.cut(rows, start, stop)

    def cut(self, rows: npt.NDArray[np.int64], start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]) -> Tensor:
        """The cut of each network around the nodes from ``start`` to ``stop``."""
        at = np.arange(self.there.shape[1])
        inside = (at >= start[:, None]) & (at < stop[:, None])
        after = (self.reach[rows] & inside[:, None]).any(2) & ~inside
        parts = np.where(inside, 1, np.where(after, 2, 0))
        return torch.from_numpy(np.where(self.there[rows].numpy() > 0, parts, 3))


class Network(nn.Module):
    """``split`` says whether P, S and C are read apart, or the whole graph."""

    def __init__(self, split: bool) -> None:
        super().__init__()
        self.split = split
        self.op, self.kernel, self.bias = nn.Embedding(len(_OPS), 14), nn.Embedding(8, 8), nn.Embedding(2, 2)
        self.shape = nn.Linear(6, 8)
        self.own = nn.ModuleList(nn.Linear(32, 32) for _ in range(6))
        self.neighbours = nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in range(6))
        width = 96 if split else 32
        self.head = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, cells: Cells, rows: npt.NDArray[np.int64], parts: Tensor) -> Tensor:
        """A score for each network [rows]; ``parts`` as :meth:`Cells.parts` has them."""
        named = self.op(cells.ops[rows]), self.kernel(cells.kernels[rows]), self.bias(cells.biases[rows])
        x = torch.cat([*named, self.shape(cells.shapes[rows])], -1)
        edges = cells.edges[rows]
        if self.split:
            edges = edges * (parts[:, :, None] == parts[:, None, :])
        for own, neighbours in zip(self.own, self.neighbours, strict=True):
            x = torch.tanh(own(x) + neighbours(edges @ x))
        wanted = range(3) if self.split else [None]
        means = []
        for part in wanted:
            mask = cells.there[rows] if part is None else (parts == part).float()
            means.append((x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1.0))
        out: Tensor = self.head(torch.cat(means, -1))[:, 0]
        return out


def trained(
    split: bool, cells: Cells, rows: npt.NDArray[np.int64], targets: npt.NDArray[np.float64], seed: int, epochs: int
) -> Network:
    """A network trained on some of the cells."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network, y, batch = Network(split), torch.from_numpy(targets).float(), min(128, max(8, len(rows) // 4))
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    steps = epochs * -(-len(rows) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(epochs):
        order = rng.permutation(rows)
        for start in range(0, len(order), batch):
            some = order[start : start + batch]
            loss = nn.functional.mse_loss(network(cells, some, cells.parts(some, rng)), y[some])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return network


@torch.no_grad()
def scores(
    network: Network, cells: Cells, rows: npt.NDArray[np.int64], cuts: int, seed: int = 0
) -> npt.NDArray[np.float64]:
    """The scores of some cells in several cuts of each [cuts, rows]."""
    rng = np.random.default_rng(seed)
    said = [network(cells, rows, cells.parts(rows, rng)).numpy() for _ in range(cuts if network.split else 1)]
    return np.array(said, np.float64)
