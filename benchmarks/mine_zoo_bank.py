"""Mines the segment bank that comes with netgraft from its zoo, byte for byte the same each time.

python benchmarks/mine_zoo_bank.py            # writes netgraft/segments/zoo.jsonl
python benchmarks/mine_zoo_bank.py OTHER.jsonl
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from netgraft import zoo
from netgraft.convert.from_torch import from_module
from netgraft.ir import Graph
from netgraft.segments import Bank, Vocabulary, mine

PACKAGED = Path(__file__).parents[1] / "netgraft" / "segments" / "zoo.jsonl"
VOCABULARY_SIZE = 1000


def graphs(names: Iterable[str]) -> Iterator[tuple[str, Graph]]:
    """The named networks of the zoo, read at the input shapes they are made for."""
    for name in names:
        torch.manual_seed(0)
        example = torch.zeros(2, *zoo.entry(name).input_shape)
        yield name, from_module(zoo.build(name).eval(), (example,)).graph


def bank(names: Iterable[str]) -> Bank:
    """The bank of the named networks."""
    models = list(graphs(names))
    return mine(models, Vocabulary.learn([graph for _, graph in models], VOCABULARY_SIZE))


def main() -> None:
    """Writes the bank and says what is in it."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGED
    mined = bank(zoo.names())
    mined.save(path)
    vocabulary = mined.vocabulary
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB, {len(mined)} segments")
    print(f"vocabulary: {len(vocabulary.tokens)} tokens, {len(vocabulary.merges)} merges")
    for name, count in Counter(name for segment in mined for name in segment.provenance).items():
        print(f"  {name}: {count}")


if __name__ == "__main__":
    main()
