"""``netgraft bank``: what the commands write and say, and one clear message for what cannot work."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from netgraft import sources
from netgraft.cli import app
from netgraft.ir import Batch, Builder, Graph, TensorType
from netgraft.segments import Bank, Quarry, Segment, Vocabulary, default, load, save

SMALL = "family:nasbench201?count=1&seed=3"
THREE = "family:nasbench201_benchmark?count=3&seed=1"


def netgraft(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["bank", *map(str, arguments)], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_mine_show_and_merge(tmp_path: Path) -> None:
    one, two, both = tmp_path / "one.bank", tmp_path / "two", tmp_path / "both.bank"
    code, output = netgraft("mine", SMALL, THREE, "--out", one, "--cuts", 2)
    assert code == 0, output
    assert f"{THREE}: 3 networks" in output
    bank = load(one)
    assert {name for segment in bank for name in segment.provenance} == {"nasbench201", "nasbench201_benchmark"}
    assert f"{len(bank):,} segments" in output
    code, output = netgraft("show", one, "--top", 1)
    assert code == 0, output
    assert f"{len(bank):,} segments" in output
    assert bank[0].digest in output and bank[1].digest not in output
    assert "●  conv2d" in output and "nasbench201" in output and "batch_norm" in output
    code, output = netgraft("mine", SMALL, "--out", two, "--cuts", 2)
    assert code == 0 and f"{SMALL}: 1 network\n" in output
    code, output = netgraft("merge", one, two, "--out", both)
    assert code == 0, output
    assert {s.digest for s in load(both)} == {s.digest for path in (one, two) for s in load(path)}


def test_one_of_a_kind_is_no_plural(tmp_path: Path) -> None:
    path = tmp_path / "one.bank"
    assert netgraft("mine", SMALL, "--out", path, "--cuts", 0)[0] == 0
    once = next(segment for segment in load(path) if segment.frequency == 1)
    save(Bank.of([once], Vocabulary((), ())), path)
    code, output = netgraft("show", path)
    assert code == 0
    assert "1 segment, found in 1 place; vocabulary of 0 tokens and 0 merges" in output and "in 1 place of" in output


def test_a_damaged_segment_is_named_before_anything_is_done_with_it(tmp_path: Path) -> None:
    sound, damaged = tmp_path / "sound.bank", tmp_path / "damaged.bank"
    assert netgraft("mine", SMALL, "--out", sound, "--cuts", 1)[0] == 0
    damaged.write_bytes(gzip.compress(gzip.decompress(sound.read_bytes()).replace(b"relu(", b"elur(")))
    code, output = netgraft("merge", damaged, sound, "--out", tmp_path / "both.bank")
    assert code == 2, output
    assert "damaged.bank, segment" in output and "elur" in output
    assert not (tmp_path / "both.bank").exists()


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in ("one", 0), ("two", 0), ("three", 1):
        assert netgraft("mine", SMALL, "--out", tmp_path / name, "--seed", seed)[0] == 0
    one, two, three = ((tmp_path / name).read_bytes() for name in ("one", "two", "three"))
    assert one == two != three


def test_rare_segments_can_be_left_out(tmp_path: Path) -> None:
    assert netgraft("mine", SMALL, "--out", tmp_path / "x", "--at-least", 2)[0] == 0
    assert min(segment.frequency for segment in load(tmp_path / "x")) == 2


def test_the_own_bank_is_shown_by_default() -> None:
    code, output = netgraft("show", "--top", 0)
    assert code == 0
    assert f"netgraft's own bank: {len(default()):,} segments" in output


def test_a_source_that_cannot_be_read_is_left_out_where_others_can(tmp_path: Path) -> None:
    code, output = netgraft("mine", "zoo:resnet2000", SMALL, "--out", tmp_path / "x")
    assert code == 0
    assert "left out: " in output and "resnet2000" in output
    assert len(load(tmp_path / "x"))


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["zoo:resnet2000"], "resnet2000"),
        (["family:nasbench201?count=0", "nothing"], "none of family:nasbench201?count=0, nothing could be read"),
        (["{here}"], "holds no file of a graph"),
    ],
)
def test_what_cannot_be_mined_is_said_in_one_message(tmp_path: Path, sources: list[str], message: str) -> None:
    out = tmp_path / "x.bank"
    code, output = netgraft("mine", *(source.format(here=tmp_path) for source in sources), "--out", out)
    assert code == 2
    assert output.count("error:") == 1 and message in output
    assert not out.exists()


def test_a_network_without_a_segment_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder()
    classifier = b.build(b.add("linear", b.input("x", TensorType((Batch(), 3))), out_features=2))
    graphs = sources.graphs

    def with_tiny(name: str, **more: Any) -> Iterable[tuple[str, Graph]]:
        return [("tiny", classifier)] if name == "tiny" else graphs(name, **more)

    monkeypatch.setattr(sources, "graphs", with_tiny)
    code, output = netgraft("mine", "tiny", "--out", tmp_path / "x")
    assert code == 2
    assert "tiny: there is nothing to mine" in output
    assert not (tmp_path / "x").exists()
    code, output = netgraft("mine", "tiny", SMALL, "--out", tmp_path / "x")
    assert code == 0
    assert "no segment of the bank comes from tiny" in output


def test_files_that_are_no_banks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for arguments in ["show", tmp_path / "text"], ["merge", tmp_path / "text", "--out", tmp_path / "x"]:
        code, output = netgraft(*arguments)
        assert code == 2
        assert "is no segment bank" in output
    assert "there is no segment bank" in netgraft("show", tmp_path / "missing")[1]
    assert "no file that can be written" in netgraft("mine", SMALL, "--out", tmp_path / "no" / "x")[1]


def test_interrupted_mining_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Quarry, "mine", interrupted)
    code, output = netgraft("mine", SMALL, "--out", tmp_path / "x")
    assert code == 130
    assert "interrupted" in output
    assert list(tmp_path.iterdir()) == []


def test_names_in_a_bank_are_neither_markup_nor_control_characters(tmp_path: Path) -> None:
    b = Builder()
    x = b.input("x", TensorType((Batch(), 3, 8, 8)))
    graph = b.build(b.add("relu", b.add("conv2d", x, out_channels=4, kernel=(1, 1))))
    save(Bank.of([Segment.of(graph, ["[red]evil[/nope]\x1b[2J"])], Vocabulary((), ())), tmp_path / "[ab].bank")
    code, output = netgraft("show", tmp_path / "[ab].bank")
    assert code == 0, output
    assert "[ab].bank" in output and "[red]evil[/nope]?[2J" in output and "\x1b[2J" not in output


def test_a_file_that_names_no_inputs_is_mined_with_their_shape(tmp_path: Path) -> None:
    file = tmp_path / "nets.py"
    file.write_text(
        "from torch import nn\n"
        "net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8),"
        " nn.ReLU(), nn.Flatten(), nn.Linear(8 * 12 * 12, 10))\n"
    )
    mine = "mine", f"{file}:net", "--out", tmp_path / "own.bank"
    code, output = netgraft(*mine)
    assert code == 2 and "give --input 3x32x32" in output
    code, output = netgraft(*mine, "--input", "3x16x16")
    assert code == 0, output
    assert {segment.provenance for segment in load(tmp_path / "own.bank")} == {("net",)}
    code, output = netgraft(*mine, "--input", "3x")
    assert code == 2 and "'3x' is no shape" in output
