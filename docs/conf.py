"""Sphinx's settings for the documentation's site. `make docs` builds it.

The source is the repository itself, so that README, ARCHITECTURE and the pages in docs/ link to
each other as they do on a code host.
"""

import tomllib
from pathlib import Path
from typing import Any

_PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]

project = _PROJECT["name"]
author = "The permission-mirror authors"
project_copyright = f"2026, {author}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# Docstrings write code in single backquotes.
default_role = "code"
autodoc_member_order = "bysource"
# The signature alone: a link from each type would lead into other projects' pages.
autodoc_typehints = "none"
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "benchmarks/README.md"]
exclude_patterns = [".*", "**/node_modules", "docs/_*"]
# Sections are linked by their titles, as code hosts do it.
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = project
templates_path = ["_templates"]
# The site's own front page lies in docs/; this one leads there.
html_additional_pages = {"index": "redirect.html"}
# Nothing is loaded from another host when a page is read.
html_copy_source = False
html_show_sourcelink = False


def _keep_colons(
    _app: object, what: str, _name: str, _of: object, _options: object, lines: list[str]
) -> None:
    """Restore an attribute's docstring: Napoleon takes the text before a colon for its type."""
    types = [line for line in lines if line.startswith(":type: ")]
    if what in {"attribute", "data", "property"} and types:
        lines.remove(types[-1])
        lines[0] = f"{types[-1].removeprefix(':type: ')}: {lines[0].lstrip()}"


def _complete_error(
    _app: object, what: str, _name: str, documented: Any, _options: object, lines: list[str]
) -> None:
    """Add an error's kind and exit code to its docstring, and set off its remedy."""
    if what != "exception":
        return
    kinds = ("UsageError", "Transient", "Permanent")
    bases = {base.__name__ for base in documented.__mro__}
    kind = next((kind for kind in kinds if kind in bases), "")
    told = {"UsageError": "Wrong usage", "Transient": "Transient", "Permanent": "Permanent"}
    for number, line in enumerate(lines):
        if line.startswith("Remedy: "):
            lines[number] = f"**Remedy:** {line.removeprefix('Remedy: ')}"
    lead = f"*{told[kind]}; exit code {documented.exit_code}.*" if kind else ""
    lines[:0] = [lead or f"*Exit code {documented.exit_code}, unless a subclass says another.*", ""]


def setup(app: Any) -> None:
    """Call these after Napoleon."""
    app.connect("autodoc-process-docstring", _keep_colons, priority=600)
    app.connect("autodoc-process-docstring", _complete_error, priority=600)
