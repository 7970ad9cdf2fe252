"""The documentation site builds without a warning, and its pages load nothing from other hosts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]

ROOT = Path(__file__).parent.parent.parent
LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"'](?:https?:)?//"
    r"|<link\b(?=[^>]*\brel=[\"'](?:stylesheet|preload|preconnect|icon))[^>]*\bhref=[\"'](?:https?:)?//"
    r"|url\([\"']?(?:https?:)?//"
    r"|@import\s+[\"'](?:https?:)?//",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with the same strictness as `make docs`."""
    folder = tmp_path_factory.mktemp("site")
    strict = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet"]
    folders = ["--conf-dir", "docs", "--doctree-dir", f"{folder}-doctrees", ".", str(folder)]
    command = [sys.executable, "-m", "sphinx", *strict, *folders]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    """README, ARCHITECTURE and the pages of docs/; the front page links to them."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        if not page.is_relative_to(ROOT / "docs" / "_build"):
            assert (site / page.relative_to(ROOT).with_suffix(".html")).exists(), page
    assert "docs/index.html" in (site / "index.html").read_text()


def test_the_pages_load_nothing_from_another_host(site: Path) -> None:
    """No script, style, font or picture comes from another host."""
    files = [file for kind in ("*.html", "*.css") for file in site.rglob(kind)]
    assert files
    for file in files:
        found = LOADED.search(file.read_text(encoding="utf-8"))
        assert found is None, (file.name, found[0] if found else "")
