"""Loaded before pytest's plugins (``-p``): a second less in each of its processes.

nbformat imports jsonschema, which compiles 38 grammars of web addresses where it finds
``rfc3987_syntax``, and goes on where it does not. No notebook is checked against them.
"""

import sys

sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
