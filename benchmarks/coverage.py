"""Which PyTorch networks come in, and come out the same: one row a network, as docs/coverage.md shows them.

    python benchmarks/coverage.py [PATTERN ...] [--out coverage] [--write docs/coverage.md] [--timeout 300]

The networks are those of ``benchmarks/coverage_models.py`` (all, or those whose names match a PATTERN such as
``transformers/*``), with random weights; those of packages that are not installed are skipped and counted. Each runs in
a process of its own, within ``--timeout`` seconds of processor time and ``--memory`` GB, and becomes a line of
OUT/rows.jsonl; started again, the benchmark goes on with what is missing. Ctrl-C ends it with the table so far. Weights
are drawn so that all of them matter: scales, shifts and
batch-norm statistics as after training, because with PyTorch's own a wrong one may not show.

Columns, each a number, ``ok``, ``-`` where there is nothing to ask, or the reason why not:

- import: seconds of processor time to read the network, and how many times what ``torch.export`` itself takes of them
  for both modes
- ops: how many operations the graph has; known: the share of them in the op table (the others are frozen)
- FLOPs known: the share of the FLOPs, as ``torch.utils.flop_counter`` counts them, in known operations
- eval, train: the greatest difference from the original's outputs, relative where they are above one; train also
  compares the batch-norm statistics afterwards, with the same random state for dropout (at most 1e-5), but not outputs
  that only training has (a warning below names these networks); ``f64`` where rounding alone makes more in float32, so
  that both were compared in float64 (at most 1e-10)
- batch: the same at batch sizes 1 and 5
- size: the same for images twice as large, where the original takes them and is fully convolutional: it has no
  attention, linear attention (a product of two computed matrices) included, and no recurrence, and looks no places up
  by their number
- source: the written ``model.py`` loads the weights strictly and computes the same (at most 1e-5)
- ONNX: onnxruntime's outputs for the written file (at most 1e-4); ``f64`` where they are off by more, but by no more
  than four times what torch's own float32 is from its float64
- regions: how many regions a cut by the shipped bank's vocabulary gives that mutations may replace
- child: one edit each of graft, swap and trim applied, run in torch and written as source
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import fnmatch
import json
import math
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

CLOSE, ONNX_CLOSE, EXACT = 1e-5, 1e-4, 1e-10
_PATIENCE = 10
"""How many times the processor time a network may take by the clock: the machine may be busy."""


def main() -> None:
    """Runs what is missing, then prints or writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument("--out", type=Path, default=Path("coverage"))
    parser.add_argument("--write", type=Path, help="a Markdown file to write instead of printing")
    parser.add_argument("--timeout", type=int, default=300)
    parser.add_argument("--memory", type=float, default=10.0)
    parser.add_argument("--again", action="store_true", help="run those with a failing cell again")
    given = parser.parse_args()
    from coverage_models import MODELS
    from coverage_page import failures, page

    given.out.mkdir(parents=True, exist_ok=True)
    journal = given.out / "rows.jsonl"
    rows = {}
    if journal.exists():
        rows = {done["name"]: done for done in map(json.loads, journal.read_text().splitlines())}
    wanted = [name for name in mixed(MODELS) if any(fnmatch.fnmatch(name, pattern) for pattern in given.patterns)]
    missing = [name for name in wanted if name not in rows or (given.again and failures(rows[name]))]
    with contextlib.suppress(KeyboardInterrupt):
        context = server() if missing else None
        for name in missing:
            rows[name] = in_process(context, name, given.timeout, given.memory)
            with journal.open("a") as file:
                file.write(json.dumps(rows[name]) + "\n")
            print(name, failures(rows[name]) or "ok", file=sys.stderr, flush=True)
    found = [rows[name] for name in sorted(wanted) if name in rows]
    text = page(__doc__ or "", found, len(wanted) - len(found))
    given.write.write_text(text, encoding="utf-8") if given.write else print(text)


def mixed(names: Iterable[str]) -> list[str]:
    """The names in an order in which what is done of them, whenever one stops, is something of every package."""
    packages: dict[str, list[str]] = {}
    for name in names:
        packages.setdefault(name.partition("/")[0], []).append(name)
    shares = {name: (i + 0.5) / len(of_one) for of_one in packages.values() for i, name in enumerate(of_one)}
    return sorted(shares, key=shares.__getitem__)


def in_process(context: Any, name: str, timeout: int, memory: float) -> dict[str, Any]:
    """The row of one network, or a row that says why there is none."""
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_send_row, args=(name, theirs, timeout, int(memory * 2**30)))
    child.start()
    theirs.close()
    try:
        if not ours.poll(_PATIENCE * timeout):
            return {"name": name, "import": f"not done after {_PATIENCE * timeout} s"}
        found: dict[str, Any] = ours.recv()
        return found
    except EOFError:
        child.join()
        if child.exitcode in (-signal.SIGKILL, -signal.SIGXCPU):
            return {"name": name, "import": f"not done after {timeout} s of processor time, or out of memory"}
        return {"name": name, "import": f"the process ended with {child.exitcode}"}
    finally:
        child.kill()
        child.join()


def _send_row(name: str, connection: Any, timeout: int, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + timeout, used + timeout))
    connection.send(row(name))
    os._exit(0)  # what a network left behind does not have to be put away


def server() -> Any:
    """Processes that have everything loaded when they start, because they are forks of this one."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    import torch

    torch.set_num_threads(1)  # threads would not survive a fork
    row("zoo/resnet20")
    return multiprocessing.get_context("fork")


# One network


def row(name: str) -> dict[str, Any]:
    """Builds the network called ``name``, and asks every question of it."""
    from coverage_models import MODELS

    warnings.simplefilter("ignore")
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    found: dict[str, Any] = {"name": name}
    try:
        module, inputs = MODELS[name]()
    except ImportError as error:
        return found | {"skipped": str(error).partition("\n")[0]}
    except Exception as error:
        return found | {"skipped": f"cannot be built: {_short(error)}"}
    return found | examine(calibrated(randomised(module), inputs), inputs)


def randomised(module: Any) -> Any:
    """Statistics, scales and shifts as after training, so that every one of them shows in the output."""
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1 and parameter.is_floating_point():
            low, high = (0.75, 1.25) if name.endswith("weight") or "gamma" in name else (-0.25, 0.25)
            parameter.data.uniform_(low, high)
        elif parameter.ndim > 1 and not parameter.data.any():
            parameter.data.normal_(std=0.02)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.2)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return module


def calibrated(module: Any, inputs: tuple[Any, ...]) -> Any:
    """The module with statistics of batch norms about as its activations are in evaluation, layer after layer, so that
    these neither grow nor vanish: otherwise rounding alone makes differences as great as those that are looked for.
    """
    import torch

    def fit(part: Any, given: tuple[Any, ...]) -> None:
        x = given[0].detach().transpose(0, 1).flatten(1)
        off = torch.empty_like(part.running_var).uniform_(0.8, 1.25), torch.randn_like(part.running_mean) * 0.2
        part.running_var.copy_(x.var(1, correction=0).nan_to_num(1.0).clamp(min=0.1) * off[0])
        part.running_mean.copy_(x.mean(1).nan_to_num(0.0) + off[1] * part.running_var.sqrt())

    norms = [part for part in module.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    hooks = [part.register_forward_pre_hook(fit) for part in norms if part.running_var is not None]
    more = tuple(
        torch.cat([x, *(torch.randn_like(x) for _ in range(3))]) if x.is_floating_point() else x for x in inputs
    )
    try:
        with torch.no_grad():
            module.eval()(*(more if len({len(x) for x in more}) == 1 else inputs))
    except Exception:  # what does not run on so many is calibrated as far as it came
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return module.eval()


def examine(module: Any, inputs: tuple[Any, ...]) -> dict[str, Any]:
    """The cells of a row."""
    import torch

    from netgraft.convert.from_torch import from_module
    from netgraft.convert.to_torch import to_module
    from netgraft.errors import NetgraftError

    cells: dict[str, Any] = {}
    said: list[Any] = []
    try:
        with warnings.catch_warnings(record=True) as said, exports() as exported:
            warnings.simplefilter("always", UserWarning)
            start = time.process_time()
            model = from_module(copy.deepcopy(module), inputs)
    except NetgraftError as error:
        return {"import": _short(error)}
    except Exception as error:
        return {"import": f"CRASH {_short(error)} at {_where(error)}"}
    seconds = time.process_time() - start
    cells["import"] = "ok"
    cells["seconds"] = round(seconds, 2)
    cells["times"] = round(seconds / sum(exported.values()), 2) if len(exported) == 2 else None
    cells["warnings"] = [str(w.message) for w in said if "netgraft" in str(w.filename) or w.category is UserWarning]
    graph = model.graph
    frozen = [node for node in graph if node.op == "frozen"]
    cells["ops"], cells["known"] = len(graph), round(1 - len(frozen) / len(graph), 4)
    cells["frozen"] = dict(Counter(node.attrs["target"] for node in frozen))
    cells["why"] = dict(Counter(f"{node.attrs['target']}: {node.attrs['reason']}" for node in frozen))

    def ask(cell: str, question: Callable[[], Any]) -> None:
        try:
            cells[cell] = question()
        except Exception as error:
            cells[cell] = f"{_short(error)} ({_where(error)})"

    back, original = to_module(model), copy.deepcopy(module)

    def compared(sizes: Sequence[int], *, training: bool = False) -> Any:
        given = [[torch.cat([x] * (size // len(x) + 1))[:size] for x in inputs] for size in sizes]
        worst = max(difference(back.train(training), original.train(training), xs) for xs in given)
        if worst <= CLOSE:
            return worst
        ours, theirs = (copy.deepcopy(part).double().train(training) for part in (back, original))
        wide = [[x.double() if x.is_floating_point() else x for x in xs] for xs in given]
        off = max(difference(ours, theirs, xs) for xs in wide)
        return f"f64 {off:.0e}" if off <= EXACT else f"off by {worst:.2g} ({off:.2g} in float64)"

    ask("FLOPs known", lambda: known_flops(model))
    ask("eval", lambda: compared([len(inputs[0])]))
    ask("batch", lambda: compared([1, 5]))
    ask("size", lambda: other_size(back.eval(), original.eval(), graph, inputs))

    def trained() -> Any:
        off = compared([max(2, len(inputs[0]))], training=True)
        if isinstance(off, str) and off.startswith("off"):
            return off
        after = dict(original.named_buffers())
        wrong = [k for k, v in back.named_buffers() if k in after and not torch.allclose(v, after[k], 1e-5, 1e-5)]
        return f"{wrong[0]} differs afterwards" if wrong else off

    ask("source", lambda: source(model))
    ask("ONNX", lambda: onnx(model))
    ask("regions", lambda: regions(graph))
    ask("child", lambda: children(model))
    ask("train", trained)  # last: it changes the statistics
    return cells


@contextlib.contextmanager
def exports() -> Iterator[dict[bool, float]]:
    """The seconds that ``torch.export`` takes meanwhile, by whether the module is in training: of the last call that
    succeeded, because those before it were attempts.
    """
    import torch

    export = torch.export.export
    seconds: dict[bool, float] = {}

    def timed(module: Any, *args: Any, **options: Any) -> Any:
        start = time.process_time()
        program = export(module, *args, **options)
        seconds[module.training] = time.process_time() - start
        return program

    export(torch.nn.ReLU(), (torch.zeros(2, 3),), strict=False)  # what only the first export loads
    with patch.object(torch.export, "export", timed):
        yield seconds


def tensors(returned: Any) -> Iterator[Any]:
    """All tensors of an output, in order."""
    import torch

    if isinstance(returned, torch.Tensor):
        yield returned
    elif returned is not None and not isinstance(returned, int | float | str | bool):
        for part in returned.values() if hasattr(returned, "values") else returned:
            yield from tensors(part)


def difference(ours: Any, theirs: Any, inputs: Sequence[Any]) -> float:
    """The greatest difference of the outputs, relative where the expected value is above one; inf for NaN and shapes.
    What ``theirs`` returns behind the others in training is left out.
    """
    import torch

    results = []
    for module in (ours, theirs):
        torch.manual_seed(1)  # the same dropout
        with torch.no_grad():
            results.append(list(tensors(module(*(x.clone() for x in inputs)))))
    if theirs.training:
        results[1] = results[1][: len(results[0])]
    if len(results[0]) != len(results[1]):
        return math.inf
    worst = 0.0
    for a, b in zip(*results, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return math.inf
        if a.is_floating_point() and a.numel():
            same = (a == b) | (a.isnan() & b.isnan())  # infinities are equal to themselves
            off = torch.where(same, 0.0, (a - b).abs() / b.abs().clamp(min=1))
            worst = max(worst, float(off.nan_to_num(math.inf).max()))
        elif not torch.equal(a, b):
            return math.inf
    return worst


def other_size(ours: Any, theirs: Any, graph: Any, inputs: Sequence[Any]) -> Any:
    """The same for images twice as high and wide, where the original takes them and is convolutional."""
    import torch
    from torch.nn import functional as F

    if any(x.ndim != 4 or not x.is_floating_point() for x in inputs):
        return "-"
    everywhere = ("attention", "softmax", "matmul")
    whole = ("aten.topk.default", "aten.gather.default", "aten.lstm.input", "aten.gru.input")
    if any(node.op in everywhere or node.attrs.get("target") in whole for node in graph):
        return "-"
    larger = [F.interpolate(x, scale_factor=2.0) for x in inputs]
    try:
        with torch.no_grad():
            theirs(*larger)
    except Exception:
        return "-"
    worst = difference(ours, theirs, larger)
    return worst if worst <= CLOSE else f"off by {worst:.2g}"


def known_flops(model: Any) -> float:
    """The share of the FLOPs that known operations have."""
    from netgraft.costs.analytic import flops
    from netgraft.costs.frozen import frozen_flops

    known, frozen = flops(model.graph), frozen_flops(model)
    return round(known / max(1, known + frozen), 4)


def source(model: Any) -> Any:
    """The difference of the written source from the graph, or why there is none; and how much of it is not plain."""
    import tempfile

    from safetensors.torch import save_file

    from netgraft import export
    from netgraft.convert.source import emit

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        from netgraft.convert.to_torch import to_module

        text = emit(model.graph, class_name=export.CLASS_NAME)
        (folder / "model.py").write_text(text, encoding="utf-8")
        state = {key: tensor.contiguous() for key, tensor in to_module(model).state_dict().items()}
        save_file(state, folder / "weights.safetensors")
        return _held(export._verify_source(folder, model), CLOSE)


def onnx(model: Any) -> Any:
    """The greatest difference of the written ONNX file, with ``f64`` where rounding alone makes more than 1e-4."""
    from netgraft.convert.onnx import to_onnx, verify

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        off = verify(to_onnx(model), model)
    return off if off <= ONNX_CLOSE else f"f64 {off:.0e}"


def regions(graph: Any) -> int:
    """How many regions one cut has that grafting may replace."""
    import numpy as np

    from netgraft.segments import default, head

    apart = head(graph) | {node.id for node in graph if node.op in ("frozen", "constant")}
    cut = default().vocabulary.encode(graph).cut(np.random.default_rng(0))
    return sum(region.nodes.isdisjoint(apart) for region in cut)


def children(model: Any) -> Any:
    """``ok`` where the first edit of each mutation gives a child that runs and can be written."""
    import numpy as np
    import torch

    from netgraft.convert.onnx import example_inputs
    from netgraft.convert.source import emit
    from netgraft.convert.to_torch import to_module
    from netgraft.ir import Model, apply, inherit
    from netgraft.mutations.graft import Graft
    from netgraft.mutations.program import Program
    from netgraft.mutations.swap import Swap
    from netgraft.mutations.trim import Trim

    made = []
    for mutation in (Graft(), Swap(), Trim(), Program()):
        rng = np.random.default_rng(0)
        for edit in islice(mutation.edits(model.graph, model.weights, rng), 1):
            graph = apply(model.graph, edit)
            weights, _ = inherit(model.graph, edit, model.weights, rng)
            child = Model(graph, weights, model.name)
            with torch.no_grad():
                for out in tensors(to_module(child).eval()(*example_inputs(graph, 2))):
                    assert out.ndim or out is not None
            compile(emit(graph), "model.py", "exec")
            made.append(mutation.name)
    return "ok" if made else "nothing to change"


def _held(off: float, tolerance: float) -> Any:
    return off if off <= tolerance else f"off by {off:.2g}"


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    text = f"{type(error).__name__}: {lines[0]}"
    return text if len(text) <= 300 else text[:300] + "..."


def _where(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
