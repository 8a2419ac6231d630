"""How the documentation is built: sphinx-build -W docs build/docs."""

from importlib.metadata import version as installed

project = "mdcm"
author = "The mdcm developers"
copyright = author
release = version = installed("mdcm")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"mdcm {version}"
html_copy_source = False

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# several classes have attributes of one name, and docstrings refer to none of them
suppress_warnings = ["ref.python"]
