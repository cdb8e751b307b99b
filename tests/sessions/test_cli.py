"""`shoal start`, `shoal status`, `shoal stop`: sessions that no program keeps alive."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading

import pytest
from other_process import gone

import shoal
from conftest import stop, until
from shoal.engine.local import detached, output, places

pytest_plugins = ["peers"]
pytestmark = pytest.mark.timeout(170)  # each starts an interpreter many times


def cli(*arguments: str, code: int = 0) -> str:
    """What the command prints (its errors, if it is to fail)."""
    done = subprocess.run([sys.executable, "-m", "shoal", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stderr if code else done.stdout


def status(*arguments: str) -> list[dict]:
    return json.loads(cli("status", "--json", *arguments))


@pytest.fixture
def detached_session(home):
    """The name of a session with two CPUs; it is stopped after the test."""
    cli("start", "--name", "tank", "--num-cpus", "2", "--object-store-memory", "256M", "--resources", '{"net": 3}')
    yield "tank"
    cli("stop", "--all")


def test_start_tells_how_to_join_and_to_stop(home, peer):
    said = cli("start", "--num-cpus", "1", "--object-store-memory", "0.25G")
    name = re.search(r"Session (\S+) is running: 1 CPU, 0\.2 GB", said)[1]
    guest = peer(re.search(r"shoal.init\(address='([^']+)'\)", said)[1])
    assert guest("shoal.get(shoal.remote(lambda: 42).remote())") == 42
    assert f"shoal stop {name}" in said and guest("context['session_name']") == name
    pids = [p["pid"] for p in status()[0]["processes"] if p["role"] != "guest"]
    assert len(pids) == 2
    assert cli("stop", name) == f"{name} has ended.\n"
    assert all(map(gone, pids))
    assert "shut down" in guest.error("shoal.put(1)").text
    assert guest.leave() == 0 and not list(home.iterdir())


def test_it_outlives_its_guests(detached_session, peer):
    first = peer("tank")
    first("""
@shoal.remote
class Keeper:
    value = 0
    def set(self, v):
        self.value = v
    def get(self):
        return self.value
""")
    first("keeper = Keeper.options(name='keeper', lifetime='detached').remote(); shoal.get(keeper.set.remote(5))")
    first("temporary = Keeper.options(name='temporary').remote(); shoal.get(temporary.set.remote(6))")
    first("shoal.Dict(name='kept')['x'] = np.arange(1000)")
    first.kill()
    second = peer("tank")
    assert second("shoal.get(shoal.get_actor('keeper').get.remote())") == 5
    assert second("int(shoal.Dict(name='kept')['x'].sum())") == 499500
    until(lambda: "temporary" not in second("str(shoal._core.name_list(1))"))
    second("shoal.shutdown()")
    (said,) = status()
    assert said["detached"] and [a["name"] for a in said["actor_names"]] == ["keeper"] and said["counts"]["guest"] == 0


def test_status(detached_session, peer):
    guest = peer("tank")
    guest("@shoal.remote(resources={'net': 1})\ndef hold(event):\n    event.wait()\n    return 1")
    guest("event = shoal.sync.Event(); refs = [hold.remote(event) for _ in range(5)]")
    until(lambda: status()[0]["resources"]["net"][0] == 3 and status()[0]["busy_workers"] == 3)
    text = cli("status", "tank")
    for part in (
        "tank   detached",
        "net 3 of 3",
        "of 256 MB",
        "(3 busy)",
        "1 guest",
        "5 not done",
        "tank/socket",
        " guest\n",
    ):
        assert part in text
    assert re.search(r"\d+  worker +hold", text)
    guest("event.set(); shoal.get(refs)")
    until(lambda: "5 finished" in cli("status"))  # counted when they are over, a moment after their results are there
    shoal.init(num_cpus=1, session_name="mine")
    assert "mine   of a program" in cli("status") and [s["name"] for s in status()] == ["mine", "tank"]
    assert "no session named 'x'" in cli("status", "x", code=1)
    assert "none of your" not in cli("stop", "mine") and shoal.is_initialized()
    with pytest.raises(shoal.exceptions.SessionEndedError, match="shoal stop"):
        shoal.put(1)


def test_what_workers_print_is_in_the_log(detached_session, peer):
    guest = peer("tank")
    code = "print('from a', 'task'); print('no newline', end=''); sys.stderr.write('aside\\n'); os.write(1, b'raw')"
    guest(f"@shoal.remote\ndef talk():\n    import os, sys\n    {code}\n    return os.getpid()\npid = shoal.get(talk.remote())")
    pid = guest("pid")
    log = status()[0]["log"]

    def lines() -> set[str]:
        with open(log) as file:
            return set(file.read().splitlines())

    until(lambda: lines() >= {f"(talk pid={pid}) {text}" for text in ("from a task", "no newline", "aside")})
    os.kill(pid, signal.SIGKILL)
    until(lambda: any(line.endswith(f"pid={pid}) raw") for line in lines()))
    assert stat.S_IMODE(os.stat(log).st_mode) == 0o600


def test_a_log_does_not_grow_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "LONGEST_LOG", 1000)
    path = tmp_path / "log"
    fd = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    log = output.LogFile(fd)
    for i in range(100):
        log.text(7, 1, b"f", b"%d %s\n" % (i, b"x" * 50))
    os.close(fd)
    text = path.read_text()
    assert len(text) <= 1100 and text.startswith("(older output was dropped)\n") and "(f pid=7) 99 xxx" in text


def test_mistakes_in_starting(home):
    cli("start", "--name", "once", "--num-cpus", "1", "--object-store-memory", "64M")
    assert "there is a session named 'once' already" in cli("start", "--name", "once", code=1)
    assert "cannot be the name" in cli("start", "--name", "a/b", code=1)
    assert "at least" in cli("start", "--object-store-memory", "1K", code=1)
    assert "no size" in cli("start", "--object-store-memory", "lots", code=2)
    assert "num_cpus" in cli("start", "--num-cpus=-1", code=1)
    assert cli("stop", "--all") == "once has ended.\n"
    assert cli("--version").startswith("shoal 0.")


def test_mistakes_in_stopping(home):
    cli("start", "--name", "once", "--num-cpus", "1", "--object-store-memory", "64M")
    assert "no session named 'twice'; you have: once" in cli("stop", "twice", code=1)
    cli("start", "--name", "twice", "--num-cpus", "1", "--object-store-memory", "64M")
    assert "say which; you have: once, twice" in cli("stop", code=1)
    assert cli("stop", "--all") == "once has ended.\ntwice has ended.\n"
    assert cli("stop") == "There is no session.\n"
    assert "There is no session" in cli("status")
    shoal.init(num_cpus=1, session_name="mine")
    assert "none of your sessions was started with `shoal start`; you have: mine" in cli("stop", code=1)
    assert shoal.get(shoal.put(1)) == 1


def test_the_supervisor_is_killed(home, peer):
    cli("start", "--name", "tank", "--num-cpus", "2", "--object-store-memory", "64M")
    guest = peer("tank")
    (said,) = status()
    os.kill(said["pid"], signal.SIGKILL)
    until(lambda: all(gone(p["pid"]) for p in said["processes"] if p["role"] != "guest"))
    assert guest.error("shoal.sync.Event().wait()").kind == "SessionEndedError"
    assert os.path.exists(said["socket"])
    assert "tank had ended without having been stopped" in cli("status")
    assert not list(home.iterdir())
    # The name is free at once, also if nobody has looked.
    cli("start", "--name", "tank", "--num-cpus", "1", "--object-store-memory", "64M")
    os.kill(status()[0]["pid"], signal.SIGKILL)
    until(lambda: "ended" in detached_state("tank"))
    cli("start", "--name", "tank", "--num-cpus", "1", "--object-store-memory", "64M")
    os.kill(status()[0]["pid"], signal.SIGKILL)
    until(lambda: "ended" in detached_state("tank"))
    assert "tank had ended already" in cli("stop", "tank")
    assert not list(home.iterdir())


def detached_state(name: str) -> str:
    return "alive" if places.alive(places.Place(places.homes()[0], name).socket) else "ended"


def test_a_supervisor_that_does_not_answer_is_killed(detached_session, monkeypatch):
    monkeypatch.setattr(detached, "PATIENCE_S", 0.2)
    monkeypatch.setattr("shoal.engine.local.join.PATIENCE_S", 1.0)
    (said,) = status()
    stop(said["pid"])
    (place,) = places.sessions()
    over, me = threading.Event(), threading.get_ident()

    def signals():  # of a profiler, say: they do not make the wait any longer
        while not over.wait(0.1):
            signal.pthread_kill(me, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    thread = threading.Thread(target=signals)
    thread.start()
    try:
        with pytest.raises(shoal.exceptions.SessionError, match="did not answer for 1 s"):
            shoal.init("tank")
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert detached.stop_session(place) == "killed"
    until(lambda: all(gone(p["pid"]) for p in said["processes"]))
    assert places.sessions() == []


def test_a_session_that_cannot_start(home, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(home / "path"))
    (home / "path").mkdir()
    (home / "path" / "sitecustomize.py").write_text(
        "import sys, os\nif '-c' in sys.orig_argv: print('a broken set-up', file=sys.stderr); os._exit(3)"
    )
    said = cli("start", "--num-cpus", "1", "--object-store-memory", "64M", code=1)
    assert "did not start" in said and "a broken set-up" in said
    (home / "path" / "sitecustomize.py").unlink()
    for left in (home / "path").glob("__pycache__/*"):
        left.unlink()
    for left in ((home / "path" / "__pycache__"), home / "path"):
        if left.exists():
            left.rmdir()


def test_tokens(home, peer, tmp_path):
    token = tmp_path / "token"
    said = cli("start", "--name", "safe", "--num-cpus", "1", "--object-store-memory", "64M", "--token-file", str(token))
    secret = token.read_text().strip()
    assert stat.S_IMODE(token.stat().st_mode) == 0o600 and len(secret) == 48
    assert secret not in said and f"token=open('{token}')" in said
    guest = peer()
    for how in ("", ", token='wrong'", f", token={secret[:-1]!r}", f", token={secret + 'x'!r}"):
        error = guest.error(f"shoal.init('safe'{how})")
        assert error.kind == "SessionRefusedError" and "token" in error.text
    assert guest(f"shoal.init('safe', token={secret!r})['mode']") == "guest"
    assert "asks for a token" in cli("status")
    assert "1 guest" in cli("status", "--token-file", str(token))
    pid = status("--token-file", str(token))[0]["pid"]
    for file in ("cmdline", "environ"):  # nobody else can read it there
        with open(f"/proc/{pid}/{file}", "rb") as facts:
            assert secret.encode() not in facts.read()
    assert cli("stop") == "safe has ended.\n"
    shoal.init(num_cpus=1, session_name="mine", token="open sesame")
    assert guest.error("shoal.shutdown(); shoal.init('mine')").kind == "SessionRefusedError"
    assert guest("shoal.init('mine', token='open sesame')['session_name']") == "mine"
    shoal.shutdown()
    for wrong in ("", "x" * 5000, 7):
        with pytest.raises((ValueError, TypeError), match="token"):
            shoal.init(num_cpus=1, token=wrong)
