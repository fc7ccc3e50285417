import json
import re
from html.parser import HTMLParser

import pytest

from magic_pyramid.report.page import pyramid_page
from report_traces import SHORT, make_trace, many_traces


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def _elements(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Elements()
    parser.feed(page)
    return parser.found


@pytest.mark.parametrize("name", list(many_traces()))
def test_the_page_needs_nothing_from_outside(name: str) -> None:
    page = pyramid_page(many_traces()[name])
    assert not re.search(r"https?://|url\(|@import|<link|<img|<iframe", page)
    assert all(not ({"src", "href"} & attributes.keys()) for _, attributes in _elements(page))


def test_text_and_labels_are_escaped_everywhere() -> None:
    trace = make_trace(
        ["[CLS]", "<script>alert(1)</script>", "\"'><img>", "[SEP]"], labels=("<b>no</b>", "</script>")
    )
    page = pyramid_page(trace)
    tags = [tag for tag, _ in _elements(page)]
    assert "alert(1)</script>" not in page
    assert tags.count("script") == 2
    assert "img" not in tags
    assert "<b>no" not in page


def test_the_script_gets_what_happened_to_each_token() -> None:
    trace = make_trace(SHORT)
    raw = re.search(r'id="trace">(.*?)</script>', pyramid_page(trace), re.DOTALL)
    assert raw is not None
    data = json.loads(raw[1])
    assert data["fell"] == trace.dropped_at()
    assert len(data["words"]) == len(data["importance"]) == len(SHORT)


def test_each_arrived_token_has_a_cell_and_each_token_an_accessible_name() -> None:
    trace = make_trace(SHORT)
    elements = _elements(pyramid_page(trace))
    cells = [a for tag, a in elements if tag == "i" and "data-t" in a]
    assert len(cells) == sum(len(layer.arrived) for layer in trace.layers)
    names = [a["aria-label"] for tag, a in elements if a.get("role") == "option"]
    assert names[4] == "lovely, kept to the end"
    assert names[14] == "</s>, dropped in layer 0"
    assert sum(a.get("tabindex") == "0" for _, a in elements) == 1


@pytest.mark.parametrize("name", ["short", "no_exits", "never_left"])
def test_tables_say_in_words_what_the_picture_shows(name: str) -> None:
    trace = many_traces()[name]
    page = pyramid_page(trace)
    layers = page[page.index("Layer by layer") : page.index("<details>")]
    assert layers.count("<tr") == trace.num_layers_run + 1
    assert ("uncertainty" in layers) == trace.has_exits
    assert f"{len(trace.layers[0].kept)} of {len(SHORT)}" in layers


def test_light_and_dark_are_both_styled() -> None:
    assert "prefers-color-scheme:dark" in pyramid_page(make_trace(SHORT))


def test_many_labels_are_cut_and_counted_and_regression_has_none() -> None:
    assert "and 67 more labels" in pyramid_page(many_traces()["many_labels"])
    assert "The answer" not in pyramid_page(many_traces()["regression"])


def test_long_texts_are_drawn_without_words_in_the_cells() -> None:
    assert 'class="pyramid thin"' in pyramid_page(many_traces()["long"])
    assert 'class="pyramid words"' in pyramid_page(many_traces()["short"])
