"""What a person sees on the terminal: progress of a run, and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from netgraft.candidate import Trial, TrialState
from netgraft.events import (
    CandidateJudged,
    DeviceChanged,
    Event,
    FinalBegun,
    FinalsBegun,
    FinalStopped,
    GenerationProposed,
    LimitScaled,
    MeasuringBegun,
    PretrainingBegun,
    ProposingBegun,
    RungBegun,
    RunInterrupted,
    StepDone,
    TrialRecorded,
)
from netgraft.report import Standing, Summary, words


class Watcher:
    """Shows a run's events: a live line on a terminal, plain lines elsewhere. Use it in a ``with`` block.

    ``chance`` is the quality that guessing gives, where there is such a thing. ``interrupted`` tells afterwards whether
    Ctrl-C ended the run.
    """

    def __init__(self, console: Console, chance: float | None = None) -> None:
        self.console = console
        self.chance = chance
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(20),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.line = self.progress.add_task("starting", total=None)
        self.original: Trial | None = None
        self.generation = 0
        self.interrupted = False

    def __enter__(self) -> Watcher:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.progress.stop()

    def __call__(self, event: Event) -> None:
        """Shows one event of a run."""
        match event:
            case PretrainingBegun(epochs):
                self._show(f"training the original for {epochs:g} epochs")
            case DeviceChanged(before, now):
                self.console.print(
                    f"[yellow]note:[/] the run was on {before} and goes on on {now}: trainings come out slightly "
                    "different there",
                    highlight=False,
                    soft_wrap=True,
                )
            case LimitScaled(limit, milliseconds, share):
                self._show(f"the original takes {milliseconds:.3g} ms here, so {limit} is taken as {share:.2f}x")
            case StepDone(step, total):
                self.progress.update(self.line, completed=step, total=total)
            case ProposingBegun(generation):
                self.generation = generation
                doing = f"generation {generation}: proposing"
                self.progress.update(self.line, description=doing, completed=0, total=None)
            case GenerationProposed(generation, count):
                if count:  # nothing is how a search ends that has proposed all there is
                    self._show(f"generation {generation}: {count} proposals")
            case RungBegun(name, count):
                if name != "count":
                    self.progress.update(self.line, description=self._where(name, count), completed=0, total=count)
            case CandidateJudged():
                self.progress.advance(self.line)
            case TrialRecorded(trial):
                self._trial(trial)
            case FinalsBegun(count, epochs):
                self._show(f"finals: the original and {count} more, each up to {epochs:.4g} epochs since the run began")
            case FinalBegun(trial, epochs):
                name = label(trial.number, trial.digest) if trial.number else "the original"
                self._show(f"training {name} for {epochs:.4g} epochs")
            case FinalStopped(trial, reason):
                self._show(f"{label(trial.number, trial.digest)} is stopped: {reason}")
            case MeasuringBegun(count):
                self._show(f"test split, once; then measuring {count} networks, interleaved")
            case RunInterrupted():
                self.interrupted = True
                self.console.print("[yellow]interrupted[/]: what was found so far is kept")

    def _where(self, rung: str, count: int) -> str:
        doing = {"check": "checking", "tune": "fine-tuning"}.get(rung, rung)
        return f"generation {self.generation}: {doing} {count}"

    def _show(self, text: str) -> None:
        self.progress.update(self.line, description=text, completed=0, total=None)
        self.console.print(f"[dim]{text}[/]", highlight=False)

    def _trial(self, trial: Trial) -> None:
        if trial.state is not TrialState.COMPLETE:
            return
        if trial.number == 0:
            self.original = trial
        assert self.original is not None, "a run tells of its original first"
        scores, start = trial.scores, self.original.scores
        quality = f"{scores['quality']:.2f}±{scores['quality_error']:.2f}"
        if trial.number == 0:
            self.console.print(
                f"original: validation quality {quality}, {scores['flops'] / 1e6:.1f} MFLOPs, "
                f"{int(scores['parameters']):,} parameters",
                highlight=False,
            )
            if self.chance is not None and scores["quality"] < 2 * self.chance:
                self.console.print(
                    "[yellow]the original is hardly better than guessing: were its trained weights loaded? "
                    "--pretrain EPOCHS trains it first[/]",
                    soft_wrap=True,
                )
            return
        time = (
            f"time {scores['time']:.2f}x" if "time" in scores else f"est. {scores['latency'] / start['latency']:.2f}x"
        )
        beside = []
        if "quality_before" in scores:
            beside.append(f"untuned {scores['quality_before']:.2f}")
        if "expected" in scores:
            beside.append(f"expected {scores['expected']:.2f}")
        also = f" ({', '.join(beside)})" if beside else ""
        line = (
            f"  {label(trial.number, trial.digest)}  {quality}{also}  {time}  "
            f"flops {scores['flops'] / start['flops']:.2f}x  "
        )
        origin = _short(trial.origin, max(12, self.console.width - len(line)) if self.console.is_terminal else 60)
        self.console.print(f"{line}[dim]{origin}[/]", highlight=False, soft_wrap=True)


def label(number: int, digest: str) -> str:
    """How a network of a run is called on the terminal: its number, and enough of its digest to pick it by."""
    return f"#{number} {digest[:6]}"


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def plain(text: str) -> str:
    """``text`` of a stranger's as the console may print it: neither markup nor control characters."""
    return escape("".join(c if c.isprintable() else "?" for c in text))


def counted(count: int, noun: str) -> str:
    """``1 network``, ``2,000 networks``."""
    return f"{count:,} {noun}" + ("s" if count != 1 else "")


def columns(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table whose first column is text and whose others are figures."""
    grid = Table(
        title=title, title_justify="left", header_style="bold", box=box.SIMPLE, collapse_padding=True, pad_edge=False
    )
    for i, name in enumerate(header):
        grid.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    return grid


def finalists(summary: Summary) -> Table:
    """The finalists of a run; it fits a terminal of 80 columns, where rich would cut off what does not."""
    return columns(
        f"{summary.task}: finalists, trained equally long, as multiples of the original",
        ("network", f"test {summary.quality.unit}", "difference", "time [99 %]", "est.", "FLOPs", "params"),
        (
            (
                row.label if row.is_original else label(row.number, row.digest),
                f"{row.test:.2f}±{row.test_error:.2f}",
                words.difference(row.difference, row.difference_error),
                f"{row.time:.2f} [{row.low:.2f}, {row.high:.2f}]",
                words.ratio(row.estimate),
                f"{row.flops_ratio:.2f}x",
                f"{row.parameters_ratio:.2f}x",
            )
            for row in summary.rows
        ),
    )


def so_far(entries: Sequence[Standing]) -> Table:
    """The front of a run that has no finalists yet."""
    return columns(
        "trained so far: validation quality after a short fine-tuning, time measured shortly, or estimated (~)",
        ("network", "validation", "time"),
        (
            (
                label(e.number, e.digest),
                f"{e.validation:.2f}±{e.validation_error:.2f}",
                f"{'' if e.measured else '~'}{e.time:.2f}x",
            )
            for e in entries
        ),
    )
