"""Pages and terminals: well-formed, self-contained, escaped, at any width."""

import io
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from reporting_plans import HELD, changed_head, converted, copy, fresh, full, plan, plans, report
from rich.console import Console

from torchgraft.reporting import page_of
from torchgraft.reporting.html import MOST_LINES, SHOWN_FATES, module_tree
from torchgraft.reporting.plan_views import report_view
from torchgraft.reporting.text import view_renderable

VOID = {"meta", "br", "hr", "img"}


class Checker(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(page):
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


@settings(max_examples=30)
@given(plans())
def test_pages_are_well_formed_and_need_nothing_else(made):
    checker = parsed(page_of("plan", made))
    assert not any(tag in ("script", "link", "img", "iframe") for tag, _ in checker.tags)
    assert not any("href" in attrs or "src" in attrs for _, attrs in checker.tags)


def test_names_are_text_never_markup():
    evil = "<script>alert(1)</script>.weight"
    page = page_of("plan", plan([copy(evil, 3, source="<img src=x>")], origin="<b>.pt"))
    assert "<script>" not in page
    assert "<img" not in page
    assert evil.rpartition(".")[0] in "".join(parsed(page).text)


def test_a_page_tells_what_the_text_tells():
    text = "".join(parsed(page_of("report", report(converted(), HELD))).text)
    assert "all 51 tensors" in text
    assert "layers.{0-11}.{q,k,v}_proj.weight" in text
    assert "evil\\x1b[31m\\n" in text
    assert "doubtful" in text


def test_deep_names_end_in_a_page():
    deep = ".".join(["a"] * 3000)
    parsed(page_of("plan", plan([copy(deep, 3)])))


def test_the_tree_counts_each_element_once():
    made = changed_head()
    root = module_tree(made)
    assert root.total == made.coverage.target_elements
    assert round(root.filled * root.total) == made.coverage.target_filled
    assert {name: node.tensors for name, node in root.children.items()} == {"layers": 12, "fc": 2}


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_a_terminal_of_any_width_shows_all(width):
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system="standard")
    console.print(view_renderable(report_view(report(converted(), HELD))))
    raw = out.getvalue()
    assert "\x1b[33m" in raw or "\x1b[1;31m" in raw
    plain = "".join(raw.split())
    assert "evil\\x1b[31m\\n" in plain or width < 40


def test_no_colour_where_none_is_wanted(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    Console(file=out, width=80, force_terminal=True).print(view_renderable(report_view(report(full(), HELD))))
    assert "\x1b[3" not in out.getvalue()


def test_markup_in_names_is_shown_as_it_is():
    out = io.StringIO()
    made = replace(changed_head(), notes=("[bold]x[/bold]",))
    Console(file=out, width=80).print(view_renderable(report_view(report(made, HELD))))
    assert "[bold]x[/bold]" in out.getvalue()


def test_the_bar_of_the_model_shows_each_fate_and_that_of_the_checkpoint_what_is_used():
    page = page_of("plan", converted())
    bars = [attrs["aria-label"] for tag, attrs in parsed(page).tags if attrs.get("class") == "meter"]
    root = module_tree(converted())
    assert [part.split()[0] for part in bars[0].split(", ")] == [
        kind for kind in SHOWN_FATES if root.elements.get(kind)
    ]
    assert "doubtful" in bars[0]
    assert bars[1] == "used 99.9 %, unused <0.1 %"


@pytest.mark.parametrize("more", [0, 1, 5])
def test_a_page_says_how_many_lines_it_leaves_out(more):
    names = [chr(ord("a") + at % 26) * (at // 26 + 1) for at in range(MOST_LINES + more)]
    page = page_of("plan", plan([fresh(name, at + 2, why="another shape") for at, name in enumerate(names)]))
    assert (f"… and {more} more" in page) is (more > 0)
    assert "… and 0 more" not in page
