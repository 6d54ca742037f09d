"""Latency tables: made of observations, asked about graphs, kept in files, used by a search and on the command line."""

from __future__ import annotations

import json
import math
import pickle
import zlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from studies import resnet
from test_cli import netgraft
from test_optimize import NETWORK, PLAN, optimize

from netgraft import table_commands
from netgraft.costs.measured.flags import has_avx512, machine
from netgraft.costs.tables import Table, fitted
from netgraft.costs.tables.kernels import Kernel, kernels
from netgraft.costs.tables.observed import Observed, Row
from netgraft.costs.tables.prior import guess
from netgraft.errors import DataError, MeasureError, OptionError, StudyError
from netgraft.ir import Graph
from netgraft.recipes import table as recipe

REFERENCE_MS = 1.0
LOOKING = 2.0


def truth(kernel: Kernel) -> float:
    """Microseconds in an imagined machine: off the first guess by a factor, and growing in another way."""
    factor = {"conv": 0.6, "linear": 2.0}.get(kernel.kind.partition(".")[0], 1.5)
    return 1.0 + factor * guess(kernel.key) ** 1.1


def observed(graph: Graph, name: str, busy: float = 1.0) -> Observed:
    """As it would be measured: the profiler looks for ``LOOKING`` microseconds more, on a machine so busy."""
    times = [(kernel, truth(kernel)) for kernel in kernels(graph)]
    rows = tuple(Row(k.kind, k.sizes, busy * (time + LOOKING), 1) for k, time in times)
    total = sum(time for _, time in times) + 5.0
    return Observed(name, name, graph.digest, total / 1e3 / REFERENCE_MS, REFERENCE_MS, 1.0, rows, 0.0)


def networks(widths: Sequence[int], blocks: Sequence[int] = (1, 2, 3)) -> list[Graph]:
    return [resnet(blocks=count, width=width) for width in widths for count in blocks]


@pytest.fixture(scope="module")
def table() -> Table:
    rng = np.random.default_rng(0)
    seen = networks([4, 8, 12, 16, 24, 32, 48])
    about = {"processor": "an imagined one"}
    return fitted([observed(g, str(n), rng.uniform(1, 1.3)) for n, g in enumerate(seen)], "none", "onnxruntime", about)


def test_networks_of_other_sizes_are_interpolated(table: Table) -> None:
    inside = 0
    for graph in networks([20, 28, 40], [2, 4]):
        whole = (sum(map(truth, kernels(graph))) + 5.0) / 1e3
        estimate = table.estimate(graph)
        assert estimate.milliseconds == pytest.approx(whole, rel=0.1)
        assert estimate.milliseconds == pytest.approx(table.latency(graph))
        inside += estimate.low < whole < estimate.high
        assert estimate.known == 1.0
        by_kernel = table.by_kernel(graph)
        assert sum(ms for *_, ms in by_kernel) + table.run / 1e3 == pytest.approx(estimate.milliseconds)
        assert all(node in graph or node.partition(":")[0] in graph for node, *_ in by_kernel)
    assert inside >= 4, "of six intervals of 90 %"


def test_what_was_never_seen_is_guessed_and_makes_the_estimate_less_sure(table: Table) -> None:
    graph = resnet()
    seen = {kernel.key for kernel in kernels(graph)}
    strange = [("norm.softmax", (64, 1000)), ("attention", (4, 64, 64, 32, 32, 0))]
    plain = table.interval(seen)
    wide = table.interval([*seen, *strange])
    assert wide.milliseconds > plain.milliseconds and wide.known < 1
    assert math.log(wide.high / wide.low) > math.log(plain.high / plain.low)
    # Far beyond every size that was measured, too.
    (kernel, *_) = (k for k in kernels(graph) if k.kind.startswith("conv."))
    far = (kernel.kind, (kernel.sizes[0], 4096, *kernel.sizes[2:]))
    assert table._departures(kernel.kind, [far], 18)[1][0] > 2 * table._departures(kernel.kind, [kernel.key], 18)[1][0]


def test_a_table_is_the_same_after_saving_and_after_travelling(table: Table, tmp_path: Path) -> None:
    table.save(tmp_path / "my.table")
    again = Table.load(tmp_path / "my.table")
    assert again.digest == table.digest and again.about == table.about
    for graph in networks([20]):
        assert again.latency(graph) == pytest.approx(table.latency(graph), rel=2e-3), "numbers are rounded"
    travelled = pickle.loads(pickle.dumps(again))
    assert "_memory" not in vars(travelled) and travelled.latency(resnet()) == again.latency(resnet())
    assert replace(table, run=table.run + 1).digest != table.digest


def test_damaged_files_are_refused(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "my.table"
    table.save(path)
    data = json.loads(zlib.decompress(path.read_bytes()))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"netgraft_table": 99}, "format 99"),
        ({"entries": [["conv.blocked", [1, 2], 18, 3.0, 1]]}, "no kernel 'conv.blocked' of 2 sizes"),
        ({"entries": [["reorder.in", [1, 2], 18, -3.0, 1]]}, "takes -3.0 microseconds"),
        ({"shapes": {"reorder.in": ["x"]}}, "1 numbers for the regression of 'reorder.in'"),
        ({"shapes": {"reorder.in": [math.nan] * 6}}, "a number for 'reorder.in' is nan"),
        ({"shapes": {"oops": [0.0] * 6}}, "no kernel 'oops'"),
        ({"reference_ms": None}, "no latency table"),
        ({"run": math.nan}, "run is nan"),
        ({"run": -1e9}, "run is -1000000000.0"),
        ({"spread": -0.1}, "spread is -0.1"),
        ({"networks": math.inf}, "networks is inf"),
        ({"entries": [["reorder.in", [math.inf, 2], 18, 3.0, 1]]}, "reorder.in's channels is inf"),
        ({"entries": [["reorder.in", [1, -2], 18, 3.0, 1]]}, "reorder.in's pixels is -2"),
        ({"entries": [["reorder.in", [1, 1 << 31], 18, 3.0, 1]]}, "pixels is 2147483648"),
        ({"entries": [["reorder.in", [1, 2], 18, math.nan, 1]]}, "takes nan microseconds"),
        ({"entries": [["reorder.in", [1, 2], 18, 1.0, math.inf]]}, "no latency table"),
        ({"entries": [["conv.plain", [8, 8, 0, 4, 4, 4, 4, 3, 3, 1, 1, 0, 0], 18, 3.0, 1]]}, "groups is 0"),
        ({"entries": [["conv.plain", [8, 8, 16, 4, 4, 4, 4, 3, 3, 1, 1, 0, 0], 18, 3.0, 1]]}, "inputs is 8"),
        ({"entries": [["conv.plain", [8, 8, 1, 4, 4, 4, 0, 3, 3, 1, 1, 0, 0], 18, 3.0, 1]]}, "out_width is 0"),
    ]
    for change, why in wrong:
        path.write_bytes(zlib.compress(json.dumps(data | change).encode()))
        with pytest.raises(DataError, match=why) as caught:
            Table.load(path)
        assert str(path) in str(caught.value)
    whole = json.dumps(data).encode()
    for text in (b"nothing", zlib.compress(b"[" * 100_000), zlib.compress(whole[:-9]), zlib.compress(whole)[:-99]):
        path.write_bytes(text)
        with pytest.raises(DataError, match=r"no latency table .* or it is damaged or cut short$"):
            Table.load(path)
    with pytest.raises(DataError, match="cannot be read"):
        Table.load(tmp_path / "none.table")


def test_a_collection_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = networks([4, 8], [1, 2])
    drawn = [recipe.Drawn(f"net {n}", "nets", graph) for n, graph in enumerate(graphs)]
    measured: list[str] = []

    def observe(found: Sequence[recipe.Drawn], reference: bytes, bench: recipe.Bench) -> list[Observed]:
        measured.extend(one.name for one in found)
        return [observed(one.graph, one.name) for one in found]

    monkeypatch.setattr(recipe, "drawn", lambda space, seed: iter(drawn))
    monkeypatch.setattr(recipe, "observe", observe)
    monkeypatch.setattr(recipe, "check_kernels", lambda: None)
    monkeypatch.setattr(recipe, "AT_ONCE", 2)
    monkeypatch.setattr(recipe, "FEWEST", 4)
    monkeypatch.setattr(recipe, "REFERENCE", "family:hiaml?seed=3")
    journal = tmp_path / "my.table.part"

    def stop(_: Observed, count: int) -> None:
        if count == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recipe.collect(["nets"], journal, on_network=stop)
    with journal.open("a") as file:
        file.write('{"name": "cut off')
    found, where = recipe.collect(["nets"], journal)
    assert where == machine()
    assert measured == [one.name for one in drawn], "nothing is measured twice"
    assert found == recipe.collection(journal) and len(found) == 4
    with pytest.raises(OptionError, match="other spaces, another seed"):
        recipe.collect(["nets"], journal, seed=1)
    kept = journal.read_bytes()
    for name in ("processor", "system", "onnxruntime"):
        with monkeypatch.context() as patch:
            other = machine() | {name: "another"}
            patch.setattr(recipe, "machine", lambda other=other: other)
            with pytest.raises(OptionError, match="on another machine"):
                recipe.collect(["nets"], journal)
    monkeypatch.setattr(recipe, "REFERENCE", "family:hiaml?seed=4")
    with pytest.raises(OptionError, match="seed=3"):
        recipe.collect(["nets"], journal)
    assert journal.read_bytes() == kept


def test_a_stop_while_a_collection_is_mended_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / "my.table.part"
    row = json.dumps(asdict(observed(resnet(), "one")))
    text = json.dumps({"seed": 0}) + f"\n{row}\n" + row[:50]
    journal.write_text(text)

    def stopped(self: Path, *_: object, **__: object) -> int:
        self.write_bytes(b"")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", stopped)
        with pytest.raises(KeyboardInterrupt):
            recipe._begun(journal, {"seed": 0})
    assert journal.read_text() == text
    assert [one.name for one in recipe._begun(journal, {"seed": 0})] == ["one"]
    journal.write_bytes(b"\xff\n")
    with pytest.raises(MeasureError, match="no collection"):
        recipe._begun(journal, {"seed": 0})


def test_only_processors_whose_kernels_are_known_make_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "model name : old\nflags : fpu avx2\n")
    has_avx512.cache_clear()
    try:
        code, said = netgraft("table", "build", "--out", tmp_path / "my.table")
        assert code == 2 and "no avx512f" in said
        assert not list(tmp_path.iterdir())
    finally:
        has_avx512.cache_clear()


def test_a_space_is_drawn_from_its_seed_and_holds_children() -> None:
    found = list(recipe.around("resnet20", 3, variants=2, children=2))
    again = list(recipe.around("resnet20", 3, variants=2, children=2))
    assert [one.graph.digest for one in found] == [one.graph.digest for one in again]
    assert len({one.graph.digest for one in found}) == len(found) >= 3
    assert {"#" in one.name for one in found} == {True, False}


def test_a_search_may_estimate_by_a_table(table: Table, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETWORK)
    source = f"{tmp_path / 'nets.py'}:net"
    options: dict[str, Any] = {"plan": replace(PLAN, pretrain_epochs=1, finalists=1), "budget": "1 trials"}
    with pytest.warns(UserWarning, match="the table is of an imagined one, and this run measures on"):
        front = optimize(source, tmp_path / "run", table=table, **options)
    trials = front.study.trials
    assert trials[0].scores["latency"] == pytest.approx(
        table.latency(front.study.load_model(trials[0].model or "").graph)
    )
    assert front.study.settings["table"] == table.digest
    with pytest.raises(StudyError, match="another latency table, or none"):
        optimize(source, tmp_path / "run", resume=True, **options)
    with pytest.raises(OptionError, match="table is one of onnxruntime"):
        optimize(source, tmp_path / "other", table=table, limits=["latency<=0.9x@torch"], **options)
    with pytest.raises(OptionError, match="a table is of one input on one thread"):
        optimize(source, tmp_path / "other", table=table, limits=["latency<=0.9x@onnxruntime?batch=2"], **options)


def test_the_command_line_shows_and_estimates(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "my.table"
    table.save(path)
    code, said = netgraft("table", "show", path)
    assert code == 0 and "an imagined one" in said and "conv.blocked" in said
    network = "zoo:resnet20?channels=1&width=0.25&input=1x8x8"
    code, said = netgraft("table", "show", path, network)
    assert code == 0 and "conv.direct" in said and "%" in said
    code, said = netgraft("measure", network, "--table", path)
    assert code == 0 and "about" in said and "90 % interval" in said
    for arguments, why in [
        (["measure", network, "--table", path, "--threads", 2], "leave out --table"),
        (["table", "build", "--out", path, "--engine", "torch"], "is known of onnxruntime only"),
        (["table", "build", "--out", path, "--engine", "abacus"], "there is no engine 'abacus'"),
        (["table", "build", "--out", tmp_path], "no file that can be written"),
        (["measure", network, "--table", tmp_path / "none"], "cannot be read"),
    ]:
        code, said = netgraft(*arguments)
        assert code == 2 and why in said


def test_what_a_strangers_table_says_is_shown_as_text(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "my.table"
    odd = {"note": "[/oops]", "[bold]": "\x1b[31mred\x07"}
    entries = (*table.entries, replace(table.entries[0], kind="reorder.[/oops]", sizes=(1, 2)))
    replace(table, about=odd, engine="[/]", reference="[/x]", entries=entries).save(path)
    code, said = netgraft("table", "show", path)
    assert code == 0 and "\x1b[31m" not in said and "\x07" not in said
    for text in ("[/oops]", "[bold]", "?[31mred?", "a latency table of [/]", "[/x]: 1.000 ms", "reorder.[/oops]"):
        assert text in said


def test_a_table_of_too_few_networks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_commands, "collect", lambda *_: ([observed(resnet(), "one")], {}))
    code, said = netgraft("table", "build", "--out", tmp_path / "my.table")
    assert code == 2 and "too few" in said


def test_nothing_is_measured_or_written_where_the_networks_are_unknown_or_too_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "check_kernels", lambda: None)
    monkeypatch.setattr(recipe, "observe", None)  # nothing is measured
    three = ",".join(f"family:hiaml?seed={seed}" for seed in (1, 2, 3))
    for spaces, why in (
        ("zooo", "zooo"),
        ("family:hiaml?count=16,zooo", "or it is a space: zoo, "),
        (f"{three},family:hiaml?seed=3", "too few networks for a table: 3; it takes 16"),
    ):
        code, said = netgraft("table", "build", "--out", tmp_path / "my.table", "--spaces", spaces)
        assert code == 2 and why in said and "--spaces" in said
        assert not list(tmp_path.iterdir())


def test_a_collection_without_a_measurement_is_begun_anew(tmp_path: Path) -> None:
    journal = tmp_path / "my.table.part"
    assert recipe._begun(journal, {"netgraft": 2, "spaces": ["hiaml"]}) == []
    with journal.open("a") as file:
        file.write('{"name": "cut off')
    asked = {"netgraft": 2, "spaces": ["zoo"]}
    assert recipe._begun(journal, asked) == [] and json.loads(journal.read_text()) == asked
    journal.write_text('{"notes": "mine"}\n')
    with pytest.raises(OptionError, match="name another --out"):
        recipe._begun(journal, asked)


def test_the_shipped_table_says_where_it_is_from_and_is_sane() -> None:
    shipped = table_commands.table_from("shipped")
    assert shipped.engine == "onnxruntime" and shipped.about["processor"] and shipped.networks >= 100
    small, large = (shipped.latency(resnet(width=width)) for width in (8, 64))
    assert 0 < small < large < 100
