"""What a notebook is shown of tensors and models: correct, escaped, and without IPython."""

import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from checks import ROOT
from networks import tiny

from tinycnn import Tensor, ops
from tinycnn.layers import Dense
from tinycnn.models import Sequential


class Page(HTMLParser):
    """The text of a page, and whether its tags close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_a_small_tensor_shows_its_values():
    x = Tensor([[1.0, -2.5], [0.123456, 4.0]])
    page = Page(x._repr_html_())
    assert page.words == ["Tensor 2x2, float32, -2.5 to 4", "1", "-2.5", "0.1235", "4"]
    assert Page(ops.relu(Tensor([1.0], requires_grad=True))._repr_html_()).words[0].endswith("made by ReLU, 1 to 1")


@pytest.mark.parametrize(
    "values", [1.5, [], np.zeros((0, 3)), np.full((2, 2), np.nan), [np.inf, 1.0], np.ones((2, 3, 4)),
               np.arange(1000.0), np.ones(2, np.complex128), np.zeros((3, 3))],
)  # fmt: skip
def test_any_tensor_shows_something(values):
    page = Page(Tensor(values)._repr_html_())
    assert page.words[0].startswith("Tensor ")


def test_a_large_tensor_shows_means_in_order():
    page = Page(Tensor(np.arange(128.0))._repr_html_())
    assert page.tags.count("span") == 64
    assert page.words[-1] == "each field is the mean of 2 values"
    assert 'title="0.5"' in Tensor(np.arange(128.0))._repr_html_()


def test_a_model_shows_its_summary_with_names_escaped(capsys):
    model = tiny()
    model.summary()
    printed = capsys.readouterr().out
    page = Page(model._repr_html_())
    for words in page.words:
        assert words in printed
    strange = Sequential([Dense(2, name="<img src=x onerror=alert(1)>")], name="<b>")
    assert set(Page(strange._repr_html_()).tags) <= {"div", "b", "table", "tr", "th", "td"}
    strange.build((3,))
    assert set(Page(strange._repr_html_()).tags) <= {"div", "b", "table", "tr", "th", "td"}


def test_ipython_is_not_imported():
    code = "import sys, tinycnn; tinycnn.Tensor([1.0])._repr_html_(); assert 'IPython' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
