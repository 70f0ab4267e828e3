"""Where benchmarks leave their figures: runs/bench.json, one object a row, each benchmark replacing its own.

`python bench/rows.py` prints all that are measured against the plain loop as one table.
"""

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


def show(bench: str | None = None) -> None:
    """Print the rows against the plain loop as a table, of one benchmark or of all."""
    rows = [
        row
        for row in json.loads(ROWS.read_text())
        if bench in {None, row["bench"]} and "plain_seconds" in row
    ]
    columns = {
        "device": "device",
        "ours_seconds": "ours, s",
        "plain_seconds": "plain, s",
        "ratio": "ratio",
        "gigabytes_per_second": "GB/s",
        "copy_gigabytes_per_second": "a copy's",
        "normals_per_second": "normals/s",
        "cached_normals_per_second": "in the cache",
    }
    print(f"{'':24}" + "".join(f"{title:>14}" for title in columns.values()))
    for row in rows:
        print(f"{row['name']:24}" + "".join(f"{row.get(column, '')!s:>14}" for column in columns))


if __name__ == "__main__":
    show()
