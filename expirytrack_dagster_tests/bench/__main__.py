"""`python -m expirytrack_dagster_tests.bench [NAME ...]`: run the benchmarks, all of them by default.

Belongs here: the command line alone. A benchmark is a module `bench_NAME.py` of this folder with a function
`run(*, quick: bool)` that yields figures; a new file needs no other change. Exit code 1 says that a bar was missed.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from expirytrack_dagster_tests.bench.figures import Figure, print_table, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

_PREFIX = "bench_"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks that are named, print their figures as they come, and return the exit code."""
    known = sorted(path.stem.removeprefix(_PREFIX) for path in Path(__file__).parent.glob(f"{_PREFIX}*.py"))
    parser = argparse.ArgumentParser(prog="bench", description="Measure, beside a peer or a floor, in one run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(known)}; all by default")
    parser.add_argument("--quick", action="store_true", help="scaled-down sizes: a minute or two in all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(known):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    figures: list[Figure] = []
    for name in options.names or known:
        for figure in import_module(f"expirytrack_dagster_tests.bench.{_PREFIX}{name}").run(quick=options.quick):
            print(figure.line(), flush=True)  # noqa: T201 - the figures are this program's output
            figures.append(figure)
    print_table(figures)
    if options.json:
        write_json(figures, options.json)
    return int(any(figure.passed is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
