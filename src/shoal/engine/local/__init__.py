"""The engine of one machine: the arena, a supervisor, workers.

session.py       the driver's side: makes the arena, starts the supervisor
supervisor.py    parent of all workers: forks, notices deaths, repairs
worker.py        a worker: runs tasks; becomes the host of an actor
actor_host.py    an actor's process: calls in order, in threads, or on an event loop
engine.py        the Engine that driver and workers use
exports.py       functions and classes, stored once a session
output.py        what workers print, on its way to the driver
hooks.py         what the native core calls in Python
"""
