"""mkdocs hook: links to the tree outside docs/ lead to the repository."""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, config: Any, **kwargs: Any) -> str:
    base = f"{config['repo_url']}/blob/main/"
    return re.sub(r"\]\(\.\./([^)\s]+)\)", rf"]({base}\1)", markdown)
