"""``netgraft run NAME SOURCE``: published methods on the command line, one command a recipe.

To add one: write a recipe that takes what :func:`_run` hands on, and here a function whose parameters are the options
that only this recipe has, with a docstring for the help, under ``@_recipe(the recipe)``.
"""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from netgraft.data import task as load_data
from netgraft.engine import engine_from
from netgraft.front import Front
from netgraft.mutations.fixed import fixed_by
from netgraft.mutations.importance import IMPORTANCES
from netgraft.recipes import Plan, amc, blockswap, compactnet, netadapt, program
from netgraft.study import check_unused
from netgraft.table_commands import table_from
from netgraft.terminal import DATA_HELP, SOURCES_HELP, InputShape, Source, evolve, load, pretrain_epochs

commands = typer.Typer(
    no_args_is_help=True,
    help="Published methods, each with its paper's defaults: a network trimmed to a limit. 'optimize' searches freely.",
)

LIMIT_HELP = (
    "[bold]--limit[/] is METRIC<=NUMBER, with x for times the original's, or with a unit, on latency, flops, "
    "parameters or memory: 'flops<=0.5x', 'latency<=0.7x', 'latency<=5ms@openvino', 'parameters<=200k'. Latency is "
    "measured, and estimated for what is not measured yet; with [bold]--measure end[/] it is only estimated, by "
    "counting or by a [bold]--table[/], until the end."
)
EXAMPLE_HELP = (
    "[bold]Example[/]\n\nnetgraft run {name} nets.py:my_net --data photos/ --limit 'flops<=0.7x' --out runs/{name}"
)


def _common(
    source: Source,
    data: Annotated[str, typer.Option(help="digits, FILE.parquet, a folder, or FILE.py:NAME; see below")],
    out: Annotated[Path, typer.Option(help="folder of the run")],
    seed: Annotated[int, typer.Option(help="of everything that is drawn")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
    input_shape: InputShape = None,
    subset: Annotated[int | None, typer.Option(help="use this many training examples only")] = None,
    normalize: Annotated[
        str, typer.Option(help="what the network expects of images: data, none, imagenet or MEANS/DEVIATIONS")
    ] = "data",
    pretrain: Annotated[
        float | None, typer.Option(help="train the original first for so many epochs (default: 0; zoo networks: some)")
    ] = None,
    tune_epochs: Annotated[float | None, typer.Option(help="epochs of a short fine-tuning (default: by data)")] = None,
    final_epochs: Annotated[float | None, typer.Option(help="epochs of a finalist (default: 4 tunings)")] = None,
    finalists: Annotated[int, typer.Option(help="how many networks are trained longer and measured")] = 1,
    learning_rate: Annotated[float, typer.Option(help="of fine-tuning, at its peak")] = 0.05,
    teacher: Annotated[bool, typer.Option(help="fine-tune with the original as teacher")] = True,
    measure: Annotated[str, typer.Option(help="when latency is measured: search, or end (finalists only)")] = "search",
    table: Annotated[
        str | None,
        typer.Option(help="estimate latency by a latency table: a file of 'netgraft table build', or shipped"),
    ] = None,
    freeze: Annotated[list[str] | None, typer.Option(help="leave alone what this pattern matches")] = None,
    only: Annotated[list[str] | None, typer.Option(help="change nothing but what this pattern matches")] = None,
    engine: Annotated[str, typer.Option(help="inline, or processes:N to evaluate N networks at a time")] = "inline",
) -> None:
    """The arguments and options of every recipe's command."""


def _recipe(recipe: Callable[..., Front]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a command of a function whose parameters are options that only this ``recipe`` has."""

    def command(own: Callable[..., None]) -> Callable[..., None]:
        name = own.__name__.rstrip("_")
        common = inspect.signature(_common, eval_str=True).parameters
        options = inspect.signature(own, eval_str=True).parameters

        def run(**given: Any) -> None:
            _run(recipe, {name: given.pop(name) for name in options}, **given)

        parameters = [*common.values(), *options.values()]
        order = sorted(parameters, key=lambda p: p.default is not inspect.Parameter.empty)  # a stable sort
        run.__signature__ = inspect.Signature(order)  # type: ignore[attr-defined]  # what typer reads
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in order}
        run.__doc__ = own.__doc__
        epilog = "\n\n".join([SOURCES_HELP, DATA_HELP, LIMIT_HELP, EXAMPLE_HELP.format(name=name)])
        commands.command(name, epilog=epilog)(run)
        return run

    return command


def _run(
    recipe: Callable[..., Front],
    own: dict[str, Any],
    source: str,
    data: str,
    out: Path,
    seed: int,
    resume: bool,
    input_shape: str | None,
    subset: int | None,
    normalize: str,
    pretrain: float | None,
    tune_epochs: float | None,
    final_epochs: float | None,
    finalists: int,
    learning_rate: float,
    teacher: bool,
    measure: str,
    table: str | None,
    freeze: list[str] | None,
    only: list[str] | None,
    engine: str,
) -> None:
    if not resume:
        check_unused(out)  # before anything is loaded
    latencies = table_from(table) if table else None
    model = load(source, input_shape)
    fixed_by(model.graph, freeze or [], only or [])  # a wrong pattern is better heard of before data is read
    task = load_data(data, model, subset=subset, normalize=normalize)
    plan = Plan(
        finalists=finalists,
        tune_epochs=tune_epochs,
        final_epochs=final_epochs,
        pretrain_epochs=pretrain_epochs(source, task, pretrain),
        learning_rate=learning_rate,
        teacher=teacher,
        measure=measure,
    )
    command = shlex.join(["netgraft", *sys.argv[1:]])
    with engine_from(engine) as workers:
        ready = partial(
            recipe,
            *(model, task),
            **own,
            out=out,
            seed=seed,
            resume=resume,
            plan=plan,
            freeze=freeze or [],
            only=only or [],
            table=latencies,
            engine=workers,
            settings={"source": source, "data": data, "command": command},
        )
        evolve(model, task, command, ready)


Importance = Annotated[str, typer.Option(help=f"which filters stay: {', '.join(IMPORTANCES)}")]
Multiple = Annotated[int, typer.Option(help="widths are multiples of this, where there is room", min=1)]


@_recipe(netadapt)
def netadapt_(
    limit: Annotated[str, typer.Option(help="what to come down to; see below")] = "latency<=0.7x",
    iterations: Annotated[int, typer.Option(help="in about so many steps at most", min=1)] = 30,
    step: Annotated[
        float | None,
        typer.Option(help="the first step, as a share (default: 0.025, or what it takes)"),
    ] = None,
    importance: Importance = "l2",
    multiple: Multiple = 8,
) -> None:
    """NetAdapt (ECCV 2018): trim where least quality is lost for what is saved, step by step."""


@_recipe(compactnet)
def compactnet_(
    limit: Annotated[str, typer.Option(help="what to come down to; see below")] = "latency<=0.69x",
    iterations: Annotated[int, typer.Option(help="in about so many steps", min=1)] = 24,
    importance: Importance = "l2",
) -> None:
    """CompactNet (2019): trim the candidate that stays most accurate, for one platform."""


@_recipe(amc)
def amc_(
    limit: Annotated[str, typer.Option(help="what to come down to; see below")] = "flops<=0.5x",
    episodes: Annotated[int, typer.Option(help="networks to try, each judged without training", min=1)] = 400,
    least: Annotated[float, typer.Option(help="the share of a group's channels that stays at least")] = 0.2,
    importance: Importance = "reads",
    multiple: Multiple = 8,
    images: Annotated[int, typer.Option(help="training images for refitting layers", min=1)] = 1000,
) -> None:
    """AMC (ECCV 2018): an agent learns how wide each part stays, by what trimming costs before any training."""


Candidates = Annotated[int, typer.Option(help="random networks to choose from", min=1)]
Kept = Annotated[int, typer.Option(help="of them, how many are fine-tuned", min=1)]
Batch = Annotated[int, typer.Option(help="training images that the Fisher potential is asked of", min=2)]


@_recipe(program)
def program_(candidates: Candidates = 1000, keep: Kept = 5, batch: Batch = 128) -> None:
    """Program transformation (ASPLOS 2021): random forms of convolutions, the fastest of those that are legal."""


@_recipe(blockswap)
def blockswap_(
    limit: Annotated[str, typer.Option(help="parameters<=NUMBER, with x, k or M")] = "parameters<=0.4x",
    candidates: Candidates = 1000,
    keep: Kept = 1,
    batch: Batch = 128,
) -> None:
    """BlockSwap (ICLR 2020): residual blocks with cheaper substitutes, the largest Fisher potential within a budget."""
