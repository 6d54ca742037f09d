"""Judging, on tasks small enough to know the answer."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from small_tasks import blobs, noisy, same, small_net, state
from torch import Tensor, nn

from netgraft.tasks import Mixed, Split, agreement, answers, classification, evaluate
from netgraft.tasks.judging import jackknife, standard_error


class Logits(nn.Module):
    """Gives its inputs back: the task's inputs are the outputs to be judged."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def test_examples_of_several_sizes_are_judged_as_one_by_one() -> None:
    """In batches of equal size; the mean is over examples."""
    rows = [torch.randn(3, height, 4, generator=torch.Generator().manual_seed(i)) for i, height in enumerate([4, 5, 4])]
    mixed = Mixed.of(rows, [torch.tensor(i) for i in range(3)])
    assert [len(part) for part in mixed.parts] == [2, 1] and repr(mixed) == "Mixed(3 examples of 2 sizes)"
    assert [part.targets.tolist() for part in mixed.parts] == [[0, 2], [1]]
    task = replace(blobs(), test=mixed)
    network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    score = evaluate(network, task, "test")
    alone = [F.cross_entropy(network(x[None]), torch.tensor([i])).item() for i, x in enumerate(rows)]
    right = [network(x[None]).argmax().item() == i for i, x in enumerate(rows)]
    assert score.loss == pytest.approx(sum(alone) / 3) and score.quality == pytest.approx(100 * sum(right) / 3)


def test_large_examples_are_judged_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    task = replace(blobs(), prepare=lambda inputs: (seen.append(len(inputs)), inputs.float())[1])
    network = small_net()
    whole = evaluate(network, task, "test")
    monkeypatch.setattr("netgraft.tasks.judging._EVALUATION_VALUES", 3 * 4 * 4 * 40)
    assert evaluate(network, task, "test").loss == pytest.approx(whole.loss)
    assert seen == [96, 40, 40, 16]


def test_agreement_is_zero_with_oneself_and_leaves_no_trace() -> None:
    task, one, other = blobs(), small_net(), small_net()
    before = state(one)
    own, others, again = (answers(net, task, batches=4, seed=0) for net in (one, other, other))
    assert agreement(one, task, own) == 0
    assert agreement(one, task, others) > 0
    assert agreement(one, task, others) == agreement(one, task, again)
    assert one.training
    assert other.training
    assert same(before, state(one))


@given(right=st.integers(0, 600))
def test_accuracy_and_its_error_are_those_of_wilson(right: int) -> None:
    targets = torch.arange(600) % 3
    shown = torch.where(torch.arange(600) < right, targets, (targets + 1) % 3)
    logits = F.one_hot(shown, 3).float()
    split = Split(logits, targets)
    task = classification("known", split, split, split, prepare=Tensor.float)
    score = evaluate(Logits(), task, "validation")
    assert score.quality == pytest.approx(100 * right / 600)
    one_error = math.erf(math.sqrt(0.5))  # the share of a normal distribution within one standard error
    wilson = binomtest(right, 600).proportion_ci(one_error, method="wilson")
    assert score.error == pytest.approx(100 * (wilson.high - wilson.low) / 2)
    assert score.error > 0.08, "not even all right or all wrong leaves no doubt"
    assert score.loss == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-5)


def test_the_error_of_what_is_no_proportion_is_that_of_a_mean() -> None:
    values = torch.tensor([1.0, 2.0, 6.0])
    assert standard_error(values) == pytest.approx(math.sqrt(14 / 3 / 3))
    assert standard_error(torch.ones(5)) == 0


def test_the_error_of_a_ratio_is_that_of_its_mean_where_all_count_alike() -> None:
    values = torch.tensor([[1.0, 2], [4, 2], [3, 2]])
    alike = (values[:, 0] / 2).std() / math.sqrt(3)
    assert jackknife(values, lambda mean: mean[..., 0] / mean[..., 1]) == pytest.approx(alike.item())
    assert jackknife(values[:1], lambda mean: mean[..., 0]) == 0


def test_each_split_is_judged_by_its_own_data() -> None:
    targets = torch.zeros(4, dtype=torch.int64)
    splits = [Split(F.one_hot(torch.tensor(shown), 2).float(), targets) for shown in ([0] * 4, [0, 0, 1, 1], [1] * 4)]
    task = classification("known", *splits, prepare=Tensor.float)
    assert [evaluate(Logits(), task, split).quality for split in ("train", "validation", "test")] == [100, 50, 0]


def test_evaluation_keeps_every_parts_mode_and_is_repeatable() -> None:
    task, module = replace(blobs(), augment=noisy), small_net()
    module[1].eval()
    before = state(module)
    assert evaluate(module, task, "test") == evaluate(module, task, "test")
    assert module.training
    assert not module[1].training
    assert same(before, state(module))
