"""Search algorithms on benchmark tables, in simulated time: what they find, and how far it is from the best.

    OMP_NUM_THREADS=1 python benchmarks/searches.py ../shared/data --seeds 500

NAS-Bench-201's cells for the time that NATS-Bench gives a search (20,000, 40,000 and 120,000 s), NAS-Bench-Macro for
150 trainings. A search sees validation accuracies after 12 epochs (on Macro one of three trials of the test accuracy);
it is judged by the longest training that the table has. Beside each mean is the standard deviation over the seeds, and
in brackets what NATS-Bench reports where that is the same quantity, as remembered.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from netgraft.search.tabular import ALGORITHMS, Setting, simulate
from netgraft.spaces.tabular import tabular

REPORTED = {"random": 93.86, "rea": 94.02, "reinforce": 93.90, "bohb-model": 93.94}
"""CIFAR-10 test accuracy after 200 epochs on the topology space (Dong et al., 2021); BOHB's with Hyperband."""

RUNS = [
    ("nats-tss", "nasbench201", "cifar10"),
    ("nats-tss", "nasbench201", "cifar100"),
    ("nats-tss", "nasbench201", "imagenet16-120"),
    ("nasbench-macro", "nasbench_macro", "cifar10"),
]


def main() -> None:
    """Reads the options, and goes through the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the shared data")
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--space", choices=sorted({space for space, *_ in RUNS}), help="only this one")
    options = parser.parse_args()
    print("| table | judged by | algorithm | accuracy (%) | 10 to 90 % | regret | best found | trainings |")
    print("|---|---|---|---|---|---|---|---|")
    for space, folder, dataset in RUNS:
        if options.space not in (None, space):
            continue
        table = tabular(space, options.data / folder)
        setting = Setting.of(table, dataset)
        for algorithm in ALGORITHMS:
            outcomes = [simulate(table, algorithm, setting, seed) for seed in range(options.seeds)]
            judged = np.array([outcome.judged for outcome in outcomes])
            low, high = np.percentile(judged, [10, 90])
            told = f" ({REPORTED[algorithm]:.2f})" if (space, dataset) == ("nats-tss", "cifar10") else ""
            cells = [
                *(space, str(setting.judged), algorithm),
                f"{judged.mean():.2f} ± {judged.std(ddof=1):.2f}{told}",
                f"{low:.2f} to {high:.2f}",
                f"{setting.top - judged.mean():.2f}",
                f"{np.mean([outcome.regret <= 0 for outcome in outcomes]):.1%}",
                f"{np.mean([outcome.evaluations for outcome in outcomes]):.0f}",
            ]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
