"""A worker: measures what others put into a folder, on a phone, a board or a server.

``netgraft worker DIR``, or without netgraft: ``netgraft worker --pack worker.pyz``, copy that one file to the device,
and there ``python3 worker.pyz DIR``. It needs Python 3.11, numpy, and an engine: ``pip install numpy onnxruntime``.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import re
import secrets
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import netgraft.errors as errors
from netgraft.errors import MeasureError, NetgraftError

from .engines import engines
from .flags import machine
from .jobs import Folder, Job
from .profile import SESSIONS, check_kernels, profiled
from .sampling import compare, measure

PAUSE = 0.5
"""Seconds between two looks into the folder."""
HEARTBEAT = 5.0
"""Seconds between two signs of life while measuring."""


def serve(path: Path, *, once: bool = False, say: Callable[[str], None] = lambda _: None) -> int:
    """Do jobs as they come, or with ``once`` those that wait; returns how many were done.

    Two workers may serve one folder. Whatever is wrong with a job becomes its answer; MeasureError only for a folder
    that cannot be used.
    """
    folder = Folder(path)
    host = re.sub(r"\W", "-", platform.node())[:40] or "worker"
    name = f"{host}-{os.getpid()}-{secrets.token_hex(3)}"
    done = 0
    while True:
        claim = folder.claim(name)
        if claim is not None:
            job = claim.name.partition(".")[0]
            answer = _answered(folder, claim)
            folder.answer(job, answer)
            claim.unlink(missing_ok=True)
            done += 1
            say(f"{job}: {answer.get('error') or 'measured'}")
        elif once:
            return done
        else:
            time.sleep(PAUSE)


def _answered(folder: Folder, claim: Path) -> dict[str, Any]:
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(claim, over), daemon=True)
    beating.start()
    try:
        job = Job.read(claim)
        return _kernels(folder, job) if job.task == "kernels" else {"found": _measured(folder, job)}
    except NetgraftError as error:
        return {"error": str(error)}
    except Exception as error:  # a worker lives on, whatever a job brings
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        over.set()
        beating.join()


def _measured(folder: Folder, job: Job) -> list[dict[str, Any]]:
    options: dict[str, Any] = {
        "batch": job.batch,
        "threads": job.threads,
        "seconds": job.seconds,
        "seed": job.seed,
    }
    variants = [folder.variant(model) for model in job.models]
    if job.baseline is None:
        return [asdict(measure(variants[0], **options))]
    return [asdict(ratio) for ratio in compare(variants, folder.variant(job.baseline), **options)]


def _kernels(folder: Folder, job: Job) -> dict[str, Any]:
    check_kernels()
    models = [Path(str(folder.variant(model).model)).read_bytes() for model in job.models]
    found = [None if parts is None else [asdict(part) for part in parts] for parts in profiled(models, SESSIONS)]
    return {"found": found, "machine": machine()}


def _beat(claim: Path, over: threading.Event) -> None:
    while not over.wait(HEARTBEAT):
        try:
            os.utime(claim)
        except OSError:  # it was taken over, or the folder is away for a while
            continue


def pack(path: Path) -> None:
    """Write the worker as one file that ``python3`` runs, without the rest of netgraft."""
    here = Path(errors.__file__).parent
    files = [here / "errors.py", here / "costs" / "__init__.py", *sorted((here / "costs" / "measured").glob("*.py"))]
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        entries = {file.relative_to(here.parent).as_posix(): file.read_text(encoding="utf-8") for file in files}
        entries["netgraft/__init__.py"] = ""
        entries["__main__.py"] = "from netgraft.costs.measured.worker import main\n\nmain()\n"
        for name, text in entries.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # the same bytes whenever it is written
    try:
        path.write_bytes(b"#!/usr/bin/env python3\n" + held.getvalue())
    except OSError as error:
        raise MeasureError(f"{path} cannot be written: {error.strerror}") from None


def main() -> None:
    """``python3 worker.pyz DIR [--once]``."""
    parser = argparse.ArgumentParser(prog="worker.pyz", description="Measures networks that others put into a folder.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="shared with those who ask; made where it is missing")
    parser.add_argument("--once", action="store_true", help="do the jobs that wait, and end")
    given = parser.parse_args()
    # A worker that is told to end does so between two lines, not with a traceback; its job is taken over.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        print(f"serving {given.folder} with {', '.join(engines()) or 'no engine: pip install onnxruntime'}", flush=True)
        serve(given.folder, once=given.once, say=lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        sys.exit(130)
    except NetgraftError as error:
        sys.exit(f"error: {error}")
