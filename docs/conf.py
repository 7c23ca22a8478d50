"""How Sphinx builds the site: `make docs`. Warnings are errors there."""

from __future__ import annotations

import ast
import re
from importlib.metadata import version as version_of
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

import amnode
from amnode.machine import transition

# A class that is imported for checkers alone, and that a signature names.
transition.Machine = amnode.Machine

project = "amnode"
author = "the amnode authors"
copyright = "the amnode authors"
release = version = version_of("amnode")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"amnode {release}"
html_theme_options = {"navigation_with_keys": True}
html_copy_source = html_show_sourcelink = False

# Links to headings (page.md#heading) are checked by their anchors, which GitHub makes likewise.
myst_heading_anchors = 4
myst_enable_extensions = ["fieldlist"]

autodoc_preserve_defaults = True  # as they are written, which can be read
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
add_module_names = False

# Nothing is fetched while the site is built, so names of other packages lead nowhere, and those
# of parts that are not public are shown as what they are. Public names have to be found.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!amnode\.[A-Za-z_]+$).*")]


def _by_its_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.TextElement
) -> nodes.Node | None:
    """Annotations name classes by the module that has them; the pages by the package."""
    if node.get("refdomain") != "py":
        return None
    name = str(node["reftarget"]).rpartition(".")[2]
    if name not in amnode.__all__:
        return None
    node["reftarget"] = f"amnode.{name}"  # what is missed, if this is not found either
    python, where = env.domains.python_domain, str(node["refdoc"])
    found = python.resolve_any_xref(env, where, app.builder, node["reftarget"], node, shown)
    return found[0][1] if found else None


def _readable(
    _app: Sphinx,
    _what: str,
    _name: str,
    _found: object,
    _options: object,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """With a ParamSpec in it, autodoc writes what its own parser cannot read: `~typing.~P`."""
    if signature is None or "~P" not in signature:
        return signature, returns
    return _MODULE.sub("", signature), _MODULE.sub("", returns or "")


_MODULE = re.compile(r"~(?:\w+\.)*~?")


class Files(SphinxDirective):
    """`{files} node/policy`: what each file of a folder is for, by its own first sentence."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The table, as nodes."""
        folder = Path(amnode.__file__).parent / self.arguments[0]
        rows = ["| file | what it is for |", "|---|---|"]
        for path in sorted(folder.glob("*.py")):
            self.env.note_dependency(str(path))
            said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            if said:
                first = " ".join(said.partition("\n\n")[0].split()).replace("|", "\\|")
                rows.append(f"| `{path.name}` | {first} |")
        return self.parse_text_to_nodes("\n".join(rows))


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_directive("files", Files)
    app.connect("autodoc-process-signature", _readable)
    app.connect("missing-reference", _by_its_public_name)
