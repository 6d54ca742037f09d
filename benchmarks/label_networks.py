"""Trains many small networks alike on CIFAR-10 and writes down how well they did: labels for a predictor.

    OMP_NUM_THREADS=1 python benchmarks/label_networks.py CIFAR10_FOLDER --out labels [--count 300] [--seconds 3600]

The networks are members of AutoGO's families at a half to an eighth of their widths, and grafted children of a
ResNet-20 and of such members, all on 16x16 images. Each is trained from scratch for 3 epochs of 6,000 training images,
has its batch-norm statistics re-estimated, and is judged on 2,000 others of the training split; the test split is not
read. The labels are lines of
``OUT/cifar10-16px.jsonl``: what is there already is not done again, so that the work can be stopped at any time.
Network and training follow from ``--seed`` and the line's number alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from netgraft import sources
from netgraft.convert.to_torch import to_module
from netgraft.costs.analytic import flops
from netgraft.data import task as task_of
from netgraft.errors import NetgraftError
from netgraft.ir import Batch, Builder, Graph, TensorType, Value, untrained
from netgraft.ir.text import render
from netgraft.mutations.graft import Graft
from netgraft.spaces.families import FAMILIES, member
from netgraft.tasks import Schedule, evaluate, recalibrate, train

GROUP = "cifar10-16px-6k-3ep"
IMAGE = TensorType((Batch(), 3, 16, 16))
EXAMPLES = 8000  # of which a quarter is for judging
SCHEDULE = Schedule(epochs=3, learning_rate=0.1)
WIDTHS = {"nasbench101": 8, "nasbench201": 2, "hiaml": 4, "two_path": 2, "inception": 4}
MOST_FLOPS = 20e6  # of a network that is still worth its time


def narrowed(graph: Graph, divisor: int, image: TensorType) -> Graph:
    """The network for other images and with all hidden widths divided; NetgraftError where its layers do not allow it.

    A convolution that is as wide as its input in groups stays depthwise; the last layer keeps its width.
    """
    builder = Builder()
    values: dict[Value, Value] = {Value(given.id): builder.input(given.id, image) for given in graph.inputs}
    last = [node for node in graph if node.op == "linear"][-1:]
    for node in graph:
        inputs = [values[value] for value in node.inputs]
        attrs: dict[str, Any] = dict(node.attrs)
        if node.op == "conv2d":
            attrs["out_channels"] = max(1, attrs["out_channels"] // divisor)
            channels = int(graph.input_types(node)[0].concrete()[1])
            if attrs["groups"] > 1:
                attrs["groups"] = int(builder.type(inputs[0]).concrete()[1]) if attrs["groups"] == channels else 1
        elif node.op == "linear" and node not in last:
            attrs["out_features"] //= divisor
        elif node.op == "slice" and attrs.get("axis") == 1:
            raise NetgraftError(f"{node.id} cuts channels at a fixed place")
        first = builder.add(node.op, *inputs, id=node.id, **attrs)
        values |= {node.value(i): replace(first, index=i) for i in range(len(graph.output_types(node)))}
    return builder.build(*(values[value] for value in graph.outputs))


def network(number: int, seed: int, grafting: Graft) -> tuple[str, Graph]:
    """Where network ``number`` comes from, and the network: a member of each family in turn, then a grafted child."""
    rng = np.random.default_rng([seed, number])
    names = list(WIDTHS)
    kind = number % (len(names) + 2)
    for _ in range(50):
        name = "resnet20" if kind > len(names) else names[kind % len(names)]
        try:
            if name == "resnet20":
                origin, graph = "zoo:resnet20", narrowed(sources.load("zoo:resnet20").graph, 1, IMAGE)
            else:
                family = FAMILIES[name]
                origin, full = member(family, family.draw(rng))
                graph = narrowed(full, WIDTHS[name], IMAGE)
            if kind >= len(names):
                for _ in range(1 + int(rng.integers(4))):
                    proposal = next(grafting.proposals(graph, rng), None)
                    if proposal is not None:
                        origin, graph = f"{origin} + {proposal.edit.origin}", proposal.child
        except NetgraftError:
            continue
        if flops(graph) <= MOST_FLOPS:
            return origin, graph
    raise NetgraftError(f"no network number {number} that is small enough")


def labelled(folder: str, seed: int, numbers: Iterator[int]) -> Iterator[dict[str, Any]]:
    """A label for each number, whose network is trained meanwhile."""
    grafting = Graft()
    task = None
    for number in numbers:
        started = time.process_time()
        origin, graph = network(number, seed, grafting)
        model = untrained(graph, origin, seed=number)
        task = task or task_of(folder, model, seed=0, subset=EXAMPLES)
        module = to_module(model)
        label = {"number": number, "group": GROUP, "origin": origin, "flops": flops(graph), "graph": render(graph)}
        if train(module, task, SCHEDULE, seed=number).diverged:
            yield label | {"failed": "the training diverged"}
            continue
        recalibrate(module, task, seed=number)  # some families' batch norms forget too slowly for so short a training
        score = evaluate(module, task, "validation")
        yield label | {"score": score.quality, "error": score.error, "cost": time.process_time() - started}


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the labels, one line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder of parquet files with CIFAR-10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=3600, help="when to stop, in wall-clock time")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "cifar10-16px.jsonl"
    done = {json.loads(line)["number"] for line in file.read_text().splitlines()} if file.exists() else set()
    end = time.monotonic() + args.seconds
    numbers = (number for number in range(args.count) if number not in done and time.monotonic() < end)
    with file.open("a", encoding="utf-8") as lines:
        for label in islice(labelled(args.data, args.seed, numbers), args.count):
            if "score" in label:
                print(json.dumps(label), file=lines, flush=True)
            score = label.get("score", float("nan"))
            print(
                f"{label['number']:4} {score:6.2f} {label['flops'] / 1e6:7.1f} MFLOPs {label['origin'][:90]}",
                flush=True,
            )


if __name__ == "__main__":
    main()
