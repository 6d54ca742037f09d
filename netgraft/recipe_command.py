"""The command of a recipe: the options that all of them have, and how one is run with progress on the terminal."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from netgraft.data import task as load_data
from netgraft.engine import engine_from
from netgraft.front import Front
from netgraft.mutations.fixed import fixed_by
from netgraft.recipes import Plan
from netgraft.study import check_unused
from netgraft.table_commands import table_from
from netgraft.tasks.device import CPU, described, device_named
from netgraft.terminal import InputShape, Source, console, evolve, heard, load, note, pretrain_epochs


def _common(
    source: Source,
    data: Annotated[
        str, typer.Option(help="digits, FILE.parquet, a folder, or FILE.py:NAME; see below", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="folder of the run", show_default=False)],
    seed: Annotated[int, typer.Option(help="the same seed gives the same trials")] = 0,
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
    finalists: Annotated[int, typer.Option(help="how many networks are trained to the end and measured")] = 1,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="of fine-tuning, at its peak (default: 0.02; for pictures 0.05, of which Adam takes 2 %)"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="examples in a batch of training (default: 128, less of few or large ones)")
    ] = None,
    teacher: Annotated[bool, typer.Option(help="fine-tune with the original as teacher")] = True,
    measure: Annotated[
        str,
        typer.Option(
            help="when latency is measured: search (every network, shortly, before it is fine-tuned; the estimate "
            "learns from it), or end (finalists only: the same seed then gives the same trials on any machine)"
        ),
    ] = "search",
    table: Annotated[
        str | None,
        typer.Option(help="estimate latency by a latency table: a file of 'netgraft table build', or shipped"),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            help="measure on another machine: a folder that 'netgraft worker' serves there, or ssh://host[:port]"
        ),
    ] = None,
    freeze: Annotated[
        list[str] | None, typer.Option(help="leave alone what this pattern of module paths matches, such as 'head.*'")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="change nothing but what this pattern matches, such as 'stages.2.*'")
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="where networks are trained and judged: auto (CUDA where there is some, or else the CPU), cpu, cuda, "
            "cuda:1 or mps; latency is measured as ever"
        ),
    ] = "auto",
    engine: Annotated[str, typer.Option(help="inline, or processes:N to evaluate N networks at a time")] = "inline",
) -> None:
    """The arguments and options of every recipe's command."""


Own = Callable[..., Mapping[str, Any]]
"""A function of the options that only one recipe has, which gives the recipe's arguments."""


def recipe_command(
    group: typer.Typer, recipe: Callable[..., Front], epilog: str, finalists: int = 1
) -> Callable[[Own], Own]:
    """Makes a command of ``group`` of a function whose parameters are options that only this ``recipe`` has. It is
    called first, to check them before anything is loaded, and returns what the recipe is to be given. Its docstring is
    the help. The recipe takes what :class:`netgraft.recipes.Run` has, too; ``finalists`` is how many it has by default.
    """

    def command(own: Own) -> Own:
        options = inspect.signature(own, eval_str=True).parameters
        common = dict(inspect.signature(_common, eval_str=True).parameters)
        common["finalists"] = common["finalists"].replace(default=finalists)

        def run(**given: Any) -> None:
            _run(recipe, partial(own, **{name: given.pop(name) for name in options}), **given)

        parameters = [*options.values(), *common.values()]
        order = sorted(parameters, key=lambda p: p.default is not inspect.Parameter.empty)  # what must be given first
        run.__signature__ = inspect.Signature(order)  # type: ignore[attr-defined]  # what typer reads
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in order}
        run.__doc__ = own.__doc__
        group.command(own.__name__.rstrip("_"), epilog=epilog)(run)
        return own

    return command


def _run(
    recipe: Callable[..., Front],
    own: Callable[[], Mapping[str, Any]],
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
    learning_rate: float | None,
    batch_size: int | None,
    teacher: bool,
    measure: str,
    table: str | None,
    on: str | None,
    freeze: list[str] | None,
    only: list[str] | None,
    device: str,
    engine: str,
) -> None:
    arguments = own()
    if not resume:
        check_unused(out)  # before anything is loaded
    latencies = table_from(table) if table else None
    model = load(source, input_shape)
    fixed_by(model.graph, freeze or [], only or [])  # a wrong pattern is better heard of before data is read
    device_named(device)  # likewise
    task = load_data(data, model, subset=subset, normalize=normalize)
    with heard() as notices:
        task = task.to(device)
    note(notices)
    if task.device != CPU:
        console.print(f"networks are trained and judged on {described(task.device)}", highlight=False)
    plan = Plan(
        finalists=finalists,
        tune_epochs=tune_epochs,
        final_epochs=final_epochs,
        pretrain_epochs=pretrain_epochs(source, task, pretrain),
        learning_rate=learning_rate,
        batch_size=batch_size,
        teacher=teacher,
        measure=measure,
    )
    command = shlex.join(["netgraft", *sys.argv[1:]])
    with engine_from(engine) as workers:
        ready = partial(
            recipe,
            *(model, task),
            **arguments,
            out=out,
            seed=seed,
            resume=resume,
            plan=plan,
            freeze=freeze or [],
            only=only or [],
            table=latencies,
            on=on,
            device=task.device,
            engine=workers,
            settings={"source": source, "data": data, "subset": subset, "normalize": normalize, "command": command},
        )
        evolve(model, task, command, ready)
