"""Fuzzing: all that is read from another process, and the public API with arguments that make no sense.

    python -m tests.fuzz [--seconds 1200] [--seed N] [--only NAME,...]

    __main__.py   shares the time out among the targets, each in a process of its own, and watches them
    mutate.py     mutations of bytes and of JSON
    targets.py    messages, the session's socket, output frames, boot settings, pickled references, the command line
    api.py        every public function and method, with garbage

A target may raise what it documents, nothing else; it must not crash, hang, or leave anything behind. What was tried last
is in a file, so that a crash can be repeated: a failure prints it together with the seed.

The arena itself is no target. Its participants trust one another (docs/design.md): whoever can write there can do
anything to the others, as threads of one process can.
"""
