"""How surely two networks differ that were judged on the same examples."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from netgraft.tasks import Mixed, Quality, Split, Task, classification, evaluate
from netgraft.tasks.judging import evaluate_each, jackknife, standard_error
from netgraft.tasks.paired import paired_error


def measured(outputs: Tensor, targets: Tensor) -> Tensor:
    raise AssertionError("it was measured already")


ACCURACY = Quality("accuracy", "%", measured, span=100.0)
DECIBELS = Quality("PSNR", "dB", measured)
RATIO = Quality("ratio", "%", measured, of=lambda means: 100 * means[..., 0] / means[..., 1])


def decibels(rows: int, generator: torch.Generator) -> list[Tensor]:
    """Of two networks, on pictures that are easy or hard for both."""
    shared = 30 + 3 * torch.randn(rows, generator=generator).double()
    return [shared + 0.2 * torch.randn(rows, generator=generator) for _ in range(2)]


def answers(rows: int, generator: torch.Generator) -> list[Tensor]:
    """Right and wrong ones of two networks, which mostly agree."""
    shared = torch.rand(rows, generator=generator) < 0.9
    return [100 * (shared ^ (torch.rand(rows, generator=generator) < share)).double() for share in (0.02, 0.04)]


def areas(rows: int, generator: torch.Generator) -> list[Tensor]:
    """What two networks found of areas, and these."""
    size, share = 1 + torch.rand(rows, generator=generator).double(), torch.rand(rows, generator=generator)
    found = [size * share + 0.02 * torch.randn(rows, generator=generator) for _ in range(2)]
    return [torch.stack([one, size], 1) for one in found]


@pytest.mark.parametrize(("quality", "draw"), [(DECIBELS, decibels), (ACCURACY, answers), (RATIO, areas)])
def test_the_error_is_how_far_differences_spread_over_samples(
    quality: Quality, draw: Callable[[int, torch.Generator], list[Tensor]]
) -> None:
    generator = torch.Generator().manual_seed(0)
    samples = [draw(200, generator) for _ in range(600)]
    differences = torch.stack([quality.over(own) - quality.over(other) for own, other in samples])
    errors = torch.tensor([paired_error(quality, own, other) for own, other in samples], dtype=torch.float64)
    assert differences.std() == pytest.approx(errors.mean().item(), rel=0.1)
    each = partial(standard_error, span=quality.span) if quality.of is None else partial(jackknife, of=quality.of)
    apart = [(each(own) ** 2 + each(other) ** 2) ** 0.5 for own, other in samples]
    assert errors.mean() < 0.7 * torch.tensor(apart).mean(), "less than if they had been judged by different examples"


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_a_proportion_takes_half_a_pair_more_of_each_way(pairs: list[tuple[bool, bool]]) -> None:
    own, other = (100.0 * torch.tensor([pair[i] for pair in pairs]).double() for i in range(2))
    better, worse = (sum(pair == way for pair in pairs) + 0.5 for way in ((True, False), (False, True)))
    count = len(pairs) + 2
    wald = 100 * ((better + worse - (better - worse) ** 2 / count) / count**2) ** 0.5  # Agresti & Min, formula (4)
    assert paired_error(ACCURACY, own, other) == pytest.approx(wald)
    assert paired_error(ACCURACY, own, own) > 0, "that two never differed leaves some doubt"


@pytest.mark.parametrize("quality", [DECIBELS, RATIO])
def test_a_network_differs_from_itself_by_nothing(quality: Quality) -> None:
    values, _ = (areas if quality.of else decibels)(20, torch.Generator().manual_seed(0))
    assert paired_error(quality, values, values) == 0


class Shown(nn.Module):
    """Its input is its output."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_what_was_measured_of_each_example_comes_in_order_and_gives_the_score() -> None:
    inputs = [torch.rand(2, size, generator=torch.Generator().manual_seed(size)) for size in (3, 5, 3)]
    split = Mixed.of(inputs, inputs)
    measure = Quality("mean", "", lambda outputs, targets: outputs.flatten(1).mean(1))
    stand_in = Split(torch.rand(2, 4), torch.zeros(2, dtype=torch.int64))
    task = Task("means", stand_in, split, split, lambda a, b: a.mean(), measure, prepare=Tensor.float, imitate=distance)
    score, values = evaluate_each(Shown(), task, "test")
    assert score == evaluate(Shown(), task, "test")
    assert torch.allclose(values, torch.stack([x.mean() for x in (inputs[0], inputs[2], inputs[1])]).double())


def distance(outputs: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    return (outputs - wanted).square().mean()


def test_accuracies_of_two_networks_are_compared_example_by_example() -> None:
    targets = torch.tensor([0, 0, 1, 1])
    split = Split(torch.eye(2)[torch.tensor([0, 1, 1, 1])], targets)
    task = classification("known", split, split, split, prepare=Tensor.float)
    score, values = evaluate_each(Shown(), task, "validation")
    assert score.quality == 75 and values.tolist() == [100, 0, 100, 100]
