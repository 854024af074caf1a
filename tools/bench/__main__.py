"""Run the bench; the exit status tells whether it ran, not whether the bars are met."""

import argparse
import tempfile
from pathlib import Path

from tools.bench import aifi_side, beside_peers, serving
from tools.bench.report import say, table


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller mirrors and fewer runs, under 90 seconds")
    parser.add_argument("--peers", action="store_true", help="beside what one would use instead, which is installed")
    options = parser.parse_args()
    quick = options.quick
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        parts = [beside_peers.rows] if options.peers else [aifi_side.rows, serving.rows]
        rows = [row for part in parts for row in part(folder, quick)]
    say("Done")
    print(f"\n{table(rows, quick)}")


if __name__ == "__main__":
    main()
