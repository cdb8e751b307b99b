"""`python -m benchmarks`: Shoal against Ray and every other peer, in under ten minutes.

    make bench                                   everything; writes benchmarks/results/latest.{json,md,png}, README.md
    make bench ARGS="--only tasks_sync,get"      some rows (keys, groups or parts of titles)
    make bench ARGS="--peers shoal,multiprocessing --rounds 5"
    make bench ARGS=--quick                      small inputs, one short round: does everything run?

A run of less than everything writes to build/benchmarks instead, so that the published table stays whole.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks import facts, plot, readme, report
from benchmarks.peers import PEERS
from benchmarks.rows import ROWS, select
from benchmarks.run import ROOT, Options, Run


def main() -> None:
    """Read the arguments, run, write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="NAMES", help="keys, groups or parts of titles")
    parser.add_argument("--peers", default=",".join(PEERS), metavar="NAMES", help="default: all")
    parser.add_argument("--rounds", type=int, help="default: 3, or 1 with --quick")
    parser.add_argument("--minutes", type=float, default=9.5, help="no further round that would not fit into these")
    parser.add_argument(
        "--every-round", action="store_true", help="repeat each row in each round, also what takes long or is far behind"
    )
    parser.add_argument("--quick", action="store_true", help="small inputs, short: shows only that it runs")
    parser.add_argument("--out", type=Path, help="folder for the files")
    parser.add_argument("--list", action="store_true", help="the rows, and who has them")
    arguments = parser.parse_args()
    if arguments.list:
        for row in ROWS:
            who = ", ".join(name for name, spec in PEERS.items() if row.key in spec.rows)
            print(f"{row.group:9} {row.key:20} {row.title:44} {who}")
        return
    try:
        rows = select(arguments.only)
    except ValueError as error:
        parser.error(str(error))
    # "multiprocessing, by hand" has a comma in its name: it goes with multiprocessing
    wanted = [name.strip() for name in arguments.peers.replace("multiprocessing, by hand", "").split(",")]
    unknown = sorted(set(wanted) - {"", *PEERS})
    if unknown:
        parser.error(f"no peer is called {unknown[0]!r}; the peers are {'; '.join(PEERS)}")
    peers = tuple(name for name in PEERS if name.partition(",")[0] in wanted)
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    options = Options(rows, peers, rounds, arguments.minutes, arguments.quick, arguments.every_round)
    whole = rows == ROWS and peers == tuple(PEERS) and not options.quick
    folder = arguments.out or (ROOT / "benchmarks" / "results" if whole else ROOT / "build" / "benchmarks")

    load, begun = facts.load(), time.monotonic()
    results = Run(options).go()
    result = report.build(options, results, time.monotonic() - begun, load)
    paths = report.write(result, folder, "latest")
    if plot.draw(result, folder / "latest.png"):
        paths.append(folder / "latest.png")
    if whole and not arguments.out:
        readme.update(result)
        paths.append(readme.README)
    print()
    print(f"{'':44} {'Shoal':>11} {'Ray':>11} {'':>7}  {'best other':36} {'goal':>11}")
    print(*report.summary_lines(result), sep="\n")
    print(*report.missing_lines(result), sep="\n")
    print(f"\n{result['rounds']} rounds, {result['seconds']:.0f} s; wrote", *paths)
    if not any("median" in row["peers"].get("shoal", {}) for row in result["rows"]) and "shoal" in peers:
        raise SystemExit("nothing of Shoal could be measured")


if __name__ == "__main__":
    main()
