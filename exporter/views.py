"""What is said of runs, sources and episodes: plain values for API and page.

Pure functions of the state (read under its lock) and the time. The shapes are promised
by the API; the page is rendered from the same values, so they cannot disagree.
"""

import math
from collections import Counter
from collections.abc import Container, Iterable
from typing import Any

from experiment_hooks import wire
from exporter.lastseen import LastSeen
from exporter.metrics import source_states
from exporter.orders import Order, live, taken
from exporter.present import Picture
from exporter.reader import LOST, Row
from exporter.runs import Mode, Run, Source
from exporter.state import State
from exporter.verdict import Rules, Verdict, verdict

Json = dict[str, Any]


def run_summary(run: Run, now: float, rules: Rules) -> Json:
    """One run of the list."""
    judged = verdict(run, now, rules)
    return {
        "run": run.id,
        "experiment": run.experiment,
        "state": judged.state,
        "reason": judged.reason,
        "error": error(judged.error),
        "started": run.started_at,
        "ended": judged.ended_at,
        "modes": modes(run, now),
        "sources": source_states(run),
        "missing": missing(run),
        "attempts": run.attempts,
        "progress": run.progress_at or None,
        "newest": max(run.last_record_at, run.progress_at),
        "promise": judged.promise,
        "expected": expected(run),
        "epochs": run.epochs(),
        "tags": run.opened.tags if run.opened else {},
    }


def run_detail(run: Run, now: float, rules: Rules) -> Json:
    """One run with what it said of itself, and its sources."""
    opened = run.opened
    return {
        **run_summary(run, now, rules),
        "config": opened.config if opened else None,
        "facts": opened.facts if opened else {},
        "info": opened.info if opened else {},
        "launch": opened.launch if opened else {},
        "source_list": [source(one) for one in run.sources.values()],
        "commands": taken(live(run)),
        "dropped": dropped(run),
    }


def modes(run: Run, now: float) -> Json:
    """What the run did, by mode."""
    steps = step_totals(run, now)
    names = [*run.modes, *(name for name in steps if name not in run.modes)]
    return {name: _mode(run.modes.get(name), steps.get(name, 0)) for name in names}


def _mode(mode: Mode | None, steps: int) -> Json:
    if mode is None:
        return {
            "steps": steps,
            "episodes": 0,
            "started": 0,
            "lost": 0,
            "successes": None,
            "outcomes": {},
            "recent_ends": [],
            "results": {},
        }
    return {
        "steps": steps,
        "episodes": mode.ended,
        "started": mode.started,
        "lost": mode.lost,
        "successes": mode.successes if mode.judged else None,
        "outcomes": dict(mode.outcomes),
        "recent_ends": list(mode.ends),
        "results": {name: recent[-1] for name, recent in mode.results.items()},
    }


def step_totals(run: Run, now: float) -> dict[str, int]:
    """Steps by mode, merged over the sources."""
    counted = run.base.counted("steps", run.contributions(now))
    return {
        dict(labels).get("mode", ""): int(value) if math.isfinite(value) else 0
        for labels, value in counted.items()
    }


def expected(run: Run) -> Json:
    """How much the run said that it will do, by mode."""
    opened = run.opened
    if opened is None:
        return {"episodes": {}, "steps": {}, "epochs": {}}
    return {
        "episodes": opened.expected_episodes,
        "steps": opened.expected_steps,
        "epochs": opened.expected_epochs,
    }


def missing(run: Run) -> int:
    """Records announced by sources that are over, which never came."""
    return sum(
        one.missing
        for one in run.sources.values()
        if one.closed is not None or one.lost_at is not None
    )


def dropped(run: Run) -> dict[str, int]:
    """What the sources dropped themselves, by reason."""
    found: dict[str, int] = {}
    for one in run.sources.values():
        for reason, number in one.dropped.items():
            found[reason] = found.get(reason, 0) + number
    return found


def hosts(run: Run) -> list[str]:
    """Where the run's sources are or were, in the order in which they came."""
    found = dict.fromkeys(one.opened.host for one in run.sources.values())
    return [host for host in found if host]


def open_modes(run: Run) -> set[str]:
    """The modes of the episodes that are open in live sources."""
    found: set[str] = set()
    for one in live(run):
        found.update(started.mode for started in one.started.values())
        found.update(shown.mode for shown in (one.sample.open if one.sample else ()))
    return found


def source(one: Source) -> Json:
    """One process of a run."""
    if one.closed is not None:
        state = "ended"
    else:
        state = "live" if one.lost_at is None else "lost"
    sample = one.sample
    return {
        "source": one.id.hex(),
        "name": one.name,
        "process": one.opened.name,
        "host": one.opened.host,
        "pid": one.opened.pid,
        "role": one.opened.role,
        "python": one.opened.python,
        "version": one.opened.version,
        "state": state,
        "ending": one.closed.ending if one.closed else None,
        "reason": one.closed.reason if one.closed else "",
        "error": error(one.closed.error) if one.closed else None,
        "opened": one.opened_at,
        "closed": one.closed.at if one.closed else None,
        "lost": one.lost_at,
        "missing": one.missing,
        "clock_skew": one.skew,
        "commands": [*one.commands] if state == "live" else [],
        "open": [open_episode(one, shown) for shown in sample.open] if sample else [],
    }


def open_episode(one: Source, shown: wire.OpenEpisode) -> Json:
    """An episode that has not ended, as far as the newest sample tells."""
    return {
        "source": one.id.hex(),
        "mode": shown.mode,
        "epoch": shown.epoch,
        "index": shown.index,
        "outcome": None,
        "results": {},
        "steps": shown.steps,
        "started": one.shift(shown.started),
        "ended": None,
        "duration_seconds": None,
        "trace_id": wire.trace_id(one.asked, one.id, shown.number),
        "target": shown.target,
        "attributes": {},
        "error": None,
        "phase": shown.phase,
        "last_step": one.shift(shown.last),
    }


def episode(row: Row, one: Source | None, seen: Container[str] = ()) -> Json:
    """An ended episode; ``seen`` has the trace ids of those whose looks are kept."""
    record = row.episode
    started = one.shift(record.started) if one else record.started
    trace_id = wire.trace_id(record.run, record.source, record.number)
    return {
        "source": record.source.hex(),
        "mode": record.mode,
        "epoch": record.epoch,
        "index": record.index,
        "outcome": row.outcome if row.outcome is not None else LOST,
        "success": record.success,
        "results": record.results,
        "steps": record.steps,
        "started": started,
        "ended": started + record.duration,
        "duration_seconds": record.duration,
        "trace_id": trace_id,
        "target": record.target,
        "seed": record.seed,
        "attributes": record.attributes,
        "error": error(record.error),
        "scores": record.scores,
        "late": row.late,
        "last_seen": trace_id in seen,
    }


def whole_episode(row: Row, one: Source | None, seen: Container[str] = ()) -> Json:
    """An ended episode with all that its record says; times are from its start."""
    record = row.episode
    return {
        **episode(row, one, seen),
        "number": record.number,
        "phases": [
            {
                "name": phase.name,
                "start": phase.start,
                "duration_seconds": phase.duration,
                "steps": phase.steps,
            }
            for phase in record.phases
        ],
        "sampled": [
            {
                "step": step.step,
                "start": step.start,
                "duration_seconds": step.duration,
                "scores": step.scores,
            }
            for step in record.sampled
        ],
        "events": [
            {"name": event.name, "at": event.at, "attributes": event.attributes}
            for event in record.events
        ],
        "omitted": record.omitted,
    }


def whole_open_episode(one: Source, number: int) -> Json | None:
    """An open episode in that form; None where the source has none of that number."""
    started = one.started.get(number)
    if started is None:
        return None
    return {
        **open_episode(one, _stands_now(one, started)),
        "seed": started.seed,
        "success": None,
        "scores": {},
        "late": False,
        "last_seen": False,
        "number": number,
        "phases": [],
        "sampled": [],
        "events": [],
        "omitted": {},
    }


def _stands_now(one: Source, started: wire.EpisodeStarted) -> wire.OpenEpisode:
    shown = one.sample.open if one.sample else ()
    return next((s for s in shown if s.number == started.number), stands(started))


def last_seen(found: LastSeen, trace_id: str, one: Source | None) -> Json:
    """What was kept with an episode that failed or was lost."""
    try:
        state = wire.decode_plain(found.state) if found.state else None
    except wire.WireError as unreadable:
        state = f"... unreadable: {unreadable}"
    return {
        "source": found.source.hex(),
        "trace_id": trace_id,
        "mode": found.mode,
        "epoch": found.epoch,
        "index": found.index,
        "target": found.target,
        "seen": found.at,
        "step": found.step,
        "state": state,
        "scores": found.scores,
        "images": [_image(p) for p in found.pictures if len(p.image.shape) in (2, 3)],
        "logs": [log_line(line, one) for line in found.lines()],
        "omitted": found.omitted,
    }


def _image(picture: Picture) -> Json:
    image = picture.image
    return {
        "name": image.name,
        "shape": list(image.shape),
        "dtype": image.dtype,
        "stride": image.stride,
        "seen": picture.received,
    }


def open_episodes(run: Run) -> list[Json]:
    """The run's open episodes, those that started first, first.

    From the record of the start, with what the newest sample adds to it.
    """
    found = []
    for one in run.sources.values():
        if one.closed is not None:
            continue
        shown = {s.number: s for s in one.sample.open} if one.sample else {}
        for number, started in one.started.items():
            found.append(open_episode(one, shown.get(number) or stands(started)))
    found.sort(key=lambda row: row["started"])
    return found


def stands(started: wire.EpisodeStarted) -> wire.OpenEpisode:
    """Where an episode stands of which only the start is known."""
    return wire.OpenEpisode(
        number=started.number,
        mode=started.mode,
        started=started.time,
        last=started.time,
        epoch=started.epoch,
        index=started.index,
        target=started.target,
    )


def log_line(record: wire.LogLine, one: Source | None) -> Json:
    """One log line; its time is by the exporter's clock where its source is known."""
    return {
        "time": one.shift(record.time) if one else record.time,
        "level": record.level,
        "message": record.message,
        "logger": record.logger,
        "fields": record.fields,
        "trace_id": record.trace,
        "source": record.source.hex(),
    }


SENT = "sent"
"""How far a source is with a command that has not answered yet."""
Given = tuple[Order, list[bytes], bool]
"""An order, who was told of it later, and whether it stands; see ``orders.of``."""


def commands(
    run: Run,
    given: Iterable[Given],
    now: float,
    rules: Rules,
    most: int | None = None,
) -> list[Json]:
    """What people told the run to do, and what became of it.

    Of each at most so many sources are named; all are counted.
    """
    over = verdict(run, now, rules).ended
    found = []
    for order, later, stands in given:
        answers = run.commands.get(order.id, {})
        told = [*dict.fromkeys((*order.addressed, *answers, *later))]
        states = Counter(answers[one].state if one in answers else SENT for one in told)
        sources = [_answered(one, run, answers.get(one)) for one in told[:most]]
        said = _command(order, stands and not over)
        found.append({**said, "states": dict(states), "sources": sources})
    return found


def _command(order: Order, stands: bool) -> Json:
    return {
        "id": order.id,
        "command": order.name,
        "when": order.when,
        "reason": order.reason,
        "by": order.by,
        "at": order.at,
        "source": order.source.hex() if order.source is not None else None,
        "standing": stands,
    }


def _answered(source: bytes, run: Run, answer: wire.CommandAnswered | None) -> Json:
    known = run.sources.get(source)
    return {
        "source": source.hex(),
        "name": known.name if known else source.hex()[:8],
        "state": answer.state if answer else SENT,
        "detail": answer.detail if answer else "",
    }


def error(info: wire.ErrorInfo | None) -> Json | None:
    """An exception."""
    if info is None:
        return None
    return {"type": info.type, "message": info.message, "traceback": info.traceback}


def runs(state: State, now: float, rules: Rules) -> list[Json]:
    """All runs, the newest first."""
    with state.lock:
        found: Iterable[Run] = list(state.runs.values())
    summaries = []
    for run in found:
        with state.lock:
            summaries.append(run_summary(run, now, rules))
    summaries.sort(key=lambda one: one["started"], reverse=True)
    return summaries


__all__ = ["Verdict", "episode", "run_detail", "run_summary", "runs"]
