"""What is known of a network before it is fine-tuned, and how well that ranks the quality that it has afterwards.

    python benchmarks/agreement.py runs/kinds/graft-0 runs/kinds/all-0 ...

Takes folders of runs of ``netgraft optimize`` (they need not have ended). Prints Spearman's rank correlation of the
validation quality of the networks that were fine-tuned with their agreement with the original, their quality before,
FLOPs, and the estimate of their latency.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from scipy.stats import spearmanr

from netgraft.candidate import TrialState
from netgraft.study import Study


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args()
    print("| run | fine-tuned | agreement | quality before | FLOPs | estimated latency |\n|---|---|---|---|---|---|")
    for run in options.runs:
        study = Study.read(run)
        higher = study.settings["task"]["quality"]["higher_is_better"]
        scores = [t.scores for t in study.trials.values() if t.number and t.state is TrialState.COMPLETE]
        after = [s["quality"] if higher else -s["quality"] for s in scores]
        known = {
            "agreement": [-s["agreement"] for s in scores],
            "before": [s["quality_before"] if higher else -s["quality_before"] for s in scores],
            "FLOPs": [s["flops"] for s in scores],
            "latency": [s["estimate"] for s in scores],
        }
        cells = " | ".join(f"{spearmanr(values, after).statistic:.2f}" for values in known.values())
        print(f"| {run.name} | {len(scores)} | {cells} |")


if __name__ == "__main__":
    main()
