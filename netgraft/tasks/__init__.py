"""Tasks: the data a network is for, how it is trained on it and how it is judged.

.. code-block:: python

    task = load("digits", input_shape=(1, 8, 8), classes=10)
    train(module, task, Schedule(epochs=10), seed=0)
    evaluate(module, task, "test")  # Score(quality=98.3, error=0.68, loss=0.06)
"""

from __future__ import annotations

from netgraft.tasks.examples import Example, examples
from netgraft.tasks.judging import Answers, Score, agreement, answers, evaluate
from netgraft.tasks.key_points import key_points
from netgraft.tasks.restoration import denoising, super_resolution
from netgraft.tasks.segmentation import segmentation
from netgraft.tasks.task import Mixed, Quality, Split, SplitName, Task, classification
from netgraft.tasks.training import Distillation, Precision, Schedule, Trained, native_bf16, recalibrate, train
from netgraft.tasks.vision import load

__all__ = [
    "Answers",
    "Distillation",
    "Example",
    "Mixed",
    "Precision",
    "Quality",
    "Schedule",
    "Score",
    "Split",
    "SplitName",
    "Task",
    "Trained",
    "agreement",
    "answers",
    "classification",
    "denoising",
    "evaluate",
    "examples",
    "key_points",
    "load",
    "native_bf16",
    "recalibrate",
    "segmentation",
    "super_resolution",
    "train",
]
