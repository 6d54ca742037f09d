"""What a task is."""

from __future__ import annotations

import pytest
import torch
from small_tasks import blobs

from netgraft.errors import DataError
from netgraft.tasks import Split
from netgraft.tasks.task import softened_divergence


def test_a_split_needs_a_target_for_each_input_and_at_least_one() -> None:
    with pytest.raises(DataError, match="3 inputs and 2 targets"):
        Split(torch.zeros(3, 1), torch.zeros(2))
    with pytest.raises(DataError, match="empty"):
        Split(torch.zeros(0, 1), torch.zeros(0))


def test_printing_a_task_shows_sizes_not_tensors() -> None:
    task = blobs(2000)
    assert repr(task) == "Task('blobs': train 2,000, validation 2,000, test 2,000; judged by accuracy)"
    assert repr(task.train) == "Split(2,000 examples: 3x4x4 float32 inputs, int64 targets)"


def test_softened_divergence_is_hintons() -> None:
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    expected = 9 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(softened_divergence(student, teacher, 3.0), expected)
    assert softened_divergence(teacher + 7, teacher, 3.0).abs() < 1e-5
