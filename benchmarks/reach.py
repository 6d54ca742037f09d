"""Which networks can be trimmed by half, by netgraft and by Torch-Pruning.

    OMP_NUM_THREADS=1 python benchmarks/reach.py [PATTERN ...] [--timeout 120]

Halves the channels of the networks of ``benchmarks/coverage_models.py`` (all that are installed, or those whose names
match a PATTERN such as ``timm/*``), with random weights, by netgraft and by Torch-Pruning's GroupNormPruner with its
GroupMagnitudeImportance, both by the L2 norm of filters. Whoever is left with a network that runs, gives outputs of the
same shapes, all finite, and has less than three quarters of the parameters counts as having reached it; else the table
says what went wrong. Torch-Pruning is told which layers give the outputs and how many heads a layer of attention has,
and the network afterwards how wide its heads are, as its manual and examples do; netgraft finds out. Each has
``--timeout`` seconds of processor time a network. Needs ``pip install netgraft[bench]``.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from coverage_models import MODELS
from torch import nn
from torch.utils import _pytree as pytree
from trim import trimmed

from netgraft.channels import channels
from netgraft.convert.from_torch import from_module
from netgraft.convert.to_torch import to_module
from netgraft.ir import Model, apply, inherit
from netgraft.mutations.importance import Filters

HALVED = 0.75
"""The share of the parameters that may be left at most."""
ATTENTION = ("qkv", "q", "k", "v", "query", "key", "value", "q_proj", "k_proj", "v_proj", "to_q", "to_k", "to_v")
"""What layers of attention are called."""

CHANNELS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
"""Layers that choose their number of channels."""

Halve = Callable[[nn.Module, tuple[Any, ...], Sequence[str]], nn.Module]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument("--timeout", type=int, default=120, help="seconds of processor time")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    wanted = [name for name in MODELS if any(fnmatch.fnmatch(name, pattern) for pattern in options.patterns)]
    ways: dict[str, Halve] = {"netgraft": halved_by_us, "Torch-Pruning": halved_by_torch_pruning}
    reached: Counter[str] = Counter()
    tried = 0
    print(f"| network | {' | '.join(f'{way}: parameters | seconds' for way in ways)} |\n|---|---|---|---|---|")
    for name in wanted:
        torch.manual_seed(0)
        try:
            module, inputs = MODELS[name]()
        except Exception:  # of a package that is not installed, or not for this one
            continue
        tried += 1
        cells = []
        last = last_layers(copy.deepcopy(module).eval(), inputs)
        for way, halve in ways.items():
            found = attempt(halve, copy.deepcopy(module).eval(), inputs, last, options.timeout)
            reached[way] += not isinstance(found, str)
            cells.append(f"{found} |" if isinstance(found, str) else f"{found[0]:.2f}x | {found[1]:.1f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print("\n" + "; ".join(f"{way}: {reached[way]} of {tried}" for way in ways))


def attempt(
    halve: Halve, module: nn.Module, inputs: tuple[Any, ...], last: Sequence[str], timeout: int
) -> tuple[float, float] | str:
    """The share of parameters left of a network that runs, and seconds of processor time; or what failed."""
    before = sum(p.numel() for p in module.parameters())
    try:
        with within(timeout):
            shapes = shapes_of(module, inputs)
            started = time.process_time()
            child = halve(module, inputs, last).eval()
            seconds = time.process_time() - started
            after = shapes_of(child, inputs)
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:80]}".replace("|", "/")
    share = sum(p.numel() for p in child.parameters()) / before
    if after != shapes:
        return f"outputs became {after}"[:100]
    return (share, seconds) if share < HALVED else f"only {share:.2f}x"


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """TimeoutError where what is done in it takes longer, in processor time."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def shapes_of(module: nn.Module, inputs: tuple[Any, ...]) -> list[tuple[int, ...]]:
    """The shapes of a network's outputs; they must be finite."""
    with torch.no_grad():
        outputs = tensors(module(*inputs))
    if not all(torch.isfinite(o).all() for o in outputs):
        raise ValueError("outputs that are not finite")
    return [tuple(o.shape) for o in outputs]


def tensors(output: Any) -> list[torch.Tensor]:
    """The tensors in whatever a network returns."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def halved_by_us(module: nn.Module, inputs: tuple[Any, ...], last: Sequence[str]) -> nn.Module:
    """Half of every group of channels dropped; which layers are the last it finds out itself."""
    del last
    model = from_module(module, inputs)
    edit = trimmed(model, Filters(2), 0.5)
    weights, _ = inherit(model.graph, edit, model.weights, np.random.default_rng(0))
    return to_module(Model(apply(model.graph, edit), weights))


def halved_by_torch_pruning(module: nn.Module, inputs: tuple[Any, ...], last: Sequence[str]) -> nn.Module:
    """The same, by Torch-Pruning."""
    import torch_pruning as tp

    pruner = tp.pruner.GroupNormPruner(
        module,
        inputs,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[part for name, part in module.named_modules() if name in last],
        num_heads={layer: heads for _, heads, layers in attentions(module) for layer in layers.values()},
        output_transform=tensors,
    )
    pruner.step()
    for part, heads, layers in attentions(module):
        for name, layer in layers.items():
            width = layer.out_features // (3 if name == "qkv" else 1)
            sizes = {"head_dim": width // heads, "attention_head_size": width // heads, "all_head_size": width}
            for attribute in sizes.keys() & vars(part).keys():
                setattr(part, attribute, sizes[attribute])
    return module


def last_layers(module: nn.Module, inputs: tuple[Any, ...]) -> list[str]:
    """The names of the layers whose channels are those of the outputs; where netgraft cannot read the network, of those
    with parameters that ran last before each output was there.
    """
    try:
        held = channels(from_module(module, inputs).graph).held.items()
    except Exception:  # of whatever kind: it is not the other's fault
        ran: list[str] = []
        hooks = [
            part.register_forward_hook(lambda *_, name=name: ran.append(name))
            for name, part in module.named_modules()
            if isinstance(part, CHANNELS)
        ]
        try:
            outputs = shapes_of(module, inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return ran[-len(outputs) :]
    return [id for id, why in held if why == "the network's output"]


def attentions(module: nn.Module) -> Iterator[tuple[nn.Module, int, dict[str, nn.Linear]]]:
    """The parts that hold layers of attention, how many heads they have, and these layers by name."""
    for part in module.modules():
        named = (getattr(part, name, None) for name in ("num_heads", "heads", "num_attention_heads", "n_heads"))
        heads = next((each for each in named if isinstance(each, int)), None)
        layers = {n: each for n, each in part.named_children() if n in ATTENTION and isinstance(each, nn.Linear)}
        if heads is not None and layers:
            yield part, heads, layers


if __name__ == "__main__":
    main()
