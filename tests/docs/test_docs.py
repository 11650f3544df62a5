"""Every code block of README and docs runs, and prints what the page shows; links lead somewhere."""

import re

import pytest
from pages import READ_ONLY, ROOT, Page, agree, pages, scratch

from torchgraft.core.grounds import Ground

RUN = {"python", "console", "text"}
NAMES = [str(page.relative_to(ROOT)) for page in pages()]


@pytest.mark.parametrize("name", NAMES)
def test_page_runs_and_shows_what_is_printed(name, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    page = Page(ROOT / name)
    with scratch():
        page.run()
    assert not page.failures, "\n".join(page.failures)


@pytest.mark.parametrize("name", NAMES)
def test_languages_are_known_and_files_small(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    fences = re.findall(r"^```(\S*)$", text, re.MULTILINE)
    assert set(fences[::2]) <= RUN | set(READ_ONLY), "a block without a language would never be run"
    assert set(fences[1::2]) <= {""}
    assert len(text.splitlines()) <= 400


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), link
        assert not heading or heading in headings(there), link


def headings(page):
    """Return the headings of a page as links call them."""
    code = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    found = re.findall(r"^#+ (.*)$", code.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", text)).lower().replace(" ", "-") for text in found}


def test_every_page_is_reached_from_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        if page.name != "index.md":
            assert f"({page.relative_to(ROOT / 'docs').as_posix()})" in index, page


def test_every_ground_of_a_decision_is_explained():
    page = (ROOT / "docs" / "reference" / "report-schema.md").read_text(encoding="utf-8")
    rules = page[page.index("### Rules") :].split("\n## ")[0]
    told = [name for row in rules.splitlines()[3:] for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    assert sorted(told) == sorted(Ground)


def test_comparison_ignores_times_and_nothing_else():
    assert agree("loaded in 64 ms\n", "loaded in 1.5 s\n")
    assert agree("a\n...\nz\n", "a\nb\nc\nz\n")
    assert not agree("a\n...\nz\n", "a\nb\nc\n")
    assert not agree("120 of 122\n", "121 of 122\n")
    assert not agree("", "a line\n")
