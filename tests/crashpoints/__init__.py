"""The walk over all crash points: each kind of process is killed at each mark that it passes.

    python -m tests.crashpoints [--roles worker,actor,...] [--sample N] [--seed N]      (a build with TEST_HOOKS=ON)

    board.py      the file that all processes of a session count their passages in, and by which one of them is told to die
    workloads.py  what is done: the activities of the soak, and what they leave out, by each kind of process; also in dying.py,
                  filling.py, owning.py, sharing.py and common.py
    hosts.py      the processes that do it
    walker.py     does one workload after the other, has somebody killed in it, and looks what is wrong afterwards
    excluded.txt  the marks at which nobody is killed, and why
    __main__.py   the walk: several walkers side by side

First every workload is done once by every kind of process, nobody dies, and the board shows who passes which mark how
often. Then each workload is done again for each mark and kind, and the process dies at one of its passages of it. Afterwards
the results must be right, the arena whole, and nothing left of the dead. It is an error if at a mark in the source nobody died and
excluded.txt does not say why, or says so wrongly. What is done is noted in build/crashpoints.jsonl, and `--resume` goes on with it.
"""
