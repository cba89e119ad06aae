"""How Sphinx builds these pages: ``sphinx-build -W docs docs/_build``."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "ortege-watch"
author = "The ortege-watch authors"
project_copyright = f"2026, {author}"
version = release = installed_version("ortege-watch")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.mermaid",
]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}

html_theme = "furo"
html_title = f"ortege-watch {release}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_fence_as_directive = ["mermaid"]  # code hosts draw the same fences
myst_heading_anchors = 3

# Members have an attribute `type`, so the builtin's name is ambiguous to Sphinx.
suppress_warnings = ["ref.python"]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False


def setup(app: Sphinx) -> None:
    """Write a default that is a built-in function as code, which Sphinx can parse."""

    def legible(*event: Any) -> tuple[str, Any] | None:
        signature, returned = event[-2:]
        if signature is None:
            return None
        return signature.replace("<built-in function time>", "time.time"), returned

    app.connect("autodoc-process-signature", legible)
