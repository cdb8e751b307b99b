"""The soak: everything is busy while processes are killed and stopped at random; the results must be those of a serial run.

    python -m tests.soak [--seconds N] [--seed N] [--only NAME,NAME | sharing | running] [--keep]

    __main__.py   starts one driver after another, watches them, ends some of them by force, looks for what is left
    driver.py     a session: epochs of activities, the one who kills, and the audit after each epoch
    running.py    activities about tasks, actors and large objects
    sharing.py    activities about locks, versions, containers and mutable objects

Each activity is given a seed and knows what must come out. A failure prints the seed and the round, with which the same
activities run again (`--seed N --round K`); when a process is killed is chance.
"""
