"""The documentation as a site: complete, every link leading somewhere, and nothing fetched from another host."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MKDOCS = str(Path(sys.executable).with_name("mkdocs"))


def build(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MKDOCS, "build", "--strict", "--site-dir", str(site)],
        cwd=folder,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_is_built_and_asks_no_other_host(tmp_path: Path) -> None:
    """No script, style, font or picture of a page comes from elsewhere; links for people to click may lead there."""
    done = build(ROOT, tmp_path)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert (tmp_path / "docs" / "tutorial" / "index.html") in pages
    fetched = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
    found = {page.name: fetched.findall(page.read_text()) for page in pages}
    # a page's own address, by which a search engine knows it, is fetched by nobody
    assert [tag for tags in found.values() for tag in tags if "canonical" not in tag] == []
    styles = [
        style
        for style in tmp_path.rglob("*.css")
        if re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", style.read_text())
    ]
    assert styles == []


def test_a_link_that_leads_nowhere_fails(tmp_path: Path) -> None:
    """To a page, to a heading; one to a folder leads to its README, and a file that is linked is there."""
    project = tmp_path / "project"
    (project / "docs").mkdir(parents=True)
    (project / "part").mkdir()
    shutil.copy(ROOT / "docs" / "project_pages.py", project / "docs")
    own = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[0]
    (project / "mkdocs.yml").write_text(own)
    (project / "part" / "README.md").write_text("# Part\n\n[code](code.py)\n")
    (project / "part" / "code.py").write_text("1\n")
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)

    (project / "README.md").write_text("# Home\n\n[part](part), [docs](docs)\n")
    done = build(project, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert 'href="part/"' in (tmp_path / "site" / "index.html").read_text()
    assert (tmp_path / "site" / "part" / "code.py").exists()
    for broken in ("[part](part/GONE.md)", "[part](part/README.md#gone)"):
        (project / "README.md").write_text(f"# Home\n\n{broken}\n")
        done = build(project, tmp_path / "site")
        assert done.returncode != 0
        assert "GONE" in done.stderr.upper()
