"""Sphinx's settings for the documentation's site. `make docs` builds it.

The source is the repository itself, so that README, ARCHITECTURE and the pages in docs/ link to
each other as they do on a code host.
"""

import tomllib
from pathlib import Path

_PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]

project = _PROJECT["name"]
author = "The permission-mirror authors"
project_copyright = f"2026, {author}"

extensions = ["myst_parser"]
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
