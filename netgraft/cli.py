"""The command line: ``netgraft optimize | inspect | measure | worker | export | report | demo``, and groups of more."""

from __future__ import annotations

import logging
import shlex
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from netgraft import (
    bank_commands,
    bench_commands,
    device_commands,
    predictor_commands,
    run_commands,
    segments,
    sources,
    table_commands,
)
from netgraft import console as screen
from netgraft.channels import channels as find_channels
from netgraft.costs.analytic import activation_memory, flops, flops_by_node, latency_estimate, parameters
from netgraft.costs.frozen import frozen_flops
from netgraft.costs.measured import ENGINES, Network, check_counters, compare, energy, engines, footprint
from netgraft.costs.measured import measure as measure_one
from netgraft.costs.measured.worker import pack as pack_worker
from netgraft.costs.measured.worker import serve
from netgraft.data import task as load_data
from netgraft.engine import collect_rarely, engine_from
from netgraft.errors import MeasureError, NetgraftError, OptionError, SourceError
from netgraft.export import RECORD
from netgraft.export import export as write
from netgraft.front import Front
from netgraft.ir import Graph, Model
from netgraft.ir.text import render_node
from netgraft.metrics import UNITS, parse_goals
from netgraft.mutations.fixed import fixed_by, untouchable
from netgraft.mutations.within import operations
from netgraft.predictor import load as load_predictor
from netgraft.proxies import PROXIES, Probe, anew, at_random, of_task
from netgraft.recipes import Plan
from netgraft.recipes import optimize as optimize_model
from netgraft.recipes.optimize import default_mutations, parse_budget
from netgraft.study import Study, check_unused
from netgraft.terminal import (
    DATA_HELP,
    SOURCES_HELP,
    InputShape,
    Source,
    console,
    errors,
    evolve,
    heard,
    load,
    note,
    pretrain_epochs,
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
    "'latency<=5ms@openvino', and holds for what is measured: a finalist that breaks it is not picked."
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


@app.command(epilog="\n\n".join([SOURCES_HELP, DATA_HELP, METRICS_HELP, EXAMPLES_HELP]))
def optimize(
    source: Source,
    data: Annotated[
        str, typer.Option(help="digits, FILE.parquet, a folder, or FILE.py:NAME; see below", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="folder of the run", show_default=False)],
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
    finalists: Annotated[int, typer.Option(help="how many networks are trained longer and measured")] = 4,
    learning_rate: Annotated[float, typer.Option(help="of fine-tuning, at its peak")] = 0.05,
    teacher: Annotated[bool, typer.Option(help="fine-tune with the original as teacher")] = True,
    measure: Annotated[
        str,
        typer.Option(
            help="when latency is measured: search (every network, shortly, before it is fine-tuned; the estimate "
            "learns from it), or end (finalists only: the same seed then gives the same trials on any machine)"
        ),
    ] = "search",
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
    table: Annotated[
        str | None,
        typer.Option(help="estimate latency by a latency table: a file of 'netgraft table build', or shipped"),
    ] = None,
    freeze: Annotated[
        list[str] | None, typer.Option(help="leave alone what this pattern of module paths matches, such as 'head.*'")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="change nothing but what this pattern matches, such as 'stages.2.*'")
    ] = None,
    predictor: Annotated[
        str,
        typer.Option(
            help="what guesses which proposals are worth training: a file of 'netgraft predictor train', shipped, or "
            "none. It is listened to as far as it was right in this run"
        ),
    ] = "none",
    engine: Annotated[str, typer.Option(help="inline, or processes:N to evaluate N networks at a time")] = "inline",
) -> None:
    """Evolve a network: better, faster, smaller, within your limits."""
    goals, limits = goal or ["quality", "latency"], limit or []
    parse_goals(goals)  # before anything is loaded
    parse_budget(budget)
    if not resume:
        check_unused(out)
    allowed = operations(ops) if ops is not None else None
    stock = None
    if bank:
        stock = segments.load(bank)
        stock.check()  # better now than in the middle of a search
    mutation = default_mutations(stock, allowed)
    latencies = table_commands.table_from(table) if table else None
    chosen = None if predictor == "none" else load_predictor(None if predictor == "shipped" else Path(predictor))
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
    with engine_from(engine) as workers:
        command = shlex.join(["netgraft", *sys.argv[1:]])
        recipe = partial(
            optimize_model,
            *(model, task),
            goals=goals,
            limits=limits,
            budget=budget,
            out=out,
            seed=seed,
            resume=resume,
            plan=plan,
            mutation=mutation,
            freeze=freeze or [],
            only=only or [],
            engine=workers,
            table=latencies,
            predictor=chosen,
            settings={"source": source, "data": data, "command": command},
        )
        evolve(model, task, command, recipe)


@app.command(epilog=SOURCES_HELP)
def inspect(
    source: Source,
    input_shape: InputShape = None,
    nodes: Annotated[bool, typer.Option("--nodes", help="print the whole graph, node by node")] = False,
    channels: Annotated[
        bool, typer.Option("--channels", help="print which channels can be dropped, and which only together")
    ] = False,
    scores: Annotated[
        bool,
        typer.Option(
            "--scores", help="print training-free scores, too: of the network as initialised, to compare with others"
        ),
    ] = False,
    data: Annotated[
        str | None, typer.Option(help="what --scores look at, as 'optimize --data' (default: random inputs)")
    ] = None,
    freeze: Annotated[list[str] | None, typer.Option(help="try a pattern of 'optimize --freeze'")] = None,
    only: Annotated[list[str] | None, typer.Option(help="try a pattern of 'optimize --only'")] = None,
) -> None:
    """Show what a network is made of, what it costs, what is frozen and why, and what no mutation changes."""
    if data and not scores:
        raise OptionError("--data is for --scores; give both, or neither")
    model = load(source, input_shape)
    graph = model.graph
    signature = graph.signature
    frozen = [node for node in graph if node.op == "frozen"]
    frozen_share = frozen_flops(model) if frozen else 0
    total = flops(graph) + frozen_share
    console.print(f"[bold]{model.name}[/]  digest {graph.digest}")
    console.print(
        screen.columns(
            "costs at batch 1",
            ("", "value"),
            [
                ("inputs", ", ".join(map(str, signature.inputs))),
                ("outputs", ", ".join(map(str, signature.outputs))),
                ("operations", f"{len(graph)}, {len(frozen)} of them frozen"),
                (
                    "FLOPs",
                    f"{total / 1e6:,.2f} M" + (f", {frozen_share / 1e6:,.2f} M of them frozen" if frozen else ""),
                ),
                ("parameters", f"{parameters(graph):,}"),
                ("activation memory, peak", f"{activation_memory(graph) / 1e6:,.2f} MB"),
                ("latency, estimated", f"{latency_estimate(graph):.3f} ms (see 'netgraft measure')"),
            ],
        )
    )
    kinds, by_node = Counter(node.op for node in graph), flops_by_node(graph)
    by_kind: Counter[str] = Counter(frozen=frozen_share)
    for node in graph:
        by_kind[node.op] += by_node[node.id]
    rows = [(op, str(count), f"{by_kind[op] / max(1, total):.1%}") for op, count in kinds.most_common()]
    console.print(screen.columns("operations", ("operation", "count", "share of FLOPs"), rows))
    if scores:
        _show_scores(model, data)
    if nodes:
        for node in graph:
            gives = ", ".join(map(str, graph.output_types(node)))
            weights = "".join(f"\n    {key}: {graph.weight_types[key]}" for key in node.weights.values())
            console.print(f"{render_node(node)} -> {gives}{weights}", markup=False, soft_wrap=True)
    if channels:
        _show_channels(graph)
    if frozen:
        reasons = [(node.id, node.attrs["target"], node.attrs["reason"]) for node in frozen]
        console.print(screen.columns("frozen: kept as they are", ("node", "operation", "why"), reasons))
    left_alone: dict[str, list[str]] = {}
    asked = dict.fromkeys(fixed_by(graph, freeze or [], only or []), "--freeze or --only says so")
    reasons_by_node = asked | untouchable(graph)
    for node in graph:
        if node.id in reasons_by_node and node.op != "frozen":
            left_alone.setdefault(reasons_by_node[node.id], []).append(node.id)
    if left_alone:
        console.print("[bold]left alone[/]: no mutation changes them")
    for why, ids in left_alone.items():
        console.print(f"  {why}: {_few(ids)}", markup=False, soft_wrap=True)


def _show_channels(graph: Graph) -> None:
    """Prints the groups of channels that can be dropped, and what none can be dropped of."""
    found = find_channels(graph)
    console.print(
        "[bold]channels[/]: a line for each group, of which any may be dropped (NUMBER x ROWS of the weights that make "
        "them)",
        soft_wrap=True,
    )
    for group in found.groups:
        key, axis = group.axes[0]
        label = found.weights[key][axis]
        rows = 1.0 if label is None else np.isin(label, group.units).any(axis=1).sum() / group.channels
        each = f" x {rows:.4g}" if rows != 1 else ""
        norms = f"; normalised together by {_few(group.normalised)}" if group.normalised else ""
        line = f"  {group.channels}{each}: made by {_few(group.makers)}; read by {_few(group.readers)}{norms}"
        console.print(line, markup=False, soft_wrap=True)
    by_reason: dict[str, list[str]] = {}
    for id, why in found.held.items():
        by_reason.setdefault(why, []).append(id)
    if by_reason:
        console.print("[bold]channels that stay[/]: all of them are needed by")
    for why, ids in by_reason.items():
        console.print(f"  {why}: {_few(ids)}", markup=False, soft_wrap=True)


def _few(ids: Sequence[str], most: int = 6) -> str:
    """The first of several names, and how many more there are."""
    return ", ".join(ids[:most]) + (f" and {len(ids) - most} more" if len(ids) > most else "")


def _show_scores(model: Model, data: str | None) -> None:
    """The table of training-free scores; where there is none, the reason in its place."""
    batch = at_random(model.graph) if data is None else of_task(load_data(data, model, subset=2000))
    probe = Probe(anew(model), batch)
    rows, missing = [], []
    for name, proxy in PROXIES.items():
        try:
            rows.append((name, f"{proxy.score(probe):.5g}", proxy.paper.partition(";")[0]))  # in 80 columns
        except MeasureError as error:
            missing.append(f"no {name}: {error}")
    console.print(screen.columns("training-free scores, with new weights", ("score", "value", "paper"), rows))
    console.print(f"looked at {batch.origin}; higher is better, beside another network's on the same", soft_wrap=True)
    for line in missing:
        console.print(line, markup=False, soft_wrap=True)


@app.command(epilog=SOURCES_HELP)
def measure(
    source: Annotated[
        str, typer.Argument(help="a network, FILE.onnx, or a folder that export wrote", show_default=False)
    ],
    second: Annotated[str | None, typer.Argument(help="a second one, measured interleaved")] = None,
    input_shape: InputShape = None,
    engine: Annotated[str, typer.Option(help=f"what runs them: {', '.join(ENGINES)}")] = "onnxruntime",
    precision: Annotated[
        str, typer.Option(help="fp32, bf16 (where the processor has it) or int8 (quantised first, on random inputs)")
    ] = "fp32",
    batch: Annotated[int, typer.Option(min=1)] = 1,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    seconds: Annotated[float, typer.Option(help="about how long to measure at most", min=1)] = 30.0,
    on: Annotated[
        str | None, typer.Option(help="another machine: a folder that 'netgraft worker' serves, or ssh://host[:port]")
    ] = None,
    memory: Annotated[bool, typer.Option("--memory", help="say peak memory (Linux) and the file's size, too")] = False,
    joules: Annotated[
        bool, typer.Option("--energy", help="measure the energy of a run, too, where the processor counts it (RAPL)")
    ] = False,
    table: Annotated[
        str | None,
        typer.Option(help="measure nothing, but estimate by a file of 'netgraft table build', or the shipped table"),
    ] = None,
) -> None:
    """Measure latency with a 99 % interval; of two networks, the ratio of the second to the first."""
    if table is not None:
        latencies = table_commands.table_from(table)
        if (engine, precision, batch, threads, on) != (latencies.engine, "fp32", 1, 1, None) or memory or joules:
            raise OptionError(
                f"--table estimates for {latencies.engine}, fp32, a batch of 1, one thread; leave out --table"
            )
        for name in [source] if second is None else [source, second]:
            estimate = latencies.estimate(load(name, input_shape).graph)
            unknown = (
                f"; {1 - estimate.known:.0%} of it in kernels that the table never saw"
                if estimate.known < 0.995
                else ""
            )
            console.print(
                f"{name}: about {estimate.milliseconds:.4g} ms, "
                f"90 % interval [{estimate.low:.4g}, {estimate.high:.4g}] "
                f"(estimated by the table for {latencies.about.get('processor', 'an unknown processor')}, "
                f"{latencies.engine}{unknown})",
                markup=False,
                soft_wrap=True,
            )
        return
    if joules:
        check_counters()  # before time is spent on the rest
    if (memory or joules) and on:
        raise OptionError("--memory and --energy are measured on this machine; leave out --on")
    first = _network(source, input_shape)
    where = f"{engine}, {precision}, CPU, batch {batch}, {threads} thread{'s' if threads > 1 else ''}" + (
        f", on {on}" if on else ""
    )
    if second is None:
        found = measure_one(
            first, engine=engine, precision=precision, batch=batch, threads=threads, seconds=seconds, on=on
        )
        interval = f"[{found.low_ms:.4g}, {found.high_ms:.4g}]"
        console.print(
            f"{found.median_ms:.4g} ms, 99 % interval {interval} ({where}, {found.sessions} sessions)", soft_wrap=True
        )
        noisy = found.noisy
    else:
        other = _network(second, input_shape)
        (ratio,) = compare(
            [other], first, engine=engine, precision=precision, batch=batch, threads=threads, seconds=seconds, on=on
        )
        console.print(f"{source}: {ratio.baseline_ms:.4g} ms; {second}: {ratio.model_ms:.4g} ms ({where})")
        console.print(
            f"time of the second: {ratio.ratio:.3f}x [{ratio.low:.3f}, {ratio.high:.3f}] of the first (99 % interval), "
            f"a speed-up of {ratio.speedup:.2f}x: {ratio.verdict} "
            f"({ratio.pairs} fresh session pairs; the first against itself: "
            f"{ratio.null:.3f} [{ratio.null_low:.3f}, {ratio.null_high:.3f}])",
            soft_wrap=True,
        )
        noisy = ratio.noisy
    for name, network in [(source, first)] if second is None else [(source, first), (second, other)]:
        if memory:
            taken = footprint(network, engine=engine, precision=precision, batch=batch, threads=threads)
            console.print(
                f"{name}: {taken.memory / 1e6:,.1f} MB of memory at its peak, a file of {taken.file / 1e6:,.2f} MB",
                markup=False,
                soft_wrap=True,
            )
        if joules:
            used = energy(network, engine=engine, precision=precision, batch=batch, threads=threads)
            console.print(
                f"{name}: {1e3 * used.run:.4g} mJ a run, {1e3 * used.extra:.4g} mJ more than the machine takes idle",
                markup=False,
                soft_wrap=True,
            )
    if noisy:
        errors.print("[yellow]this machine is too busy for a sharp answer; measure again when it is quiet[/]")


@app.command()
def worker(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="shared with those who ask; made where it is missing")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="do the jobs that wait, and end")] = False,
    pack: Annotated[
        Path | None, typer.Option(help="instead write the worker as one file, such as worker.pyz", show_default=False)
    ] = None,
) -> None:
    """Measure what 'netgraft measure --on DIR' asks for, until Ctrl-C: on the machine whose time counts.

    A device needs no netgraft: copy the file that --pack writes there, and run 'python3 worker.pyz DIR' with Python
    3.11, numpy and an engine installed (pip install numpy onnxruntime). DIR is any folder that both machines see.
    """
    if (folder is None) == (pack is None):
        raise OptionError("name either a folder to serve, or with --pack a file to write")
    if pack:
        pack_worker(pack)
        console.print(
            f"copy {pack} to the device, and run there: python3 {pack.name} DIR", markup=False, soft_wrap=True
        )
    if folder:
        console.print(f"serving {folder} with {', '.join(engines())}; Ctrl-C ends it", markup=False, soft_wrap=True)
        serve(folder, once=once, say=lambda line: console.print(line, markup=False, soft_wrap=True))


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
    is_network = not Path(source).is_dir() and (":" in source or Path(source).suffix in sources.SUFFIXES)
    replaced = (to / RECORD).exists()
    model = load(source, input_shape) if is_network else None
    with heard() as notices:
        if model:
            written = write(model, to, program=source.endswith(".pt2"))
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


def _network(source: str, input_shape: str | None) -> Network:
    """What is to be measured: a file that engines read as it is, or else a network."""
    if Path(source).is_dir():
        source = str(Path(source) / "model.onnx")
        if not Path(source).is_file():
            raise SourceError(f"{source} does not exist; name a folder that netgraft export wrote, or a file")
    return Path(source) if source.endswith((".onnx", ".tflite")) else load(source, input_shape)


def main() -> None:
    """Entry point of the ``netgraft`` command."""
    # Exporters chat about their own future; what matters to the user comes as an error or in the report.
    warnings.filterwarnings("ignore")
    logging.getLogger("torch").setLevel(logging.ERROR)
    collect_rarely()
    app()


if __name__ == "__main__":
    main()
