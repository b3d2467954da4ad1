"""How the documentation's site is built; `make docs` does it."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "Trialfleet"
author = copyright = "The Trialfleet authors"
version = release = version_of("trialfleet")

extensions = ["myst_parser", "generated_pages"]
exclude_patterns = ["_build", "extensions"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3  # of these levels a link can name the heading
smartquotes = False  # they would make one dash of the two before an option

highlight_language = "text"  # of blocks that name none: folders, and what is printed

html_theme = "furo"
html_title = f"Trialfleet {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
