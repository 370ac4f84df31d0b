"""The site: README, CLAIMS, FIELD, GPU, notebooks as committed, explorables, and docstrings.

The source folder is the repository itself, so that every page is the file that a reader of the
repository sees: ``python -m sphinx -b html -c site -W --keep-going . build/site``. Nothing is
executed, and no page asks another server for anything.
"""

import importlib.util
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from source_text import linkcode_resolve  # noqa: E402, F401  (sphinx.ext.linkcode looks for it here)

project = "KD Lab"
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.linkcode",
    "sphinx.ext.napoleon",
    "api_pages",
    "cheat_sheet_page",
    "explorable_data",
    "first_use",
    "folded_code",
    "front_page",
    "front_picture",
    "head",
    "mathml",
    "narrow_pages",
    "notebook_downloads",
    "notebook_pages",
    "pictures",
    "plain_docstrings",
    "repository_files",
    "repository_links",
    "slides_page",
    "small_files",
    "source_text",
    "verdicts",
]
# The GPU kernels import Triton, of which there are wheels for Linux alone, and sliders ipywidgets.
autodoc_mock_imports = [
    name for name in ("triton", "ipywidgets") if importlib.util.find_spec(name) is None
]
root_doc = "site/index"
# Where the built site and the repository will be found, once they are public: notebooks that are
# downloaded take their wheels from there, and a link opens them in Colab.
html_baseurl = os.environ.get("KD_LAB_SITE", "")  # https://HOST/PATH/
if html_baseurl and not html_baseurl.endswith("/"):
    html_baseurl += "/"
repository_on_github = os.environ.get("KD_LAB_REPOSITORY", "")  # OWNER/NAME
include_patterns = [
    "README.md",
    "CLAIMS.md",
    "CONTRIBUTING.md",
    "FIELD.md",
    "GPU.md",
    "notebooks/*.ipynb",
    "assets/results/*/report.md",
    "site/**.md",
    "teach/slides.md",
]
# Sphinx would walk through them: an environment alone has thousands of folders.
exclude_patterns = [".*", "build", "models", "runs"]
# Where a link to a folder of the repository leads.
repository_folders = {
    "assets/results": "site/results",
    "kd_lab/recipes": "site/api/recipes",
    "kd_lab/recipes/accelerate": "site/api/recipes",
    "kd_lab/recipes/qwen2.5": "site/api/recipes",
    "kd_lab/recipes/smol": "site/api/recipes",
    "kd_lab/recipes/tiny": "site/api/recipes",
    "notebooks": "site/index",
}

# For the explorables, out of assets/results/.
explorable_data = ["rank_audit.json", "rank_curves.json", "token_pages.json"]

# Markdown and notebooks
myst_enable_extensions = [
    "amsmath",
    "attrs_block",
    "attrs_inline",
    "colon_fence",
    "deflist",
    "dollarmath",
    "html_image",
]
myst_heading_anchors = 4
nb_execution_mode = "off"
nb_merge_streams = True  # what one cell prints is one block
nb_render_markdown_format = "gfm"  # tables among the outputs
nb_ipywidgets_js = {}  # would fetch scripts from a CDN; a slider needs a kernel anyway
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]

# Docstrings
add_module_names = False
autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_use_type_comments = False
maximum_signature_line_length = 100
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

# HTML
html_theme = "furo"
html_title = "KD Lab"
html_favicon = "_static/favicon.svg"
html_math_renderer = "mathml"
html_static_path = ["_static"]
templates_path = ["_templates"]
html_css_files = ["site.css"]
html_copy_source = False
html_use_index = html_domain_indices = False  # 0.3 MB that no page leads to; the search finds names
html_show_sphinx = False
html_show_copyright = False
html_scaled_image_link = False  # pictures.py links the wide ones
