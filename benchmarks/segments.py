"""What byte-pair encoding finds in networks, and how fast banks are mined and asked.

python benchmarks/segments.py                        # all tables, in about a quarter of an hour
python benchmarks/segments.py mining --graphs 50000  # one of orders, subgraphs, mining, index

Prints Markdown tables, over equal shares of the families of AutoGO; ``--also 'FOLDER/*.pkl'`` asks for the first one of
other networks as well. Times are those of the processor, so that a busy machine does not matter much.

orders      For several topological orders: the share of multi-node pieces that are connected when pieces are merged as
            in AutoGO, edge or no edge; then, merged along edges only, how much of the networks lies in multi-node
            pieces, how long they are, and how many values enter and leave one.
subgraphs   The same number of the most frequent connected convex subgraphs, counted on random samples: how much of
            networks not counted they cover, and how much of what byte-pair encoding cuts is among them.
mining      From networks to a bank, stage by stage.
index       A bank of 100,000 segments: loading, and finding what may replace a region.
"""

from __future__ import annotations

import argparse
import heapq
import resource
import tempfile
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from netgraft import sources
from netgraft.ir import Graph, Node, Region, Signature
from netgraft.segments import Line, Quarry, Vocabulary, head, load, save
from netgraft.segments.bpe import LONGEST, order, tokens

FAMILIES = ("nasbench101", "nasbench201", "hiaml", "two_path", "inception")


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a Markdown table."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def members(count: int, seed: int) -> Iterator[tuple[str, Graph]]:
    """About ``count`` networks of all families."""
    for family in FAMILIES:
        for _, graph in sources.graphs(f"family:{family}?count={max(1, count // len(FAMILIES))}&seed={seed}"):
            yield family, graph


# Orders


def _readers(graph: Graph) -> dict[str, list[Node]]:
    readers: dict[str, list[Node]] = {node.id: [] for node in graph}
    for node in graph:
        for id in dict.fromkeys(v.node for v in node.inputs if v.node in graph):
            readers[id].append(node)
    return readers


def _waiting(graph: Graph) -> dict[str, int]:
    return {node.id: len({v.node for v in node.inputs if v.node in graph}) for node in graph}


def by_number(graph: Graph) -> Sequence[Node]:
    """Of the nodes that are ready, that which was written first: AutoGO's."""
    number = {node.id: i for i, node in enumerate(graph)}
    waiting, readers, ordered = _waiting(graph), _readers(graph), []
    ready = [number[id] for id, count in waiting.items() if not count]
    while ready:
        ordered.append(graph.nodes[heapq.heappop(ready)])
        for reader in readers[ordered[-1].id]:
            waiting[reader.id] -= 1
            if not waiting[reader.id]:
                heapq.heappush(ready, number[reader.id])
    return ordered


def in_layers(graph: Graph) -> Sequence[Node]:
    """First come, first served: across the branches."""
    waiting, readers, ordered = _waiting(graph), _readers(graph), []
    ready = deque(node for node in graph if not waiting[node.id])
    while ready:
        ordered.append(ready.popleft())
        for reader in readers[ordered[-1].id]:
            waiting[reader.id] -= 1
            if not waiting[reader.id]:
                ready.append(reader)
    return ordered


def backwards(graph: Graph) -> Sequence[Node]:
    """From the outputs: each node right after the last of what it reads."""
    done: dict[str, Node] = {}
    stack = [(value.node, False) for value in reversed(graph.outputs)]
    while stack:
        id, ready = stack.pop()
        if id in done or id not in graph:
            continue
        if ready:
            done[id] = graph[id]
        else:
            stack.append((id, True))
            stack += [(v.node, False) for v in reversed(graph[id].inputs)]
    return list(done.values())


ORDERS: dict[str, Callable[[Graph], Sequence[Node]]] = {
    "smallest number first, as AutoGO": by_number,
    "layer by layer": in_layers,
    "backwards from the outputs": backwards,
    "along chains (netgraft)": order,
}


def _anything_joined(line: Line) -> Line:
    """The line as if every node read all before it: byte-pair encoding of the bare text."""
    return Line(line.tokens, array("H", [(1 << min(i, LONGEST - 1)) - 1 for i in range(len(line.tokens))]).tobytes())


def is_connected(graph: Graph, ids: Sequence[str]) -> bool:
    """Whether edges of the graph join the nodes."""
    inside, reached, stack = set(ids), {ids[0]}, [ids[0]]
    edges: dict[str, set[str]] = {id: set() for id in ids}
    for id in ids:
        for value in graph[id].inputs:
            if value.node in inside:
                edges[id].add(value.node)
                edges[value.node].add(id)
    while stack:
        for id in edges[stack.pop()] - reached:
            reached.add(id)
            stack.append(id)
    return reached == inside


def orders(graphs: Sequence[Graph], size: int) -> None:
    """The first table."""
    rows = []
    for name, arrange in ORDERS.items():
        ordered = [arrange(graph) for graph in graphs]
        lines = [Line.along(nodes, tokens(graph)) for nodes, graph in zip(ordered, graphs, strict=True)]
        free = [_anything_joined(line) for line in lines]
        spans = list(_multi(Vocabulary.learn(free, size), free, ordered))
        connected = sum(is_connected(graphs[i], ids) for i, ids in spans)
        kept = list(_multi(Vocabulary.learn(lines, size), lines, ordered))
        assert all(is_connected(graphs[i], ids) for i, ids in kept)
        ends = [Region.of(ids).boundary(graphs[i]) for i, ids in kept]
        single = sum(len(entering) == len(leaving) == 1 for entering, leaving in ends)
        rows.append(
            (
                name,
                f"{connected / len(spans):.1%}",
                f"{sum(len(ids) for _, ids in kept) / sum(map(len, graphs)):.1%}",
                f"{np.mean([len(ids) for _, ids in kept]):.2f}",
                f"{np.mean([len(a) + len(b) for a, b in ends]):.2f}",
                f"{single / len(kept):.0%}",
            )
        )
    table(
        f"Orders: {len(graphs)} networks, {sum(map(len, graphs)):,} nodes, {size} merges",
        (
            "order",
            "connected, merged anywhere",
            "along edges: nodes in pieces",
            "nodes a piece",
            "values in and out",
            "one in, one out",
        ),
        rows,
    )


def _multi(
    vocabulary: Vocabulary, lines: Sequence[Line], ordered: Sequence[Sequence[Node]]
) -> Iterator[tuple[int, list[str]]]:
    """The nodes of every multi-node piece, and of which graph they are."""
    for i, (line, nodes) in enumerate(zip(lines, ordered, strict=True)):
        for piece in vocabulary.encode_line(line).pieces:
            if piece.parts:
                yield i, [node.id for node in nodes[piece.start : piece.stop]]


# Subgraphs


class Patterns:
    """A graph of which parts are compared: up to isomorphism over operations and kernels, as tokens do."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.ids = [node.id for node in graph]
        self.at = {id: i for i, id in enumerate(self.ids)}
        self.labels = [(node.op, node.attrs.get("kernel") if node.op.startswith("conv") else None) for node in graph]
        self.before = [sorted({self.at[v.node] for v in node.inputs if v.node in self.at}) for node in graph]
        self.after: list[list[int]] = [[] for _ in self.ids]
        for i, reads in enumerate(self.before):
            for j in reads:
                self.after[j].append(i)

    def pattern(self, nodes: Iterable[int]) -> int:
        """Equal for parts that are isomorphic (Weisfeiler-Lehman style)."""
        ordered = sorted(nodes)
        down: dict[int, int] = {}
        for i in ordered:
            down[i] = hash((self.labels[i], tuple(sorted([down[j] for j in self.before[i] if j in down]))))
        up: dict[int, int] = {}
        for i in reversed(ordered):
            up[i] = hash((down[i], tuple(sorted([up[j] for j in self.after[i] if j in up]))))
        return hash(tuple(sorted(up.values())))

    def draw(self, rng: np.random.Generator) -> frozenset[int] | None:
        """A random connected part of 2 to 16 nodes, or None where what was drawn is not convex."""
        size = int(rng.integers(2, LONGEST + 1))
        start = int(rng.integers(len(self.ids)))
        part, border = {start}, [*self.before[start], *self.after[start]]
        while border and len(part) < size:
            node = border.pop(int(rng.integers(len(border))))
            if node not in part:
                part.add(node)
                border += self.before[node] + self.after[node]
        region = Region.of(self.ids[i] for i in part)
        return frozenset(part) if len(part) == size and region.is_convex(self.graph) else None


def subgraphs(known: Sequence[Graph], unknown: Sequence[Graph], size: int, draws: int) -> None:
    """The second table; ``draws`` parts are drawn for each node of a graph."""
    rng = np.random.default_rng(0)
    began = time.process_time()
    vocabulary = Vocabulary.learn([Line.of(graph) for graph in known], size)
    took = time.process_time() - began
    cut: Counter[int] = Counter()
    pieces: list[int] = []
    for graph in unknown:
        parts = Patterns(graph)
        for _, ids in _multi(vocabulary, [Line.of(graph)], [order(graph)]):
            cut[parts.pattern(parts.at[id] for id in ids)] += 1
            pieces.append(len(ids))
    nodes = sum(map(len, unknown))
    rows: list[tuple[object, ...]] = [
        ("byte-pair encoding", size, f"{np.mean(pieces):.1f}", f"{sum(pieces) / nodes:.1%}", "", f"{took:.1f}")
    ]
    began = time.process_time()
    frequency: Counter[int] = Counter()
    sizes: dict[int, int] = {}
    for graph in known:
        parts = Patterns(graph)
        for part in {parts.draw(rng) for _ in range(draws * len(graph))} - {None}:
            assert part is not None
            name = parts.pattern(part)
            frequency[name] += 1
            sizes[name] = len(part)
    took = time.process_time() - began
    drawn = [
        (parts, {parts.draw(rng) for _ in range(4 * draws * len(parts.ids))} - {None})
        for parts in map(Patterns, unknown)
    ]
    for title, worth in (
        ("the most frequent", lambda name: frequency[name]),
        ("the most nodes saved: frequency x (nodes - 1)", lambda name: frequency[name] * (sizes[name] - 1)),
    ):
        best = set(sorted(frequency, key=worth, reverse=True)[:size])
        laid = [
            len(part)
            for parts, found in drawn
            for part in _disjoint(part for part in found if part is not None and parts.pattern(part) in best)
        ]
        among = sum(count for name, count in cut.items() if name in best) / cut.total()
        rows.append((title, size, f"{np.mean(laid):.1f}", f"{sum(laid) / nodes:.1%}", f"{among:.1%}", f"{took:.1f}"))
    table(
        f"Subgraphs: counted in {len(known)} networks, laid on {len(unknown)} others of {nodes:,} nodes; "
        f"{len(frequency):,} different ones drawn",
        ("entries", "number", "nodes a piece", "nodes in pieces", "of BPE's pieces among them", "seconds"),
        rows,
    )


def _disjoint(parts: Iterable[frozenset[int]]) -> Iterator[frozenset[int]]:
    """The largest first, as many as have room."""
    taken: set[int] = set()
    for part in sorted(parts, key=lambda part: (-len(part), sorted(part))):
        if taken.isdisjoint(part):
            taken |= part
            yield part


# Mining


def mining(count: int, seed: int, size: int, cuts: int, at_least: int) -> None:
    """The third table."""
    quarry, building, nodes = Quarry(), 0.0, 0
    began = last = time.process_time()
    for name, graph in members(count, seed):
        now = time.process_time()
        building += now - last
        nodes += len(graph)
        quarry.add(name, graph)
        last = time.process_time()
    read = time.process_time()
    vocabulary = quarry.learn(size)
    learnt = time.process_time()
    bank = quarry.mine(vocabulary, cuts, seed, at_least)
    mined = time.process_time()
    stages = {
        "building the networks": building,
        "taking them in": read - began - building,
        f"learning {len(vocabulary.merges):,} merges": learnt - read,
        f"cutting {1 + cuts} times, counting, building {len(bank):,} segments": mined - learnt,
        "all": mined - began,
    }
    table(
        f"Mining {len(quarry):,} networks of {nodes:,} nodes, one core; segments found in at least {at_least} places; "
        f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB",
        ("stage", "seconds of one core", "networks a minute"),
        ((stage, f"{took:.1f}", f"{60 * len(quarry) / took:,.0f}") for stage, took in stages.items()),
    )


# The index


def index(count: int) -> None:
    """The fourth table."""
    quarry = Quarry()
    for family, number in ("inception", count // 80), ("nasbench101", count // 150):
        for _, graph in sources.graphs(f"family:{family}?count={number}&seed=1"):
            quarry.add(family, graph)
    mined = quarry.mine(quarry.learn(2000))
    rows = np.arange(min(count, len(mined)), dtype=np.int32)
    places: dict[Signature, None] = {}
    rng = np.random.default_rng(0)
    for _, graph in members(20, 2):
        for region in mined.vocabulary.cut(graph, rng):
            if region.nodes.isdisjoint(head(graph)):
                places.setdefault(region.signature(graph))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "large.bank")
        save(type(mined)(mined.columns.take(rows), mined.vocabulary), path)
        loads = []
        for _ in range(5):
            began = time.process_time()
            bank = load(path)
            loads.append(time.process_time() - began)
        megabytes = path.stat().st_size / 1e6
    began = time.process_time()
    bank.exact(mined[0].signature), bank.alike(mined[0].signature)
    rows_: list[tuple[str, str, str, str]] = [
        ("loading the file", f"{1e3 * np.median(loads):.0f}", f"{1e3 * max(loads):.0f}", ""),
        ("the first question (builds the index)", f"{1e3 * (time.process_time() - began):.1f}", "", ""),
    ]
    for title, ask in (
        ("exact, asked for the first time", bank.exact),
        ("alike, asked for the first time", bank.alike),
        ("exact, asked again", bank.exact),
        ("alike, asked again", bank.alike),
    ):
        times, found = [], []
        for place in places:
            began = time.process_time()
            found.append(len(ask(place)))
            times.append(1e3 * (time.process_time() - began))
        rows_.append((title, f"{np.median(times):.4f}", f"{max(times):.3f}", f"{np.median(found):,.0f}"))
    scans = []
    for place in list(places)[:20]:
        began = time.process_time()
        sum(bank.columns.signatures[i] == place for i in bank.columns.numbers["signature"].tolist())
        scans.append(1e3 * (time.process_time() - began))
    rows_.append(
        ("exact, by looking through all (without the index)", f"{np.median(scans):.1f}", f"{max(scans):.0f}", "")
    )
    table(
        f"Index: {len(bank):,} segments of {len(bank.columns.signatures):,} signatures, {megabytes:.1f} MB; "
        f"{len(places)} region types",
        ("question", "ms, median", "ms, longest", "segments found, median"),
        rows_,
    )


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tables", nargs="*", default=["orders", "subgraphs", "mining", "index"])
    parser.add_argument("--graphs", type=int, default=2000, help="networks to mine")
    parser.add_argument("--at-least", type=int, default=2)
    parser.add_argument("--cuts", type=int, default=4)
    parser.add_argument("--size", type=int, default=800, help="merges to learn for orders and subgraphs")
    parser.add_argument("--also", nargs="*", default=[], help="more sources for the orders")
    given = parser.parse_args()
    if "orders" in given.tables:
        if given.also:
            orders([graph for source in given.also for _, graph in sources.graphs(source)], given.size)
        orders([graph for _, graph in members(300, 0)], given.size)
    if "subgraphs" in given.tables:
        known, unknown = ([graph for _, graph in members(count, seed)] for count, seed in ((100, 0), (25, 9)))
        subgraphs(known, unknown, given.size, 40)
    if "mining" in given.tables:
        mining(given.graphs, 0, 2000, given.cuts, given.at_least)
    if "index" in given.tables:
        index(100_000)


if __name__ == "__main__":
    main()
