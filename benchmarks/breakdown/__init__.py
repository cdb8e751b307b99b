"""Where the time of one call goes: `make profile`.

The steps of a call (submit, take, run, finish, get) are run one after the other in a single process that is
driver and worker at once (alone.py), so that nothing waits for anything. Each step is timed, and its
instructions are counted by valgrind's callgrind, which gives the same number each time. What a call between
two processes takes beyond the sum of its steps is the way between them: cache lines that move, and waking up.

    alone.py       the steps                      counted.py   runs them under callgrind
    callgrind.py   reads what callgrind writes    groups.py    which function belongs to what
    between.py     the same calls between two processes
"""
