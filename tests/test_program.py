"""Program edits as a mutation and by their legality, and the two recipes on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import validity
from contracts import golden, outputs, random_inputs, sane_model, zoo_model

from netgraft.candidate import TrialState
from netgraft.convert.from_torch import from_module
from netgraft.costs.analytic import latency_estimate, parameters
from netgraft.errors import MeasureError, OptionError, SourceError, StudyError
from netgraft.events import Event, StepDone, TrialRecorded
from netgraft.front import Front
from netgraft.ir import Batch, Builder, Edit, Graph, Model, TensorType, Value, apply
from netgraft.loops import FORMS
from netgraft.mutations.program import SMALLEST, Program, transformed
from netgraft.mutations.swap import KINDS
from netgraft.mutations.within import Within
from netgraft.proxies import PROXIES, Probe, anew, at_random, fisher_potential
from netgraft.proxies.legality import child_at_the_start, fisher_legal, moved_value, score_legal
from netgraft.recipes import Plan, blockswap, program
from netgraft.recipes.blockswap import SUBSTITUTES, Block, blocks, largest_potential, substituted
from netgraft.recipes.program import fastest_legal
from netgraft.recipes.proposals import Potential, child_graph
from netgraft.study import Study
from netgraft.tasks import Split, Task, classification
from netgraft.zoo.wide_resnet import wide_resnet


def edits(graph: Graph, *forms: str) -> list[Edit]:
    return list(Program(forms).edits(graph, {}, np.random.default_rng(0)))


def wide(graph: Graph) -> list[Edit]:
    return [edit for edit in edits(graph) if edit.region.nodes == {"layer"}]


def layer(inputs: int, filters: int, **attrs: object) -> Graph:
    b = Builder()
    x = b.input("x", TensorType((Batch(), inputs, 8, 8)))
    return b.build(b.add("conv2d", x, id="layer", out_channels=filters, kernel=(3, 3), padding=(1, 1), **attrs))


def test_every_form_that_saves_work_is_proposed() -> None:
    found = {edit.origin for edit in edits(layer(64, 64))}
    assert found == {f"program.{form}" for form in FORMS if form != "strips"}


def test_forms_are_equally_likely_to_come_first() -> None:
    graph = layer(64, 64)
    firsts = [next(Program().edits(graph, {}, np.random.default_rng(seed))).origin for seed in range(120)]
    assert set(firsts) == {f"program.{form}" for form in FORMS if form != "strips"}


def test_nothing_is_proposed_twice_nor_by_swaps_too() -> None:
    graph = layer(16, 16, bias=False)
    found = [apply(graph, edit).digest for edit in edits(graph)]
    assert len(found) == len(set(found))
    assert not KINDS.keys() & FORMS.keys()


@pytest.mark.parametrize("name", ["densenet40", "unet"])
def test_what_comes_in_place_of_layers_of_the_zoo_is_sound(name: str) -> None:
    model = zoo_model(name)
    found = list(islice(Program().edits(model.graph, model.weights, np.random.default_rng(0)), 8))
    for edit in found:
        assert validity.check_edit(model, edit)[1] == []
        assert validity.check_run(edit.replacement) == []
    assert validity.check_onnx(validity.side_by_side([edit.replacement for edit in found[::4]])) == []


def test_small_groups_are_left_to_depthwise_ones() -> None:
    groups = {
        node.attrs["groups"]
        for edit in edits(layer(32, 32), "group", "depthwise")
        for node in edit.replacement
        if node.op == "conv2d"
    }
    assert SMALLEST == 8
    assert groups == {2, 4, 32}


def test_layers_in_groups_keep_the_forms_that_fit() -> None:
    found = {edit.origin for edit in edits(layer(32, 32, groups=2))}
    assert found == {"program.spatial_bottleneck"}


def test_where_no_form_fits_there_is_none() -> None:
    graph = layer(3, 5)
    assert transformed(graph, graph["layer"], "group", 2) is None
    assert transformed(graph, graph["layer"], "strips", 2) is None, "no work is saved"


def test_a_shared_kernel_is_copied_before_it_changes() -> None:
    b = Builder()
    x = b.input("x", TensorType((Batch(), 16, 8, 8)))
    window = {"out_channels": 16, "kernel": (3, 3), "padding": (1, 1), "bias": False}
    first = b.add("conv2d", x, id="first", **window)
    graph = b.build(b.add("conv2d", first, id="second", weights={"weight": "first.weight"}, **window))
    edit = transformed(graph, graph["second"], "group", 2)
    assert edit is not None
    child = apply(graph, edit)
    assert child.weight_types["first.weight"].shape == (16, 16, 3, 3)
    assert child.weight_types[child["second"].weights["weight"]].shape == (16, 8, 3, 3)


def test_operations_that_are_not_allowed_stay_out() -> None:
    allowed = frozenset({"conv2d"})
    found = list(Within(Program(), allowed).edits(layer(64, 64), {}, np.random.default_rng(0)))
    assert found
    assert {node.op for edit in found for node in edit.replacement} == {"conv2d"}


# --- legality ---


def test_fisher_legality_is_its_formula() -> None:
    model = sane_model(golden("residual"))
    batch = at_random(model.graph, 8)
    legal = fisher_legal(batch, seed=3)
    verdicts = []
    for edit in islice(Program().edits(model.graph, model.weights, np.random.default_rng(0)), 12):
        (old,) = edit.region.boundary(model.graph)[1]
        start = anew(model, 3)
        child = child_at_the_start(start, edit, 3)
        new = moved_value(model.graph, child.graph, old)
        before = fisher_potential(Probe(start, batch, 3), [old.node])[old.node]
        after = fisher_potential(Probe(child, batch, 3), [new.node])[new.node]
        verdicts.append(after >= before)
        assert legal(model, edit) == verdicts[-1]
        assert not set(start.weights) - set(child.weights) - set(model.graph[old.node].weights.values())
    assert len(set(verdicts)) == 2, "otherwise this says little"


def test_only_what_is_legal_is_proposed() -> None:
    model = sane_model(golden("residual"))
    asked = []

    def legal(given: Model, edit: Edit) -> bool:
        asked.append(edit.origin)
        return "bottleneck" in edit.origin

    found = list(Program(legal=legal).edits(model.graph, model.weights, np.random.default_rng(0)))
    assert found and all("bottleneck" in edit.origin for edit in found)
    assert len(asked) > len(found)


def test_another_score_decides_as_well() -> None:
    model = sane_model(golden("residual"))
    batch = at_random(model.graph, 8)
    edit = transformed(model.graph, model.graph["one.conv1"], "group", 2)
    assert edit is not None
    fewer = score_legal(lambda probe: float(len(probe.model.weights["one.conv1.weight"][0])), batch)
    assert not fewer(model, edit)
    assert score_legal(lambda probe: 1.0, batch)(model, edit)
    assert isinstance(score_legal(PROXIES["naswot"].score, batch)(model, edit), bool)


def test_what_left_a_region_is_found_in_the_child() -> None:
    graph = golden("residual")
    edit = next(edit for edit in edits(graph, "separable") if "two.conv2" in edit.region.nodes)
    child = apply(graph, edit)
    assert moved_value(graph, child, Value("two.conv2")) == Value("two.conv2.second")


# --- recipes ---


@cache
def task() -> Task:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 3, 8, 8, generator=generator)
    split = Split(images, torch.randint(0, 10, (64,), generator=generator))
    return classification("noise", split, split, split, prepare=lambda x: x)


@cache
def wrn() -> Model:
    torch.manual_seed(0)
    return from_module(wide_resnet(10, 2), torch.zeros(2, 3, 8, 8), name="wrn_10_2")


def test_program_keeps_the_fastest_legal_networks() -> None:
    probes: list[tuple[int, int]] = []
    found = fastest_legal(
        wrn(), task(), candidates=12, keep=1, batch=16, seconds=0.2, on_probe=lambda *at: probes.append(at)
    )
    assert len(found) == 1
    times = [one.time.ratio for one in found if one.time]
    assert len(times) == len(found)
    assert all(one.fisher >= 1 for one in found)
    assert probes[-1][1] == len(found)
    for one in found:
        assert child_graph(wrn().graph, one.edits).digest == one.model.graph.digest
        assert one.estimate == pytest.approx(latency_estimate(one.model.graph) / latency_estimate(wrn().graph))
        assert len(one.choices) == len(one.edits) > 0
        assert torch.isfinite(outputs(one.model, random_inputs(one.model.graph))[0]).all()


def test_the_potential_of_the_network_itself_is_one() -> None:
    ends = tuple(node.id for node in wrn().graph if node.op == "conv2d")
    potential = Potential(wrn(), ends, at_random(wrn().graph, 8))
    assert potential.of(()) == pytest.approx(1)
    b = Builder()
    x = b.add("conv2d", b.input("x", TensorType((Batch(), 3, 8, 8))), out_channels=4, kernel=(3, 3), id="layer")
    dead = b.build(b.add("mul_scalar", b.add("mean", x, dims=(2, 3)), value=0.0))
    with pytest.raises(MeasureError, match="nothing can be compared"):
        _ = Potential(sane_model(dead), ("layer",), at_random(dead, 8)).original


def test_a_network_without_convolutions_has_no_program() -> None:
    b = Builder()
    x = b.add("flatten", b.input("x", TensorType((Batch(), 3, 8, 8))))
    model = sane_model(b.build(b.add("linear", x, out_features=10)))
    with pytest.raises(SourceError, match="no convolution"):
        fastest_legal(model, task())
    with pytest.raises(SourceError, match="no residual block"):
        largest_potential(model, task(), 1000)
    with pytest.raises(OptionError, match="at least one"):
        fastest_legal(wrn(), task(), candidates=0)


GENOTYPES = {
    "150k": (
        "A2B2 G16B2 G8B4 DConv DConv A4B2 DConvG4 DConvG4 DConvG2 G2B4 A8B2 G4B2 G16B2 G2B4 G8B4 G2B2 G4B4 ConvB4",
        162_202,
    ),
    "200k": (
        "A16B2 A16B2 ConvB4 DConv G16B2 DConv A8B2 ConvB2 G2B2 DConvG16 G4B2 G8B2 DConvG2 A16B2 A8B2 A16B2 A8B2 G4B2",
        217_050,
    ),
    "250k": (
        "DConvA16 DConvA2 DConvG4 DConvA2 A8B2 ConvB4 DConvA2 ConvB2 G4B2 DConvG8 DConvA16 A16B2 DConvG2 G16B2 "
        "DConvG4 G8B2 G2B2 G8B2",
        289_226,
    ),
    "400k": (
        "Conv DConvG16 DConv DConvA2 ConvB2 DConvA8 DConvG2 DConvG16 DConvA8 DConvA16 DConvG8 DConvA4 DConvG4 DConvG4 "
        "A4B2 DConvG8 DConvG8 G16B2",
        404_250,
    ),
    "500k": (
        "DConvG16 G8B2 DConvA2 DConv DConvG16 DConvG4 ConvB4 G16B2 DConvA4 DConvG8 A2B2 A4B2 DConvG2 DConvA2 DConvG16 "
        "DConvG2 DConvG16 DConvG2",
        555_962,
    ),
    "800k": (
        "ConvB4 Conv A16B2 DConvA4 DConvA8 ConvB4 DConvA4 Conv DConvA16 DConvA2 Conv DConvG16 DConvG8 DConvA2 DConvA2 "
        "G8B2 G4B2 DConvA8",
        811_370,
    ),
    "1.6m": (
        "Conv DConvA2 DConvA2 DConvA2 DConvA2 Conv Conv DConvA2 DConvA2 DConvA2 DConvA2 Conv Conv DConvA2 DConvA2 "
        "DConvA2 DConvA2 Conv",
        1_645_018,
    ),
}
"""The genotypes that the authors published for WRN-40-2 (github.com/BayesWatch/pytorch-blockswap, MIT licence), and how
many parameters the blocks have by their definitions, from a formula for each and not from a network.
"""


@cache
def wrn_40_2() -> Model:
    torch.manual_seed(0)
    return from_module(wide_resnet(40, 2), torch.zeros(2, 3, 32, 32), name="wrn_40_2")


@pytest.mark.parametrize("budget", GENOTYPES)
def test_published_genotypes_have_their_parameters(budget: str) -> None:
    genotype, count = GENOTYPES[budget]
    graph = wrn_40_2().graph
    assert parameters(graph) == 2_243_546
    found = blocks(graph)
    chosen = [substituted(graph, block, name) for block, name in zip(found, genotype.split(), strict=True)]
    child = child_graph(graph, [edit for edits in chosen if edits for edit in edits])
    assert parameters(child) == count


def test_every_substitute_is_a_network() -> None:
    model = wrn()
    block = blocks(model.graph)[2]
    assert block == Block(
        ("layer3.0.conv1", "layer3.0.conv2"),
        frozenset({"layer3.0.conv1", "layer3.0.bn2", "layer3.0.relu_2", "layer3.0.conv2"}),
    )
    counts = {}
    for name in SUBSTITUTES:
        found = substituted(model.graph, block, name)
        assert found is not None
        child = child_graph(model.graph, found)
        counts[name] = parameters(child)
        assert torch.isfinite(outputs(sane_model(child), random_inputs(child))[0]).all()
    assert counts["Conv"] == parameters(model.graph) == max(counts.values())
    with pytest.raises(OptionError, match="no substitute 'Conv3'"):
        substituted(model.graph, block, "Conv3")


def test_blockswap_keeps_the_budget_and_the_largest_potential() -> None:
    scores: list[float] = []
    found = largest_potential(
        wrn(), task(), 150_000, candidates=12, keep=3, batch=16, on_probe=lambda probed, best: scores.append(best)
    )
    assert [one.fisher for one in found] == sorted((one.fisher for one in found), reverse=True)
    assert len(scores) == 12 and scores[-1] == found[0].fisher
    for one in found:
        assert abs(parameters(one.model.graph) - 150_000) <= 0.025 * 150_000
        assert len(one.choices) == 3 and set(one.choices) <= set(SUBSTITUTES)
    again = largest_potential(wrn(), task(), 150_000, candidates=12, keep=3, batch=16)
    assert [replace(one, model=wrn()) for one in again] == [replace(one, model=wrn()) for one in found]


def test_a_budget_out_of_reach_says_what_is_in_reach() -> None:
    with pytest.raises(OptionError, match=r"there are some from 22,250 to 303,706") as failure:
        largest_potential(wrn(), task(), 1e7, candidates=2)
    assert "10,000,000" in str(failure.value)
    with pytest.raises(OptionError, match="a budget"):
        largest_potential(wrn(), task(), 0)
    assert math.isfinite(parameters(wrn().graph))


SHORT = Plan(tune_epochs=0.5, final_epochs=0.5, measure_seconds=0.5, finalists=2, measure="end")


def test_the_recipe_program_trains_what_it_finds(tmp_path: Path) -> None:
    front = program(wrn(), task(), candidates=8, keep=1, batch=16, plan=SHORT, out=tmp_path / "run")
    (trial,) = [t for t in front.study.trials.values() if t.number]
    assert trial.state is TrialState.COMPLETE and trial.scores["fisher"] >= 1 and 0 < trial.inherited <= 1
    assert all(edit.origin.startswith("program.") for edit in trial.edits)
    assert set(front.study.finalists) == {0, 1}
    again = program(wrn(), task(), candidates=8, keep=1, batch=16, plan=SHORT, out=tmp_path / "run", resume=True)
    assert again.study.trials.keys() == front.study.trials.keys()
    with pytest.raises(StudyError, match="other options"):
        program(wrn(), task(), candidates=9, keep=1, batch=16, plan=SHORT, out=tmp_path / "run", resume=True)


@pytest.mark.parametrize("recipe", [program, blockswap])
def test_a_recipe_that_is_resumed_probes_nothing_twice(recipe: Callable[..., Front], tmp_path: Path) -> None:
    def after_two(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            raise KeyboardInterrupt

    def after_one_trial(event: Event) -> None:
        if isinstance(event, TrialRecorded) and event.trial.number:
            raise KeyboardInterrupt

    options = {"candidates": 8, "keep": 2, "batch": 16, "plan": SHORT}
    assert not recipe(wrn(), task(), out=tmp_path / "run", on_event=after_two, **options).study.trials.get(1)
    study = Study.read(tmp_path / "run")
    assert [note["note"] for note in study.notes] == ["probe", "probe"]
    recipe(wrn(), task(), out=tmp_path / "run", resume=True, on_event=after_one_trial, **options)
    resumed = recipe(wrn(), task(), out=tmp_path / "run", resume=True, **options).study
    probes = [note["digest"] for note in resumed.notes if note["note"] == "probe"]
    assert 2 < len(probes) == len(set(probes)) <= 8
    (found,) = [note["proposals"] for note in resumed.notes if note["note"] == "found"]
    assert [resumed.trials[n].scores["fisher"] for n in (1, 2)] == [one["fisher"] for one in found]
    whole = recipe(wrn(), task(), out=tmp_path / "whole", **options).study
    assert {t.digest: t.scores["fisher"] for t in resumed.trials.values() if t.number} == {
        t.digest: t.scores["fisher"] for t in whole.trials.values() if t.number
    }


def test_the_recipe_blockswap_keeps_its_limit_and_what_is_frozen(tmp_path: Path) -> None:
    frozen = min(blocks(wrn().graph)[0].inside)
    front = blockswap(
        *(wrn(), task()),
        limit="parameters<=0.5x",
        candidates=8,
        batch=16,
        plan=SHORT,
        freeze=[frozen],
        out=tmp_path / "run",
    )
    trial = front.study.trials[1]
    assert trial.scores["parameters"] <= 0.5 * parameters(wrn().graph)
    assert not any(frozen in edit.region.nodes for edit in trial.edits)
    with pytest.raises(OptionError, match=r"a limit such as parameters<=0\.4x"):
        blockswap(wrn(), task(), limit="flops<=0.5x", out=tmp_path / "no")
    assert not (tmp_path / "no").exists()
