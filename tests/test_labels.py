"""Labelled networks: the format, and what is no label."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from netgraft.errors import DataError
from netgraft.ir import render
from netgraft.predictor import Label, read_labels, write_labels
from netgraft.spaces import families

GRAPH = families.FAMILIES["nasbench_macro"].build("00000000")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    labels = [Label("a", 1.5, GRAPH, 2.0, "mine"), Label("b", -3.0, GRAPH)]
    with (tmp_path / "x.jsonl").open("w") as file:
        write_labels(file, iter(labels))
    assert list(read_labels(tmp_path)) == labels == list(read_labels(tmp_path / "x.jsonl"))


def test_sources_compressed_files_and_unknown_keys(tmp_path: Path) -> None:
    lines = [
        {"group": "g", "score": 1, "source": "family:nasbench_macro?arch=00000000", "later": [1, 2]},
        {"group": "g", "score": 2, "source": "family:hiaml?seed=3"},
    ]
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write("\n\n".join(map(json.dumps, lines)))
    (tmp_path / "a.jsonl").write_text(json.dumps({"group": "g", "score": 0, "graph": render(GRAPH)}))
    (tmp_path / "notes.txt").write_text("not read")
    found = list(read_labels(tmp_path))
    assert [label.score for label in found] == [0.0, 1.0, 2.0]
    assert found[0].graph == found[1].graph == GRAPH


def test_caches_without_labels_are_none(shared_data: Path) -> None:
    assert list(read_labels(shared_data / "autogo_graphs" / "hiaml_best.pkl")) == []


GOOD = {"group": "g", "score": 1.0, "graph": render(GRAPH)}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: "),
        ("[1]", "is a JSON object"),
        ("[" * 100_000, "line 2: "),
        ("\xff", "line 2: "),
        (json.dumps(GOOD | {"score": None}), "'score' is missing"),
        (json.dumps(GOOD | {"score": True}), "must be a finite number, not 'True'"),
        (json.dumps(GOOD | {"score": "1"}), "must be a finite number"),
        (json.dumps(GOOD | {"score": float("nan")}), "must be a finite number, not 'nan'"),
        (json.dumps(GOOD | {"group": ""}), "'group' must name"),
        (json.dumps(GOOD | {"graph": None}), "either 'graph' or 'source'"),
        (json.dumps(GOOD | {"source": "zoo:resnet20"}), "either 'graph' or 'source'"),
        (json.dumps(GOOD | {"graph": "graph(x: f32[N,3]) { return y }"}), "line 2: "),
        (json.dumps(GOOD | {"graph": 3}), "must be the text of a graph"),
        (json.dumps({"group": "g", "score": 1, "source": "evil.py:net"}), "zoo:NAME or family:NAME, not 'evil.py:net'"),
        (json.dumps({"group": "g", "score": 1, "source": "family:hiaml?count=2"}), "names several networks"),
        (json.dumps({"group": "g", "score": 1, "source": "family:hyaml"}), "did you mean 'hiaml'"),
    ],
)
def test_a_broken_line_is_one_error_that_names_it(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(json.dumps(GOOD).encode() + b"\n" + line.encode("latin-1") + b"\n")
    with pytest.raises(DataError) as caught:
        list(read_labels(tmp_path))
    assert str(caught.value).startswith(f"{file}, line 2: ") and message in str(caught.value)


def test_folders_and_files_that_hold_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no labels"):
        list(read_labels(tmp_path))
    with pytest.raises(DataError, match="does not exist"):
        list(read_labels(tmp_path / "missing"))
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b"{}")[:-3])
    with pytest.raises(DataError, match="cannot be read"):
        list(read_labels(tmp_path))
    (tmp_path / "x.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="cannot be read"):
        list(read_labels(tmp_path))
    (tmp_path / "x.jsonl.gz").unlink()
    (tmp_path / "x.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match=r"x\.pkl"):
        list(read_labels(tmp_path))
