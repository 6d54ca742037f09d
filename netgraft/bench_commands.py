"""``netgraft bench run | query``: benchmark tables on the command line."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from netgraft import console as screen
from netgraft.errors import OptionError
from netgraft.search.tabular import ALGORITHMS, Setting, simulate
from netgraft.spaces.tabular import SPACES, Benchmark, tabular

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

commands = typer.Typer(
    no_args_is_help=True,
    help="Benchmark tables (NATS-Bench, NAS-Bench-Macro, FBNet's space): simulated searches, and what was measured.",
)

Space = Annotated[str, typer.Argument(help=", ".join(SPACES), show_default=False)]
Data = Annotated[
    list[Path],
    typer.Option(
        help="a folder of NATS-Bench in fast mode (such as NATS-tss-v1_0-3ffb9-simple), or parquet files or a folder "
        "of them, with a column arch and columns like cifar10_valid_acc_12ep; beside it or alone "
        "HW-NAS-Bench-v1_0.pickle, for what architectures take on devices",
        show_default=False,
    ),
]
Dataset = Annotated[str, typer.Option(help="cifar10, cifar100 or imagenet16-120")]


@commands.command()
def run(
    space: Space,
    data: Data,
    algorithm: Annotated[
        list[str] | None, typer.Option(help=f"one of {', '.join(ALGORITHMS)}; several times for several (default: all)")
    ] = None,
    dataset: Dataset = "cifar10",
    seeds: Annotated[int, typer.Option(help="how many searches of each", min=1)] = 100,
    seconds: Annotated[
        float | None, typer.Option(help="simulated time of a search (default: NATS-Bench's, such as 20000 for cifar10)")
    ] = None,
    evaluations: Annotated[
        int | None,
        typer.Option(help="trainings of a search, instead (where a table has no times: 150)", min=1),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="of the trainings that a search sees (default: 12, or all)")
    ] = None,
) -> None:
    """Compare search algorithms on a benchmark table, in simulated time: final accuracy and regret, with their spread.

    random: uniform draws; rea: regularised evolution; reinforce: a softmax for each decision; bohb-model: the density
    model of BOHB, without Hyperband. Architectures without a label are left out. Times are the table's own, or (with a
    note) estimated.
    """
    for name in algorithm or ():
        if name not in ALGORITHMS:
            raise OptionError(f"there is no algorithm {name!r}; there are: {', '.join(ALGORITHMS)}")
    if seconds is not None and seconds <= 0:
        raise OptionError(f"--seconds {seconds:g} leaves no time for a training")
    table = tabular(space, data)
    rows = []
    with _progress() as progress:
        reading = partial(progress.track, description="reading the table")
        setting = Setting.of(table, dataset, epochs, seconds, evaluations, reading)
        for name in dict.fromkeys(algorithm or ALGORITHMS):
            bar = progress.add_task(name, total=seeds)
            outcomes = []
            for seed in range(seeds):
                outcomes.append(simulate(table, name, setting, seed))
                progress.advance(bar)
            judged = np.array([outcome.judged for outcome in outcomes])
            low, high = np.percentile(judged, [10, 90])
            rows.append(
                (
                    name,
                    f"{judged.mean():.2f} ± {judged.std(ddof=1) if seeds > 1 else 0:.2f}",
                    f"{low:.2f} to {high:.2f}",
                    f"{setting.top - judged.mean():.2f}",
                    f"{np.mean([outcome.regret <= 0 for outcome in outcomes]):.0%}",
                    f"{np.mean([outcome.evaluations for outcome in outcomes]):.0f}",
                )
            )
    budget = f"{setting.seconds:,.0f} simulated seconds" if setting.seconds else f"{setting.evaluations} trainings"
    headings = ("algorithm", "accuracy (%) ± sd", "10 to 90 %", "regret", "best found", "trainings")
    console.print(screen.columns(f"{table.name}, {seeds} searches of {budget} each", headings, rows))
    console.print(
        f"searches see {setting.observed}; what they find is judged by {setting.judged}, where the best of the table "
        f"has {setting.top:.2f} %",
        soft_wrap=True,
    )
    if setting.seconds and any(outcome.estimated for outcome in outcomes):
        console.print("the table has no times: they are estimated from multiply-accumulates", soft_wrap=True)


@commands.command()
def query(
    space: Space,
    arch: Annotated[str, typer.Argument(help="an arch, or its index", show_default=False)],
    data: Data,
) -> None:
    """Say everything that a benchmark table knows of one architecture."""
    table = tabular(space, data)
    which = int(arch) if re.fullmatch(r"0|[1-9]\d*", arch) and arch not in table else arch
    spelling = table.spelling(which)
    rows: list[tuple[str, ...]] = []
    if spelling in table:
        rows = _trained(table, table.index(spelling))
    elif not table.prices:
        table.index(spelling)  # nothing is known of it: says so
    for metric, cost in table.costs(spelling).items():
        rows.append((metric, f"{cost:,.0f}" if metric in _COUNTED else f"{cost:.6g}{_unit(metric)}"))
    console.print(screen.columns(spelling, ("", "value"), rows))
    others = [other for other in table.equals(spelling) if other != spelling] if spelling in table else []
    if others:
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        console.print(f"computes the same as {shown}", markup=False, soft_wrap=True)


_COUNTED = ("macs", "parameters")
_UNITS = {"latency": " ms", "energy": " mJ", "intensity": " operations/byte"}


def _unit(metric: str) -> str:
    return _UNITS.get(metric.partition("@")[0], "")


def _trained(table: Benchmark, index: int) -> list[tuple[str, ...]]:
    """What is known of the trainings of an architecture."""
    rows: list[tuple[str, ...]] = [("index", str(index))]
    for training in table.labels.trainings:
        if (mean := table.labels.accuracy(index, training, None, None)) is not None:
            count = table.labels.trials(index, training)
            rows.append((str(training), f"{mean:.2f} %" + (f" (mean of {count})" if count > 1 else "")))
            seconds = table.labels.seconds(index, training, None)
            if seconds is not None:
                rows.append((f"{training}: time", f"{seconds:,.1f} s"))
    return rows


def _progress() -> Progress:
    parts = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    return Progress(*parts, console=errors, transient=True)
