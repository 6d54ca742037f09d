"""The contract of the mutations that need nothing but a network, on networks of every kind."""

from __future__ import annotations

import pytest
from contracts import GOLDEN_NAMES, ZOO_NAMES, check_mutation, golden, sane_model, zoo_model

from netgraft.mutations import Mutation
from netgraft.mutations.program import Program
from netgraft.mutations.swap import Swap
from netgraft.mutations.trim import Trim

MUTATIONS = [pytest.param(mutation, id=mutation.name) for mutation in (Swap(), Trim(), Program())]


@pytest.mark.parametrize("name", GOLDEN_NAMES)
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_edits_keep_their_promises(mutation: Mutation, name: str) -> None:
    assert check_mutation(mutation, sane_model(golden(name)), seeds=(0,), limit=1000)


@pytest.mark.parametrize("name", ZOO_NAMES)
@pytest.mark.parametrize("mutation", MUTATIONS[:2])  # a program edit changes one node: see tests/test_program.py
def test_edits_keep_their_promises_on_the_zoo(mutation: Mutation, name: str) -> None:
    assert len(check_mutation(mutation, zoo_model(name), seeds=(0,), limit=8)) == 8
