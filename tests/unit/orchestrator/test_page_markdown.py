"""Markdown that a flow wrote: what is kept of it, and what it cannot do."""

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orchestrator.artifacts import table
from orchestrator.page.markdown import LONGEST, picture, rendered

MADE = {
    "p",
    "h4",
    "h5",
    "h6",
    "ul",
    "ol",
    "li",
    "em",
    "strong",
    "code",
    "pre",
    "a",
    "img",
    "br",
    "hr",
    "blockquote",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "div",
}


def tags(html: str) -> list[tuple[str, dict[str, str | None]]]:
    found = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, dict(attrs)))

    Reader().feed(html)
    return found


def test_what_people_write_is_kept() -> None:
    """Headings below the page's own, lists, tables, code, and links that tell nobody where one comes from."""
    assert rendered("## Rows\n\n### Good").startswith("<h4>Rows</h4>\n<h5>Good</h5>")
    html = rendered("# Rows\n\n- **896** good\n\n|a|b|\n|-|-|\n|1|2|\n\n[docs](https://example.test/x)\n\n`x < y`")
    for part in ("<h4>Rows</h4>", "<strong>896</strong>", "<td>1</td>", "x &lt; y"):
        assert part in html
    assert ("a", {"href": "https://example.test/x", "rel": "noreferrer nofollow"}) in tags(html)


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[x](javascript:alert(1))",
        "[x](data:text/html;base64,PHNjcmlwdD4=)",
        "[x](//elsewhere.test/y)",
        "[x](../../sign-out)",
        "![x](https://elsewhere.test/y.png)",
        "![x](data:image/svg+xml;base64,PHN2Zz4=)",
        '![x](https://elsewhere.test/"onload=alert(1))',
        "<https://elsewhere.test/><b onclick=alert(1)>",
        "| <script>alert(1)</script> |\n|--|\n| <iframe src=x> |",
    ],
)
def test_nothing_of_it_acts(text: str) -> None:
    """No element, attribute or address that is not on the list; an image from elsewhere is a link."""
    for tag, attributes in tags(rendered(text)):
        assert tag in MADE
        assert set(attributes) <= {"href", "rel", "src", "alt", "class", "tabindex", "title"}
        assert tag != "img"
        assert (attributes.get("href") or "https://").startswith("https://")


@settings(deadline=None)
@given(st.text(st.sampled_from("<>[]()!`*_#|\"'&;:/\\= \nabonclick"), max_size=120))
def test_whatever_is_written(text: str) -> None:
    """Only elements that are on the list come out."""
    for tag, attributes in tags(rendered(text)):
        assert tag in MADE
        assert not any(name.startswith("on") for name in attributes)


def test_a_picture_that_holds_its_own_bytes_is_shown() -> None:
    """Others are links, and what is no address is text."""
    assert picture("data:image/png;base64,iVBORw0KGgo=", 'a"b').startswith("<img src=")
    assert "&#34;" in picture("data:image/png;base64,iVBORw0KGgo=", 'a"b')
    assert picture("https://elsewhere.test/x.png", "x").startswith("<a href=")
    assert picture("javascript:alert(1)", "<x>") == "&lt;x&gt;"


def test_a_text_without_end_is_cut() -> None:
    """A page stays one that a browser can show."""
    assert len(rendered("a" * (2 * LONGEST))) < LONGEST + 100


@pytest.mark.parametrize(
    ("data", "columns", "rows"),
    [
        ([{"a": 1}, {"b": 2}], ("a", "b"), ((1, None), (None, 2))),
        ({"a": [1, 2], "b": [3]}, ("a", "b"), ((1, 3), (2, None))),
        ([[1, 2], [3]], ("1", "2"), ((1, 2), (3, None))),
        ([], None, None),
        ("text", None, None),
        ([1, 2], None, None),
    ],
)
def test_a_table_in_each_of_its_forms(data: object, columns: object, rows: object) -> None:
    """What is none of them is not a table."""
    found = table(data)
    assert (found and found.columns, found and found.rows) == (columns, rows)
