"""Training, on tasks small enough to know the answer."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from small_tasks import blobs, noisy, same, small_net, state
from torch import Tensor, nn

from netgraft.errors import OptionError, SourceError
from netgraft.tasks import (
    Distillation,
    Quality,
    Schedule,
    Split,
    Task,
    agreement,
    answers,
    classification,
    evaluate,
    native_bf16,
    recalibrate,
    train,
)


@given(
    total=st.integers(1, 400),
    warmup=st.floats(0, 0.9),
    learning_rate=st.floats(1e-4, 1),
)
def test_the_rate_rises_then_falls_and_never_exceeds_the_learning_rate(
    total: int, warmup: float, learning_rate: float
) -> None:
    schedule = Schedule(1, learning_rate=learning_rate, warmup=warmup)
    rates = [schedule.rate(step, total) for step in range(total)]
    assert all(0 < rate <= learning_rate * (1 + 1e-9) for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert top <= math.ceil(warmup * total)


def test_epochs_may_be_fractions() -> None:
    assert Schedule(0.25, batch_size=10).steps(400) == 10
    assert Schedule(2, batch_size=10).steps(400) == 80
    assert Schedule(0.001, batch_size=10).steps(400) == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0),
        ("epochs", math.inf),
        ("batch_size", 0),
        ("learning_rate", -0.1),
        ("momentum", 1),
        ("warmup", 1.5),
        ("average", 1),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(OptionError, match=option):
        Schedule(**{"epochs": 1, option: value})


def test_training_learns_and_leaves_a_plain_module_in_eval_mode() -> None:
    task, module = blobs(), small_net()
    before = evaluate(module, task, "test")
    trained = train(module, task, Schedule(12, batch_size=16), seed=0)
    after = evaluate(module, task, "test")
    assert trained.steps == 72
    assert not trained.diverged
    assert after.loss < before.loss
    assert after.quality > 95
    assert not module.training
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(parameter.is_contiguous() for parameter in module.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_seed_alone_decides_the_weights(precision: str) -> None:
    if precision == "bf16" and not native_bf16():
        pytest.skip("this processor does not multiply bfloat16")
    task = replace(blobs(), augment=noisy)
    start = small_net()

    def weights(seed: int) -> dict[str, Tensor]:
        torch.rand(seed + 3)  # whatever the caller drew before must not matter
        module = copy.deepcopy(start)
        train(module, task, Schedule(2, batch_size=16, precision=precision), seed=seed)
        return state(module)

    assert same(weights(5), weights(5))
    assert not same(weights(5), weights(6))


def test_the_average_is_that_of_the_weights_after_each_step() -> None:
    """By hand: at the n-th step (from 0) the old average keeps (1 + n) / (10 + n), or the schedule's share if less."""
    steps: list[dict[str, Tensor]] = []
    module, start = small_net(), small_net()
    module.load_state_dict(start.state_dict())
    schedule = Schedule(2, batch_size=16, average=0.25, precision="fp32")
    train(module, blobs(), schedule, seed=0, on_step=lambda *at: steps.append(state(module)))
    assert len(steps) == 12
    expected = steps[0]
    for n, step in enumerate(steps[1:], 1):
        kept = min(3 / 4, (1 + n) / (10 + n))  # over 0.25 * 12 steps
        expected = {k: kept * expected[k] + (1 - kept) * v if v.is_floating_point() else v for k, v in step.items()}
    found = state(module)
    assert all(torch.allclose(expected[name], value, atol=1e-6) for name, value in found.items())
    assert not same(found, steps[-1]) and "1.num_batches_tracked" in found
    assert not module.training and all(p.is_contiguous() and p.requires_grad for p in module.parameters())
    # The same training ends with the last weights where nothing is averaged, and averages none where it diverges.
    plain = small_net()
    plain.load_state_dict(start.state_dict())
    train(plain, blobs(), replace(schedule, average=0.0), seed=0)
    assert same(state(plain), steps[-1])


def test_an_average_does_not_keep_what_a_short_training_began_with() -> None:
    """Of two steps the second has nine parts of eleven, however long the average is to be."""
    module, steps = small_net(), list[dict[str, Tensor]]()
    schedule = Schedule(1, batch_size=48, average=0.9, precision="fp32")
    train(module, blobs(), schedule, seed=0, on_step=lambda *at: steps.append(state(module)))
    expected = (2 * steps[0]["0.weight"] + 9 * steps[1]["0.weight"]) / 11
    torch.testing.assert_close(state(module)["0.weight"], expected)


def test_the_callers_random_state_is_left_alone() -> None:
    module = small_net()
    before = torch.get_rng_state()
    train(module, replace(blobs(), augment=noisy), Schedule(1), seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("epochs", "shown"), [(0.25, 24), (1, 96), (2, 192)])
def test_an_epoch_shows_every_example_once(epochs: float, shown: int) -> None:
    seen: list[int] = []

    def prepare(inputs: Tensor) -> Tensor:
        seen.extend(inputs[:, 0].int().tolist())
        return inputs

    rows = torch.arange(96.0)[:, None]
    split = Split(rows, torch.zeros(96, dtype=torch.int64))
    task = classification("rows", split, split, split, prepare=prepare)
    train(nn.Linear(1, 2), task, Schedule(epochs, batch_size=8, learning_rate=1e-6), seed=0)
    assert len(seen) == shown
    assert max(seen.count(row) for row in range(96)) == math.ceil(shown / 96)
    assert seen != sorted(seen)


def test_a_batch_may_be_larger_than_the_split() -> None:
    assert train(small_net(), blobs(9), Schedule(8, batch_size=24), seed=0).steps == 3


def test_a_loss_that_is_not_finite_ends_training_with_a_value() -> None:
    task, calls = blobs(), 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return F.cross_entropy(outputs, targets) * (math.nan if calls == 3 else 1)

    module = small_net()
    trained = train(module, replace(task, loss=loss), Schedule(5, batch_size=16), seed=0)
    assert trained.diverged
    assert trained.steps == calls == 3
    assert not module.training
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_progress_is_told_and_may_interrupt() -> None:
    told: list[tuple[int, int, float]] = []
    trained = train(small_net(), blobs(), Schedule(0.5, batch_size=16), seed=0, on_step=lambda *step: told.append(step))
    assert [place for *place, _ in told] == [[1, 3], [2, 3], [3, 3]]
    assert told[-1][2] == trained.loss != told[0][2], "of the last tenth of the steps, which is the last one"

    def interrupt(step: int, total: int, loss: float) -> None:
        raise KeyboardInterrupt

    module = small_net()
    random_state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        train(module, blobs(), Schedule(1), seed=0, on_step=interrupt)
    assert not module.training
    assert torch.equal(torch.get_rng_state(), random_state)


def test_frozen_parameters_stay_and_a_module_without_others_is_refused() -> None:
    module = small_net()
    module[0].requires_grad_(False)
    before = module[0].weight.clone()
    train(module, blobs(), Schedule(1), seed=0)
    assert torch.equal(before, module[0].weight)
    with pytest.raises(SourceError, match="nothing to train: no parameter of Sequential"):
        train(module.requires_grad_(False), blobs(), Schedule(1), seed=0)


def test_weight_decay_spares_biases_and_norms() -> None:
    task = replace(blobs(), loss=lambda outputs, targets: 0 * outputs.sum())
    module = small_net()
    nn.init.ones_(module[0].bias)
    norm = module[0].weight.norm()
    train(module, task, Schedule(5, batch_size=16, weight_decay=0.1, precision="fp32"), seed=0)
    assert module[0].weight.norm() < 0.95 * norm
    assert torch.equal(module[0].bias, torch.ones(8))
    assert torch.equal(module[1].weight, torch.ones(8))


def test_a_student_can_learn_from_its_teacher_alone() -> None:
    task = blobs()
    teacher = small_net()
    train(teacher, task, Schedule(12, batch_size=16), seed=0)
    teacher.train()
    before = state(teacher)
    mislabelled = replace(task, train=Split(task.train.inputs, (task.train.targets + 1) % 3))
    student = small_net()
    distillation = Distillation(temperature=2.0, weight=1.0)
    train(student, mislabelled, Schedule(12, batch_size=16), seed=1, teacher=teacher, distillation=distillation)
    assert evaluate(student, task, "test").quality > 95
    assert teacher.training
    assert same(before, state(teacher))


def test_nothing_in_training_knows_about_classes() -> None:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(64, 1, 8, 8, generator=generator)
    split = Split(inputs, 3 * inputs + 1)
    task = Task(
        name="brighten",
        train=split,
        validation=split,
        test=split,
        loss=F.mse_loss,
        quality=Quality("error", "", lambda outputs, targets: (outputs - targets).square().mean((1, 2, 3)), False),
        prepare=Tensor.float,
    )
    teacher = nn.Conv2d(1, 1, 1)
    train(teacher, task, Schedule(40, batch_size=16), seed=0)
    assert evaluate(teacher, task, "test").quality < 0.1
    student = nn.Conv2d(1, 1, 1)
    far = agreement(student, task, answers(teacher, task, batches=4, seed=0))
    train(student, task, Schedule(40, batch_size=16), seed=0, teacher=teacher)
    assert agreement(student, task, answers(teacher, task, batches=4, seed=0)) < 0.1 < far


def test_recalibration_finds_the_statistics_of_the_data() -> None:
    task = blobs()
    module = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3), nn.Dropout(0.9), nn.BatchNorm2d(3))
    before = {name: value.clone() for name, value in module.named_parameters()}
    module[0].running_mean.fill_(99)
    module.eval()
    recalibrate(module, task, batches=3, batch_size=32, seed=0)
    mean = task.train.inputs.mean((0, 2, 3))
    torch.testing.assert_close(module[0].running_mean, mean)
    torch.testing.assert_close(
        module[0].running_var,
        task.train.inputs.transpose(0, 1).flatten(1).var(1),
        rtol=0.02,
        atol=0,
    )
    torch.testing.assert_close(module[2].running_mean, torch.zeros(3), atol=1e-5, rtol=0)  # no dropout in between
    assert module[0].momentum == 0.3
    assert not any(part.training for part in module.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())


def test_recalibration_sees_what_training_sees() -> None:
    """Augmented examples: statistics of others are not those that the weights were trained with."""

    def brighter(inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return inputs + 5, targets

    task, module = blobs(), nn.Sequential(nn.BatchNorm2d(3))
    recalibrate(module, replace(task, augment=brighter), batches=3, batch_size=32, seed=0)
    torch.testing.assert_close(module[0].running_mean, task.train.inputs.mean((0, 2, 3)) + 5)


def test_recalibration_leaves_modules_without_batch_norm_alone() -> None:
    used: list[Tensor] = []
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 3), nn.BatchNorm1d(3, track_running_stats=False))
    module.register_forward_hook(lambda module, inputs, output: used.append(output))
    recalibrate(module, blobs(), seed=0)
    assert not used


def test_recalibration_repairs_a_net_whose_statistics_are_stale() -> None:
    task, module = blobs(), small_net()
    train(module, task, Schedule(12, batch_size=16), seed=0)
    module[1].running_mean.fill_(5)
    module[1].running_var.fill_(30)
    stale = evaluate(module, task, "test").quality
    recalibrate(module, task, seed=0)
    assert evaluate(module, task, "test").quality > 95 > stale
