"""Run the bench; the exit status tells whether it ran, not whether the bars are met."""

import argparse
import tempfile
from pathlib import Path

from tools.bench import aifi_side, serving
from tools.bench.report import say, table


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller mirrors and fewer runs, under 90 seconds")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        rows = [*aifi_side.rows(folder, quick), *serving.rows(folder, quick)]
    say("Done")
    print(f"\n{table(rows, quick)}")


if __name__ == "__main__":
    main()
