"""Where benchmarks leave their figures: runs/bench.json, one object a row, each benchmark replacing its own."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

ROWS = Path("runs") / "bench.json"


def write(bench: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Put the rows in place of this benchmark's earlier ones."""
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(ROWS.read_text()) if ROWS.exists() else []
    kept = [row for row in earlier if row["bench"] != bench]
    ROWS.write_text(json.dumps([*kept, *({"bench": bench, **row} for row in rows)], indent=1) + "\n")
