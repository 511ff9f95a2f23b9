"""python -m tests.hf.transformers_suite FAMILY PRUNED [UNPRUNED]: a line of docs/compatibility.md.

PRUNED and UNPRUNED are files that tests/hf/prune_everything.py wrote, of a whole file of tests and
of those that failed in it; they go into transformers_suite.json, and that into the table.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

RESULTS = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
HEADER = (
    "| family | passed | failed | of these, pruned only | models pruned |\n|---|---|---|---|---|\n"
)


def summary(pruned: dict, unpruned: dict) -> dict[str, int]:
    """Counts of one family; ``only_pruned`` failed there and not unpruned."""
    outcomes, plain = pruned["outcomes"], unpruned.get("outcomes", {})
    failed = [test for test, outcome in outcomes.items() if outcome == "failed"]
    return {
        "passed": Counter(outcomes.values())["passed"],
        "failed": len(failed),
        "only_pruned": sum(plain.get(test) != "failed" for test in failed),
        "models": pruned["models"],
    }


def table(families: dict[str, dict[str, int]]) -> str:
    rows = [
        f"| {name} | {r['passed']} | {r['failed']} | {r['only_pruned']} | {r['models']} |\n"
        for name, r in sorted(families.items())
    ]
    return HEADER + "".join(rows)


def main(family: str, *files: str) -> None:
    pruned, unpruned = [json.loads(Path(file).read_text()) for file in files] + [{}] * (
        2 - len(files)
    )
    content = json.loads(RESULTS.read_text())
    before = table(content["families"])
    content["families"][family] = summary(pruned, unpruned)
    RESULTS.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(PAGE.read_text().replace(before, table(content["families"])))


if __name__ == "__main__":
    main(*sys.argv[1:])
