"""The command line: ``netgraft optimize | inspect | measure | worker | export | report | demo``, and groups of more."""

from __future__ import annotations

import logging
import shlex
import warnings
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from netgraft import (
    bank_commands,
    bench_commands,
    device_commands,
    inspect_command,
    measure_commands,
    predictor_commands,
    quantize_command,
    run_commands,
    segments,
    sources,
    table_commands,
)
from netgraft.data import task as load_data
from netgraft.engine import collect_rarely
from netgraft.errors import NetgraftError
from netgraft.export import RECORD
from netgraft.export import export as write
from netgraft.front import Front
from netgraft.metrics import UNITS, parse_goals
from netgraft.mutations.within import operations
from netgraft.predictor import load as load_predictor
from netgraft.recipe_command import recipe_command
from netgraft.recipes import Plan
from netgraft.recipes import optimize as optimize_model
from netgraft.recipes.clock import check_limits
from netgraft.recipes.optimize import default_mutations, parse_budget
from netgraft.study import Study
from netgraft.terminal import (
    DATA_HELP,
    SOURCES_HELP,
    InputShape,
    console,
    errors,
    evolve,
    heard,
    load,
    note,
    show,
)


def _version(asked: bool) -> None:
    if asked:
        console.print(f"netgraft {version('netgraft')}")
        raise typer.Exit


class _Commands(typer.core.TyperGroup):
    """Turns every error meant for the user into one message and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except NetgraftError as error:
            errors.print("[bold red]error:[/]", end=" ")
            errors.print(str(error), markup=False, soft_wrap=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            errors.print("interrupted")
            raise typer.Exit(130) from None


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, rich_markup_mode="rich")
app.add_typer(run_commands.commands, name="run")
app.add_typer(bank_commands.commands, name="bank")
app.add_typer(predictor_commands.commands, name="predictor")
app.add_typer(bench_commands.commands, name="bench")
app.add_typer(device_commands.commands, name="device")
app.add_typer(table_commands.commands, name="table")

METRICS_HELP = (
    f"[bold]--goal[/] is one of {', '.join(UNITS)}; give it several times for several goals. [bold]--limit[/] is "
    "METRIC<=NUMBER or METRIC>=NUMBER with x for times the original's, or with a unit: 'flops<=0.9x', "
    "'latency<=0.66x', 'parameters<=200k', 'memory<=2MB', 'quality>=90%'. A limit like 'latency<=5ms' is scaled by one "
    "measurement of the original when the run begins. A limit on latency may name its engine, as in "
    "'latency<=5ms@openvino', with threads and inputs at once: 'latency<=9ms@openvino?threads=4&batch=8'. It holds for "
    "what is measured: a finalist that breaks it is not picked."
)
EXAMPLES_HELP = (
    "[bold]Examples[/]\n\nnetgraft optimize zoo:resnet20 --data cifar10/ --budget 30m --out runs/first\n\n"
    "netgraft optimize nets.py:my_net --data data.py:splits --goal quality --goal flops --limit 'flops<=0.7x' "
    "--out runs/mine"
)


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="show the version and exit", callback=_version)] = False,
) -> None:
    """Give it the network you already have, get back a Pareto front of better ones."""


@recipe_command(app, optimize_model, "\n\n".join([SOURCES_HELP, DATA_HELP, METRICS_HELP, EXAMPLES_HELP]), finalists=4)
def optimize(
    goal: Annotated[
        list[str] | None, typer.Option(help="what to improve (default: quality and latency); see below")
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(help="what to keep to, such as 'flops<=0.9x'; see below"),
    ] = None,
    budget: Annotated[
        str, typer.Option(help="a time, such as 10m or 1h30m (without training the original), or '40 trials'")
    ] = "10m",
    bank: Annotated[
        Path | None, typer.Option(help="segments to graft with, of 'netgraft bank mine' (default: netgraft's own)")
    ] = None,
    ops: Annotated[
        str | None,
        typer.Option(
            help="bring in no operations but these, such as conv2d,batch_norm,relu,add, or what an engine runs: "
            "onnxruntime or openvino"
        ),
    ] = None,
    multiple: Annotated[
        int,
        typer.Option(
            help="grafts and trims choose widths that are multiples of this, such as 8, where there is room (1: grafts "
            "may choose any)",
            min=1,
        ),
    ] = 1,
    predictor: Annotated[
        str,
        typer.Option(
            help="what guesses which proposals are worth training: a file of 'netgraft predictor train', shipped, or "
            "none. It is listened to as far as it was right in this run"
        ),
    ] = "none",
) -> Mapping[str, Any]:
    """Evolve a network: better, faster, smaller, within your limits."""
    goals, limits = goal or ["quality", "latency"], limit or []
    parse_goals(goals)
    check_limits(limits)
    parse_budget(budget)
    allowed = operations(ops) if ops is not None else None
    stock = None
    if bank:
        stock = segments.load(bank)
        stock.check()  # better now than in the middle of a search
    guide = None if predictor == "none" else load_predictor(None if predictor == "shipped" else Path(predictor))
    return {
        "goals": goals,
        "limits": limits,
        "budget": budget,
        "mutation": default_mutations(stock, allowed, multiple),
        "predictor": guide,
    }


app.command(epilog=SOURCES_HELP)(inspect_command.inspect)
app.command(epilog=SOURCES_HELP)(measure_commands.measure)
app.command()(measure_commands.worker)
app.command()(quantize_command.quantize)


@app.command()
def export(
    source: Annotated[str, typer.Argument(metavar="RUN|SOURCE", help="the folder of a run, or a network")],
    to: Annotated[Path, typer.Option(help="folder to write to", show_default=False)],
    pick: Annotated[
        str, typer.Option(help="of a run: knee, best, fastest (where one is faster), or the beginning of a digest")
    ] = "knee",
    input_shape: InputShape = None,
) -> None:
    """Write a network, or one of a run: model.py, weights.safetensors, model.onnx, and netgraft.json about them; and
    model.pt2 where the network came from such a file.

    What an earlier export wrote into the folder is replaced, and said to be; files that are not netgraft's, or that
    were changed since, are never overwritten.
    """
    is_run = (Path(source) / "run.json").is_file()
    named = ":" in source or Path(source).suffix in sources.SUFFIXES or sources.is_exported(source)
    replaced = (to / RECORD).exists()
    model = load(source, input_shape) if named and not is_run else None
    with heard() as notices:
        if model:
            written = write(model, to, program=source.endswith(".pt2") or (Path(source) / "model.pt2").is_file())
        else:
            written = Front(Study.read(Path(source)))[pick].export(to)
    note(notices)
    for path in written:
        console.print(str(path), soft_wrap=True)
    if replaced:
        console.print(f"[dim]replaced what was exported to {to} before[/]", soft_wrap=True)


@app.command()
def report(run_folder: Annotated[Path, typer.Argument(metavar="RUN")]) -> None:
    """Write the report of a run again and show its table."""
    show(Study.read(run_folder))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder of the run")] = Path("runs/demo"),
    budget: Annotated[str, typer.Option(help="a time, or a number of trials")] = "2m30s",
    seed: int = 0,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
) -> None:
    """Train a ResNet-20 on handwritten digits, evolve it, and write the report: the whole way in a few minutes."""
    source, data = "zoo:resnet20?channels=1&input=1x8x8", "digits"
    model = load(source, None)
    task = load_data(data, model)
    number = 1
    while out.exists() and not resume:
        number += 1
        out = out.with_name(f"{out.name.removesuffix(f'-{number - 1}')}-{number}")
    plan = Plan(pretrain_epochs=20.0, measure_seconds=25.0)
    command = shlex.join(["netgraft", "demo", "--out", str(out), "--budget", budget, "--seed", str(seed)])
    settings = {"source": source, "data": data, "command": command}
    recipe = partial(
        optimize_model, *(model, task), budget=budget, out=out, seed=seed, resume=resume, plan=plan, settings=settings
    )
    evolve(model, task, command, recipe)


def main() -> None:
    """Entry point of the ``netgraft`` command."""
    # Exporters chat about their own future; what matters to the user comes as an error or in the report.
    warnings.filterwarnings("ignore")
    logging.getLogger("torch").setLevel(logging.ERROR)
    collect_rarely()
    app()


if __name__ == "__main__":
    main()
