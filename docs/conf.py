"""How Sphinx makes the site: `make site`."""

import sys
from pathlib import Path

import decayfree

sys.path.insert(0, str(Path(__file__).resolve().parent / "site"))

project = "decayfree"
version = release = decayfree.__version__
copyright = "the decayfree authors"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb", "formulas", "hooks"]
exclude_patterns = ["site"]
language = "en"
# What single backticks hold in docstrings is code.
default_role = "code"
python_display_short_literal_types = True
python_maximum_signature_line_length = 88

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
# Notebooks are kept without what they print: the build runs them, and one that fails ends it.
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 300

autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_use_ivar = True
# Shapes stand before a colon, where napoleon looks for a type: (n,) is no name.
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = "decayfree"
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_math_renderer = "drawn"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
