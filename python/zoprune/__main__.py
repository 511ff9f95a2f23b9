"""``python -m zoprune``."""

from .cli import main

raise SystemExit(main())
