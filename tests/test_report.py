"""The report of a run: a page that stands alone, whatever the numbers and the names of the classes are."""

import html.parser
import math
from xml.etree import ElementTree

import numpy as np
import pytest

from tinycnn.report import write_report

VOID = {"meta", "br", "hr", "img", "input", "link"}  # tags of HTML that are never closed


class Page(html.parser.HTMLParser):
    """A page taken apart; it fails where tags are not closed in the order they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.rows, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def all(self, tag: str, **attributes: str) -> list[dict]:
        return [found for name, found in self.tags if name == tag and attributes.items() <= found.items()]


def history(loss=(0.7, 0.5, 0.4), accuracy=(0.5, 0.7, 0.9), val_loss=None, val_accuracy=None) -> dict:
    return {
        "loss": list(loss), "accuracy": list(accuracy),
        "val_loss": list(val_loss or loss), "val_accuracy": list(val_accuracy or accuracy),
    }  # fmt: skip


@pytest.fixture
def report(tmp_path):
    """Writes a report and takes it apart."""

    def write(numbers=None, matrix=((5, 1), (2, 4)), names=("angelfish", "clownfish"), figures=None):
        path = tmp_path / "report.html"
        figures = {"test_accuracy": 0.75, "images": 24} if figures is None else figures
        write_report(path, numbers or history(), np.array(matrix), list(names), figures)
        text = path.read_text(encoding="utf-8")
        assert_alone(text)
        return Page(text)

    return write


def assert_alone(text: str) -> None:
    """No script, and nothing fetched from elsewhere."""
    lower = text.lower()
    for forbidden in ("http:", "https:", "src=", "href=", "<script", "<link", "<iframe", "url(", "@import", "onload="):
        assert forbidden not in lower
    assert lower.startswith("<!doctype html>")


def points(page: Page, name: str) -> list[list[tuple[float, float]]]:
    """The curves of one kind, loss before accuracy, as points (x, y)."""
    curves = page.all("polyline", **{"class": f"curve {name}"})
    return [[tuple(map(float, point.split(","))) for point in curve["points"].split()] for curve in curves]


def test_page_says_the_figures(report):
    page = report(figures={"test_loss": 0.123456789, "test_accuracy": 0.5, "images": 24, "seconds": 1.0})
    assert ["test loss", "0.1235"] in page.rows
    assert ["test accuracy", "0.5"] in page.rows
    assert ["images", "24"] in page.rows
    assert ["seconds", "1"] in page.rows
    assert page.all("meta", charset="utf-8")
    assert page.all("html", lang="en")


def test_confusion_matrix(report):
    page = report()
    assert page.rows[-3:] == [["", "angelfish", "clownfish"], ["angelfish", "5", "1"], ["clownfish", "2", "4"]]


def test_darker_cells_hold_the_larger_share(report):
    cells = [cell["style"] for cell in report(matrix=((9, 1), (5, 5))).all("td") if "style" in cell]
    shades = [float(style.split("/")[1].strip(" )")) for style in cells]
    assert shades[0] > shades[2] == shades[3] > shades[1]


def test_curves_show_the_numbers(report):
    page = report(history(loss=[0.8, 0.4, 0.2], val_loss=[0.9, 0.6, 0.7], accuracy=[0.0, 0.5, 1.0]))
    for name in ("training", "test"):
        assert [len(curve) for curve in points(page, name)] == [3, 3]
        assert len({x for curve in points(page, name) for x, _ in curve}) == 3
    loss, accuracy = points(page, "training")
    assert loss[0][1] < loss[1][1] < loss[2][1]  # the y axis of SVG points down
    assert accuracy[0][1] - accuracy[1][1] == pytest.approx(accuracy[1][1] - accuracy[2][1])
    test_loss = points(page, "test")[0]
    assert test_loss[1][1] > test_loss[2][1] > test_loss[0][1]
    (left, width), inside = (0, 440), [point for curve in points(page, "test") for point in curve]
    assert all(left <= x <= width and 0 <= y <= 240 for x, y in inside)


def test_charts_are_well_formed_xml(tmp_path):
    write_report(tmp_path / "r.html", history(), np.eye(2, dtype=int), ["a", "b"], {})
    text = (tmp_path / "r.html").read_text()
    charts = text.split("<svg")[1:]
    assert len(charts) == 2
    for chart in charts:
        assert len(ElementTree.fromstring("<svg" + chart.split("</svg>")[0] + "</svg>")) > 5


@pytest.mark.parametrize("epochs", [1, 2, 300])
def test_any_number_of_epochs(epochs, report):
    values = np.linspace(0.9, 0.1, epochs).tolist()
    page = report(history(loss=values, accuracy=values))
    assert [len(curve) for curve in points(page, "training")] == [epochs, epochs]
    assert len(page.all("circle")) == (4 if epochs == 1 else 0)
    assert {"1", str(epochs)} <= set(page.words)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none(bad, report):
    page = report(history(loss=[0.5, bad, 0.4], val_loss=[bad] * 3))
    assert [len(curve) for curve in points(page, "training")] == [2, 3]
    assert [len(curve) for curve in points(page, "test")] == [0, 3]
    coordinates = [number for curve in points(page, "training") for point in curve for number in point]
    assert all(map(math.isfinite, coordinates))


def test_a_loss_of_nothing(report):
    page = report(history(loss=[0.0, 0.0], accuracy=[1.0, 1.0]))
    assert [len(curve) for curve in points(page, "training")] == [2, 2]


def test_one_epoch_without_a_loss(report):
    page = report(history(loss=[math.nan], accuracy=[0.5]))
    assert len(page.all("circle")) == 2


def test_a_huge_loss_stays_in_the_chart(report):
    page = report(history(loss=[1e30, 0.1], accuracy=[0.5, 0.5]))
    assert all(0 <= y <= 240 for curve in points(page, "training") for _, y in curve)


ODD_NAMES = ["<script>alert(1)</script>", "</table>", "\"quoted\" & 'single'", "&lt;", "a b", "-x", "=1+1", "ñandú 🐟"]


def test_names_are_escaped(report):
    page = report(matrix=np.eye(len(ODD_NAMES), dtype=int), names=ODD_NAMES)
    assert page.rows[-len(ODD_NAMES) - 1] == ["", *ODD_NAMES]
    assert [row[0] for row in page.rows[-len(ODD_NAMES) :]] == ODD_NAMES
    assert not page.all("script")


def test_names_that_would_not_print_are_escaped(report):
    page = report(names=["\x1b[31m\x00\u202egnp", "a\nb"])
    assert [row[0] for row in page.rows[-2:]] == [r"\x1b[31m\x00\u202egnp", r"a\nb"]


def test_figures_are_escaped(report):
    assert ["a <b>", "<i>x</i>"] in report(figures={"a_<b>": "<i>x</i>"}).rows


def test_names_that_are_not_text(report):
    assert report(names=["caf\udce9", "plain"]).rows[-1][0] == "plain"


def test_a_class_without_images(report):
    assert report(matrix=((0, 0), (2, 4))).rows[-2] == ["angelfish", "0", "0"]


def test_a_figure_that_does_not_exist(report):
    assert "None" not in report(figures={"test_loss": None}).words


def test_the_old_report_stays_where_the_new_one_cannot_be_written(tmp_path):
    path = tmp_path / "r.html"
    path.write_text("old")
    with pytest.raises(ValueError, match="argument"):
        write_report(path, history(), np.eye(3, dtype=int), ["a", "b"], {})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
