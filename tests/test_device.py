"""Where networks are trained and judged.

Most of it is checked on a device that is made of Python (:mod:`elsewhere`): what is computed there must be, bit for
bit, what the CPU computes. The tests marked ``gpu`` ask a real one.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import elsewhere
import numpy as np
import pytest
import torch
from small_tasks import blobs, noisy, small_net, state
from torch import Tensor, nn
from typer.testing import CliRunner

from netgraft import tasks
from netgraft.cli import app
from netgraft.convert.to_torch import weights_of
from netgraft.data import task as load_data
from netgraft.engine import Engine, Processes, engine_from
from netgraft.errors import DataError, OptionError
from netgraft.events import DeviceChanged, Event
from netgraft.ir import Model, apply, inherit
from netgraft.mutations import Mix
from netgraft.mutations.program import Program
from netgraft.mutations.swap import Swap
from netgraft.mutations.trim import Trim
from netgraft.proxies import anew, of_task, proxies
from netgraft.recipes import Plan, optimize
from netgraft.recipes.imitation import imitate
from netgraft.recipes.refit import Moments, gradients, magnitudes, refit
from netgraft.recipes.run import examples_of
from netgraft.report.page import render
from netgraft.sources import load
from netgraft.study import Study
from netgraft.tasks import Schedule, Task, agreement, answers, evaluate, examples, recalibrate, train
from netgraft.tasks.device import CPU, _automatic, computing, described, device_named, moved, room
from netgraft.tasks.training import LOOK

FP32 = "fp32"
SOURCE = "zoo:resnet20?channels=1&width=0.25&input=1x8x8"
automatic = _automatic  # as it is without the fixture that lets tests run on the CPU


class Small(nn.Module):
    """A residual network of three convolutions, for digits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.drop, self.fc = nn.Dropout(0.1), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn0(self.stem(x)))
        x = torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return self.fc(self.drop(x.mean((2, 3))))


def small() -> Model:
    torch.manual_seed(0)
    return load(Small(), example_inputs=torch.zeros(2, 1, 8, 8))


OnTheDevice = Callable[..., Any]


@pytest.fixture(scope="module")
def on_the_device() -> Iterator[OnTheDevice]:
    """``on_the_device(work, item)``: what ``work(item)`` gives in a process that knows the device."""
    if not elsewhere.exists():
        pytest.skip("this torch has no devices made in Python")
    with Processes(1) as engine:

        def call(work: Callable[[Any], Any], item: Any = None) -> Any:
            (found,) = engine.map(partial(_knowing_it, work), [item])
            return found

        yield call


def _knowing_it(work: Callable[[Any], Any], item: Any) -> Any:
    elsewhere.registered()  # before anything is differentiated: torch asks once what devices there are
    return work(item)


def as_plain(value: Any) -> Any:
    """Something that can be compared with ``==``: arrays as bytes, modules as their weights."""
    if isinstance(value, nn.Module):
        return as_plain(weights_of(value))
    if isinstance(value, dict):
        return {str(key): as_plain(one) for key, one in value.items()}
    if isinstance(value, Tensor):
        return as_plain(value.cpu().numpy())
    return value.tobytes() if isinstance(value, np.ndarray) else value


def _trained(task: Task) -> tuple[list[Any], list[Tensor]]:
    torch.manual_seed(3)
    module, teacher = small_net(), small_net()
    told: list[Any] = []
    schedule = Schedule(10, batch_size=16, learning_rate=0.05, average=0.1, precision=FP32)
    done = train(module, task, schedule, seed=1, teacher=teacher, on_step=lambda *step: told.append(step))
    found = [as_plain(module), done.steps, done.loss, told]
    found += [evaluate(module, task, "test"), evaluate(module, task, "validation")]
    recalibrate(module, task, batches=2, seed=4)
    found.append(as_plain(module))
    found.append(agreement(module, task, answers(teacher, task, batches=2, seed=0)))
    return found, [*module.parameters(), *teacher.parameters()]


def _train_in_both_places(whole: bool) -> None:
    task = replace(blobs(), augment=_noisy_anywhere)
    expected, _ = _trained(task)
    with elsewhere.elsewhere() as (device, _), pytest.MonkeyPatch.context() as patch:
        patch.setattr("netgraft.tasks.task.room", lambda device: task.train.nbytes * (3 if whole else 2.9))
        there = task.to(device)
        assert there.device == device
        assert {part.device for split in (there.train, there.test) for part in (split.inputs, split.targets)} == {
            device if whole else CPU
        }
        found, parameters = _trained(there)
        assert found == expected
        assert all(parameter.device == CPU for parameter in parameters), "networks come back from where they were run"
        assert examples_of(there) == examples_of(task)


def _noisy_anywhere(inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return inputs + moved(0.1 * torch.randn(inputs.shape, generator=generator), inputs.device), targets


@pytest.mark.parametrize("whole", [True, False])
def test_training_and_judging_give_the_same_wherever_the_task_is(on_the_device: OnTheDevice, whole: bool) -> None:
    """With the data there, and with data that does not fit and follows batch by batch."""
    on_the_device(_train_in_both_places, whole)


def _waits_of_a_training(_: None) -> tuple[int, int, int]:
    task, steps = replace(blobs(), augment=_noisy_anywhere), 2 * LOOK
    with elsewhere.elsewhere() as (device, seen):
        there, module, teacher = task.to(device), small_net(), small_net()
        train(module, there, Schedule(steps / 6, batch_size=16, precision=FP32), seed=0, teacher=teacher)
        moves = 2 * (len(state(module)) + len(state(teacher)))  # there and back
        trained, seen.waits = seen.waits, 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("netgraft.tasks.judging._EVALUATION_BATCH", 16)
            evaluate(module, there, "test")
        return trained - moves, steps, seen.waits - 2 * len(state(module))


def test_while_it_trains_nobody_waits_for_the_device_but_to_read_losses(on_the_device: OnTheDevice) -> None:
    """Copies that are not said to go on by themselves, numbers that are read and indices from here all count."""
    training, steps, judging = on_the_device(_waits_of_a_training)
    assert training == steps, "each loss once, after every so many steps"
    assert judging == 1 + 6, "the values of all, and the loss of each of six batches, at the end"


def _tasks() -> Iterator[tuple[Task, nn.Module]]:
    """One of each kind, with the first examples to be judged by, and a network for it."""

    def conv(channels: int, outputs: int, *more: nn.Module) -> nn.Module:
        inner = [
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, outputs, 3, padding=1),
        ]
        return nn.Sequential(*inner, *more)

    picture, large = (3, 12, 12), (3, 24, 24)
    yield tasks.load("digits", input_shape=(1, 8, 8), classes=10, subset=99), conv(1, 10, nn.AvgPool2d(8), nn.Flatten())
    for quality in ("psnr", "ssim"):
        yield tasks.denoising("samples", picture, quality=quality, subset=3), conv(3, 3)
        yield tasks.super_resolution("samples", picture, large, quality, subset=3), conv(3, 12, nn.PixelShuffle(2))
    yield tasks.segmentation("shapes", picture, 6, subset=32), conv(3, 6, nn.AvgPool2d(2))
    yield tasks.key_points("shapes", picture, 5, subset=32), conv(3, 5)


def _looked_at(module: nn.Module, task: Task) -> list[Any]:
    done = train(module, task, Schedule(2.5 * 8 / len(task.train), 8, precision=FP32), seed=0)
    shown = examples(module, task, "validation", 2)
    drawn = [as_plain(part) for one in shown for part in (one.input, one.target, one.output)]
    return [as_plain(module), done.loss, evaluate(module, task, "validation"), drawn, [one.quality for one in shown]]


def _every_task(_: None) -> None:
    torch.manual_seed(0)
    for task, module in _tasks():
        expected = _looked_at(copy.deepcopy(module), task)
        with elsewhere.elsewhere() as (device, _seen):
            assert _looked_at(module, task.to(device)) == expected, task.name


def test_every_task_is_the_same_wherever_it_is(on_the_device: OnTheDevice) -> None:
    """Augmentation, loss, quality and pictures of all that netgraft knows by name."""
    on_the_device(_every_task)


def _asked(model: Model, task: Task) -> list[Any]:
    rng = np.random.default_rng(0)
    trim = next(Trim().edits(model.graph, model.weights, rng))
    changed = next(Program().edits(model.graph, model.weights, rng))
    child = Model(apply(model.graph, changed), inherit(model.graph, changed, model.weights, rng)[0], "child")
    taught = imitate(model, child, task, steps=5, images=64, batch_size=32, largest=1.0, seed=1)
    assert taught.epochs
    return [
        as_plain(taught.model.weights),
        as_plain(gradients(model, task, images=64, seed=1)),
        as_plain(magnitudes(model, task, images=64, seed=1)),
        as_plain(refit(model, trim, task, images=64, seed=1).weights),
        as_plain(Moments.of(model, task, images=64, seed=1).refit(trim).weights),
        proxies(anew(model), of_task(task, 16)),
    ]


def _every_question(_: None) -> None:
    model = small()
    task = load_data("digits", model, subset=200)
    expected = _asked(model, task)
    with elsewhere.elsewhere() as (device, _seen):
        assert _asked(model, task.to(device)) == expected


def test_what_recipes_ask_of_networks_is_the_same_wherever_the_task_is(on_the_device: OnTheDevice) -> None:
    on_the_device(_every_question)


PLAN = Plan(
    population=6,
    keep=2,
    finalists=1,
    tune_epochs=0.1,
    final_epochs=0.1,
    measure_seconds=0.1,
    imitation=3,
    measure="end",
)


def _run(
    out: Path, device: str | torch.device, events: list[Event], resume: bool = False, engine: Engine | None = None
) -> Study:
    model = small()
    front = optimize(
        *(model, load_data("digits", model, subset=300)),
        goals=("quality", "flops"),
        budget="2 trials",
        out=out,
        plan=PLAN,
        mutation=Mix((Swap(), Trim())),
        device=device,
        resume=resume,
        engine=engine,
        on_event=events.append,
    )
    return front.study


def _facts(study: Study) -> list[Any]:
    trials = [(t.number, t.digest, t.state, t.scores, t.model) for t in study.trials.values()]
    return [trials, [(f.number, f.test, f.model) for f in study.finalists.values()]]


def _whole_run(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("netgraft.tasks.training.native_bf16", lambda device=CPU: False)  # the same precision in both
        expected = _run(folder / "here", "cpu", [])
        with elsewhere.elsewhere() as (device, _seen):
            found = _run(folder / "there", device, [])
        assert _facts(found) == _facts(expected) and len(expected.trials) > 2
        assert (expected.settings["device"], found.settings["device"]) == ("cpu", "elsewhere:0")
        assert found.note("device") is None and "elsewhere:0" in render(found)
        # Where a run goes on on another device, that is said.
        events: list[Event] = []
        with elsewhere.elsewhere() as (device, _seen), pytest.warns(UserWarning, match="so far it was on cpu"):
            _interrupted(folder / "here")
            again = _run(folder / "here", device, events, resume=True)
        assert events[0] == DeviceChanged("cpu", "elsewhere:0") and again.note("device") is not None
        assert _facts(again) == _facts(expected)


def _interrupted(out: Path) -> None:
    """As if the run had been cut off before its finals."""
    journal = out / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["kind"] == "trial"]
    journal.write_text("".join(kept))


def test_a_run_gives_the_same_on_every_device_and_says_where_it_goes_on(
    on_the_device: OnTheDevice, tmp_path: Path
) -> None:
    on_the_device(_whole_run, tmp_path)


def _diverging(_: None) -> tuple[int, bool, int]:
    calls = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return nn.functional.cross_entropy(outputs, targets) * (float("nan") if calls == 3 else 1)

    with elsewhere.elsewhere() as (device, _seen):
        task = replace(blobs(), loss=loss).to(device)
        done = train(small_net(), task, Schedule(10, batch_size=16, precision=FP32), seed=0)
    return done.steps, done.diverged, calls


def test_a_loss_that_is_not_finite_is_noticed_when_losses_are_read(on_the_device: OnTheDevice) -> None:
    assert on_the_device(_diverging) == (3, True, LOOK)


def _put_there(augment: Any) -> None:
    with elsewhere.elsewhere() as (device, _seen):
        replace(blobs(), augment=augment).to(device)


def test_functions_that_make_tensors_on_the_cpu_are_refused_before_anything_is_trained(
    on_the_device: OnTheDevice,
) -> None:
    with pytest.raises(DataError, match=r"augment of the task blobs does not work on elsewhere:0: .*inputs\.device"):
        on_the_device(_put_there, noisy)
    on_the_device(_put_there, _noisy_anywhere)


# --- which device


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were two graphics cards, as far as torch is asked about them."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"card {device.index}")
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (4000, 9000))
    monkeypatch.setattr("torch.ones", lambda *shape, device: torch.zeros(shape))


def test_auto_is_the_cpu_where_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert device_named("auto") == CPU, "Apple's is taken only where it is asked for"


def test_devices_are_named_as_torch_does(cards: None) -> None:
    names = {name: str(device_named(name)) for name in ("cpu", "cuda", "cuda:0", "cuda:1")}
    assert names == {"cpu": "cpu", "cuda": "cuda:1", "cuda:0": "cuda:0", "cuda:1": "cuda:1"}
    assert described(torch.device("cuda", 0)) == "cuda:0 (card 0)" and described(CPU) == "cpu"
    with pytest.raises(OptionError, match=r"cuda:2 cannot be used: torch finds 2 .* There is cpu, cuda:0, cuda:1"):
        device_named("cuda:2")
    with pytest.raises(OptionError, match="no device 'gpu'; write auto, cpu"):
        device_named("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there_is_one_clear_error() -> None:
    words = ["optimize", SOURCE, "--data", "digits", "--out", "never", "--device", "cuda"]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "300"})
    assert result.exit_code == 2
    assert "error: the device cuda cannot be used: torch finds no CUDA here" in result.output
    assert "There is cpu" in result.output and not Path("never").exists()


def test_a_card_that_computes_nothing_is_left_alone_by_auto(cards: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is too old for this torch, say."""

    def fails(*shape: int, device: torch.device) -> Tensor:
        raise RuntimeError("CUDA error: no kernel image is available\nand more")

    monkeypatch.setattr("torch.ones", fails)
    monkeypatch.setattr("netgraft.tasks.device._automatic", automatic)
    with pytest.warns(UserWarning, match="trained on the CPU, as cuda:1 cannot be used: CUDA error: no kernel image"):
        assert device_named("auto") == CPU
    with pytest.raises(OptionError, match="no kernel image"):
        device_named("cuda")


def test_data_takes_a_quarter_of_the_free_memory_at_most(cards: None) -> None:
    assert room(torch.device("cuda", 0)) == 1000 and room(CPU) == float("inf")


def test_a_task_that_is_on_a_device_stays_there_unless_another_one_is_named(cards: None) -> None:
    there = replace(blobs(), device=torch.device("cuda", 1))
    assert there.to("auto") is there
    assert there.to("cpu").device == CPU and blobs().to("cpu").device == CPU


def test_on_cuda_float32_is_float32_and_convolutions_give_the_same_again() -> None:
    def flags() -> tuple[bool, bool, bool, str]:
        now = torch.backends.cudnn
        return now.enabled, now.deterministic, now.allow_tf32, torch.get_float32_matmul_precision()

    torch.set_float32_matmul_precision("high")
    try:
        before = flags()
        with computing(torch.device("cuda", 0)):
            assert flags() == (True, True, False, "highest")
        assert flags() == before
    finally:
        torch.set_float32_matmul_precision("highest")
    before = flags()
    with computing(CPU):
        assert flags() == before


# --- on a real one


@pytest.mark.gpu
def test_a_gpu_gives_about_what_the_cpu_gives() -> None:
    for task, module in _tasks():
        here, there = copy.deepcopy(module), copy.deepcopy(module)
        on_gpu = task.to("cuda")
        for net, where in ((here, task), (there, on_gpu)):
            train(net, where, Schedule(2.5 * 8 / len(task.train), 8, 1e-3, precision=FP32), seed=0)
        for name, value in here.state_dict().items():
            torch.testing.assert_close(there.state_dict()[name], value, rtol=1e-2, atol=1e-4)
        one, other = evaluate(here, task, "validation"), evaluate(here, on_gpu, "validation")
        assert other.loss == pytest.approx(one.loss, rel=1e-4)
        assert len(examples(here, on_gpu, "validation", 2)) == len(examples(here, task, "validation", 2))


@pytest.mark.gpu
@pytest.mark.parametrize("fits", [True, False])
def test_a_gpu_gives_the_same_again(fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fits:
        monkeypatch.setattr("netgraft.tasks.task.room", lambda device: 0.0)
    task = replace(blobs(), augment=_noisy_anywhere).to("cuda")
    assert task.train.inputs.is_cuda == fits
    start, found = small_net(), []
    for _ in range(2):
        module, teacher = copy.deepcopy(start), copy.deepcopy(start)
        torch.rand(3, device="cuda")  # whatever the caller drew before must not matter
        done = train(module, task, Schedule(12, batch_size=16), seed=0, teacher=teacher)
        found.append((as_plain(module), done.loss))
        assert evaluate(module, task, "test").quality > 95
    assert found[0] == found[1]


@pytest.mark.gpu
def test_the_random_state_of_a_gpu_is_left_alone() -> None:
    before = torch.cuda.get_rng_state()
    train(small_net(), blobs().to("cuda"), Schedule(1), seed=0)
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.gpu
def test_what_recipes_ask_of_networks_is_about_the_same_on_a_gpu() -> None:
    model = small()
    task = load_data("digits", model, subset=200)
    here, there = (proxies(anew(model), of_task(one, 16)) for one in (task, task.to("cuda")))
    assert there == pytest.approx(here, rel=0.02)
    trim = next(Trim().edits(model.graph, model.weights, np.random.default_rng(0)))
    one, other = (refit(model, trim, place, images=64, seed=1) for place in (task, task.to("cuda")))
    for key, value in one.weights.items():
        np.testing.assert_allclose(other.weights[key], value, rtol=0.05, atol=0.01)


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["inline", "processes:2"])
def test_a_run_on_a_gpu_ends_and_goes_on_on_the_cpu(engine: str, tmp_path: Path) -> None:
    with engine_from(engine) as workers:
        study = _run(tmp_path / "run", "auto", [], engine=workers)
    assert study.settings["device"].startswith("cuda") and study.finalists
    _interrupted(tmp_path / "run")
    events: list[Event] = []
    with pytest.warns(UserWarning, match="so far it was on cuda"):
        again = _run(tmp_path / "run", "cpu", events, resume=True)
    assert isinstance(events[0], DeviceChanged) and again.finalists
