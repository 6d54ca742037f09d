"""``netgraft quantize``: what eight bits cost in quality and bring in time, beside what a run found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from netgraft import console as screen
from netgraft.data import task as load_data
from netgraft.errors import OptionError, StudyError
from netgraft.front import Front
from netgraft.int8 import side_by_side
from netgraft.ir import Model
from netgraft.recipes.run import examples_of
from netgraft.report import words
from netgraft.study import Study
from netgraft.tasks import Task
from netgraft.terminal import console, errors

FILE = "model.int8.onnx"


def quantize(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a run that is finished")],
    to: Annotated[Path, typer.Option(help=f"folder to write {FILE} to", show_default=False)],
    pick: Annotated[
        str, typer.Option(help="of the run: knee, best, fastest (where one is faster), or the beginning of a digest")
    ] = "knee",
    data: Annotated[
        str | None, typer.Option(help="where the run's data lie now, if not where they were", show_default=False)
    ] = None,
    images: Annotated[int, typer.Option(help="training images that show the ranges of activations", min=1)] = 512,
    engine: Annotated[str, typer.Option(help="what is measured: onnxruntime or openvino")] = "onnxruntime",
    seconds: Annotated[float, typer.Option(help="about how long to measure at most", min=1)] = 40.0,
) -> None:
    """Quantise a network of a run to int8 after training, and compare it with the original in fp32 and in int8.

    The table has measured times, as multiples of the original's in fp32, and qualities as onnxruntime computes them:
    fewer operations and fewer bits beside each other. Ranges of values are those of training images of the run.
    """
    file = to / FILE
    if file.exists():
        raise OptionError(f"{file} exists; choose another folder with --to")
    study = Study.read(run_folder)
    if 0 not in study.finalists:
        raise StudyError(f"{run_folder} has no finalists yet; continue the run with --resume")
    chosen = Front(study)[pick]
    models = {
        "original": study.load_model(study.finalists[0].model),
        screen.label(chosen.figures.number, chosen.figures.digest): chosen.model,
    }
    task = _data_of(study, models["original"], data)
    found = side_by_side(models, task, images=images, engine=engine, seconds=seconds)
    first = found[0]
    rows = [
        (
            f"{one.network} {one.precision}",
            f"{one.validation.quality:.2f}±{one.validation.error:.2f}",
            f"{one.test.quality:.2f}±{one.test.error:.2f}",
            words.difference(one.test.quality - first.test.quality, one.difference_error),
            f"{one.time.ratio:.2f} [{one.time.low:.2f}, {one.time.high:.2f}]",
            f"{len(one.onnx) / len(first.onnx):.2f}x",
        )
        for one in found
    ]
    unit = task.quality.unit
    title = f"{task.name}: in fp32 and in int8, as multiples of the original in fp32"
    header = ("network", f"valid. {unit}", f"test {unit}", "difference", "time [99 %]", "file")
    console.print(screen.columns(title, header, rows))
    if any(one.time.noisy for one in found):
        errors.print("[yellow]this machine is too busy for a sharp answer; measure again when it is quiet[/]")
    to.mkdir(parents=True, exist_ok=True)
    file.write_bytes(found[-1].onnx)
    console.print(str(file), soft_wrap=True)


def _data_of(study: Study, model: Model, data: str | None) -> Task:
    """The data that the run had, the same examples in the same splits."""
    settings = study.settings
    task = load_data(
        data or settings["data"], model, subset=settings.get("subset"), normalize=settings.get("normalize", "data")
    )
    if examples_of(task) != settings["examples"]:
        raise StudyError(f"{data or settings['data']} is not the data that {study.path} had; name it with --data")
    return task
