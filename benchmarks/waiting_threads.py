"""How torch's threads wait for each other: trainings of two threads, alone and beside a program that keeps a core busy.

    python benchmarks/waiting_threads.py [--steps 40] [--rounds 3]

By default a thread that waits spins for a millisecond and more (libgomp's ``GOMP_SPINCOUNT``), netgraft lets it spin
for microseconds and then sleep (``netgraft/__init__.py``), and ``OMP_WAIT_POLICY=PASSIVE`` lets it sleep at once. Each
in a process of its own, in turns: ResNet-20 for 32x32 images, a batch of 64, forward, backward and a step. Prints
Markdown: a step on the mean in milliseconds, and as a multiple of the default's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from statistics import median

WAYS = {
    "as libgomp does by default": {},
    "a little": {"GOMP_SPINCOUNT": "10000"},
    "less": {"GOMP_SPINCOUNT": "1000"},
    "asleep": {"OMP_WAIT_POLICY": "PASSIVE"},
}
STEPS = """
import sys, time, torch
from netgraft.zoo import build
torch.set_num_threads(2)
module = build("resnet20").train()
optimiser = torch.optim.SGD(module.parameters(), 0.01)
images, classes = torch.randn(64, 3, 32, 32), torch.zeros(64, dtype=torch.long)
took = []
for _ in range(int(sys.argv[1])):
    start = time.perf_counter()
    optimiser.zero_grad()
    torch.nn.functional.cross_entropy(module(images), classes).backward()
    optimiser.step()
    took.append(time.perf_counter() - start)
print(sum(took[1:]) / len(took[1:]))
"""
BUSY = "while True: pass"


def step(way: dict[str, str], steps: int) -> float:
    """Milliseconds of a step on the mean, without the first: stalls count."""
    names = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS"}
    plain = {name: value for name, value in os.environ.items() if name not in names}
    # Loaded as torch alone would be: what netgraft sets by itself is set here for each way.
    script = "import torch\n" + STEPS
    done = subprocess.run(
        [sys.executable, "-c", script, str(steps)], env=plain | way, check=True, capture_output=True, text=True
    )
    return 1e3 * float(done.stdout)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    took: dict[tuple[str, str], list[float]] = {}
    for _ in range(args.rounds):
        for beside, hogs in (("alone", 0), ("beside a busy core", 1)):
            busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(hogs)]
            try:
                for name, way in WAYS.items():
                    took.setdefault((beside, name), []).append(step(way, args.steps))
            finally:
                for process in busy:
                    process.kill()
    print(f"{os.cpu_count()} cores, {args.rounds} rounds\n")
    print("| two threads | waiting | a step, ms | of the default's |\n|---|---|---|---|")
    for (beside, name), found in took.items():
        default = median(took[beside, next(iter(WAYS))])
        middle = median(found)
        print(f"| {beside} | {name} | {middle:.0f} ({min(found):.0f} to {max(found):.0f}) | {middle / default:.2f}x |")


if __name__ == "__main__":
    main()
