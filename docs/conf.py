"""Configuration of the documentation site; `make docs` builds it, without network."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent), str(HERE.parent / "analysis")]

import psgd_core

project = "psgd-core"
author = "The psgd-core developers"
copyright = author
release = psgd_core.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinx_design",
    "api_pages",
    "command_pages",
    "example_gallery",
    "house_picture",
    "mathml",
]
exclude_patterns = ["_build", "_ext", "gallery/files", "**.ipynb_checkpoints"]
nitpicky = True

# -- pages -----------------------------------------------------------------------------------------------

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "tasklist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # `example_gallery` executes the examples itself
nb_output_stderr = "remove"
nb_merge_streams = True

# -- docstrings ------------------------------------------------------------------------------------------

default_role = "name"  # of `api_pages`
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_param = False
napoleon_custom_sections = [("Attributes", "params_style")]  # the default types them as cross-references
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
add_module_names = False
python_display_short_literal_types = True
python_maximum_signature_line_length = 80

# -- look ------------------------------------------------------------------------------------------------

html_theme = "furo"
html_title = f"psgd-core {release}"  # pages of all versions are online side by side
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
