"""Loading image data: where it comes from, how it is split and made to fit, and what is said when it cannot be."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from netgraft.errors import DataError, OptionError
from netgraft.tasks import Schedule, Task, evaluate, load, train
from netgraft.tasks.vision import CropAndFlip


def encoded(value: int, *, size: tuple[int, int] = (6, 6), mode: str = "RGB") -> bytes:
    """A PNG of one colour, by which it can be told apart."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 255 - value, 7)).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(
    path: Path, values: range, *, classes: int = 2, struct: bool = False, metadata: dict[str, str] | None = None
) -> Path:
    """One image for each value; its class is the value modulo the number of classes."""
    images: list[object] = [encoded(value) for value in values]
    if struct:
        images = [{"bytes": image, "path": None} for image in images]
    table = pa.table({"image": images, "label": [value % classes for value in values]})
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def write_folders(path: Path, classes: dict[str, range]) -> Path:
    for name, values in classes.items():
        (path / name).mkdir(parents=True)
        for value in values:
            (path / name / f"{value:03}.png").write_bytes(encoded(value))
    return path


def values(task: Task, split: str) -> list[int]:
    """The values that the images of a split were made of."""
    return sorted(getattr(task, split).inputs[:, 0, 0, 0].tolist())


def load_six(spec: Path | str, **options: int) -> Task:
    return load(spec, **{"input_shape": (3, 6, 6), "classes": 2, **options})


# --- digits


def test_digits_are_split_by_class_and_seed() -> None:
    task = load("digits", input_shape=(1, 8, 8), classes=10)
    assert [len(split) for split in (task.train, task.validation, task.test)] == [1079, 359, 359]
    assert task.classes == tuple("0123456789")
    for split in (task.train, task.validation, task.test):
        share = split.targets.bincount(minlength=10) / len(split)
        assert split.inputs.dtype == torch.uint8
        assert split.inputs.shape[1:] == (1, 8, 8)
        assert (share - 0.1).abs().max() < 0.02
    again = load("digits", input_shape=(1, 8, 8), classes=10)
    other = load("digits", input_shape=(1, 8, 8), classes=10, seed=1)
    assert torch.equal(task.test.inputs, again.test.inputs)
    assert not torch.equal(task.test.inputs, other.test.inputs)


def test_preparation_normalises_each_channel_of_the_training_split() -> None:
    task = load("digits", input_shape=(3, 12, 10), classes=10)
    stored = task.train.inputs.clone()
    prepared = task.prepare(task.train.inputs)
    assert prepared.shape == (1079, 3, 12, 10)
    assert prepared.dtype == torch.float32
    torch.testing.assert_close(prepared.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(prepared.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)
    assert torch.equal(stored, task.train.inputs)
    assert "1,797 images were resized to 12 x 10, whatever their aspect ratio." in task.notes


def test_a_small_network_learns_digits() -> None:
    task = load("digits", input_shape=(1, 8, 8), classes=10)
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))
    train(module, task, Schedule(8, batch_size=64), seed=0)
    assert evaluate(module, task, "test").quality > 95


# --- augmentation


@given(padding=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 100))
def test_augmented_images_are_shifted_and_perhaps_mirrored(padding: int, flip: bool, seed: int) -> None:
    images = torch.arange(1, 61, dtype=torch.uint8).view(2, 2, 3, 5)
    targets = torch.tensor([1, 0])
    augmented, kept = CropAndFlip(padding, flip)(images, targets, torch.Generator().manual_seed(seed))
    again, _ = CropAndFlip(padding, flip)(images, targets, torch.Generator().manual_seed(seed))
    assert torch.equal(augmented, again) and torch.equal(kept, targets)
    assert augmented.dtype == images.dtype
    padded = torch.zeros(2, 2, 3 + 2 * padding, 5 + 2 * padding, dtype=torch.uint8)
    padded[:, :, padding : padding + 3, padding : padding + 5] = images
    for row in range(2):
        windows = [
            window
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            for crop in [padded[row, :, top : top + 3, left : left + 5]]
            for window in ([crop, crop.flip(2)] if flip else [crop])
        ]
        assert any(torch.equal(augmented[row], window) for window in windows)


def test_every_shift_and_both_sides_occur_and_differ_between_images() -> None:
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3).expand(400, 1, 3, 3)
    augmented, _ = CropAndFlip(1, flip=True)(image, torch.zeros(400), torch.Generator().manual_seed(0))
    assert len({tuple(one.flatten().tolist()) for one in augmented}) == 18


def test_digits_are_never_mirrored_but_photographs_are(tmp_path: Path) -> None:
    photographs = load_six(write_parquet(tmp_path / "photographs.parquet", range(40)))
    assert photographs.augment == CropAndFlip(1, flip=True)
    assert load("digits", input_shape=(1, 32, 32), classes=10).augment == CropAndFlip(4, flip=False)


# --- parquet


@pytest.mark.parametrize("struct", [False, True])
def test_one_parquet_file_is_shared_between_three_splits(tmp_path: Path, struct: bool) -> None:
    task = load_six(write_parquet(tmp_path / "all.parquet", range(100), struct=struct))
    parts = [values(task, split) for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [60, 20, 20]
    assert sorted(value for part in parts for value in part) == list(range(100))
    for split in (task.train, task.validation, task.test):
        assert torch.equal(split.inputs[:, 0, 0, 0].long() % 2, split.targets)
        assert split.targets.double().mean() == pytest.approx(0.5, abs=0.1)
    assert any("test split is 20" in note for note in task.notes)


@pytest.mark.parametrize("spelling", ["folder", "pair", "shards"])
def test_a_given_test_file_is_kept_whole_and_apart(tmp_path: Path, spelling: str) -> None:
    if spelling == "shards":
        write_parquet(tmp_path / "train-00000-of-00002.parquet", range(60))
        write_parquet(tmp_path / "train-00001-of-00002.parquet", range(60, 100))
    else:
        write_parquet(tmp_path / "train.parquet", range(100))
    write_parquet(tmp_path / "test.parquet", range(200, 230))
    spec = f"{tmp_path}/train.parquet,{tmp_path}/test.parquet" if spelling == "pair" else str(tmp_path)
    task = load_six(spec)
    assert values(task, "test") == list(range(200, 230))
    assert len(task.validation) == 20
    assert sorted(values(task, "train") + values(task, "validation")) == list(range(100))


def test_a_subset_is_taken_before_splitting_and_spares_the_test_set(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", range(100))
    write_parquet(tmp_path / "test.parquet", range(200, 230))
    task = load_six(tmp_path, subset=50)
    assert [len(split) for split in (task.train, task.validation, task.test)] == [40, 10, 30]
    with pytest.raises(OptionError, match="subset must be at least 1"):
        load_six(tmp_path, subset=0)


@pytest.mark.parametrize(
    "metadata",
    [
        {"classes": "cat,dog"},
        {
            "huggingface": json.dumps(
                {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
            )
        },
    ],
)
def test_class_names_come_from_the_schema(tmp_path: Path, metadata: dict[str, str]) -> None:
    path = write_parquet(tmp_path / "pets.parquet", range(20), metadata=metadata)
    assert load_six(path).classes == ("cat", "dog")


@pytest.mark.parametrize("metadata", [None, {"huggingface": "{broken"}, {"huggingface": json.dumps({"info": {}})}])
def test_data_without_class_names_loads(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    assert load_six(write_parquet(tmp_path / "pets.parquet", range(20), metadata=metadata)).classes == ()


# --- class folders


def test_class_folders_without_levels_are_split(tmp_path: Path) -> None:
    task = load_six(write_folders(tmp_path, {"boat": range(30), "train": range(100, 130)}))
    assert task.classes == ("boat", "train")
    assert [len(split) for split in (task.train, task.validation, task.test)] == [36, 12, 12]
    assert torch.equal((task.train.inputs[:, 0, 0, 0] >= 100).long(), task.train.targets)


def test_class_folders_below_levels_keep_their_splits(tmp_path: Path) -> None:
    write_folders(tmp_path / "train", {"boat": range(10), "car": range(50, 60)})
    write_folders(tmp_path / "val", {"car": range(60, 63)})
    write_folders(tmp_path / "test", {"boat": range(10, 14)})
    task = load_six(tmp_path)
    assert values(task, "train") == [*range(10), *range(50, 60)]
    assert values(task, "validation") == [60, 61, 62]
    assert task.validation.targets.tolist() == [1, 1, 1]
    assert values(task, "test") == [10, 11, 12, 13]


# --- images made to fit


def test_grey_and_colour_are_converted_to_what_the_network_takes(tmp_path: Path) -> None:
    write_folders(tmp_path, {"a": range(0, 40, 4), "b": range(100, 140, 4)})
    for file in sorted(tmp_path.rglob("*.png"))[::2]:
        Image.open(file).convert("L").save(file)
    colour, grey = load_six(tmp_path), load(tmp_path, input_shape=(1, 6, 6), classes=2)
    assert colour.train.inputs.shape[1:] == (3, 6, 6)
    assert grey.train.inputs.shape[1:] == (1, 6, 6)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    luminance = (colour.train.inputs * weights).sum(1, keepdim=True)
    assert (luminance - grey.train.inputs).abs().max() <= 1


def test_sixteen_bit_images_are_scaled_not_clipped(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for row in range(10):
            pixels = np.full((6, 6), 1000 * (row + 1), dtype=np.uint16)
            Image.fromarray(pixels).save(tmp_path / name / f"{row}.png")
    task = load(tmp_path, input_shape=(1, 6, 6), classes=2)
    seen = torch.cat([task.train.inputs, task.validation.inputs, task.test.inputs])[:, 0, 0, 0].unique()
    assert seen.tolist() == [1000 * (row + 1) >> 8 for row in range(10)]


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    pixels = np.zeros((6, 6, 3), dtype=np.uint8)
    pixels[0] = 255  # bright at the top as stored, at the right once turned
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for row in range(10):
            Image.fromarray(pixels).save(tmp_path / name / f"{row}.png", exif=exif)
    inputs = load_six(tmp_path).train.inputs
    assert (inputs[:, :, :, 5] == 255).all()
    assert (inputs[:, :, :, :5] == 0).all()


# --- FILE.py:NAME


TENSORS = """
import torch
def pair(count, dtype):
    generator = torch.Generator().manual_seed(count)
    inputs = torch.randint(0, 256, (count, 3, 6, 6), generator=generator).to(dtype)
    return inputs, torch.arange(count) % 2
def photographs():
    return pair(20, torch.uint8), pair(8, torch.uint8), pair(6, torch.uint8)
floats = pair(20, torch.float32), pair(8, torch.float32), pair(6, torch.float32)
"""


def python_file(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_function_may_give_tensors(tmp_path: Path) -> None:
    task = load_six(python_file(tmp_path / "mine.py", TENSORS) + ":photographs")
    assert [len(split) for split in (task.train, task.validation, task.test)] == [20, 8, 6]
    assert task.augment == CropAndFlip(1, flip=True)
    assert task.prepare(task.train.inputs).mean().abs() < 1e-4


def test_floats_are_taken_as_they_are(tmp_path: Path) -> None:
    task = load_six(python_file(tmp_path / "mine.py", TENSORS) + ":floats")
    assert task.augment is None
    assert torch.equal(task.prepare(task.train.inputs), task.train.inputs)


def test_a_task_is_taken_whole_and_may_use_the_files_beside_it(tmp_path: Path) -> None:
    python_file(tmp_path / "size_of_mine.py", "count = 9")
    text = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from netgraft.tasks import Split, classification
@dataclass
class Settings:
    shape: tuple[int, ...] = (3, 6, 6)
def task():
    import size_of_mine
    split = Split(torch.zeros(size_of_mine.count, *Settings().shape), torch.zeros(size_of_mine.count).long())
    return classification("own", split, split, split, prepare=torch.Tensor.float)
"""
    spec = python_file(tmp_path / "mine.py", text) + ":task"
    assert load_six(spec).name == "own"
    with pytest.raises(DataError, match=re.escape("gives inputs of shape (3, 6, 6), the network takes (3, 8, 8)")):
        load_six(spec, input_shape=(3, 8, 8))
    with pytest.raises(OptionError, match="subset cannot be used with"):
        load_six(spec, subset=3)


DATASETS = """
import numpy as np, torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset
class Pictures(Dataset):
    classes = ["dark", "bright"]
    def __init__(self, count, of=Image.fromarray, label=int):
        self.count, self.of, self.label = count, of, label
    def __len__(self):
        return self.count
    def __getitem__(self, row):
        return self.of(np.full((5 + row % 3, 6, 3), row, np.uint8)), self.label(row % 2)
    def __call__(self):
        raise AssertionError("a dataset is no function")
def floats(count):
    return TensorDataset(torch.arange(count * 108.0).view(count, 3, 6, 6), torch.arange(count) % 2)
class Stream(IterableDataset):
    def __iter__(self):
        return iter([])
class Triples(Pictures):
    def __getitem__(self, row):
        return (*super().__getitem__(row), row)
one, pair = Pictures(20), lambda: (Pictures(20), Pictures(6, np.asarray))
three = floats(20), floats(8), floats(6)
tensors = three[0].tensors, three[2].tensors
"""


@pytest.mark.parametrize(
    ("name", "sizes"), [("one", [12, 4, 4]), ("pair", [16, 4, 6]), ("three", [20, 8, 6]), ("tensors", [16, 4, 6])]
)
def test_datasets_and_what_is_split_off_them(tmp_path: Path, name: str, sizes: list[int]) -> None:
    task = load_six(python_file(tmp_path / "mine.py", DATASETS) + f":{name}")
    assert [len(split) for split in (task.train, task.validation, task.test)] == sizes
    assert ("The items of the datasets were read once" in " ".join(task.notes)) == (name != "tensors")
    inputs = task.train.inputs
    assert inputs.shape[1:] == (3, 6, 6)
    if name in ("one", "pair"):
        assert inputs.dtype == torch.uint8 and task.augment is not None and task.classes == ("dark", "bright")
        assert any("resized to 6 x 6" in note for note in task.notes)
        assert torch.equal(inputs[:, 0, 0, 0] % 2, task.train.targets), "images keep their labels"
    else:
        assert task.augment is None
        assert torch.equal((inputs[:, 0, 0, 0] / 108).long() % 2, task.train.targets)


def test_a_subset_of_datasets_is_taken_before_splitting(tmp_path: Path) -> None:
    spec = python_file(tmp_path / "mine.py", DATASETS)
    assert [len(load_six(f"{spec}:one", subset=10).train), len(load_six(f"{spec}:three", subset=10).train)] == [6, 10]


@dataclass(frozen=True)
class Broken:
    """A task file that cannot be used, the name asked for and the complaint to expect."""

    text: str
    name: str
    complaint: str


@pytest.mark.parametrize(
    "broken",
    [
        Broken("x = 1\ny = 1 / 0\n", "x", "mine.py, line 2: ZeroDivisionError: division by zero"),
        Broken(
            "def task():\n    import torch\n    return torch.zeros(2, 3) @ 1\n", "task", "mine.py, line 3: TypeError"
        ),
        Broken("x = (\n", "x", "mine.py, line 1: SyntaxError"),
        Broken("raise SystemExit(3)\n", "x", "mine.py, line 1: SystemExit: 3"),
        Broken("import a_package_nobody_has\n", "x", "mine.py, line 1: ModuleNotFoundError"),
        Broken("left = right = 1\n", "task", "mine.py has no 'task'; it has left, right"),
        Broken("def task(path): ...\n", "task", "mine.py: TypeError: task() missing 1 required positional argument"),
        Broken("task = 3\n", "task", "gives int that is neither a Task nor train, (train, test) or"),
        Broken(TENSORS + "task = (*floats, floats[0])\n", "task", "gives tuple that is neither a Task nor"),
        Broken(
            TENSORS + "task = [(x, y.float()) for x, y in floats]\n",
            "task",
            "targets are torch.float32 of shape (20,) instead of one class number an example",
        ),
        Broken(TENSORS + "task = [(x, y + 1) for x, y in floats]\n", "task", "has 3 classes, the network gives 2"),
        Broken(TENSORS + "task = [(x, y - 1) for x, y in floats]\n", "task", "counted from 0, but one label is -1"),
        Broken(
            DATASETS + "task = Pictures(4, torch.tensor)\n", "task", "(train), item 1 is uint8 [6, 6, 3], but item 0"
        ),
        Broken(DATASETS + "task = Pictures(4, str)\n", "task", "item 0: the image is a str; give tensors"),
        Broken(DATASETS + "task = Pictures(4, label=str)\n", "task", "item 0: the label is '0' instead of a class"),
        Broken(DATASETS + "task = Triples(4)\n", "task", "item 0 is a tuple instead of a pair"),
        Broken(DATASETS + "task = Pictures(4, open)\n", "task", "(train), item 0 cannot be read: TypeError"),
        Broken(DATASETS + "task = Stream()\n", "task", "is a Stream without a length"),
        Broken(DATASETS + "task = floats(0)\n", "task", "is empty"),
        Broken(DATASETS + "task = Pictures(9), floats(9)\n", "task", "gives images for train and tensors for test"),
        Broken(DATASETS + "task = floats(9), floats(9), 3\n", "task", "gives tuple that is neither a Task nor"),
        Broken(TENSORS + "task = [(x, y[1:]) for x, y in floats]\n", "task", "20 inputs and 19 targets"),
    ],
    ids=lambda broken: broken.complaint,
)
def test_a_task_file_that_cannot_be_used_is_named_with_its_line(tmp_path: Path, broken: Broken) -> None:
    with pytest.raises(DataError, match=re.escape(broken.complaint)):
        load_six(python_file(tmp_path / "mine.py", broken.text) + f":{broken.name}")


def test_a_missing_task_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.py does not exist"):
        load_six(tmp_path / "nowhere.py:task")


# --- data that cannot be used


def test_data_that_does_not_exist_is_named_with_what_data_can_be(tmp_path: Path) -> None:
    for spec in (tmp_path / "nothing", "dogits", f"{tmp_path}/a.parquet,{tmp_path}/b.parquet"):
        with pytest.raises(DataError, match="does not exist; data is 'digits', a parquet file"):
            load_six(spec)


def test_files_and_folders_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no data")
    with pytest.raises(DataError, match=r"notes\.txt is no data that netgraft reads"):
        load_six(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="holds no folders with images"):
        load_six(tmp_path)
    (tmp_path / "not.parquet").write_text("no parquet")
    with pytest.raises(DataError, match=r"not\.parquet cannot be read as parquet"):
        load_six(tmp_path / "not.parquet")


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"img": [b"x"], "label": [0]}, "has no column 'image', its columns are img, label"),
        ({"image": [b"x"], "fine_label": [0]}, "has no column 'label', its columns are image, fine_label"),
        ({"image": ["x.png"], "label": [0]}, "column 'image' holds string instead of encoded images"),
        ({"image": [b"x"], "label": ["cat"]}, "column 'label' holds string instead of integer classes"),
        ({"image": [b"x", None], "label": [0, 1]}, "row 1: the image is missing"),
        ({"image": [{"bytes": b"x", "path": "x"}, {"bytes": None, "path": "y"}], "label": [0, 1]}, "row 1: the image"),
        ({"image": [b"x", b"y"], "label": [None, 1]}, "row 0: the label is missing"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "(train): the split is empty"),
    ],
)
def test_parquet_of_another_layout_is_refused(tmp_path: Path, columns: dict[str, object], complaint: str) -> None:
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(DataError, match=re.escape(complaint)):
        load_six(path)


def test_too_few_images_to_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\(validation\): the split is empty"):
        load_six(write_parquet(tmp_path / "few.parquet", range(4)))


def test_an_image_that_cannot_be_decoded_is_named_by_its_row(tmp_path: Path) -> None:
    images = [encoded(value) for value in range(20)]
    images[13] = images[13][:-30]
    pq.write_table(pa.table({"image": images, "label": [value % 2 for value in range(20)]}), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=r"bad\.parquet, row 13: the image cannot be decoded"):
        load_six(tmp_path / "bad.parquet")


def test_more_classes_than_outputs_are_refused_and_fewer_noted(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "twelve.parquet", range(120), classes=12)
    with pytest.raises(DataError, match=r"has 12 classes, the network gives 10 outputs; give its last layer 12"):
        load_six(path, classes=10)
    notes = load_six(path, classes=20).notes
    assert any("12 classes, the network gives 20 outputs" in note for note in notes)


def test_networks_that_take_no_images_are_told_what_would_work() -> None:
    for shape in ((64,), (4, 8, 8)):
        with pytest.raises(DataError, match=r"the network takes inputs of shape .*; FILE.py:NAME can give"):
            load("digits", input_shape=shape, classes=10)


def test_a_class_unknown_to_training_is_refused(tmp_path: Path) -> None:
    write_folders(tmp_path / "train", {"boat": range(10), "car": range(50, 60)})
    write_folders(tmp_path / "test", {"plane": range(10, 14)})
    with pytest.raises(DataError, match="no class 'plane' in the training data"):
        load_six(tmp_path)


# --- real data


def test_cifar10_loads_with_names_and_known_statistics(shared_data: Path) -> None:
    task = load(shared_data / "cifar10", input_shape=(3, 32, 32), classes=10, subset=2000)
    assert [len(split) for split in (task.train, task.validation, task.test)] == [1600, 400, 10000]
    assert task.classes[:3] == ("airplane", "automobile", "bird")
    assert task.test.targets.bincount().tolist() == [1000] * 10
    prepared: Tensor = task.prepare(task.test.inputs[:2000])
    assert prepared.mean().abs() < 0.1
    assert prepared.std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("how", "mean", "std"), [("none", 0.0, 1.0), ("0.5/0.25", 0.5, 0.25)])
def test_normalisation_as_the_network_was_trained(how: str, mean: float, std: float) -> None:
    task = load("digits", input_shape=(1, 8, 8), classes=10, normalize=how)
    pixels = task.train.inputs[:16]
    torch.testing.assert_close(task.prepare(pixels), (pixels.float() / 255 - mean) / std)


@pytest.mark.parametrize("how", ["imagenet", "0.5", "0.5/0", "a/b", "0.5,0.5/1,1"])
def test_normalisation_that_does_not_fit_is_refused(how: str) -> None:
    with pytest.raises(OptionError, match="cannot normalise 1 channels"):
        load("digits", input_shape=(1, 8, 8), classes=10, normalize=how)
