"""The report in a headless Chromium, at the widths of a desk and of a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from studies import finished, resnet, searched

from netgraft.report import write
from netgraft.study import Study
from netgraft.tasks.examples import SIDE, png

sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def told(study: Study) -> Study:
    """The study with what finals keep for the report: how losses went, and pictures."""
    study.add_note("heat", epochs=3.0, networks=[])
    for number in study.finalists:
        for epochs, until in ((1.5, 3.0), (4.5, 7.5)):
            losses = [1 + 2 ** -(number + i / 8) for i in range(40)]
            study.add_note("trained", number=number, model="", epochs=epochs, until=until, losses=losses)
    names = [study.save_picture(png(np.full((SIDE, SIDE, 3), 40 * i, np.uint8))) for i in range(6)]
    outputs = [{"number": n, "picture": names[2 + n], "quality": 90.0} for n in study.finalists]
    study.add_note("pictures", examples=[{"input": names[0], "target": names[1], "outputs": outputs}])
    return study


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of a network of about 70 nodes, one of about 400, and one without finalists."""
    root = tmp_path_factory.mktemp("runs")
    studies = {
        "finished": told(finished(root / "finished")),
        "large": finished(root / "large", graph=resnet(19)),
        "unfinished": searched(root / "unfinished"),
    }
    paths = {name: write(study) for name, study in studies.items()}
    for study in studies.values():
        study.close()
    return paths


@pytest.fixture(params=[1280, 390])
def page(request: pytest.FixtureRequest, browser: Any) -> Iterator[Any]:
    """A page that fails its test where the console complains or anything but the file itself is asked for."""
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: request.url.startswith("file:") or complaints.append(request.url))
    yield page
    page.close()
    assert complaints == []


def open_all(page: Any) -> None:
    """Opens every fold by clicking on it, outer ones first."""
    for summary in page.query_selector_all("summary"):
        if not summary.evaluate("s => s.parentElement.open"):
            summary.click()
    assert page.evaluate("[...document.querySelectorAll('details')].every(d => d.open)")


def sticking_out(page: Any) -> list[str]:
    """Elements beyond the right edge of the window that no scrolling box of their own holds."""
    return page.evaluate(
        """() => [...document.querySelectorAll('body *')]
          .filter(e => !e.closest('.scroll, pre') && e.getBoundingClientRect().right > innerWidth + 1)
          .map(e => e.tagName + '.' + (e.getAttribute('class') || '') + ' ' + e.textContent.trim().slice(0, 40))"""
    )


@pytest.mark.parametrize("name", ["finished", "large", "unfinished"])
def test_the_page_fits_its_window_with_everything_open(page: Any, reports: dict[str, Path], name: str) -> None:
    page.goto(reports[name].as_uri())
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert sticking_out(page) == []
        open_all(page)


def test_there_is_a_visible_mark_for_every_finalist(page: Any, reports: dict[str, Path]) -> None:
    page.goto(reports["finished"].as_uri())
    first = page.query_selector(".chart")
    marks = first.query_selector_all(".mark")
    assert len(marks) == 4
    frame = first.query_selector(".frame").bounding_box()
    for mark in marks:
        circle = mark.query_selector("circle").bounding_box()
        x, y = circle["x"] + circle["width"] / 2, circle["y"] + circle["height"] / 2
        assert frame["x"] <= x <= frame["x"] + frame["width"]
        assert frame["y"] <= y <= frame["y"] + frame["height"]
        assert mark.query_selector("title").text_content()
        assert len(mark.query_selector_all(".bar")) == 2


def test_pictures_and_lines_are_there_to_be_seen(page: Any, reports: dict[str, Path]) -> None:
    page.goto(reports["finished"].as_uri())
    widths = page.evaluate("[...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width])")
    assert len(widths) == 6 and all(natural == SIDE and shown > 100 for natural, shown in widths)
    frame = page.query_selector_all(".chart")[1].query_selector(".frame").bounding_box()
    lines = [line.bounding_box() for line in page.query_selector_all(".line path")]
    assert len(lines) == 4
    for line in lines:
        assert frame["x"] <= line["x"] and line["x"] + line["width"] <= frame["x"] + frame["width"] + 2
        assert frame["y"] <= line["y"] + 2 and line["y"] + line["height"] <= frame["y"] + frame["height"] + 2
        assert line["width"] > frame["width"] / 2


def test_labels_of_the_picture_do_not_meet(page: Any, reports: dict[str, Path]) -> None:
    page.goto(reports["finished"].as_uri())
    boxes = [text.bounding_box() for text in page.query_selector(".chart").query_selector_all(".mark text")]
    for n, one in enumerate(boxes):
        for other in boxes[:n]:
            beside = one["x"] >= other["x"] + other["width"] or other["x"] >= one["x"] + one["width"]
            above = one["y"] + 3 >= other["y"] + other["height"] or other["y"] + 3 >= one["y"] + one["height"]
            assert beside or above


def test_a_tail_of_texts_stays_inside_its_box(page: Any, reports: dict[str, Path]) -> None:
    page.goto(reports["large"].as_uri())
    open_all(page)
    crowded = page.evaluate(
        """() => [...document.querySelectorAll('.box')].flatMap(box => {
          const ops = [...box.querySelectorAll('.op')], ids = [...box.querySelectorAll('.id')];
          return ops.filter((op, n) => op.textContent && ids[n].textContent
            && op.getBBox().x + op.getBBox().width > ids[n].getBBox().x).map(op => op.textContent);
        })"""
    )
    assert crowded == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(browser: Any, reports: dict[str, Path], scheme: str) -> None:
    """Contrast of at least 4.5 to 1 (WCAG 2.1, 1.4.3) for every colour pair that the page puts together."""
    page = browser.new_page(color_scheme=scheme)
    page.goto(reports["finished"].as_uri())
    contrast = page.evaluate(
        """() => {
          const style = getComputedStyle(document.documentElement);
          const light = name => {
            const n = parseInt(style.getPropertyValue('--' + name).trim().slice(1), 16);
            const [r, g, b] = [n >> 16, n >> 8 & 255, n & 255].map(c => c / 255)
              .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const pairs = [['ink', 'page'], ['ink', 'card'], ['faint', 'page'], ['faint', 'card'], ['accent', 'card'],
            ['accent', 'accent-soft'], ['faint', 'accent-soft'], ['ink', 'red'], ['ink', 'green'], ['ink', 'amber'],
            ...[1, 2, 3, 4, 5, 6].map(n => ['shade-' + n, 'card']),
            ['faint', 'grey'], ['faint', 'red'], ['faint', 'green'], ['faint', 'amber']];
          return Object.fromEntries(pairs.map(([one, other]) => {
            const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
            return [one + ' on ' + other, (high + 0.05) / (low + 0.05)];
          }));
        }"""
    )
    page.close()
    assert {pair: ratio for pair, ratio in contrast.items() if ratio < 4.5} == {}
