"""``netgraft run NAME SOURCE``: published methods on the command line, one command a recipe.

To add one: write a recipe that takes :class:`netgraft.recipes.Run`'s arguments, and here a function whose parameters
are the options that only this recipe has and which gives its arguments, under ``@_command(the recipe)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from netgraft.front import Front
from netgraft.mutations.importance import IMPORTANCES
from netgraft.recipe_command import Own, recipe_command
from netgraft.recipes import amc, blockswap, compactnet, netadapt, program
from netgraft.recipes.clock import check_limits
from netgraft.terminal import DATA_HELP, SOURCES_HELP

commands = typer.Typer(
    no_args_is_help=True,
    help="Published methods, each with its paper's defaults: a network trimmed to a limit. 'optimize' searches freely.",
)

LIMIT_HELP = (
    "[bold]--limit[/] is METRIC<=NUMBER, with x for times the original's, or with a unit, on latency, flops, "
    "parameters or memory: 'flops<=0.5x', 'latency<=0.7x', 'latency<=5ms@openvino?threads=4', 'parameters<=200k'. "
    "Latency is measured, and estimated for what is not measured yet; with [bold]--measure end[/] it is only "
    "estimated, by counting or by a latency [bold]--table[/], until the end."
)
EXAMPLE_HELP = (
    "[bold]Example[/]\n\nnetgraft run {name} nets.py:my_net --data photos/ --limit 'flops<=0.7x' --out runs/{name}"
)


def _command(recipe: Callable[..., Front], finalists: int = 1) -> Callable[[Own], Own]:
    example = EXAMPLE_HELP.format(name=recipe.__name__)
    return recipe_command(commands, recipe, "\n\n".join([SOURCES_HELP, DATA_HELP, LIMIT_HELP, example]), finalists)


Importance = Annotated[str, typer.Option(help=f"which filters stay: {', '.join(IMPORTANCES)}")]
Multiple = Annotated[int, typer.Option(help="widths are multiples of this, where there is room", min=1)]


@_command(netadapt)
def netadapt_(
    limit: Annotated[str, typer.Option(help="what to come down to; see below")] = "latency<=0.7x",
    iterations: Annotated[int, typer.Option(help="in about so many steps at most", min=1)] = 30,
    step: Annotated[
        float | None,
        typer.Option(help="the first step, as a share (default: 0.025, or what it takes)"),
    ] = None,
    importance: Importance = "l2",
    multiple: Multiple = 8,
) -> Mapping[str, Any]:
    """NetAdapt (ECCV 2018): trim where least quality is lost for what is saved, step by step."""
    check_limits([limit])
    return {"limit": limit, "iterations": iterations, "step": step, "importance": importance, "multiple": multiple}


@_command(compactnet)
def compactnet_(
    limit: Annotated[str, typer.Option(help="what to come down to; see below")] = "latency<=0.69x",
    iterations: Annotated[int, typer.Option(help="in about so many steps", min=1)] = 24,
    importance: Importance = "l2",
) -> Mapping[str, Any]:
    """CompactNet (2019): trim the candidate that stays most accurate, for one platform."""
    check_limits([limit])
    return {"limit": limit, "iterations": iterations, "importance": importance}


@_command(amc)
def amc_(
    limit: Annotated[str, typer.Option(help="what to come down to; see below")] = "flops<=0.5x",
    episodes: Annotated[int, typer.Option(help="networks to try, each judged without training", min=1)] = 400,
    least: Annotated[float, typer.Option(help="the share of a group's channels that stays at least")] = 0.2,
    importance: Importance = "reads",
    multiple: Multiple = 8,
    images: Annotated[int, typer.Option(help="training images for refitting layers", min=1)] = 1000,
) -> Mapping[str, Any]:
    """AMC (ECCV 2018): an agent learns how wide each part stays, by what trimming costs before any training."""
    check_limits([limit])
    return {
        "limit": limit,
        "episodes": episodes,
        "least": least,
        "importance": importance,
        "multiple": multiple,
        "images": images,
    }


Candidates = Annotated[int, typer.Option(help="random networks to choose from", min=1)]
Kept = Annotated[int, typer.Option(help="of them, how many are fine-tuned", min=1)]
Batch = Annotated[int, typer.Option(help="training images that the Fisher potential is asked of", min=2)]


@_command(program, finalists=3)
def program_(candidates: Candidates = 1000, keep: Kept = 5, batch: Batch = 128) -> Mapping[str, Any]:
    """Program transformation (ASPLOS 2021): random forms of convolutions, the fastest of those that are legal."""
    return {"candidates": candidates, "keep": keep, "batch": batch}


@_command(blockswap, finalists=3)
def blockswap_(
    limit: Annotated[str, typer.Option(help="parameters<=NUMBER, with x, k or M")] = "parameters<=0.4x",
    candidates: Candidates = 1000,
    keep: Kept = 1,
    batch: Batch = 128,
) -> Mapping[str, Any]:
    """BlockSwap (ICLR 2020): residual blocks with cheaper substitutes, the largest Fisher potential within a budget."""
    check_limits([limit])
    return {"limit": limit, "candidates": candidates, "keep": keep, "batch": batch}
