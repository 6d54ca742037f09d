"""Asking another machine: through a folder that a worker serves, or by ssh."""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from netgraft.errors import MachineError, OptionError

from .jobs import Figures, Folder, Job, Kernels, new_id, read_answer, read_kernels
from .networks import Variant
from .worker import pack

PATIENCE = 120.0
"""Seconds that a job may wait for a worker, and that an answer may take longer than it should."""
PAUSE = 0.2

Found = TypeVar("Found")


@dataclass(frozen=True)
class Asked:
    """Networks to measure, and how; see :class:`~.jobs.Job`."""

    variants: Sequence[Variant]
    baseline: Variant | None
    batch: int
    threads: int
    seconds: float
    seed: int
    task: str = "latency"

    def job(self, folder: Folder) -> Job:
        """The job, with its networks written to the folder."""
        return Job(
            task=self.task,
            models=tuple(folder.put_model(variant, self.batch) for variant in self.variants),
            baseline=folder.put_model(self.baseline, self.batch) if self.baseline else None,
            batch=self.batch,
            threads=self.threads,
            seconds=self.seconds,
            seed=self.seed,
        )


def ask(on: str, asked: Asked, kind: type[Figures]) -> list[Figures]:
    """The figures that the machine ``on`` finds: a folder, or ``ssh://[user@]host[:port][/path]``.

    MachineError for a machine that does not answer, MeasureError for what it could not measure.
    """
    return _asked(on, asked, lambda path, who: read_answer(path, kind, len(asked.variants), who))


def ask_kernels(on: str, models: Sequence[bytes], seconds: float) -> tuple[Kernels, dict[str, str]]:
    """What :func:`~.profile.profiled` finds on the machine ``on``, about within ``seconds``, and what machine it is."""
    asked = Asked([Variant(model) for model in models], None, 1, 1, seconds, 0, "kernels")
    return _asked(on, asked, lambda path, who: read_kernels(path, len(models), who))


def _asked(on: str, asked: Asked, read: Callable[[Path, str], Found]) -> Found:
    return (_by_ssh if on.startswith("ssh:") else _by_folder)(on, asked, read)


def _by_folder(on: str, asked: Asked, read: Callable[[Path, str], Found]) -> Found:
    """What was lost on the way is sent again."""
    if not Path(on).is_dir():
        raise MachineError(f"there is no folder {on}; start 'netgraft worker {on}' on the machine that is to measure")
    folder, name = Folder(Path(on)), new_id()
    folder.submit(name, job := asked.job(folder))
    since = time.monotonic()
    resent = False
    try:
        while (state := folder.state(name)) != "done" or (not resent and _lost_models(folder, name)):
            if state == "done":
                resent = True
                (folder.path / "done" / f"{name}.json").unlink(missing_ok=True)
                job = asked.job(folder)
            if state in ("done", "lost"):
                folder.submit(name, job)
            if state == "claimed":
                since = time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise MachineError(
                    f"no worker took the job within {PATIENCE:g} s; start 'netgraft worker {on}' there, or see whether "
                    "it still runs"
                )
            time.sleep(PAUSE)
        return read(folder.path / "done" / f"{name}.json", f"the worker of {on}")
    finally:
        folder.forget(name, job)


def _lost_models(folder: Folder, name: str) -> bool:
    return b"is missing" in (folder.path / "done" / f"{name}.json").read_bytes()


def _by_ssh(on: str, asked: Asked, read: Callable[[Path, str], Found]) -> Found:
    """Copies the worker and the job there, runs it once, and fetches the answer; nothing is left there."""
    match = re.fullmatch(r"ssh://((?:[\w.-]+@)?[\w][\w.-]*)(?::(\d{1,5}))?(?:/([\w./-]+))?", on)
    if match is None:
        raise OptionError(f"--on {on!r} is no machine; write ssh://host, ssh://user@host:port or ssh://host/path")
    host: str = match[1]
    port: str | None = match[2]
    path = f"/{match[3]}" if match[3] else "netgraft-worker"
    plain: list[str] = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=15"]
    ssh: list[str] = ["ssh", *plain, *(["-p", port] if port else []), "--", host]
    scp: list[str] = ["scp", "-q", "-r", *plain, *(["-P", port] if port else []), "--"]
    limit = PATIENCE + 10 * asked.seconds
    with tempfile.TemporaryDirectory() as directory:
        here, name = Path(directory), new_id()
        folder = Folder(here / name)  # a folder of its own there, too: nobody else's jobs are waited for
        folder.submit(name, asked.job(folder))
        pack(here / name / "worker.pyz")
        there = f"{path}/{name}"
        _run([*ssh, f"mkdir -p -- {shlex.quote(path)}"], host, limit)
        _run([*scp, str(here / name), f"{host}:{path}/"], host, limit)
        quoted = shlex.quote(there)
        try:
            _run([*ssh, f"cd -- {quoted} && python3 worker.pyz . --once"], host, limit)
            _run([*scp, f"{host}:{there}/done/{name}.json", str(here)], host, limit)
        finally:
            _run([*ssh, f"rm -rf -- {quoted}"], host, limit)
        return read(here / f"{name}.json", host)


def _run(command: list[str], host: str, limit: float) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit, check=False
        )
    except FileNotFoundError:
        raise MachineError(f"{command[0]} is not installed here; --on ssh:// needs ssh and scp") from None
    except subprocess.TimeoutExpired:
        raise MachineError(f"{host} did not answer within {limit:g} s") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        needs = "; it needs Python 3.11, numpy and the engine" if "worker.pyz" in command[-1] else ""
        raise MachineError(f"{host} could not be used: {said[-1]}{needs}")
