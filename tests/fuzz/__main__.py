"""`python -m tests.fuzz [--inputs N] [--seed S] [KIND …]`: damaged files of every kind, each read as the product does.

Each has to end in a result or in the project's own error, within a time limit; anything else is a failure, of which the
table has the number and the text above it one of each sort.
"""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.fuzzing import KINDS, Tally, fuzz, limit_memory


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("kinds", nargs="*", help=", ".join(kind.name for kind in KINDS))
    chosen = parser.parse_args()
    limit_memory()
    kinds = [kind for kind in KINDS if not chosen.kinds or kind.name in chosen.kinds]
    tallies = []
    for kind in kinds:
        tallies.append(fuzz(kind, -(-chosen.inputs // len(kinds)), chosen.seed))
        for text in tallies[-1].failures:
            print(f"{kind.name}: {text}\n", flush=True)
    print(f"{'kind':24s}{'inputs':>8s}{'read':>8s}{'refused':>9s}{'failures':>10s}{'slowest':>10s}")
    for tally in [*tallies, Tally.all(tallies)]:
        print(tally)
    sys.exit(any(tally.failed for tally in tallies))


if __name__ == "__main__":
    main()
