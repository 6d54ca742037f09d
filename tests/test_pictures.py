"""Tasks on pictures: denoising, super-resolution and segmentation, from files to what is judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import netgraft as ng
from netgraft import tasks
from netgraft.convert.to_torch import to_module
from netgraft.errors import DataError, OptionError
from netgraft.int8 import side_by_side
from netgraft.tasks import Mixed
from netgraft.tasks.pictures import continued, find, split, tiles
from netgraft.tasks.restoration import Noise, luminance_psnr, luminance_similarity, psnr, turned, within
from netgraft.tasks.segmentation import VOID, CropAndMirror, areas, cross_entropy, intersection_over_union

RNG = np.random.default_rng(0)


def png(array: np.ndarray, mode: str | None = None) -> bytes:
    buffer = BytesIO()
    Image.fromarray(array, mode).save(buffer, "PNG")
    return buffer.getvalue()


def smooth(height: int, width: int) -> np.ndarray:
    """A picture that is easy to enlarge: a few waves."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(x / a + RNG.random()) * np.cos(y / b) for a, b in ((9, 7), (5, 11), (13, 6))]
    return np.stack(waves, axis=2).astype(np.uint8)


def parquet(path: Path, **columns: Sequence[object]) -> Path:
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parquet(tmp_path_factory.mktemp("pictures") / "some.parquet", image=[png(smooth(40, 56)) for _ in range(8)])


# --- pictures


def test_whole_pictures_go_to_a_split(pictures: Path) -> None:
    parts, notes = split(find(str(pictures)), seed=0, subset=None)
    places = {name: set(part.places) for name, part in parts.items()}
    assert {name: len(each) for name, each in places.items()} == {"train": 6, "validation": 1, "test": 1}
    assert len(set.union(*places.values())) == 8 and len(notes) == 2
    assert split(find(str(pictures)), seed=0, subset=None)[0]["train"].places == parts["train"].places
    assert len(split(find(str(pictures)), seed=0, subset=4)[0]["train"]) == 2


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
def test_tiles_are_pieces_of_the_picture(h: int, w: int, height: int, width: int, step: int) -> None:
    picture = np.arange(h * w).astype(np.uint8).reshape(h, w, 1)
    found = tiles(picture, height, width, (step, step))
    assert found and all(tile.shape == (height, width, 1) for tile in found)
    padded = np.pad(picture, ((0, max(0, height - h)), (0, max(0, width - w)), (0, 0)), mode="edge")
    assert np.array_equal(found[0], padded[:height, :width])


def test_folders_with_splits(tmp_path: Path) -> None:
    for name, count in {"train": 3, "val": 1, "test": 2}.items():
        (tmp_path / name / "deep").mkdir(parents=True)
        for i in range(count):
            (tmp_path / name / "deep" / f"{i}.png").write_bytes(png(smooth(8, 8)))
    assert {name: len(part) for name, part in find(str(tmp_path)).items()} == {"train": 3, "validation": 1, "test": 2}


def test_what_cannot_be_read_is_said(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist; pictures are 'samples'"):
        find(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no column 'mask'"):
        find(str(pictures), masked=True)
    with pytest.raises(DataError, match="holds no training pictures"):
        find(str(tmp_path))
    torn = parquet(tmp_path / "torn.parquet", image=[png(smooth(8, 8))[:60]] * 3)
    with pytest.raises(DataError, match=r"torn\.parquet, row \d: the image cannot be decoded"):
        tasks.denoising(str(torn), (3, 8, 8))
    one = parquet(tmp_path / "one.parquet", image=[png(smooth(8, 8))])
    with pytest.raises(DataError, match="too few"):
        tasks.denoising(str(one), (3, 8, 8))


# --- restoration


def test_noise_has_its_deviation_and_the_clean_picture_stays() -> None:
    clean = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    noisy = Noise(25.0).on(clean, torch.Generator().manual_seed(0))
    assert (noisy - clean.short()).float().std().item() == pytest.approx(25, rel=0.02)
    assert noisy.min() < 0 and noisy.max() > 255, "it is not clipped"
    inputs, targets = Noise(25.0)(noisy, clean, torch.Generator().manual_seed(1))
    assert (inputs - targets.short()).float().std().item() == pytest.approx(25, rel=0.02)


@given(st.integers(0, 50))
def test_a_picture_and_what_is_made_of_it_are_turned_alike(seed: int) -> None:
    small = torch.arange(2 * 1 * 4 * 4, dtype=torch.uint8).view(2, 1, 4, 4)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    a, b = turned(small, large, torch.Generator().manual_seed(seed))
    assert torch.equal(a.repeat_interleave(2, 2).repeat_interleave(2, 3), b)


def test_signal_to_noise_by_hand() -> None:
    targets = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    outputs = torch.stack([targets[0] + 10, targets[1]]).float() / 255
    assert psnr(outputs, targets).tolist() == pytest.approx([20 * math.log10(255 / 10), 100])
    # The luminance of BT.601 has 219 steps for the 255 of grey.
    assert luminance_psnr(outputs, targets, 2)[0].item() == pytest.approx(
        20 * math.log10(255 / (10 * 219 / 255)), abs=1e-3
    )
    spoiled = outputs.clone()
    spoiled[:, :, :2] = 0
    assert torch.equal(luminance_psnr(spoiled, targets, 2), luminance_psnr(outputs, targets, 2)), "a border is left out"


def test_structural_similarity_by_its_formula() -> None:
    """Of flat pictures only the comparison of luminances is left: (2 a b + c) / (a^2 + b^2 + c), c = (0.01 * 255)^2."""
    targets = torch.full((2, 1, 20, 20), 100, dtype=torch.uint8)
    outputs = torch.stack([torch.full((1, 20, 20), 150.0), torch.full((1, 20, 20), 100.0)]) / 255
    c = (0.01 * 255) ** 2
    expected = 100 * (2 * 100 * 150 + c) / (100**2 + 150**2 + c)
    assert luminance_similarity(outputs, targets, 0).tolist() == pytest.approx([expected, 100], rel=1e-3)


def test_similarity_falls_where_structure_is_lost(pictures: Path, tmp_path: Path) -> None:
    tiny = parquet(tmp_path / "tiny.parquet", image=[png(smooth(8, 20)) for _ in range(4)])
    model = ng.load("zoo:fsrcnn?input=3x16x16")
    task = ng.task(f"super-resolution:{pictures}?quality=ssim", model)
    assert (task.quality.name, task.quality.unit) == ("SSIM of Y", "%")
    (picture,) = task.test.parts
    right = picture.targets.float() / 255
    blurred = torch.nn.functional.avg_pool2d(right, 9, 1, 4)
    same, less = (task.quality.measure(outputs, picture.targets) for outputs in (right, blurred))
    assert same.shape == (len(task.test),) and torch.all(same > 99.9) and torch.all(less < 95)
    for data, network, message in (
        (f"super-resolution:{pictures}?quality=sharp", model, "psnr or ssim, not 'sharp'"),
        (f"denoising:{tiny}?quality=ssim", ng.load("zoo:dncnn?input=3x8x8"), "11 x 11 pixels.*judged has 8 x 20"),
    ):
        with pytest.raises(OptionError, match=message):
            ng.task(data, network)


def test_a_network_learns_to_denoise(pictures: Path) -> None:
    model = ng.load("zoo:dncnn?width=0.125&depth=4&input=3x16x16")
    task = ng.task(f"denoising:{pictures}?sigma=30", model)
    assert task.quality.unit == "dB" and task.train.inputs.dtype == torch.int16
    module = to_module(model)
    before = tasks.evaluate(module, task, "test").quality
    assert before == pytest.approx(20 * math.log10(255 / 30), abs=1.5)
    tasks.train(module, task, tasks.Schedule(40, batch_size=16, learning_rate=0.5), seed=0)
    assert tasks.evaluate(module, task, "test").quality > before + 1


def test_super_resolution_takes_its_scale_from_the_network(pictures: Path) -> None:
    model = ng.load("zoo:fsrcnn?input=3x16x16")
    task = ng.task(f"super-resolution:{pictures}", model)
    assert task.train.inputs.shape[1:] == (3, 16, 16) and task.train.targets.shape[1:] == (3, 32, 32)
    for part in (task.train, *task.test.parts):
        enlarged = torch.nn.functional.interpolate(part.inputs.float() / 255, scale_factor=2, mode="bicubic")
        shifted = enlarged.roll(2, dims=3)
        right, wrong = (task.quality.measure(outputs, part.targets).mean() for outputs in (enlarged, shifted))
        assert right > 29 and right > wrong + 5, "pieces and pictures lie where they belong"
    with pytest.raises(DataError, match="enlarged by a whole number"):
        ng.task(f"super-resolution:{pictures}", ng.load("zoo:dncnn?input=3x16x16"))


class Bicubic(torch.nn.Module):
    """Enlarges twice by the kernel that pictures are made smaller with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(x, scale_factor=2.0, mode="bicubic", antialias=True)


@pytest.mark.parametrize(("quality", "published", "within"), [("psnr", 33.66, 0.03), ("ssim", 92.99, 0.1)])
def test_bicubic_scaling_of_set5_has_the_published_figures(
    quality: str, published: float, within: float, shared_data: Path
) -> None:
    """Table 2 of the paper on EDSR (Lim et al., CVPRW 2017), among many: 33.66 dB and 0.9299. Pillow's kernel is that
    of MATLAB, its rounding is not.
    """
    folder = shared_data / "super_resolution"
    spec = f"{folder / 't91.parquet'},{folder / 'set5.parquet'}"
    task = tasks.super_resolution(spec, (3, 24, 24), (3, 48, 48), quality, subset=5, step=1)
    assert len(task.test) == 5
    assert tasks.evaluate(Bicubic(), task, "test").quality == pytest.approx(published, abs=within)


def test_whole_pictures_are_judged_one_by_one(tmp_path: Path) -> None:
    """The quality is the mean over pictures, whatever their sizes and however they are put together."""
    sizes = [(40, 56), (31, 23), (40, 56), (37, 64)]
    parts = {"train": [(40, 40)] * 5, "test": sizes}
    for name, shapes in parts.items():
        parquet(tmp_path / f"{name}.parquet", image=[png(smooth(*shape)) for shape in shapes])
    task = ng.task(f"super-resolution:{tmp_path}", ng.load("zoo:fsrcnn?input=3x16x16"))
    assert isinstance(task.test, Mixed) and (len(task.test), len(task.test.parts)) == (4, 3)
    assert "whole pictures: 1 for validation, 4 for the test" in " ".join(task.notes)
    assert sorted(tuple(part.targets.shape[2:]) for part in task.test.parts) == [(30, 22), (36, 64), (40, 56)]
    score = tasks.evaluate(Bicubic(), task, "test")
    alone = []
    for part in task.test.parts:
        for small, large in zip(part.inputs, part.targets, strict=True):
            outputs = Bicubic()(small[None].float() / 255)
            alone.append(task.quality.measure(outputs, large[None]).item())
    assert score.quality == pytest.approx(sum(alone) / 4)
    assert score.error == pytest.approx(np.std(alone) / 2)


def test_a_network_for_multiples_sees_a_margin_and_is_not_judged_by_it(pictures: Path) -> None:
    model = ng.load("zoo:unet?width=0.0625&classes=3&input=3x16x16")
    task = ng.task(f"denoising:{pictures}", model)
    (picture,) = task.test.parts
    assert picture.inputs.shape[2:] == (48, 64) and picture.targets.shape[2:] == (40, 56)
    outputs = torch.nn.functional.pad(picture.targets.float() / 255, (0, 8, 0, 8))
    assert task.quality.measure(outputs, picture.targets).tolist() == [100.0]
    assert task.loss(outputs, picture.targets).item() == 0
    with pytest.raises(DataError, match="gives pictures of 48 x 60 where 48 x 64 are wanted"):
        task.quality.measure(outputs[..., :60], picture.targets)
    assert math.isfinite(tasks.evaluate(to_module(model), task, "test").quality)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_a_picture_is_continued_by_its_edges(height: int, width: int, step: int) -> None:
    picture = np.arange(height * width).astype(np.uint8).reshape(height, width, 1)
    longer = continued(picture, step)
    assert [a - b < step and a % step == 0 for a, b in zip(longer.shape, picture.shape, strict=True)][:2] == [True] * 2
    assert np.array_equal(longer[:height, :width], picture)
    assert (longer[height:, :width] == picture[-1:]).all() and (longer[:height, width:] == picture[:, -1:]).all()
    tensor = torch.from_numpy(longer[None, :, :, 0])
    assert torch.equal(within(tensor, torch.from_numpy(picture[None, :, :, 0]), step), tensor[:, :height, :width])


def test_a_network_of_one_size_is_judged_on_pieces_and_it_is_said(pictures: Path) -> None:
    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = torch.nn.Parameter(torch.zeros(3, 16, 16))
            self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) + self.place

    task = ng.task(f"denoising:{pictures}", ng.load(Fixed(), example_inputs=torch.zeros(2, 3, 16, 16)))
    assert [tuple(part.inputs.shape) for part in task.test.parts] == [(6, 3, 16, 16)]
    assert any("takes no other sizes" in note for note in task.notes)


def test_eight_bits_are_judged_on_whole_pictures_too(pictures: Path) -> None:
    model = ng.load("zoo:fsrcnn?input=3x16x16")
    task = ng.task(f"super-resolution:{pictures}", model)
    plain, small = side_by_side({"it": model}, task, images=8, seconds=0.1)
    assert plain.test.quality == pytest.approx(tasks.evaluate(to_module(model), task, "test").quality, abs=1e-3)
    assert math.isfinite(small.test.quality) and small.test.quality != plain.test.quality


def test_options_and_networks_that_do_not_fit(pictures: Path) -> None:
    denoiser, classifier = ng.load("zoo:dncnn?input=3x16x16"), ng.load("zoo:resnet20")
    for data, model, error, message in (
        (f"denoising:{pictures}?sigma=loud", denoiser, OptionError, "sigma=loud is no number"),
        (f"denoising:{pictures}?sigma=0", denoiser, OptionError, "between 0 and 255"),
        (f"denoising:{pictures}?noise=3", denoiser, OptionError, "no option 'noise'; it has quality, sigma"),
        (f"denoising:{pictures}", classifier, DataError, r"needs one output \[N,C,H,W\]"),
        (f"denoising:{pictures}", ng.load("zoo:fsrcnn"), DataError, "as large as its input"),
        ("digits", denoiser, DataError, "wants denoising:PICTURES"),
    ):
        with pytest.raises(error, match=message):
            ng.task(data, model)


# --- segmentation


def masked(path: Path, count: int = 6) -> Path:
    """Bright squares (class 1) on dark ground (0), with a void frame."""
    images, masks = [], []
    for i in range(count):
        mask = np.zeros((24, 32), np.uint8)
        mask[4 + i : 14 + i, 6 : 20 + i % 3] = 1
        images.append(png(np.stack([60 + 120 * mask] * 3, axis=2).astype(np.uint8)))
        mask[:1] = 255
        masks.append(png(mask))
    return parquet(path, image=images, mask=masks)


def test_intersection_over_union_by_hand() -> None:
    targets = torch.tensor([[[0, 0, 1, VOID]], [[VOID] * 4]], dtype=torch.uint8)
    given = torch.tensor([[[0, 1, 1, 1]], [[0, 1, 1, 1]]])
    outputs = torch.nn.functional.one_hot(given, 3).movedim(3, 1).float()
    # Class 0: one of two, class 1: one of two, class 2 does not occur, and the void pixel counts nowhere.
    assert intersection_over_union(areas(outputs, targets)).tolist() == [50.0, 100.0]
    assert cross_entropy(outputs[1:], targets[1:]).item() == 0
    # Of several pictures areas are summed first: one of two and three of three pixels are four of five.
    several = torch.tensor([[[1, 2], [0, 0]], [[3, 3], [0, 0]]])
    assert intersection_over_union(several.double().mean(0)).item() == pytest.approx(80)


@given(st.integers(0, 50))
def test_a_picture_and_its_mask_are_cropped_alike(seed: int) -> None:
    pictures = torch.randint(1, 250, (3, 1, 6, 6), dtype=torch.uint8)
    inputs, targets = CropAndMirror(2)(pictures, pictures[:, 0].clone(), torch.Generator().manual_seed(seed))
    inside = targets != VOID
    assert torch.equal(inputs[:, 0][inside], targets[inside]) and (inputs[:, 0][~inside] == 0).all()


def test_a_network_learns_to_segment(tmp_path: Path) -> None:
    model = ng.load("zoo:unet?width=0.0625&classes=2&input=3x16x16")
    task = ng.task(f"segmentation:{masked(tmp_path / 'squares.parquet')}", model)
    assert set(task.train.targets.unique().tolist()) <= {0, 1, VOID}
    module = to_module(model)
    tasks.train(module, task, tasks.Schedule(60, batch_size=4), seed=0)
    score = tasks.evaluate(module, task, "test")
    assert score.quality > 70 and task.quality.name == "mIoU"


def test_generated_shapes_are_the_same_under_a_seed() -> None:
    model = ng.load("zoo:unet?width=0.0625&classes=6&input=3x32x32")
    task, again = (ng.task("segmentation:shapes", model, subset=20) for _ in range(2))
    assert torch.equal(task.train.inputs, again.train.inputs) and len(task.train) == 20
    assert set(task.test.targets.unique().tolist()) == set(range(6)) and "generated" in task.notes[0]
    assert not torch.equal(task.validation.inputs[:20], task.train.inputs), "splits have pictures of their own"
    with pytest.raises(DataError, match="6 classes, background included; the network has 2"):
        ng.task("segmentation:shapes", ng.load("zoo:unet?width=0.0625&classes=2&input=3x16x16"))


def test_masks_in_folders_and_numbers_from_one(tmp_path: Path) -> None:
    for kind in ("images", "annotations"):
        for part in ("training", "validation"):
            (tmp_path / kind / part).mkdir(parents=True)
    for part in ("training", "validation"):
        for i in range(3):
            (tmp_path / "images" / part / f"{i}.jpg").write_bytes(png(smooth(8, 8)))
            (tmp_path / "annotations" / part / f"{i}.png").write_bytes(png(np.full((8, 8), i, np.uint8)))
    task = tasks.segmentation(str(tmp_path), (3, 8, 8), classes=2, first=1)
    assert set(torch.cat([s.targets for s in (task.train, task.validation, task.test)]).unique().tolist()) == {
        0,
        1,
        VOID,
    }
    (tmp_path / "annotations" / "training" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.jpg has no mask"):
        tasks.segmentation(str(tmp_path), (3, 8, 8), classes=2)


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    image = png(smooth(8, 8))
    for name, mask, message in (
        ("colour", png(smooth(8, 8)), "one channel of class numbers"),
        ("size", png(np.zeros((4, 8), np.uint8)), "its mask"),
        ("classes", png(np.full((8, 8), 9, np.uint8)), "no pixel of a mask has a class from 0 to 1"),
    ):
        path = parquet(tmp_path / f"{name}.parquet", image=[image] * 5, mask=[mask] * 5)
        with pytest.raises(DataError, match=message):
            tasks.segmentation(str(path), (3, 8, 8), classes=2)
