"""Makes the site of the pages where they are: `docs/` and the README beside each part's code, by their links.

A hook of MkDocs, which would take pages of one folder only. Here each page of the repository has its own path in the
site, so that a relative link between two pages leads to the same place there as on a code host. A file that a page
links is copied; a link to a folder leads to its README, and where there is none its text stays without a link.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parents[1]
_CODE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[(?P<text>[^\[\]]+)\]\((?!https?:|mailto:|#)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Every page that git knows or would take, and the files that pages link, in place of the folder's own."""
    theirs = [file for file in files if not file.is_documentation_page() and not _is_ours(file)]
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],  # noqa: S607 - the user's git
        cwd=_ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    pages = [name for name in listed.stdout.splitlines() if _is_shown(name)]
    linked = {name for page in pages for name in _linked(page) if not name.endswith(".md")}
    return Files([*theirs, *(_file(name, config) for name in (*pages, *sorted(linked)))])


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with links to folders led to their READMEs."""
    folder = (_ROOT / page.file.src_uri).parent
    code = [match.span() for match in _CODE.finditer(markdown)]

    def lead(link: re.Match[str]) -> str:
        target = folder / link["target"]
        if not target.is_dir() or any(start <= link.start() < end for start, end in code):
            return link[0]
        if not (target / "README.md").exists():
            return link["text"]
        return f"[{link['text']}]({link['target'].rstrip('/')}/README.md{link['anchor'] or ''})"

    return _LINK.sub(lead, markdown)


def _linked(page: str) -> Iterator[str]:
    """The files of the project that a page links, by their path in it."""
    text = _CODE.sub("", (_ROOT / page).read_text())
    for link in _LINK.finditer(text):
        target = (_ROOT / page).parent.joinpath(link["target"]).resolve()
        if target.is_file() and target.is_relative_to(_ROOT):
            yield str(target.relative_to(_ROOT))


def _file(name: str, config: MkDocsConfig) -> File:
    return File(name, str(_ROOT), config.site_dir, config.use_directory_urls)


def _is_ours(file: File) -> bool:
    return file.src_dir is not None and Path(file.src_dir).is_relative_to(_ROOT / "docs")


def _is_shown(name: str) -> bool:
    """A template's pages are about a project that is not made yet; those of .github are forms."""
    return (_ROOT / name).exists() and not name.startswith((".github/", "templates/"))
