"""What the demo prints."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from demo_lib.checks import Check
from demo_lib.outcome import Job, Note, Outcome, by_participant

_WIDTH = 80
_PIDS = 6  # shown of each role
_DID = {
    "driver": "puts the picture; darkens its foot",
    "printer (actor)": "counts a band; prints it in place",
    "reader (task)": "counts words of a share of the text",
    "letterer (task)": "adds a bar of light in place",
    "proof-reader (task)": "counts a band of the poster",
}
_STEPS = {
    "share": "the first three steps",
    "look": "count colours and words",
    "print": "print the poster",
    "letter": "letter the chart",
    "proof": "count the finished poster",
}


def console() -> Console:
    """A console that also works where the output is a file or knows no Unicode."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)


def megabytes(size: int) -> str:
    """A number of bytes, in MB."""
    return f"{size / 1e6:,.1f} MB"


def seconds(time: float) -> str:
    """A time in the unit that suits it."""
    if time < 1e-3:
        return f"{time * 1e6:.0f} µs"
    return f"{time * 1e3:.0f} ms" if time < 1.0 else f"{time:.2f} s"


def show_job(out: Console, job: Job, photograph: str, rounds: int) -> None:
    """What the demo works on."""
    height, width = job.photo.shape[:2]
    chapters = len(job.text.starts) - 1
    times = f"; {rounds} times each" if rounds > 1 else ""
    out.print(
        Panel(
            f"A photograph, {photograph}: {width} x {height} pixels, {megabytes(job.photo.nbytes)}\n"
            f"A text, Python's reference manual: {chapters} chapters, {megabytes(len(job.text.data))}\n"
            f"A poster by {job.workers} workers: with Shoal, then with multiprocessing{times}",
            title="[bold]Shoal: one picture, many processes[/]",
            border_style="magenta",
            width=_WIDTH,
        )
    )


def show_progress(out: Console, what: str) -> None:
    """A line that the next output replaces; nothing where the output is kept."""
    if out.is_terminal:
        out.print(f"[dim]{what}[/]", end="\r")


def show_steps(out: Console, job: Job, ours: Outcome) -> None:
    """The four steps, as they went."""
    steps = ours.first_steps
    if steps is None:
        return
    size = megabytes(job.photo.nbytes)
    updates = sum(note.updates for note in ours.notes)
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="bold magenta", no_wrap=True)
    lines.add_column()
    lines.add_row("1 put", f"{size} copied into the arena, once: {seconds(steps.put_seconds)}")
    lines.add_row("2 get", f"a view of {size}, 0 bytes copied: {seconds(steps.get_seconds)}")
    lines.add_row(
        "3 change",
        f"the driver wrote {steps.driver_wrote}, task {steps.task_pid} saw {steps.task_saw}\n"
        f"task {steps.task_pid} wrote {steps.task_wrote}, the driver saw {steps.driver_saw}",
    )
    lines.add_row("4 synchronise", f"{updates} additions to one tally by everybody, under its lock")
    out.print(Panel(lines, title="[bold]The four steps[/]", border_style="magenta", width=_WIDTH))


def show_participants(out: Console, job: Job, outcome: Outcome) -> None:
    """Who did what."""
    notes = by_participant(outcome.notes)
    table = Table(title=f"Who did what with {outcome.name}", title_style="bold", width=_WIDTH)
    table.add_column("who", no_wrap=True)
    table.add_column("did what", no_wrap=True)
    table.add_column("pids", min_width=11, ratio=1)
    for role, what in _DID.items():
        group = [note for note in notes if note.role == role]
        count = sum(note.pieces for note in group)
        table.add_row(f"{count} {role}", what, _pids(group))
    out.print(table)
    viewers = len({note.pid for note in notes if note.view})
    size = job.photo.nbytes
    kept = outcome.copied - size
    out.print(
        f"{viewers} processes see the whole picture. It lies in the arena once, {megabytes(size)};\n"
        f"a copy for each would be {megabytes(viewers * size)}. Copied in all: {megabytes(outcome.copied)},\n"
        f"{megabytes(size)} by put and {megabytes(kept)} of neighbouring rows that the printers keep.\n"
    )


def _pids(notes: list[Note]) -> str:
    shown = " ".join(str(note.pid) for note in notes[:_PIDS])
    return shown if len(notes) <= _PIDS else f"{shown} and {len(notes) - _PIDS} more"


def show_comparison(out: Console, ours: Outcome, theirs: Outcome, rounds: int) -> None:
    """The closing table."""
    which = f"median of {rounds} runs, by total time" if rounds > 1 else "one run"
    table = Table(title=f"The same poster, the same functions ({which})", title_style="bold", width=_WIDTH)
    table.add_column("")
    for outcome in (ours, theirs):
        table.add_column(outcome.name, justify="right", no_wrap=True)
    table.add_column("ratio", justify="right")
    table.add_row("start-up", *_pair(ours.start_up, theirs.start_up), end_section=True)
    for phase, title in _STEPS.items():
        table.add_row(title, *_pair(ours.phases.get(phase, 0.0), theirs.phases.get(phase, 0.0)))
    table.add_section()
    table.add_row("work", *_pair(ours.work, theirs.work))
    table.add_row("start-up and work", *_pair(ours.total, theirs.total), style="bold", end_section=True)
    moved = f"{theirs.copied / ours.copied:.1f}"
    table.add_row("picture bytes copied, sent", megabytes(ours.copied), megabytes(theirs.copied), moved)
    out.print(table)
    ratio = theirs.total / ours.total
    verdict = f"{ratio:.2f} times as long as" if ratio >= 1.0 else f"only {ratio:.2f} of the time of"
    out.print(
        f"multiprocessing took [bold]{verdict}[/] Shoal. Both run the same arithmetic;\n"
        "what differs is starting processes and moving bytes. The more arithmetic\n"
        "per byte, the closer the two come.\n"
    )


def _pair(ours: float, theirs: float) -> tuple[str, str, str]:
    if not theirs:
        return seconds(ours), "-", ""
    return seconds(ours), seconds(theirs), f"{theirs / ours:.2f}"


def show_checks(out: Console, checks: list[Check]) -> None:
    """What held and what did not."""
    for check in checks:
        out.print(f"[green]ok[/]      {check.says}" if check.held else f"[bold red]FAILED[/]  {check.says}")
    out.print()


def show_files(out: Console, files: list[Path]) -> None:
    """Where the pictures are."""
    for file in files:
        out.print(f"wrote [bold]{file}[/]  {megabytes(file.stat().st_size)}", soft_wrap=True)
