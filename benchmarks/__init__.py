"""The comparison with Ray and the other peers: `python -m benchmarks`.

Where things are:

    rows.py       every row: its name, unit, goal and physical reference
    run.py        the coordinator: rounds, in each round every peer in a process of its own
    child.py      that process: one peer, some rows, a line of JSON for each
    measure.py    how often, how long; medians and spread
    peers/        the loops, a module for each peer; peers/ray_like.py serves Shoal and Ray alike
    programs/     the three programs by which Ray was introduced
    startup.py    a fresh interpreter from import to exit: times, processes, memory
    physical.c    two processes pass a word to and fro: what no call can beat
    report.py     JSON and Markdown            plot.py   the picture          readme.py  the README's table
    processes.py  trees of processes           facts.py  machine and versions
    breakdown/    where the time of one call goes (`python -m benchmarks.breakdown`)
    scaling/      the cost of a call as things grow (`python -m benchmarks.scaling`)
"""
