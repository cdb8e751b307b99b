"""The engine of one machine: the arena, a supervisor, workers.

membership.py    what a driver and a guest have in common
session.py       the driver's side: makes the arena, starts the supervisor
join.py          a guest's side: finds a session, joins, leaves
places.py        where sessions are found
wire.py          what is said on a session's socket
door.py          the supervisor's end of that socket
facts.py         what `shoal status` is told
supervisor.py    parent of all workers: forks, notices deaths, repairs
worker.py        a worker: runs tasks; becomes the host of an actor
actor_host.py    an actor's process: calls in order, in threads, or on an event loop
engine.py        the Engine that driver and workers use
exports.py       functions and classes, stored once a session
output.py        what workers print, on its way to the driver
hooks.py         what the native core calls in Python
"""
