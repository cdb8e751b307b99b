"""A small world of moving bodies, in shared memory: each of four participants owns its own, and everybody sees all.

The bodies attract one another, so every step of one needs the positions of the others: a look at memory, no message. Only a
body's owner can write to it. A participant is killed; whoever takes its body over goes on from where it was committed last.
"""

import os
import signal

import numpy as np

import shoal

BODY = np.dtype([("position", float, 2), ("velocity", float, 2), ("steps", int)])
BODIES, STEPS, DT = 4, 400, 0.01


@shoal.remote(num_cpus=0)
class Participant:
    def __init__(self, world: list[shoal.ObjectRef]) -> None:
        self.world = world
        self.seen = shoal.get(world)  # views, read-only: always the present state
        self.mine: list[int] = []

    def take(self, number: int) -> str:
        """Become the owner of a body; waits until it is handed on, or its owner dies."""
        notice = shoal.claim(self.world[number])
        self.mine.append(number)
        return f"took body {number}" + (", whose owner died" if notice else "")

    def give(self, number: int, to: shoal.ActorHandle) -> None:
        self.mine.remove(number)
        shoal.transfer(self.world[number], to)

    def receive(self, number: int) -> None:
        self.mine.append(number)

    def move(self, steps: int) -> None:
        for _ in range(steps):
            for number in self.mine:
                self.step(number)

    def step(self, number: int) -> None:
        others = [body["position"][0] for k, body in enumerate(self.seen) if k != number]
        with shoal.owned(self.world[number]) as body:  # the end of the block commits
            force = sum(other - body["position"][0] for other in others)
            body["velocity"] += force * DT
            body["position"] += body["velocity"] * DT
            body["steps"] += 1

    def crash(self, number: int) -> None:
        """Half a step is written, but never committed."""
        shoal.get(self.world[number])["position"] = np.inf
        os.kill(os.getpid(), signal.SIGKILL)


shoal.init(num_cpus=2)
angles = np.arange(BODIES) * 2 * np.pi / BODIES
world = []
for angle in angles:
    body = np.zeros(1, BODY)
    body["position"], body["velocity"] = [np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]
    world.append(shoal.put(body, mutable=True, owner="me"))

participants = [Participant.remote(world) for _ in range(BODIES)]
for number, participant in enumerate(participants):
    shoal.transfer(world[number], participant)
    participant.receive.remote(number)

view = shoal.get(world)
shoal.get([participant.move.remote(STEPS) for participant in participants])
print(f"each of {BODIES} participants moved its body {[int(body['steps'][0]) for body in view]} steps")
print("owners:", ", ".join(f"body {n} {shoal.owner(ref).name}" for n, ref in enumerate(world)))

try:
    view[0]["position"] = 0
except ValueError as error:
    print("the driver cannot push a body:", error)
try:
    shoal.get(participants[0].step.remote(1))
except shoal.exceptions.NotOwnerError:
    print("participant 0 cannot push body 1")

# One hands its body on, in one step.
shoal.get(participants[1].give.remote(1, participants[0]))
shoal.get(participants[0].receive.remote(1))
shoal.get([participant.move.remote(STEPS) for participant in participants])
print("participant 0 moves two bodies now:", [int(body["steps"][0]) for body in view])

# One dies, in the middle of a step; another waits for its body, and is told.
before = view[3]["position"].copy()
waiting = participants[2].take.remote(3)
participants[3].crash.remote(3)
print("participant 2", shoal.get(waiting))
assert np.array_equal(view[3]["position"], before), "what was not committed is gone"
shoal.get([participant.move.remote(STEPS) for participant in participants[:3]])
print("all bodies move:", [int(body["steps"][0]) for body in view])
assert all(np.isfinite(body["position"]).all() for body in view)
shoal.shutdown()
