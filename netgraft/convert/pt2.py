"""Opening ``.pt2`` files, in which ``torch.export`` saves programs, without running what a stranger wrote into them.

``torch.export.load`` alone is no barrier: it falls back to unpickling anything, evaluates symbolic sizes as Python, and
loads compiled libraries. So archives that need any of it are refused before they reach it.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.export import ExportedProgram

from netgraft.convert.quiet import quiet
from netgraft.errors import SourceError

_RECORDS = re.compile(
    r"models/model\.json|data/(weights|sample_inputs|extra)/[^/]+|data/constants/(tensor_|model_constants_config)[^/]*"
    r"|archive_format|archive_version|version|byteorder|\.data/.*|extra/.*"
)
_EARLY_PROGRAM = "serialized_exported_program.json"
_EARLY_RECORDS = re.compile(
    r"serialized_exported_program\.json|serialized_(state_dict|constants|example_inputs)\.pt|version|extra_files/.*"
)
# Sizes are written as sympy's constructors: symbols, numbers, arithmetic, and what torch adds to them.
_SYMBOL = re.compile(r"Symbol\('[a-z]+\d+'(, [a-z]+=(True|False))*\)")
_FUNCTION = re.compile(
    r"Integer|Rational|Add|Mul|Pow(ByNatural)?|Max|Min|(Python)?Mod|(Floor|Clean|Ceil|IntTrue)Div|ModularIndexing"
    r"|(Une|E)quality|(Strict)?(Less|Greater)Than|And|Or|Not|[Tt]rue|[Ff]alse"
)


def load_pt2(path: Path) -> ExportedProgram:
    """The program in a file that ``torch.export.save`` wrote; SourceError where there is none, or no safe one."""
    if not path.is_file():
        raise SourceError(f"{path} does not exist")
    try:
        # Makes every torch.load one of plain tensors, whatever its caller says.
        with patch.dict(os.environ, {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}), quiet(), path.open("rb") as file:
            _check(_records(path))
            program = torch.export.load(file)
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from None
    except Exception as error:
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise SourceError(f"{path} is no exported program that torch {torch.__version__} reads: {text[0]}") from None
    # Python source from the file, which program.module() would run.
    program._guards_code = []
    return program


def _records(path: Path) -> Mapping[str, Callable[[], bytes]]:
    """What reads each record of an archive, in the layout of torch 2.8 and later, or in that of 2.7."""
    if zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        names = archive.namelist()
        if _EARLY_PROGRAM in names:
            with suppress(RuntimeError):  # so it must be, as torch would take anything else for the later layout
                torch._C.PyTorchFileReader(str(path))
                raise SourceError("is an archive in two layouts at once")
            return {name: partial(archive.read, name) for name in names}
    reader = torch._C.PyTorchFileReader(str(path))
    return {name: partial(reader.get_record, name) for name in reader.get_all_records()}


def _check(records: Mapping[str, Callable[[], bytes]]) -> None:
    """SourceError unless the archive holds tensors and a graph, and nothing that runs as it is read."""
    early = _EARLY_PROGRAM in records
    for record in records:
        if not (_EARLY_RECORDS if early else _RECORDS).fullmatch(record):
            raise SourceError(f"holds {record}, which may run code as it is read; save the plain exported program")
    program = records.get(_EARLY_PROGRAM if early else "models/model.json")
    if program is None:
        raise SourceError("holds no exported program called 'model'; save one with torch.export.save")
    for text in _expressions(json.loads(program())):
        words = re.findall(r"[^\W\d]\w*", rest := _SYMBOL.sub("1", text))
        if not re.fullmatch(r"[\w\s+\-*/%(),<>=.]*", rest) or not all(_FUNCTION.fullmatch(word) for word in words):
            raise SourceError(f"has the size {text!r}, which is no arithmetic of symbols")


def _expressions(data: Any) -> Iterator[str]:
    """What torch evaluates of a program: its symbolic sizes, and names of enumerations, which are no arithmetic."""
    if isinstance(data, dict):
        for key, value in data.items():
            if key == "expr_str" and isinstance(value, str):
                yield value
            yield from _expressions(value)
    elif isinstance(data, list):
        for item in data:
            yield from _expressions(item)
    elif isinstance(data, str) and "__enum__" in data:
        yield data
