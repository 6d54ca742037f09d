"""``netgraft inspect``: what a network is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import typer

from netgraft import console as screen
from netgraft.channels import channels as find_channels
from netgraft.costs.analytic import activation_memory, flops, flops_by_node, latency_estimate, parameters
from netgraft.costs.frozen import frozen_flops
from netgraft.data import task as load_data
from netgraft.errors import MeasureError, OptionError
from netgraft.ir import Graph, Model
from netgraft.ir.text import render_node
from netgraft.mutations.fixed import fixed_by, untouchable
from netgraft.proxies import PROXIES, Probe, anew, at_random, of_task
from netgraft.terminal import InputShape, Source, console, load


def inspect(
    source: Source,
    input_shape: InputShape = None,
    nodes: Annotated[bool, typer.Option("--nodes", help="print the whole graph, node by node")] = False,
    channels: Annotated[
        bool, typer.Option("--channels", help="print which channels can be dropped, and which only together")
    ] = False,
    scores: Annotated[
        bool,
        typer.Option(
            "--scores", help="print training-free scores, too: of the network as initialised, to compare with others"
        ),
    ] = False,
    data: Annotated[
        str | None, typer.Option(help="what --scores look at, as 'optimize --data' (default: random inputs)")
    ] = None,
    freeze: Annotated[list[str] | None, typer.Option(help="try a pattern of 'optimize --freeze'")] = None,
    only: Annotated[list[str] | None, typer.Option(help="try a pattern of 'optimize --only'")] = None,
) -> None:
    """Show what a network is made of, what it costs, what is frozen and why, and what no mutation changes."""
    if data and not scores:
        raise OptionError("--data is for --scores; give both, or neither")
    model = load(source, input_shape)
    graph = model.graph
    signature = graph.signature
    frozen = [node for node in graph if node.op == "frozen"]
    frozen_share = frozen_flops(model) if frozen else 0
    total = flops(graph) + frozen_share
    console.print(f"[bold]{model.name}[/]  digest {graph.digest}")
    console.print(
        screen.columns(
            "costs at batch 1",
            ("", "value"),
            [
                ("inputs", ", ".join(map(str, signature.inputs))),
                ("outputs", ", ".join(map(str, signature.outputs))),
                ("operations", f"{len(graph)}, {len(frozen)} of them frozen"),
                (
                    "FLOPs",
                    f"{total / 1e6:,.2f} M" + (f", {frozen_share / 1e6:,.2f} M of them frozen" if frozen else ""),
                ),
                ("parameters", f"{parameters(graph):,}"),
                ("activation memory, peak", f"{activation_memory(graph) / 1e6:,.2f} MB"),
                ("latency, estimated", f"{latency_estimate(graph):.3f} ms (see 'netgraft measure')"),
            ],
        )
    )
    kinds, by_node = Counter(node.op for node in graph), flops_by_node(graph)
    by_kind: Counter[str] = Counter(frozen=frozen_share)
    for node in graph:
        by_kind[node.op] += by_node[node.id]
    rows = [(op, str(count), f"{by_kind[op] / max(1, total):.1%}") for op, count in kinds.most_common()]
    console.print(screen.columns("operations", ("operation", "count", "share of FLOPs"), rows))
    if scores:
        _show_scores(model, data)
    if nodes:
        for node in graph:
            gives = ", ".join(map(str, graph.output_types(node)))
            weights = "".join(f"\n    {key}: {graph.weight_types[key]}" for key in node.weights.values())
            console.print(f"{render_node(node)} -> {gives}{weights}", markup=False, soft_wrap=True)
    if channels:
        _show_channels(graph)
    if frozen:
        reasons = [(node.id, node.attrs["target"], node.attrs["reason"]) for node in frozen]
        console.print(screen.columns("frozen: kept as they are", ("node", "operation", "why"), reasons))
    left_alone: dict[str, list[str]] = {}
    asked = dict.fromkeys(fixed_by(graph, freeze or [], only or []), "--freeze or --only says so")
    reasons_by_node = asked | untouchable(graph)
    for node in graph:
        if node.id in reasons_by_node and node.op != "frozen":
            left_alone.setdefault(reasons_by_node[node.id], []).append(node.id)
    if left_alone:
        console.print("[bold]left alone[/]: no mutation changes them")
    for why, ids in left_alone.items():
        console.print(f"  {why}: {_few(ids)}", markup=False, soft_wrap=True)


def _show_channels(graph: Graph) -> None:
    """Prints the groups of channels that can be dropped, and what none can be dropped of."""
    found = find_channels(graph)
    console.print(
        "[bold]channels[/]: a line for each group, of which any may be dropped (NUMBER x ROWS of the weights that make "
        "them)",
        soft_wrap=True,
    )
    for group in found.groups:
        key, axis = group.axes[0]
        label = found.weights[key][axis]
        rows = 1.0 if label is None else np.isin(label, group.units).any(axis=1).sum() / group.channels
        each = f" x {rows:.4g}" if rows != 1 else ""
        norms = f"; normalised together by {_few(group.normalised)}" if group.normalised else ""
        line = f"  {group.channels}{each}: made by {_few(group.makers)}; read by {_few(group.readers)}{norms}"
        console.print(line, markup=False, soft_wrap=True)
    by_reason: dict[str, list[str]] = {}
    for id, why in found.held.items():
        by_reason.setdefault(why, []).append(id)
    if by_reason:
        console.print("[bold]channels that stay[/]: all of them are needed by")
    for why, ids in by_reason.items():
        console.print(f"  {why}: {_few(ids)}", markup=False, soft_wrap=True)


def _few(ids: Sequence[str], most: int = 6) -> str:
    """The first of several names, and how many more there are."""
    return ", ".join(ids[:most]) + (f" and {len(ids) - most} more" if len(ids) > most else "")


def _show_scores(model: Model, data: str | None) -> None:
    """The table of training-free scores; where there is none, the reason in its place."""
    batch = at_random(model.graph) if data is None else of_task(load_data(data, model, subset=2000))
    probe = Probe(anew(model), batch)
    rows, missing = [], []
    for name, proxy in PROXIES.items():
        try:
            rows.append((name, f"{proxy.score(probe):.5g}", proxy.paper.partition(";")[0]))  # in 80 columns
        except MeasureError as error:
            missing.append(f"no {name}: {error}")
    console.print(screen.columns("training-free scores, with new weights", ("score", "value", "paper"), rows))
    console.print(f"looked at {batch.origin}; higher is better, beside another network's on the same", soft_wrap=True)
    for line in missing:
        console.print(line, markup=False, soft_wrap=True)
