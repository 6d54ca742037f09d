"""The report: what it claims, what it draws, and that nothing in a run can harm it."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies import SETTINGS, TESTS, begun, finished, model_of, resnet, searched, swapped

from netgraft.candidate import Trial, TrialState
from netgraft.costs.measured import CONFIDENCE
from netgraft.errors import EmptyFrontError, OptionError, StudyError
from netgraft.front import Front
from netgraft.ir import Batch, Builder, Graph, TensorType
from netgraft.report import Kind, Summary, kinds, lineage, standings, summarize, words, write
from netgraft.report.charts import curves_chart, finalists_chart, trials_chart
from netgraft.report.drawing import FOLDED, SMALL, WIDTH, Mark, compare, marks
from netgraft.report.layout import GAP, RISE, layout
from netgraft.report.page import render
from netgraft.study import Study

Times = dict[int, tuple[float, float, float]]


def summary_of(path: Path, **options: Any) -> Summary:
    with finished(path / "run", **options) as study:
        return summarize(study)


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails on tags that do not nest."""

    VOID = frozenset({"meta", "link", "br", "img", "line", "rect", "circle", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.stack: list[str] = []
        self.text = ""
        self.titles: list[str] = []
        self.feed(text)
        assert not self.stack, f"never closed: {self.stack}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] == "title":
            self.titles.append(data)
        elif self.stack and self.stack[-1] != "style":
            self.text += data

    def classed(self, name: str) -> list[dict[str, str]]:
        return [attrs for _, attrs in self.tags if name in attrs.get("class", "").split()]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    with finished(tmp_path_factory.mktemp("runs") / "run") as study:
        return render(study)


# --- numbers and picks ---


def test_rows_hold_the_figures(tmp_path: Path) -> None:
    summary = summary_of(tmp_path)
    assert [row.label for row in summary.rows] == ["original", "#3", "#2", "#1"]
    row = summary.rows[2]
    assert (row.test, row.validation, row.time, row.low, row.high) == (91.2, 91.3, 0.617, 0.602, 0.633)
    assert row.speedup == pytest.approx(1.6207, abs=1e-4)
    assert row.speedup_interval == pytest.approx((1 / 0.633, 1 / 0.602))
    assert row.flops_ratio == pytest.approx(30 / 40)
    assert row.parameters_ratio == pytest.approx(62 / 70)
    assert row.origins == ("program.separable", "swap.block")
    assert summary.task == "digits"
    assert str(summary.quality) == "accuracy (%)"


def test_inherited_is_the_product_along_the_lineage(tmp_path: Path) -> None:
    with finished(tmp_path / "run") as study:
        shares = [trial.inherited for trial in lineage(study, 2)]
        row = summarize(study).rows[2]
    assert len(shares) == 3
    assert row.inherited == pytest.approx(float(np.prod(shares)))
    assert 0 < row.inherited < 1


def test_each_kind_of_edit_is_counted_for_what_it_brought(tmp_path: Path) -> None:
    with finished(tmp_path / "run", numbers=(0, 2, 3)) as study:
        found = kinds(study)
    # Trial 1 is a program edit, 2 a swap of 1, 3 a swap of the original; all of them are on the front.
    assert found == (Kind("swap", 2, 2, 2, 2), Kind("program", 1, 1, 2, 1))
    with begun(tmp_path / "empty") as study:
        assert kinds(study) == ()


def test_picks_are_made_on_validation_not_on_test(tmp_path: Path) -> None:
    with finished(tmp_path / "run", numbers=(0, 1, 2)) as study:
        # The test split sees it the other way round.
        study.add_finalists([replace(study.finalists[1], validation=91.9, test=80.0)])
        study.add_finalists([replace(study.finalists[2], validation=91.0, test=99.0)])
        assert summarize(study).picks["best"] == 1


def test_fastest_keeps_the_quality_of_the_original_if_any_does(tmp_path: Path) -> None:
    # 88.0 is more than 2 x 0.4 below the original's 91.4; 91.2 is not.
    assert summary_of(tmp_path / "a").picks == {"knee": 2, "fastest": 2, "best": 1}
    poor = {0: 99.0, 1: 91.6, 2: 91.2, 3: 88.0}
    assert summary_of(tmp_path / "b", tests=poor).picks["fastest"] == 3


def test_fastest_is_as_good_as_the_original_by_what_they_differ_in(tmp_path: Path) -> None:
    close = TESTS | {3: 91.0}  # 0.4 below the original, whose own error is 0.4
    assert summary_of(tmp_path / "a", tests=close, paired=0.21).picks["fastest"] == 3
    assert summary_of(tmp_path / "b", tests=close, paired=0.19).picks["fastest"] == 2
    assert summary_of(tmp_path / "c", tests=close, paired=0.09).picks["fastest"] == 3, "neither is: of all"


def test_fastest_is_only_what_was_measured_to_be_faster(tmp_path: Path) -> None:
    # The interval of 1 holds 1.0; that of 2 ends there.
    times: Times = {0: (1.0, 0.995, 1.005), 1: (0.98, 0.94, 1.02), 2: (0.97, 0.94, 1.0), 3: (0.9, 0.85, 0.95)}
    assert summary_of(tmp_path / "a", times=times).picks["fastest"] == 3
    with finished(tmp_path / "b", numbers=(0, 1, 2), times=times) as study:
        assert summarize(study).picks == {"knee": 2, "best": 1}
        assert ">fastest<" not in render(study), "no badge claims it either"
        with pytest.raises(OptionError, match=r"none is 'fastest'; choose one of: knee, best, "):
            Front(study).fastest()


def timed(study: Study, **times: float) -> None:
    """Gives trials (``t1=0.8``) a time that was measured in the search."""
    for name, time in times.items():
        number = int(name[1:])
        trial = study.trials[number]
        study.trials[number] = replace(trial, scores=trial.scores | {"time": time})


def test_what_is_so_far_only_estimated_to_be_faster_is_not_called_fastest(tmp_path: Path) -> None:
    with searched(tmp_path / "run") as study:
        entries, picks = standings(study)
        assert {"knee", "best"} == picks.keys() and not any(entry.measured for entry in entries)
        timed(study, t1=0.8, t2=1.1)
        assert standings(study)[1]["fastest"] == 1, "2 was measured to be slower, 3 not at all"


def test_what_was_not_measured_is_no_pick_under_a_limit_on_latency(tmp_path: Path) -> None:
    with searched(tmp_path / "run", SETTINGS | {"limits": ["latency<=0.9x@openvino"]}) as study:
        entries, picks = standings(study)
        assert entries and not picks
        with pytest.raises(
            EmptyFrontError, match="which of them keep the limit on latency is measured at the end; pick"
        ):
            Front(study).knee()
        assert Front(study)[entries[0].digest].figures.number == entries[0].number
        timed(study, t2=0.8)
        assert set(standings(study)[1].values()) == {2}


def test_knee_is_furthest_from_the_line_between_the_ends(tmp_path: Path) -> None:
    times: Times = {0: (1.0, 1.0, 1.0), 1: (0.9, 0.9, 0.9), 2: (0.6, 0.6, 0.6), 3: (0.5, 0.5, 0.5)}
    hollow = {0: 91.0, 1: 91.0, 2: 86.5, 3: 86.0}  # 2 lies on the bad side of the line from 3 to 1
    assert summary_of(tmp_path / "a", times=times, tests=hollow).picks["knee"] == 1
    bulging = {0: 91.0, 1: 91.0, 2: 90.5, 3: 86.0}
    assert summary_of(tmp_path / "b", times=times, tests=bulging).picks["knee"] == 2
    two = summary_of(tmp_path / "c", numbers=(0, 1, 3), times=times, tests=bulging)
    assert two.picks["knee"] == 1, "the better of two"


def test_no_time_is_paid_for_a_quality_within_the_standard_error(tmp_path: Path) -> None:
    close = {0: 91.4, 1: 91.4, 2: 91.1, 3: 80.0}  # 2 is faster than 1, and within 0.4 of it
    summary = summary_of(tmp_path / "a", numbers=(0, 1, 2), tests=close)
    assert summary.picks["knee"] == 2 and summary.picks["best"] == 1
    assert summary_of(tmp_path / "b", numbers=(0, 1, 2), tests=close | {2: 90.9}).picks["knee"] == 1


def test_ties_in_quality_go_to_the_faster(tmp_path: Path) -> None:
    equal = dict.fromkeys(range(4), 91.0)
    assert summary_of(tmp_path, tests=equal).picks == {"knee": 3, "fastest": 3, "best": 3}


def test_a_loss_is_better_when_low(tmp_path: Path) -> None:
    settings = copy.deepcopy(SETTINGS)
    settings["task"]["quality"] = {"name": "error", "unit": "%", "higher_is_better": False}
    summary = summary_of(tmp_path, settings=settings, tests={0: 8.6, 1: 8.4, 2: 8.8, 3: 12.0})
    assert summary.picks == {"knee": 2, "fastest": 2, "best": 1}


def test_the_original_is_picked_only_when_alone(tmp_path: Path) -> None:
    worse: Times = {0: (1.0, 1.0, 1.0), 1: (1.4, 1.3, 1.5), 2: (1.5, 1.4, 1.6), 3: (1.6, 1.5, 1.7)}
    assert 0 not in summary_of(tmp_path / "a", times=worse).picks.values()
    alone = summary_of(tmp_path / "b", numbers=(0,))
    assert alone.picks == {"knee": 0, "best": 0}
    assert alone.headline == "No other network came out than the original, at 91.4 %"


# --- the headline ---


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.617, 0.602, 0.633), "1.62x faster [1.58, 1.66] at 91.2 % (original 91.4 %)"),
        ((0.997, 0.994, 0.9995), "1.003x faster [1.001, 1.006] at 91.2 % (original 91.4 %)"),
        ((0.97, 0.93, 1.0), "No difference in speed shown (time 0.97x [0.93, 1.00]) at 91.2 % (original 91.4 %)"),
        ((0.6, 0.2, 1.8), "No difference in speed shown (time 0.60x [0.20, 1.80]) at 91.2 % (original 91.4 %)"),
        ((1.2, 1.1, 1.3), "1.20x slower [1.10, 1.30] at 91.2 % (original 91.4 %)"),
    ],
)
def test_headline(tmp_path: Path, interval: tuple[float, float, float], expected: str) -> None:
    summary = summary_of(tmp_path, numbers=(0, 2), times={0: (1.0, 1.0, 1.0), 2: interval})
    assert summary.headline == expected


def test_the_difference_from_the_original_has_an_error_of_its_own(tmp_path: Path) -> None:
    with finished(tmp_path / "run", numbers=(0, 2), paired=0.04) as study:
        summary, page = summarize(study), render(study)
    assert summary.headline == "1.62x faster [1.58, 1.66] at 91.2 % (original 91.4 %: -0.20 ± 0.04 points)"
    original, row = summary.rows
    assert (original.difference, row.difference) == (None, pytest.approx(-0.2))
    assert page.count("<td>-0.20 ± 0.04 points</td>") == 1 and "-0.20 ± 0.04 points beside the original" in page


def test_the_headline_gives_both_networks_to_the_same_digit(tmp_path: Path) -> None:
    with finished(tmp_path / "run", numbers=(0, 2), paired=0.4) as study:
        study.finalists[2] = replace(study.finalists[2], test_error=1.04)
        assert summarize(study).headline.endswith(" at 91.2 % (original 91.4 %: -0.2 ± 0.4 points)")


def test_studies_from_before_say_nothing_of_it(tmp_path: Path) -> None:
    with finished(tmp_path / "run", numbers=(0, 2), paired=0.04) as study:
        journal = study.path / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for finalist in (one for line in lines for one in line.get("finalists", [])):
        del finalist["test_paired_error"], finalist["validation_paired_error"]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    study = Study.read(study.path)
    assert summarize(study).headline == "1.62x faster [1.58, 1.66] at 91.2 % (original 91.4 %)"
    assert "points" not in render(study)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished run, to look at."""
    with finished(tmp_path_factory.mktemp("runs") / "run", numbers=(0, 2)) as study:
        return Study.read(study.path)


@given(st.tuples(*[st.floats(0.05, 20)] * 3).map(sorted))
def test_faster_is_said_exactly_when_the_interval_lies_below_one(study: Study, interval: list[float]) -> None:
    low, middle, high = interval
    study.finalists[2] = replace(study.finalists[2], time=middle, time_low=low, time_high=high)
    summary = summarize(study)
    assert ("x faster" in summary.headline) == (summary.rows[1].verdict == "faster") == (high < 1)
    assert ("x slower" in summary.headline) == (summary.rows[1].verdict == "slower") == (low > 1)


def test_headlines_of_runs_without_finalists(tmp_path: Path) -> None:
    with begun(tmp_path / "a") as study:
        assert summarize(study).headline == "Nothing has been tried yet"
        for number in (1, 2):
            study.add_trial(Trial(number, 1, "0" * 16, TrialState.INFEASIBLE, 0, reason="breaks flops<=0.1x"))
        assert summarize(study).headline == "No feasible network among 2 networks tried"
        page = Page(render(study))
        assert "breaks flops<=0.1x" in page.text
        assert not page.classed("mark")
    with searched(tmp_path / "b") as study:
        assert summarize(study).headline.startswith("Unfinished: 6 networks tried")
        assert summarize(study).picks == {}
        page = Page(render(study))
        assert len(page.classed("mark")) == 4
        assert "There are no finalists" in page.text
        assert "--pick" not in page.text


# --- the page ---


def test_the_page_is_sound_and_needs_nothing_else(text: str) -> None:
    page = Page(text)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "iframe", "object", "img", "form"})
    links = [attrs[name] for _, attrs in page.tags for name in ("src", "href", "action", "data") if name in attrs]
    assert links == ["data:,"]
    assert not re.search(r"url\(|@import|https?://", text)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert all(attrs["aria-labelledby"] in ids for _, attrs in page.tags if "aria-labelledby" in attrs)
    assert all(attrs.get("aria-label") for tag, attrs in page.tags if tag == "svg")


def test_the_page_says_what_came_out(text: str) -> None:
    page = Page(text)
    for said in (
        "1.62x faster [1.58, 1.66] at 91.2 % (original 91.4 %)",
        "no difference",
        "program.separable, then swap.block",
        "What each kind of edit brought",
        "netgraft optimize zoo:resnet20 --data digits",
        "8x8 images were enlarged to 32x32.",
        "flops<=0.9x",
        "40.0 M",
        "300 kB",
        "estimated",
        "looked at once",
    ):
        assert said in page.text
    assert re.search(r"netgraft export \S+ --pick [0-9a-f]{16} --to better/", page.text)


def test_the_interval_is_called_by_its_level(text: str) -> None:
    level = f"{100 * CONFIDENCE:g} %"
    assert f"Horizontal bars are {level} intervals" in text and f"[{level}]" in text
    assert "95 %" not in text


def test_every_finalist_has_a_mark_with_both_error_bars(tmp_path: Path) -> None:
    with finished(tmp_path / "run") as study:
        chart = finalists_chart(summarize(study))
        search = trials_chart(study, summarize(study).quality)
    assert [point.kind for point in chart.points] == ["finalist", "finalist", "original", "pick"]
    assert {point.label for point in chart.points} == {"original", "#1 best", "#2 knee", "#3"}
    for point in chart.points:
        assert 0 <= point.left < point.x < point.right <= 100
        assert 0 <= point.top < point.y < point.bottom <= 100
        assert "91" in point.title or "88" in point.title
    assert chart.one == pytest.approx(next(point.x for point in chart.points if point.kind == "original"))
    assert search is not None
    assert [point.kind for point in search.points] == ["trial"] * 3 + ["original"]


def test_marks_that_cannot_be_placed_are_left_out(tmp_path: Path) -> None:
    tests = {0: 91.4, 1: float("nan"), 2: 91.2, 3: 88.0}
    with finished(tmp_path / "run", tests=tests) as study:
        page = Page(render(study))
    assert len(page.classed("mark")) == 3 + 4
    assert words.MISSING in page.text


def test_a_line_for_every_network_shows_how_it_was_trained(tmp_path: Path) -> None:
    with finished(tmp_path / "run", numbers=(0, 1, 2)) as study:
        assert curves_chart(study, summarize(study)) is None, "an earlier netgraft kept no losses"
        assert "training loss" not in Page(render(study)).text
        study.add_note("heat", epochs=3.0, networks=[])
        for number in (0, 1, 2, 3):  # 3 was stopped
            study.add_note("trained", number=number, model="", epochs=1.5, until=3.0, losses=[4.0, 2.0, 1.0])
        for number in (0, 1, 2):
            study.add_note("trained", number=number, model="", epochs=4.5, until=7.5, losses=[number + 1.0, 0.5])
        chart = curves_chart(study, summarize(study))
        page = Page(render(study))
    assert chart is not None
    assert {line.label: line.colour for line in chart.lines} == {"original": 0, "#1 best": 2, "#2 knee": 1}
    for line in chart.lines:
        heat, rest = ([tuple(map(float, p.split())) for p in part.split(" L")] for part in line.path.split("M")[1:])
        assert [x for x, _ in heat + rest] == sorted(x for x, _ in heat + rest) and heat[-1][0] < chart.heat < rest[0][
            0
        ]
        # Windows are half an epoch long before, 2.25 after, and points lie in their middle.
        assert (rest[1][0] - rest[0][0]) / (heat[1][0] - heat[0][0]) == pytest.approx(4.5, rel=0.01)
        assert [y for _, y in heat] == sorted(y for _, y in heat), "a loss that falls goes down"
        assert all(0 <= place <= 100 for point in heat + rest for place in point)
    assert len(page.classed("line")) == 3 and "how far a network is from the original" not in page.text
    assert "at the dashed line" in page.text


HARM = '<script>alert("x")</script>&lt;<img src=x onerror=alert(1)>'


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    settings: dict[str, Any] = copy.deepcopy(SETTINGS) | {"source": HARM, "data": HARM, "command": HARM}
    settings |= {"limits": [HARM], "goals": [HARM], "versions": {HARM: HARM}, "recipe": {HARM: HARM}}
    settings["task"] |= {"name": HARM, "notes": [HARM], "classes": [HARM]}
    settings["task"]["quality"] |= {"name": HARM, "unit": HARM}
    with finished(tmp_path / "run & <b>", settings, graph=hostile()) as study:
        study.add_trial(Trial(7, 1, HARM, TrialState.FAILED, 0, reason=HARM))
        text = render(study)
    page = Page(text)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img"})
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "<script" not in text
    assert page.text.count(HARM) >= 10
    assert any("&lt;'\"onload" in title for title in page.titles)
    assert "'" in page.text.split("netgraft export ")[1].split(" --pick")[0], "a path with a space is quoted"


def hostile() -> Graph:
    """The usual network with an id as near to markup as an id can be."""
    graph = resnet()
    b = Builder()
    x = b.input("x", graph.inputs[0].type)
    values = {"x": x}
    for node in graph:
        id = "&lt;'\"onload" if node.id == "stem.relu" else node.id
        inputs = [values[value.node] for value in node.inputs]
        values[node.id] = b.add(node.op, *inputs, id=id, weights=node.weights, **node.attrs)
    return b.build(values["head"])


def test_write_replaces_the_file_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with finished(tmp_path / "run") as study:
        assert write(study) == tmp_path / "run" / "report.html"
        first = (tmp_path / "run" / "report.html").read_bytes()
        assert write(study).read_bytes() == first, "the same run gives the same page"
        assert write(study, tmp_path / "elsewhere.html").read_bytes() == first
        with pytest.raises(StudyError, match=r"cannot write the report .*missing"):
            write(study, tmp_path / "missing" / "report.html")

        def fail(self: Path, target: Path) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", fail)
        with pytest.raises(StudyError, match="No space left"):
            write(study)
    assert (tmp_path / "run" / "report.html").read_bytes() == first


@pytest.mark.parametrize("settings", [{}, {"task": None}, {"task": {"name": "x", "quality": {"name": "accuracy"}}}])
def test_a_run_that_does_not_say_what_quality_is(tmp_path: Path, settings: dict[str, Any]) -> None:
    with begun(tmp_path / "run", settings) as study, pytest.raises(StudyError, match=r"run\.json does not say"):
        write(study)


def test_a_lineage_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    with searched(tmp_path / "run") as study:
        study.add_trial(Trial(8, 1, "0" * 16, TrialState.COMPLETE, parent=99))
        study.add_trial(Trial(9, 1, "0" * 16, TrialState.COMPLETE, parent=10))
        study.add_trial(Trial(10, 1, "0" * 16, TrialState.COMPLETE, parent=9))
        for number in (8, 9):
            with pytest.raises(StudyError, match=f"lineage of trial {number}"):
                lineage(study, number)


def test_a_run_with_little_in_its_settings_is_reported(tmp_path: Path) -> None:
    with finished(tmp_path / "run", {"task": SETTINGS["task"]}) as study:
        assert "1.62x faster" in Page(render(study)).text


# --- drawings ---


def test_marks_tell_removed_added_and_changed() -> None:
    before = model_of(resnet())
    after = swapped(swapped(before, "program.separable", "stages.2.1.conv2")[1], "swap.kernel", "stages.0.0.conv1")[1]
    after = swapped(after, "swap.block", "stages.1.1.add")[1]
    old = marks(before.graph, after.graph, Mark.REMOVED)
    new = marks(after.graph, before.graph, Mark.ADDED)
    assert {id for id, mark in old.items() if mark is Mark.CHANGED} == {"stages.0.0.conv1"}
    removed = {id for id, mark in old.items() if mark is Mark.REMOVED}
    assert "stages.2.1.conv2" in removed
    assert removed - {"stages.2.1.conv2"} == {id for id in old if id.startswith("stages.1.1.")}
    added = {id for id, mark in new.items() if mark is Mark.ADDED}
    assert added == {"stages.2.1.conv2.first", "stages.2.1.conv2.second"}


@pytest.mark.parametrize("blocks", [1, 3, 19])
def test_every_node_is_drawn_or_folded_once_and_every_mark_is_shown(blocks: int) -> None:
    before = model_of(resnet(blocks))
    after = swapped(before, "program.separable", "stages.2.0.conv2")[1]
    comparison = compare(before.graph, after.graph)
    for drawing, graph in ((comparison.before, before.graph), (comparison.after, after.graph)):
        ids = [id for box in drawing.boxes if box.kind == "folded" for id in box.title.splitlines()]
        shown = [line for box in drawing.boxes if box.kind not in ("folded", "port") for line in box.title.splitlines()]
        ids += [line.split(" = ")[0] for line in shown]
        assert sorted(ids) == sorted(node.id for node in graph)
        assert len(drawing.boxes) < 45, "legible, however large the network"
    kinds = [box.kind for box in comparison.after.boxes]
    assert kinds.count("added") == 2
    assert "removed" not in kinds
    assert [box.kind for box in comparison.before.boxes].count("removed") == 1
    assert any(line.startswith("+") and "stages.2.0.conv2.first" in line for line in comparison.text)
    assert comparison.counts[Mark.REMOVED] == 1


def test_what_stands_around_a_change_is_not_folded() -> None:
    before = model_of(resnet())
    after = swapped(before, "swap.block", "stages.1.1.add")[1]
    drawing = compare(before.graph, after.graph).after
    shown = {line.split(" = ")[0] for box in drawing.boxes if box.kind != "folded" for line in box.title.splitlines()}
    assert {"stages.1.0.relu2", "stages.1.2.conv1", "stages.1.2.add"} <= shown
    assert all(len(box.title.splitlines()) >= FOLDED for box in drawing.boxes if box.kind == "folded")


def test_a_small_graph_is_drawn_whole() -> None:
    b = Builder()
    x = b.input("x", TensorType((Batch(), 3, 8, 8)))
    for _ in range(SMALL):
        x = b.add("relu", x)
    graph = b.build(x)
    assert not [box for box in compare(graph, graph).before.boxes if box.kind == "folded"]


def test_several_inputs_and_outputs_and_odd_operations() -> None:
    b = Builder()
    x, y = b.input("x", TensorType((Batch(), 4, 8, 8))), b.input("y", TensorType((Batch(), 4, 8, 8)))
    z = b.add("concat", x, y, id="join")
    b.add("split", z, id="parts", sizes=(4, 4))
    a, c = b.build(z)["join"].value(), b.add("constant", id="c", type=TensorType((1, 8, 8, 8)))
    out = b.add("mul", a, c, id="scaled")
    up = b.add("conv_transpose2d", out, id="up", out_channels=2, kernel=(2, 2), stride=(2, 1), dilation=(1, 2))
    graph = b.build(up, z)
    drawing = compare(graph, graph).after
    assert [box.kind for box in drawing.boxes].count("port") == 4
    texts = {line.text for box in drawing.boxes for line in box.lines}
    assert {"concat 4+4", "deconv 2×2 8→2 /2×1 dil 1×2", "mul", "constant", "split"} <= texts


graphs = st.integers(1, 14).flatmap(
    lambda count: st.lists(st.sets(st.integers(0, count - 1)), min_size=count, max_size=count)
)


@given(graphs)
def test_boxes_of_a_layout_never_meet_and_wires_run_down(edges: list[set[int]]) -> None:
    """Node n leads to the later ones among ``edges[n]``."""
    names = [str(n) for n in range(len(edges))]
    successors = {str(n): [str(m) for m in sorted(targets) if m > n] for n, targets in enumerate(edges)}
    sizes = {name: (WIDTH, 20.0 + 16 * (int(name) % 3)) for name in names}
    found = layout(sizes, successors)
    boxes = list(found.boxes.values())
    for one in boxes:
        assert one.x - one.width / 2 >= -1e-6
        assert one.x + one.width / 2 <= found.width + 1e-6
        assert 0 <= one.y <= found.height - one.height + 1e-6
        for other in boxes:
            apart = abs(one.x - other.x) >= WIDTH + GAP - 1e-6
            apart |= one.y >= other.y + other.height + RISE - 1e-6 or other.y >= one.y + one.height + RISE - 1e-6
            assert one is other or apart
        for target in successors[one.name]:
            assert found.boxes[target].y >= one.y + one.height + RISE - 1e-6
    lines = [tuple(map(float, re.findall(r"-?\d+", wire))) for wire in found.wires.split("M")[1:]]
    assert len(lines) >= sum(len(set(targets)) for targets in successors.values())


# --- words ---


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (words.quality(91.234, 0.28, "%"), "91.2 %"),
        (words.quality(91.234, None, "%"), "91.23 %"),
        (words.quality(28.1234, 0.004, "dB"), "28.123 dB"),
        (words.quality(1234.5, 20, ""), "1234"),
        (words.quality(float("nan"), 0.1, "%"), "–"),
        (words.quality(None), "–"),
        (words.error(0.28), "± 0.3"),
        (words.error(0.0), ""),
        (words.difference(-0.234, 0.28, "%"), "-0.2 ± 0.3 points"),
        (words.difference(0.0312, 0.004, "dB"), "+0.031 ± 0.004 dB"),
        (words.difference(-0.04, 0.3), "+0.0 ± 0.3"),
        (words.difference(0.25, 0.0, "dB"), "+0.25 dB"),
        (words.difference(0.25, None, "%"), ""),
        (words.difference(float("nan"), 0.1, "%"), ""),
        (words.ratio(0.617), "0.62x"),
        (words.ratio(0.9996), "1.000x"),
        (words.ratio(1), "1.00x"),
        (words.count(41_234_567), "41.2 M"),
        (words.count(999_999), "1.00 M"),
        (words.count(950), "950"),
        (words.count(0, "B"), "0 B"),
        (words.count(1_250_000, "B"), "1.25 MB"),
        (words.milliseconds(0.8), "0.80 ms"),
        (words.milliseconds(0.0421), "42.1 µs"),
        (words.milliseconds(123.4), "123 ms"),
        (words.share(0.9999), "99 %"),
        (words.share(0.0001), "1 %"),
        (words.share(1.0), "100 %"),
        (words.share(0.0), "0 %"),
    ],
)
def test_numbers_in_words(written: str, expected: str) -> None:
    assert written == expected
