"""Examples to look at: which ones, how they look, and what a run keeps of them."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from studies import begun, finished, model_of, resnet
from test_report import Page
from torch import Tensor, nn

from netgraft import tasks
from netgraft.errors import DataError, StudyError
from netgraft.recipes import finals
from netgraft.report.page import render
from netgraft.study import Study
from netgraft.tasks import Mixed, Quality, Split, Task, evaluate, examples
from netgraft.tasks.examples import SIDE, png
from netgraft.tasks.segmentation import VOID, class_colours


class Given(nn.Module):
    """Gives the same whatever it is given."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs


def grey(inputs: Tensor, targets: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of one channel."""
    given, wanted, made = (x.to(torch.uint8).expand(-1, 3, -1, -1) for x in (inputs, targets, outputs))
    return given, wanted, made


def error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().flatten(1).mean(1)


def task_of(*parts: Tensor) -> Task:
    """Pictures [N, 1, H, W] to be given back as they are."""
    train = Split(parts[0], parts[0])
    test = Mixed(tuple(Split(part, part) for part in parts))
    quality = Quality("error", "", error, higher_is_better=False)
    return Task("copying", train, train, test, nn.functional.mse_loss, quality, Tensor.float, draw=grey)


def numbered(count: int, height: int, width: int, first: int = 0) -> Tensor:
    """Pictures that tell their row."""
    return torch.arange(first, first + count).view(-1, 1, 1, 1).expand(-1, 1, height, width)


def test_examples_lie_evenly_in_the_split_whatever_the_network() -> None:
    task = task_of(numbered(5, 8, 8), numbered(4, 6, 10, first=5))
    for module in (nn.Identity(), nn.Threshold(100, 7.0)):
        found = examples(module, task)
        assert [one.input[0, 0, 0] for one in found] == [0, 3, 6] == [one.target[0, 0, 0] for one in found]
    assert [one.output[0, 0, 0] for one in found] == [7, 7, 7]
    assert [one.quality for one in found] == [7, 4, 1], "of each by itself"
    assert len(examples(nn.Identity(), task, count=20)) == 9
    assert examples(nn.Identity(), replace(task, draw=None)) == []


def test_the_middle_of_large_pictures_is_shown_and_small_ones_are_enlarged() -> None:
    rows = torch.arange(SIDE + 40).clamp(max=255).view(1, 1, -1, 1).expand(1, 1, -1, 30)
    (large,) = examples(nn.Identity(), task_of(rows))
    assert large.input.shape == (SIDE, 30, 3) and large.input[:, 0, 0].tolist() == list(range(20, SIDE + 20))
    (small,) = examples(nn.Identity(), task_of(torch.arange(6).view(1, 1, 2, 3)))
    factor = SIDE // 3
    assert small.input.shape == (2 * factor, 3 * factor, 3)
    assert np.array_equal(small.input[::factor, ::factor, 1], [[0, 1, 2], [3, 4, 5]])
    assert np.array_equal(np.asarray(Image.open(BytesIO(png(small.input)))), small.input)


def test_what_draws_wrongly_is_named() -> None:
    task = replace(task_of(numbered(3, 4, 4)), draw=lambda inputs, targets, outputs: (inputs, targets, outputs))
    with pytest.raises(DataError, match=r"draw of the task copying must give .* not int64 \[1, 1, 4, 4\]"):
        examples(nn.Identity(), task)


@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 16, 8)])
def test_restored_pictures_look_like_their_targets(shape: tuple[int, int, int]) -> None:
    c, h, w = shape
    for margin, task in (
        (4, tasks.denoising("samples", shape, subset=4, step=4)),
        (8, tasks.super_resolution("samples", shape, (c, 2 * h, 2 * w), subset=4, step=4)),
    ):
        wanted = task.test.parts[0].targets[:1]
        below, beside = (-size % margin for size in wanted.shape[2:])
        (one,) = examples(Given(nn.functional.pad(wanted / 255, (0, beside, 0, below))), task, count=1)
        assert np.array_equal(one.output, one.target) and one.quality == 100
        assert np.array_equal(one.target[:, :, 0], _middle(wanted[0, 0])) and one.target.shape == (SIDE, SIDE, 3)
        given, is_like = (x.astype(float) for x in (one.input, one.target))
        assert 1 < np.abs(given - is_like).mean() < 40, "noisy, or in squares, but the same place"


def _middle(picture: Tensor) -> np.ndarray:
    top, left = ((size - SIDE) // 2 for size in picture.shape)
    return picture[top : top + SIDE, left : left + SIDE].numpy()


def test_masks_have_a_colour_for_each_class() -> None:
    task = tasks.segmentation("shapes", (3, 32, 32), 6, subset=2)
    masks = task.test.parts[0].targets[:1].clone()
    wrong = nn.functional.one_hot((masks.long() + 1) % 6, 6).movedim(3, 1).float()
    right = nn.functional.one_hot(masks.long(), 6).movedim(3, 1).float()
    (bad,), (good,) = (examples(Given(outputs), task, count=1) for outputs in (wrong, right))
    assert np.array_equal(good.output, good.target) and good.quality == 100
    assert (bad.output != bad.target).any(2).all() and bad.quality == 0
    assert np.array_equal(bad.target, good.target)
    assert len(np.unique(good.target.reshape(-1, 3), axis=0)) == len(masks.unique())
    behind = masks[0].repeat_interleave(SIDE // 32, 0).repeat_interleave(SIDE // 32, 1).numpy() == 0
    assert behind.any() and np.array_equal(~good.target.any(2), behind), "the background is black, and nothing else is"
    masks[:, :5] = VOID
    void = replace(task, test=Split(task.test.parts[0].inputs[:1], masks))
    assert (examples(Given(right), void)[0].target[: 5 * SIDE // 32] > 190).all()


def test_classes_have_the_colours_of_pascal_voc() -> None:
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    table = class_colours()
    assert {number: tuple(table[number].tolist()) for number in known} == known
    assert table[VOID].tolist() == [224, 224, 192] and len(table.unique(dim=0)) == len(table) == 256


def test_points_that_are_found_have_their_dots_in_place() -> None:
    task = tasks.key_points("shapes", (3, 32, 32), 4, subset=2)
    inputs, targets = task.test.parts[0].inputs[:1], task.test.parts[0].targets[:1].clone()
    targets[:, :, :2] = targets[:, :, :2].floor() + 0.5  # in the middle of what a map can say
    task = replace(task, test=Split(inputs, targets))
    maps = torch.zeros(1, 4, 32, 32)
    for point, (x, y) in enumerate(targets[0, :, :2].floor().long().tolist()):
        maps[0, point, y, x] = 1
    (good,), (bad,) = (examples(Given(outputs), task, count=1) for outputs in (maps, torch.zeros_like(maps)))
    assert good.quality == 100 and bad.quality < 100
    assert np.array_equal(good.output, good.target) and not np.array_equal(bad.output, bad.target)
    assert np.abs(good.target.astype(float) - good.input // 2).max() > 100, "there are dots"


def test_the_quality_of_an_example_is_that_of_a_split_of_it_alone() -> None:
    torch.manual_seed(0)
    task = tasks.segmentation("shapes", (3, 32, 32), 6, subset=2)
    module = nn.Conv2d(3, 6, 3, padding=1)
    part = task.test.parts[0]
    for row, one in zip((0, 100, 200), examples(module, task), strict=True):
        alone = replace(task, test=Split(part.inputs[row : row + 1], part.targets[row : row + 1]))
        assert one.quality == evaluate(module, alone, "test").quality


# --- what a run keeps ---


def test_pictures_are_files_by_content(tmp_path: Path) -> None:
    with begun(tmp_path / "run") as study:
        file = png(np.zeros((4, 4, 3), np.uint8))
        name = study.save_picture(file)
        assert study.save_picture(file) == name and study.load_picture(name) == file
        assert len(list((tmp_path / "run" / "pictures").iterdir())) == 1
        (tmp_path / "secret.png").write_bytes(file)
        with pytest.raises(StudyError, match=r"cannot read the picture .*/pictures/secret\.png"):
            study.load_picture("../../secret")
        with pytest.raises(StudyError, match="cannot read the picture"):
            study.load_picture("a\0b")
        (tmp_path / "run" / "pictures" / f"{name}.png").write_bytes(b"no")
        with pytest.raises(StudyError, match="it is no PNG file"):
            study.load_picture(name)


def test_the_finals_keep_what_every_network_makes_of_the_same_examples(tmp_path: Path) -> None:
    task = replace(task_of(numbered(9, 3, 3)), draw=lambda given, wanted, made: _shown(given, wanted, made))
    with begun(tmp_path / "run") as study:
        inputs = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
        split = Split(inputs, torch.arange(4))
        task = replace(task, test=split, quality=Quality("top", "", lambda outputs, _: outputs.amax(1)))
        models = [model_of(resnet(1, 4), seed) for seed in (0, 1)]
        trials = [replace(study.trials[0], number=number) for number in (0, 5)]
        finals._keep_pictures(study, task, list(zip(trials, models, strict=True)))
        kept = (Study.read(study.path).note("pictures") or {})["examples"]
        assert len(kept) == 3 and all([one["number"] for one in e["outputs"]] == [0, 5] for e in kept)
        seen = [Image.open(BytesIO(study.load_picture(e["input"]))).size for e in kept]
        assert seen == [(SIDE, SIDE)] * 3 and len({e["input"] for e in kept}) == 3
        finals._keep_pictures(study, replace(task, draw=None), [(trials[0], models[0])])
        assert len([note for note in study.notes if note["note"] == "pictures"]) == 1, "nothing of what is not seen"


def _shown(given: Tensor, wanted: Tensor, made: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return given, 255 - given, (given * (made.sum() > 0)).to(torch.uint8)


def test_the_report_shows_them_within_the_page(tmp_path: Path) -> None:
    with finished(tmp_path / "run", numbers=(0, 1, 2)) as study:
        assert "What the networks make of it" not in Page(render(study)).text
        shades = {"input": 10, "target": 20, 0: 30, 1: 40, 2: 50}
        names = {what: study.save_picture(png(np.full((4, 4, 3), shade, np.uint8))) for what, shade in shades.items()}
        outputs = [{"number": n, "picture": names[n], "quality": 30.0 + n} for n in (0, 1, 2)]
        example = {"input": names["input"], "target": names["target"], "outputs": outputs}
        study.add_note("pictures", examples=[example, example])
        page = Page(render(study))
        images = [attrs for tag, attrs in page.tags if tag == "img"]
        order = ["input", "target", "original", "#2 knee", "#1 best"]
        assert [one["alt"] for one in images] == [f"Example {n}: {what}" for n in (1, 2) for what in order]
        assert all(one["src"].startswith("data:image/png;base64,") for one in images)
        assert len({one["src"] for one in images}) == 5
        assert page.text.index("32 %") < page.text.index("31 %"), "each quality below its own"
        (study.path / "pictures" / f"{names[1]}.png").unlink()
        assert "What the networks make of it" not in Page(render(study)).text, "the rest of the report is whole"
