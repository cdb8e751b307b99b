"""The benchmarks run and write what they should; their figures mean nothing here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.breakdown import callgrind, groups
from benchmarks.measure import Plan, in_turns, rates, summary
from benchmarks.peers import PEERS, PHYSICAL
from benchmarks.rows import BY_KEY, MEMCPY, MEMCPY_WRITTEN, REFERENCE_UNITS, ROWS, SPINNING, select
from benchmarks.run import Lines, Options, Results, Run
from benchmarks.scaling.__main__ import verdicts
from benchmarks.scaling.curves import CURVES
from benchmarks.scaling.draw import draw

from benchmarks import plot, processes, readme, report

ROOT = Path(__file__).resolve().parents[2]


def program(module: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_quick_run_writes_its_table(tmp_path: Path) -> None:
    rows = ("start", "get", "lock_1", "lock_2_fair", "actor_sync")
    printed = program("benchmarks", "--quick", "--peers", "shoal", "--only", ",".join(rows), "--out", str(tmp_path))
    result = json.loads((tmp_path / "latest.json").read_text())
    assert [row["key"] for row in result["rows"]] == [row.key for row in ROWS if row.key in rows]
    for row in result["rows"]:
        ours = row["peers"]["shoal"]
        assert "median" in ours, ours
        assert ours["low"] <= ours["median"] <= ours["high"]
        assert ours["median"] > 0
        assert row["peers"].get("ray", {"missing": "not asked for"}) == {"missing": "not asked for"}
        assert row["goal_met"] is None, "a quick run judges nothing"
    assert result["quick"]
    assert result["machine"]["cores"] >= 1
    assert result["versions"]["python"] == sys.version.split()[0]
    table = (tmp_path / "latest.md").read_text()
    for key in rows:
        assert f"| {BY_KEY[key].title} |" in table
        assert BY_KEY[key].title in printed
    assert "one short round" not in table
    assert "--quick" in table
    assert not (tmp_path / "latest.png").exists(), "there is no picture without Ray"


def test_the_steps_of_a_call_are_timed() -> None:
    found = json.loads(program("benchmarks.breakdown.counted", "20"))
    assert {subject for subject, _, _ in found["steps"]} >= {"put", "get", "lock", "task", "actor call"}
    assert len(found["ns"]) == len(found["steps"])
    assert all(ns > 0 for ns in found["ns"])


@pytest.mark.parametrize("curve", [curve.key for curve in CURVES])
def test_a_point_of_a_curve(curve: str) -> None:
    found = json.loads(program("benchmarks.scaling.points", curve, "2", "0.005"))
    wanted = next(c for c in CURVES if c.key == curve)
    assert {flat.series for flat in wanted.flat} <= set(found)
    assert all(value >= 0 for value in found.values())


def test_rows_and_peers_fit_together() -> None:
    assert len(BY_KEY) == len(ROWS)
    for name, spec in PEERS.items():
        unknown = set(spec.rows) - set(BY_KEY) - set(REFERENCE_UNITS)
        assert not unknown, f"{name} has rows that do not exist"
    for row in ROWS:
        assert row.key in PEERS["shoal"].rows
        assert row.reference is None or row.reference in REFERENCE_UNITS
        assert row.goal_peer is None or row.key in PEERS[row.goal_peer].rows


def test_rows_are_chosen_by_key_group_and_title() -> None:
    assert select("") == ROWS
    assert [row.key for row in select("get, put")] == ["get", "put"]
    assert {row.group for row in select("actors")} == {"actors"}
    assert [row.key for row in select("1k finished")] == ["wait_call"]
    with pytest.raises(ValueError, match="no row is called 'nonsense'"):
        select("get,nonsense")


def test_a_slice_is_measured_even_when_a_call_takes_longer_than_it() -> None:
    calls = []
    samples = rates(lambda: calls.append(1), 10, Plan(warm_s=0, slice_s=0, slices=4, limit_s=60))
    assert len(samples) == 4
    assert len(calls) == 5, "one to warm up, one for each slice"
    assert all(sample > 0 for sample in samples)
    found = summary([3.0, 1.0, 2.0, 10.0, 2.5])
    assert (found["median"], found["low"], found["high"]) == (2.5, 1.0, 10.0)
    assert found["spread"] == pytest.approx((3.0 - 2.0) / 2 / 2.5)


def test_what_is_compared_is_measured_in_turns() -> None:
    calls: list[str] = []
    plan = Plan(warm_s=0, slice_s=0, slices=2, limit_s=60)
    first, second = in_turns([lambda: calls.append("a"), lambda: calls.append("b")], 10, plan)
    assert len(first) == len(second) == 2
    assert all(sample > 0 for sample in first + second)
    assert "".join(calls) == "aabb" * 3, "each turn is a call to warm up and one that counts; the first warms up only"


def test_a_put_brings_its_reference_along(tmp_path: Path) -> None:
    program("benchmarks", "--quick", "--peers", "shoal", "--only", "put_gb_written", "--out", str(tmp_path))
    result = json.loads((tmp_path / "latest.json").read_text())
    (row,) = result["rows"]
    reference = result["references"][MEMCPY_WRITTEN]
    assert row["goal"] == pytest.approx(0.9 * reference["median"])
    assert row["multiples"][MEMCPY_WRITTEN] == pytest.approx(reference["median"] / row["peers"]["shoal"]["median"])
    assert "missing" in result["references"][MEMCPY], "nobody asked for it"


def results() -> Results:
    found = Results(rounds=1)
    found.add(SPINNING, PHYSICAL, [1_000_000.0])
    for peer, rate in {"shoal": 200_000, "ray": 1000, "multiprocessing": 5000, "joblib": 8000}.items():
        found.add("tasks_sync", peer, [rate * 0.5, rate, rate * 1.5])
    found.fail("tasks_sync", "concurrent.futures", "it broke")
    for peer, seconds in {"shoal": 0.4, "ray": 0.6, "serial": 0.9, "multiprocessing": 0.1}.items():
        found.add("numerical", peer, [seconds])
        found.checks.setdefault("numerical", {})[peer] = 5.0 if peer == "multiprocessing" else 3.0
    return found


def test_what_a_further_round_repeats() -> None:
    run = Run(Options(select("tasks_sync,numerical,idle_cpu")))
    run.log.close()
    run.results = results()
    idle, tasks, numerical = run.options.rows
    for peer in ("shoal", "serial"):
        run.results.took("numerical", peer, 100.0)
    for _ in range(9):
        run.results.took("numerical", "ray", 1.0)
    assert [peer for peer in ("shoal", "ray", "multiprocessing", "joblib", "concurrent.futures") if run.again(tasks, peer)] == [
        "shoal", "concurrent.futures"
    ]  # fmt: skip
    assert [peer for peer in ("shoal", "ray", "serial") if run.again(numerical, peer)] == ["shoal", "ray"]
    assert not run.again(idle, "ray"), "it is measured once"
    assert [peer for peer in ("shoal", "ray", "multiprocessing, by hand") if run.again(BY_KEY["stateful_busy"], peer)] == [
        "shoal", "multiprocessing, by hand"
    ]  # fmt: skip
    always = Run(replace(run.options, every_round=True))
    always.log.close()
    assert always.again(idle, "ray")
    assert list(run.wanted("joblib", [tasks])) == ["tasks_sync"], "each peer measures each row once"
    run.results.took("tasks_sync", "joblib", 0.5)
    assert list(run.wanted("joblib", [tasks])) == []
    assert list(run.wanted("concurrent.futures", [tasks])) == [], "it has failed"


def test_ratios_goals_and_wrong_results() -> None:
    options = Options(select("tasks_sync,numerical"))
    tasks, numerical = report.build(options, results(), 1.0, [0.0, 0.0, 0.0])["rows"]
    assert tasks["ratio_to_ray"] == 200
    assert (tasks["best_other"], tasks["ratio_to_best_other"]) == ("joblib", 25)
    assert tasks["multiples"] == {SPINNING: 5}, "a call takes as long as five round trips"
    assert tasks["goal_met"] is True
    assert tasks["peers"]["concurrent.futures"] == {"missing": "it broke"}
    assert numerical["ratio_to_ray"] == pytest.approx(1.5)
    assert numerical["goal_met"] is False
    assert "its result is wrong" in numerical["peers"]["multiprocessing"]["missing"]
    assert numerical["best_other"] is None, "the fastest had a wrong result"


def test_the_table_says_why_a_figure_is_missing() -> None:
    result = report.build(Options(select("tasks_sync")), results(), 1.0, [0.0, 0.0, 0.0])
    table = report.markdown(result)
    assert "**200k/s ±25%**" in table
    assert "- concurrent.futures: it broke (single client tasks sync)." in table
    assert report.quantity(0.00123, "s") == "1.23 ms"
    assert report.quantity(11.52, "GB/s") == "11.5 GB/s"
    assert report.quantity(None, "s") == "-"


def test_the_readme_gets_the_table_between_its_marks(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n{readme.BEGIN}old\n{readme.END}after\n")
    result = report.build(Options(select("tasks_sync,numerical")), results(), 1.0, [0.0, 0.0, 0.0])
    for _ in range(2):
        readme.update(result, path)
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("| single client tasks sync | **200k/s** | ≥ 100k/s | ✓ | 1.00k/s | 8.00k/s (joblib) | 200x | 25.0x |") == 1
    path.write_text("no marks")
    with pytest.raises(ValueError, match="has no lines"):
        readme.update(result, path)
    assert readme.BEGIN in readme.README.read_text(), "the real one has the marks"


def test_pictures_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = report.build(Options(select("tasks_sync,numerical")), results(), 1.0, [0.0, 0.0, 0.0])
    assert plot.draw(result, tmp_path / "latest.png")
    assert {key for section in plot.SECTIONS.values() for key in section} | set(plot.PROGRAMS) <= set(BY_KEY)
    workers = {"key": "workers", "title": "", "axis": "", "points": [1, 2], "series": {"task, pipelined: CPU us": [1.0, None]}}
    assert draw({"curves": [workers], "machine": {"cores": 2}}, tmp_path / "scaling.png")


def test_a_child_that_says_nothing_is_given_up() -> None:
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, b'{"start": "get"}\n{"row"')
        lines = Lines(read_end)
        assert lines.next(5) == {"start": "get"}
        with pytest.raises(TimeoutError):
            lines.next(0)
        os.write(write_end, b': "get"}\n')
        assert lines.next(5) == {"row": "get"}
        os.close(write_end)
        assert lines.next(5) is None
    finally:
        os.close(read_end)


def test_processes_are_found_counted_and_ended() -> None:
    code = "import subprocess as s; c = s.Popen('cat', stdin=s.PIPE); print('up', flush=True); c.wait()"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        assert parent.stdout.readline() == "up\n"
        pids = processes.tree(parent.pid)
        assert len(pids) == 2
        memory = processes.memory(pids)
        assert 1 < memory["pss"] <= memory["rss"]
        assert processes.cpu_seconds(pids) > 0
    finally:
        processes.end(parent.pid)
        parent.wait()
        parent.stdout.close()
    assert processes.tree(parent.pid) == [parent.pid], "nobody has it as its parent any more"


def test_callgrind_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "out.1"
    path.write_text(
        "events: Ir\n\nob=(1) /x/_core.so\nfl=(1) /src/core/tasks.cpp\nfn=(1) submit\n10 7\n"
        "cob=(2) /lib/libc.so.6\ncfi=(2) ???\ncfn=(2) memcpy\ncalls=3 0\n+2 900\n"
        "fi=(3) /src/core/journal.cpp\n+1 5\nfe=(1)\n* 2\n\nob=(2)\nfl=(2)\nfn=(2)\n0 900\n"
        "\nob=(3) /usr/bin/python3.11\nfl=(2)\nfn=(4) _PyEval_EvalFrameDefault'2\n0 11\n"
    )
    places = callgrind.read(path)
    assert sum(places.values()) == 7 + 5 + 2 + 900 + 11
    found = groups.by_group(places, Counter(), 1)
    assert found == {
        "core: tasks": 9,
        "core: journal": 5,
        groups.INTERPRETER: 11,
        groups.LIBC: 900,
    }
    assert groups.by_function(places, 1, 1) == [("memcpy", groups.LIBC, 900)]


def test_growth_is_judged_from_where_a_curve_must_be_flat() -> None:
    workers = CURVES[0]
    series: dict[str, list[float | None]] = {"task, pipelined: CPU us": [9.0, 4.0, 4.4, None, 5.0]}
    (verdict,) = verdicts(workers, series)
    assert verdict == {
        "series": "task, pipelined: CPU us", "span": "2 to 64", "growth": 1.25, "limit": 1.5, "holds": True
    }  # fmt: skip
