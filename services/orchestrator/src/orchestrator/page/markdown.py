"""Markdown that a flow wrote, as HTML that may stand on a page: no HTML of its own, no image or link from elsewhere.

markdown-it escapes HTML and refuses `javascript:` and the like; here images that are not in the text become links.
"""

import re
from collections.abc import Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup, escape

LONGEST = 200_000
HIGHEST = 4
DRAWN = re.compile(r"data:image/(png|gif|jpeg|webp);base64,[A-Za-z0-9+/=\s]+")
LINKED = re.compile(r"(https?://|mailto:)", re.IGNORECASE)


def rendered(text: str) -> Markup:
    """The text as HTML; one beyond `LONGEST` characters is cut."""
    tokens = _PARSER.parse(text[:LONGEST])
    levels = [int(one.tag[1:]) for one in tokens if one.type == "heading_open"]
    # its highest heading comes right below the page's own
    env = {"deeper": HIGHEST - min(levels, default=1)}
    return Markup(_PARSER.renderer.render(tokens, _PARSER.options, env))  # noqa: S704 -- its HTML is off


def picture(url: str, words: str) -> Markup:
    """An image that holds its own bytes; anything else as a link, or as text where it is none."""
    if DRAWN.fullmatch(url):
        return Markup('<img src="{}" alt="{}">').format(url, words)
    return link(url, words or url)


def link(url: str, words: str) -> Markup:
    """A link to another site that tells it nothing; the words alone where it is none."""
    if not LINKED.match(url):
        return escape(words)
    return Markup('<a href="{}" rel="noreferrer nofollow">{}</a>').format(url, words)


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("image", _image)
    parser.add_render_rule("link_open", _link_open)
    parser.add_render_rule("heading_open", lambda _, tokens, at, options, env: f"<h{_level(tokens[at], env)}>")
    parser.add_render_rule("heading_close", lambda _, tokens, at, options, env: f"</h{_level(tokens[at], env)}>\n")
    parser.add_render_rule("table_open", lambda *_: '<div class="scroll" tabindex="0"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return parser


def _level(token: Token, env: Any) -> int:
    return min(6, int(token.tag[1:]) + int(env["deeper"]))


def _image(_: RendererHTML, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    token = tokens[place]
    return str(picture(str(token.attrs.get("src", "")), token.content))


def _link_open(self: RendererHTML, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    token = tokens[place]
    if not LINKED.match(str(token.attrs.get("href", ""))):
        token.attrs.pop("href", None)
    token.attrSet("rel", "noreferrer nofollow")
    return self.renderToken(tokens, place, options, env)


_PARSER = _parser()
