"""How well latencies on an unknown device are predicted from 10 or 20 measurements, device by device.

    OMP_NUM_THREADS=1 python benchmarks/devices.py ../shared/data

Every device of the two tables is left out in turn, with all batch sizes of the same hardware; what is learned, and
which architectures are measured, comes from the other hardware alone. Spearman's correlation over all architectures
that were not measured, beside three rivals: multiply-accumulates; the best other device, chosen with all of its labels
(which nobody could do); and an operator table, one cost for each choice, fitted (ridge, strength by leaving one out) to
the same measurements. ``80 % of all labels`` shows about how far noise lets anybody come. ``--write DIR`` writes the
priors of all devices, which netgraft ships.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV

from netgraft.devices import Known, Prior, fit, hardware, save
from netgraft.spaces.tabular import Benchmark, tabular

TABLES = {"nats-tss": "nasbench201/latency_ms.parquet", "fbnet": "hardware/fbnet_latency_ms.parquet"}


def known_devices(table: Benchmark) -> tuple[Known, dict[str, np.ndarray]]:
    """The devices of a table, and their latencies of the architectures that anybody measured."""
    columns = {
        metric.partition("@")[2]: np.array([table.labels.cost(i, metric) for i in range(len(table))], np.float64)
        for metric in table.labels.metrics
    }
    measured = ~np.isnan(np.array(list(columns.values()))).all(0)
    archs = [arch for arch, known in zip(table.archs, measured, strict=True) if known]
    latencies = {device: column[measured] for device, column in columns.items()}
    return Known.of(table.name, archs, latencies), latencies


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's."""
    return float(spearmanr(a, b)[0])


def operator_table(choices: np.ndarray, measured: Sequence[int], ms: np.ndarray) -> np.ndarray:
    """One cost for each choice, from the measured architectures; predictions for all."""
    model = RidgeCV(alphas=np.logspace(-3, 2, 11)).fit(choices[measured], ms[measured])
    return np.asarray(model.predict(choices))


def ceiling(rows: np.ndarray, ms: np.ndarray) -> float:
    """What the same features reach on a fifth of all labels when they are fitted to the rest: about as far as the noise
    of the labels lets anybody come.
    """
    known = np.flatnonzero(~np.isnan(ms))
    fifth = np.random.default_rng(0).permutation(len(known)) % 5 == 0
    train, rest = known[~fifth], known[fifth]
    mean = np.log(ms[train]).mean()
    gram = rows[train].T @ rows[train] + np.eye(rows.shape[1])
    return correlation(rows[rest] @ np.linalg.solve(gram, rows[train].T @ (np.log(ms[train]) - mean)), ms[rest])


def one_hot(table: Benchmark, archs: Sequence[str]) -> np.ndarray:
    """The choices of architectures, one column for each option."""
    decisions = np.array([table.space.choices.decisions(arch) for arch in archs])
    columns = [decisions[:, i] == option for i, size in enumerate(table.space.choices.sizes) for option in range(size)]
    return np.stack(columns, axis=1).astype(np.float64)


def main() -> None:
    """Reads the options, and goes through the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the shared data")
    parser.add_argument("--space", choices=list(TABLES), action="append", help="one of the two (default: both)")
    parser.add_argument("--write", type=Path, help="write the priors of all devices into this folder")
    parser.add_argument("--only-write", action="store_true", help="write them, and measure nothing")
    options = parser.parse_args()
    for name in options.space or TABLES:
        table = tabular(name, options.data / TABLES[name])
        known, latencies = known_devices(table)
        if options.write:
            save(known.prior(), options.write / f"{name}.npz")
        if not options.only_write:
            report(table, known, latencies)


def report(table: Benchmark, known: Known, latencies: dict[str, np.ndarray]) -> None:
    """Prints the table of one space."""
    choices = one_hot(table, known.archs)
    macs = np.array([table.space.counts(arch)["macs"] for arch in known.archs])
    place = {arch: i for i, arch in enumerate(known.archs)}
    print(f"\n{table.name}: {len(latencies)} devices, {len(known.archs):,} architectures\n")
    headings = [
        "device",
        "MACs",
        "best other device",
        "operator table, 20",
        "known devices + 10",
        "+ 20",
        "+ 20, random",
    ]
    headings += ["device alone left out, + 20", "80 % of all labels", "median error", "in 95 % interval"]
    print("| " + " | ".join(headings) + " |")
    print("|" + "---|" * len(headings))
    rows = []
    for device, ms in latencies.items():
        kin = [other for other in latencies if hardware(other) == hardware(device)]
        prior = known.prior(without=kin, planned=40)
        usable = [place[arch] for arch in prior.plan if not np.isnan(ms[place[arch]])]
        rng = np.random.default_rng(0)
        random = rng.choice(np.flatnonzero(~np.isnan(ms)), 20, replace=False).tolist()
        close = known.prior(without=[device], planned=40)
        close_usable = [place[arch] for arch in close.plan if not np.isnan(ms[place[arch]])]
        scores = {}
        error = covered = 0.0
        arms: dict[str, tuple[Prior, list[int]]] = {
            "10": (prior, usable[:10]),
            "20": (prior, usable[:20]),
            "random": (prior, random),
            "close": (close, close_usable[:20]),
        }
        for label, (source, chosen) in arms.items():
            rest = np.setdiff1d(np.flatnonzero(~np.isnan(ms)), chosen)
            fitted = fit(source, [known.archs[i] for i in chosen], ms[chosen].tolist())
            found = fitted.predict([known.archs[i] for i in rest])
            scores[label] = correlation(found.ms, ms[rest])
            if label == "20":
                error = float(np.median(np.abs(found.ms / ms[rest] - 1)))
                covered = float(np.mean((ms[rest] >= found.low) & (ms[rest] <= found.high)))
                lookup = correlation(operator_table(choices, chosen, ms)[rest], ms[rest])
        both = {o: ~np.isnan(ms) & ~np.isnan(latencies[o]) for o in latencies if o not in kin}
        others = {other: correlation(latencies[other][ok], ms[ok]) for other, ok in both.items()}
        best = max(others, key=lambda other: others[other])
        all_known = ~np.isnan(ms)
        row = [correlation(macs[all_known], ms[all_known]), others[best], lookup]
        row += [scores["10"], scores["20"], scores["random"], scores["close"], ceiling(known.rows, ms), error, covered]
        rows.append(row)
        cells = [f"{row[0]:.3f}", f"{row[1]:.3f} {best}", *(f"{value:.3f}" for value in row[2:8])]
        print("| " + " | ".join([device, *cells, f"{error:.1%}", f"{covered:.0%}"]) + " |", flush=True)
    means = np.mean(rows, axis=0)
    cells = [*(f"{value:.3f}" for value in means[:8]), f"{means[8]:.1%}", f"{means[9]:.0%}"]
    print("| " + " | ".join(["**mean**", *cells]) + " |")
    groups = [hardware(device) for device in latencies]
    by_group = np.mean([np.mean([r for r, g in zip(rows, groups, strict=True) if g == h], 0) for h in set(groups)], 0)
    cells = [*(f"{value:.3f}" for value in by_group[:8]), f"{by_group[8]:.1%}", f"{by_group[9]:.0%}"]
    print("| " + " | ".join([f"mean of {len(set(groups))} kinds of hardware", *cells]) + " |")


if __name__ == "__main__":
    main()
