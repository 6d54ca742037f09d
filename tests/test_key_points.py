"""Key points: maps, what counts as found, moving pictures with their points, and COCO's folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import netgraft as ng
from netgraft import tasks
from netgraft.convert.to_torch import to_module
from netgraft.errors import DataError, OptionError
from netgraft.tasks.key_points import MoveAndMirror, found_points, map_difference, share

SIZE = (32, 24)


def network(maps: int, side: int = 64) -> ng.Model:
    """A few layers whose maps are a quarter of the picture's size."""
    layers = [torch.nn.Conv2d(3, 16, 5, 2, 2), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 5, 2, 2), torch.nn.ReLU()]
    module = torch.nn.Sequential(
        *layers, torch.nn.Conv2d(32, 32, 5, 1, 2), torch.nn.ReLU(), torch.nn.Conv2d(32, maps, 1)
    )
    return ng.load(module, input_shape=(3, side, side))


def maps_at(places: list[tuple[int, int]], height: int, width: int) -> torch.Tensor:
    """One picture's maps with a peak at a row and a column each."""
    maps = torch.zeros(1, len(places), height, width)
    for number, (row, column) in enumerate(places):
        maps[0, number, row, column] = 1
    return maps


def test_found_points_by_hand() -> None:
    # Maps of a quarter of the size: their pixel (2, 3) lies at y = 10, x = 14 of the picture.
    targets = torch.tensor([[[14.0, 10, 1, 2.9], [14, 13, 1, 2.9], [14, 10, 0, 2.9]]])
    outputs = maps_at([(2, 3), (2, 3), (2, 3)], 8, 6)
    found = found_points(outputs, targets, SIZE)
    assert found.tolist() == [[1, 2]], "one is there, one three pixels away, one cannot be seen"
    assert share(found.double().mean(0)).item() == 50


def test_the_loss_is_least_at_the_points_and_blind_to_the_unseen() -> None:
    targets = torch.tensor([[[14.0, 10, 1, 3], [2, 2, 0, 3]]])
    y, x = ((torch.arange(n) + 0.5) * 4 for n in (8, 6))
    perfect = torch.exp(-((y[:, None] - 10) ** 2 + (x[None] - 14) ** 2) / (2 * 4.0**2)).expand(1, 2, 8, 6)
    assert map_difference(perfect, targets, SIZE).item() == pytest.approx(0, abs=1e-12)
    assert map_difference(perfect.roll(1, 3), targets, SIZE).item() > 0.01
    stacked = torch.cat([perfect.roll(1, 3), perfect], 1)
    assert (
        0.005 < map_difference(stacked, targets, SIZE).item() < map_difference(perfect.roll(1, 3), targets, SIZE).item()
    )
    assert torch.equal(found_points(stacked, targets, SIZE), found_points(perfect, targets, SIZE)), "the last answer"
    changed = perfect.clone()
    changed[:, 1] += 5
    assert map_difference(changed, targets, SIZE).item() == pytest.approx(0, abs=1e-12)


@given(st.integers(0, 2**32))
def test_points_move_with_their_pictures(seed: int) -> None:
    """A bright pixel at each point is found again at the moved point, at the one that it is in a mirror."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.zeros(4, 1, *SIZE, dtype=torch.uint8)
    targets = torch.zeros(4, 2, 4)
    for row in range(4):
        for number in range(2):
            y, x = (int(torch.randint(n, (), generator=generator)) for n in SIZE)
            inputs[row, 0, y, x] = 100 + number
            targets[row, number] = torch.tensor([x + 0.5, y + 0.5, 1, 3])
    images, moved = MoveAndMirror(3, [1, 0])(inputs, targets, generator)
    assert images.shape == inputs.shape and moved.shape == targets.shape
    for row in range(4):
        for x, y, seen, _ in moved[row].tolist():
            inside = 0 <= x < SIZE[1] and 0 <= y < SIZE[0]
            assert bool(seen) == inside
            assert not inside or images[row, 0, int(y), int(x)] >= 100


def test_a_network_learns_generated_key_points() -> None:
    model = network(3, 32)
    task = ng.task("key-points:shapes?alpha=0.2", model, subset=400)
    assert task.quality.name == "PCK@0.2" and "generated" in task.notes[0]
    module = to_module(model)
    before = tasks.evaluate(module, task, "validation").quality
    tasks.train(module, task, tasks.Schedule(12, batch_size=32, learning_rate=0.2), seed=0)
    after = tasks.evaluate(module, task, "validation")
    assert after.quality > before + 25 and 0 < after.error < 10


def coco(folder: Path, persons: int = 6) -> Path:
    """A folder as COCO's, of pictures of one or two bright squares whose corners are the key points."""
    names = ["left_top", "right_top", "right_bottom"]
    for split, count in (("train2017", persons), ("val2017", 2)):
        (folder / split).mkdir(parents=True)
        (folder / "annotations").mkdir(exist_ok=True)
        images, annotations = [], []
        for i in range(count):
            pixels = np.zeros((50, 70, 3), np.uint8)
            x, y, side = 10 + i, 8 + i, 20
            pixels[y : y + side, x : x + side] = 200
            Image.fromarray(pixels).save(folder / split / f"{i:012}.png")
            images.append({"id": i, "file_name": f"{i:012}.png"})
            corners = [x, y, 2, x + side, y, 1 if i else 0, x + side, y + side, 2]
            annotations.append({"image_id": i, "bbox": [x, y, side, side], "keypoints": corners, "iscrowd": 0})
        annotations.append({"image_id": 0, "bbox": [0, 0, 9, 9], "keypoints": [0] * 9, "iscrowd": 0})
        data = {"images": images, "annotations": annotations, "categories": [{"keypoints": names}]}
        (folder / "annotations" / f"person_keypoints_{split}.json").write_text(json.dumps(data))
    return folder


def test_persons_of_a_folder_as_coco(tmp_path: Path) -> None:
    model = network(3)
    task = ng.task(f"key-points:{coco(tmp_path)}", model, normalize="none")
    assert [len(task.split(name)) for name in ("train", "validation", "test")] == [5, 2, 1]
    # The box of 20 fills 64 / 1.25 pixels; its corners lie around the middle.
    half = 64 / 1.25 / 2
    for row in (*task.train.targets, *task.validation.targets):
        expected = torch.tensor([[32 - half, 32 - half], [32 + half, 32 - half], [32 + half, 32 + half]])
        assert torch.allclose(row[:, :2], expected, atol=1e-3)
        assert row[0, 3].item() == pytest.approx(0.1 * 2 * half)
    assert sorted(task.validation.targets[:, 1, 2].tolist()) == [0, 1], "who has a point that cannot be seen"
    assert task.validation.inputs[0, 0, 32, 32] == 200 and task.validation.inputs[0, 0, 2, 2] == 0
    assert task.augment is not None
    assert isinstance(task.augment, MoveAndMirror) and list(task.augment.pairs) == [1, 0, 2]


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    three = network(3)
    four = network(4)
    folder = coco(tmp_path / "whole")
    with pytest.raises(DataError, match="a person has 3 key points, the network 4 maps"):
        ng.task(f"key-points:{folder}", four)
    with pytest.raises(DataError, match=r"holds no annotations/\*keypoints\*train\*.json"):
        ng.task(f"key-points:{tmp_path}", three)
    with pytest.raises(OptionError, match="alpha is a share"):
        ng.task("key-points:shapes?alpha=3", three)
    (folder / "train2017" / f"{1:012}.png").unlink()
    with pytest.raises(DataError, match=r"000001.png: the image cannot be decoded"):
        ng.task(f"key-points:{folder}", three)
    (folder / "annotations" / "person_keypoints_train2017.json").write_text("[1]")
    with pytest.raises(DataError, match="is no annotation file as COCO's"):
        ng.task(f"key-points:{folder}", three)
