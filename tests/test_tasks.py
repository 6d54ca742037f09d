"""Training and judging, on tasks small enough to know the answer."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import Tensor, nn

from netgraft.errors import DataError, OptionError, SourceError
from netgraft.tasks import (
    Distillation,
    Mixed,
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
from netgraft.tasks.task import jackknife, softened_divergence, standard_error


def blobs(examples: int = 96) -> Task:
    """Three classes of 4x4 images, told apart by which channel is bright."""
    generator = torch.Generator().manual_seed(1)
    targets = torch.arange(examples) % 3
    inputs = torch.randn(examples, 3, 4, 4, generator=generator) * 0.3
    inputs[torch.arange(examples), targets] += 1
    split = Split(inputs, targets)
    return classification("blobs", split, split, split, prepare=Tensor.float)


def noisy(inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator), targets


def small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(128, 3)
    )


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


class Logits(nn.Module):
    """Gives its inputs back: the task's inputs are the outputs to be judged."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


# --- Split and Schedule


def test_a_split_needs_a_target_for_each_input_and_at_least_one() -> None:
    with pytest.raises(DataError, match="3 inputs and 2 targets"):
        Split(torch.zeros(3, 1), torch.zeros(2))
    with pytest.raises(DataError, match="empty"):
        Split(torch.zeros(0, 1), torch.zeros(0))


def test_printing_a_task_shows_sizes_not_tensors() -> None:
    task = blobs(2000)
    assert repr(task) == "Task('blobs': train 2,000, validation 2,000, test 2,000; judged by accuracy)"
    assert repr(task.train) == "Split(2,000 examples: 3x4x4 float32 inputs, int64 targets)"


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


# --- train


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
    monkeypatch.setattr("netgraft.tasks.task._EVALUATION_VALUES", 3 * 4 * 4 * 40)
    assert evaluate(network, task, "test").loss == pytest.approx(whole.loss)
    assert seen == [96, 40, 40, 16]


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


# --- teachers


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


def test_softened_divergence_is_hintons() -> None:
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    expected = 9 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(softened_divergence(student, teacher, 3.0), expected)
    assert softened_divergence(teacher + 7, teacher, 3.0).abs() < 1e-5


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


# --- evaluate


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


# --- recalibrate


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
