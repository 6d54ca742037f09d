"""Is the latency interval honest? A against A must hold 1.0, and a net that is about 10 % slower must be told apart.

    python benchmarks/latency_interval.py --repeats 40

Each repeat is one whole ``netgraft.costs.measured.compare`` with a seed of its own: ResNet-20 is the baseline, and
both itself and a ResNet-20 with one more block (11 % more multiply-adds) are measured against it. That is done on the
machine as it is found, and again beside neighbours: processes that multiply matrices in bursts of random length, more
of them than there are cores. How much of a core was left to the measuring is printed as well: 100 % is a machine to
itself. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from netgraft.costs.measured import Ratio, compare
from netgraft.zoo.resnet import BasicBlock, resnet20


def to_onnx(module: torch.nn.Module) -> bytes:
    """The module in eval mode as ONNX, with a dynamic batch axis."""
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.onnx.export(module.eval(), (torch.randn(2, 3, 32, 32),), dynamic_shapes=dynamic, verbose=False)
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def longer_resnet20(stage: int) -> torch.nn.Module:
    """ResNet-20 with a fourth block in one of its three stages."""
    module = resnet20()
    features = (16, 32, 64)[stage]
    blocks = module.get_submodule(f"layer{stage + 1}")
    assert isinstance(blocks, torch.nn.Sequential)
    blocks.append(BasicBlock(features, features, 1))
    return module


def be_a_neighbour(seed: int) -> None:
    """Multiply matrices in bursts, with pauses; both last half a second on average."""
    rng = random.Random(seed)
    matrix = np.random.default_rng(seed).standard_normal((500, 500))
    while True:
        end = time.monotonic() + rng.expovariate(2)
        while time.monotonic() < end:
            matrix @ matrix
        time.sleep(rng.expovariate(2))


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Surround what is done inside by ``count`` busy processes."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=be_a_neighbour, args=(seed,), daemon=True) for seed in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def half_width(ratio: Ratio) -> float:
    """In percent of the ratio."""
    return 100 * (ratio.high - ratio.low) / 2 / ratio.ratio


def row(name: str, ratios: list[Ratio], verdict: str) -> str:
    """One line of the table: how often ``verdict`` was reached, and how wide the intervals were."""
    widths = [half_width(ratio) for ratio in ratios]
    low, median, high = np.percentile(widths, [10, 50, 90])
    values = [ratio.ratio for ratio in ratios]
    right = sum(ratio.verdict == verdict for ratio in ratios)
    noisy = sum(ratio.noisy for ratio in ratios)
    pairs = np.median([ratio.pairs for ratio in ratios])
    return (
        f"| {name} | {np.median(values):.3f} | {min(values):.3f} to {max(values):.3f} | {right} of {len(ratios)} | "
        f"±{median:.2f} % ({low:.2f} to {high:.2f}) | {pairs:.0f} | {noisy} |"
    )


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40, help="comparisons under each condition")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="budget of one comparison of both models")
    parser.add_argument("--stage", type=int, default=1, choices=(0, 1, 2), help="which stage gets one more block")
    parser.add_argument("--neighbours", type=int, default=(os.cpu_count() or 1) + 1, help="busy processes beside")
    options = parser.parse_args()

    torch.manual_seed(0)
    baseline, slower = to_onnx(resnet20()), to_onnx(longer_resnet20(options.stage))
    columns = ("comparison", "median ratio", "all ratios", "right verdict", "half-width (10 to 90 %)", "pairs", "noisy")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    durations: list[float] = []
    for count in (0, options.neighbours):
        machine = f"{count} neighbours" if count else "as found"
        repeats: list[list[Ratio]] = []
        with neighbours(count):
            wall, own = time.perf_counter(), time.process_time()
            for seed in range(options.repeats):
                start = time.monotonic()
                repeats.append(
                    compare(
                        [baseline, slower],
                        baseline,
                        batch=options.batch,
                        threads=options.threads,
                        seconds=options.seconds,
                        seed=seed,
                    )
                )
                durations.append(time.monotonic() - start)
            share = (time.process_time() - own) / (time.perf_counter() - wall)
        print(row(f"{machine}, A against A", [same for same, _ in repeats], "no difference shown"))
        print(row(f"{machine}, one block more", [other for _, other in repeats], "slower"), flush=True)
        nulls = sum(same.null_low <= 1 <= same.null_high for same, _ in repeats)
        print(f"| {machine}, share of a core: {100 * share:.0f} % |  |  |  |  |  |  |")
        print(f"| {machine}, A/A null beside it |  |  | {nulls} of {len(repeats)} |  |  |  |", flush=True)
    print(f"\nOne comparison took {np.median(durations):.1f} s (median), {max(durations):.1f} s at most.")


if __name__ == "__main__":
    main()
