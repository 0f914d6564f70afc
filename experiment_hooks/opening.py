"""``open_run``: what the code says is checked, the environment read, the run started.

What the code says wrongly raises here and says what to change. What the machine lacks
ends no experiment: one warning, and it goes on unwatched (unless EPISIGHT_STRICT=1).
"""

import logging
import os
import re
import time
import unicodedata
from dataclasses import replace
from itertools import islice
from typing import Any, Dict, Iterable, Mapping, Optional, Sequence, Tuple

from experiment_hooks import launch, plain, process, wire
from experiment_hooks.disabled import NoRun
from experiment_hooks.errors import SetupError, UsageError
from experiment_hooks.introduction import Identity
from experiment_hooks.metrics import bounds
from experiment_hooks.run import Run
from experiment_hooks.settings import Settings

logger = logging.getLogger("experiment_hooks")

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,127}")
_HISTOGRAMS = ("step_duration", "episode_duration", "episode_steps")
_NO_LETTERS = ("Cc", "Cs", "Zl", "Zp")  # control characters, half characters, lines
MAX_INFO = 16
MAX_MODES = 64
MAX_SUCCESSES = 200
MAX_FACTS = 256


def open_run(  # noqa: PLR0913 (each is a word of the public contract)
    name: str,
    run_id: Optional[str] = None,
    resume: bool = False,
    config: Any = None,
    tags: Optional[Mapping[str, Any]] = None,
    facts: Optional[Mapping[str, Any]] = None,
    info: Optional[Mapping[str, Any]] = None,
    expected_episodes: Optional[Mapping[str, int]] = None,
    expected_steps: Optional[Mapping[str, int]] = None,
    expected_epochs: Optional[Mapping[str, int]] = None,
    success: Optional[Iterable[str]] = None,
    promise: Optional[float] = None,
    stoppable: bool = False,
    buckets: Optional[Mapping[str, Sequence[float]]] = None,
    thread: Optional[bool] = None,
) -> Run:
    """Open a run, or join the one that a parent process or a launcher has opened.

    Args:
        name: the experiment's name, the label ``experiment``.
        run_id: the run's id (letters, digits, ``._:@+=-``); made when left out.
        resume: go on with a run of this id that has ended.
        config: the configuration, any nested value; secrets in it are masked.
        tags: few words to find the run by, name to value.
        facts: what is worth knowing about the run, for its page.
        info: labels of ``experiment_run_info``, at most 16.
        expected_episodes: how many, by mode: gives progress and the time left.
        expected_steps: likewise, in steps.
        expected_epochs: likewise, in epochs.
        success: the outcomes that are successes.
        promise: seconds within which the run promises progress; learned if left out.
        stoppable: whether a stop may be raised as :class:`RunStopped`.
        buckets: other upper bounds for ``step_duration``, ``episode_duration`` (both in
            seconds) or ``episode_steps``.
        thread: False sends from the hook calls instead of from a thread.

    Returns:
        The run; use it as a context manager, or close it.

    Raises:
        UsageError: an argument is wrong; the message says what to change.
        SetupError: EPISIGHT_STRICT=1, and the machine lacks something.
    """
    _check(name, run_id, promise)
    bound = _buckets(buckets)
    opened: Dict[str, Any] = {
        "experiment": name,
        "resume": bool(resume),
        "tags": _mapping("tags", tags, MAX_FACTS),
        "facts": _mapping("facts", facts, MAX_FACTS),
        "info": _mapping("info", info, MAX_INFO),
        "expected_episodes": _expected("expected_episodes", expected_episodes),
        "expected_steps": _expected("expected_steps", expected_steps),
        "expected_epochs": _expected("expected_epochs", expected_epochs),
        "success": _success(success),
        "promise": None if promise is None else float(promise),
    }
    process.supersede(name)  # before what it leaves in the environment is read
    settings = Settings.from_environment()
    if settings.disabled:
        return _entered(NoRun(name))
    if thread is not None:
        settings = replace(settings, thread=bool(thread))
    _tell_problems(settings)
    opened["config"] = _config(config)
    for key in ("episode_duration", "episode_steps"):
        if key in bound:
            opened[f"{key}_buckets"] = bound[key]
    host = process.host(run_id or settings.run_id or "")
    if host is not None:
        bounds_given = bound.get("step_duration")
        return host.add_guest(
            name, opened, stoppable=stoppable, step_bounds=bounds_given
        )
    opened["launch"] = launch.facts(private=settings.private)
    run = _entered(
        Run(
            name,
            identify(name, run_id, settings),
            settings,
            opened,
            stoppable=stoppable,
            step_bounds=bound.get("step_duration", wire.STEP_DURATION_BUCKETS),
        )
    )
    _start(run, settings)
    if settings.sigterm:
        process.heed_sigterm()
    return run


def identify(name: str, run_id: Optional[str], settings: Settings) -> Identity:
    """The run's id, our role in it, and its owner.

    Both variables there: a child of the owner, unless this process is the owner itself
    (then it is a further run) or the code names another id. The id alone: shared.
    """
    inherited = settings.run_id
    if inherited and not _RUN_ID.fullmatch(inherited):
        logger.warning("episight: EPISIGHT_RUN_ID=%r is no run id; ignored", inherited)
        inherited = None
    foreign = not inherited or (run_id is not None and run_id != inherited)
    if foreign or (settings.owner and process.owns(settings.owner)):
        made = run_id or launch.new_run_id(name, time.time(), os.urandom(3))
        return Identity(made, "owner", b"")
    assert inherited is not None
    try:
        owner = bytes.fromhex(settings.owner or "")
    except ValueError:
        owner = b""
    if len(owner) != 16:
        return Identity(inherited, "shared", b"")
    return Identity(inherited, "child", owner)


def _entered(run: Run) -> Run:
    process.enter(run)
    return run


def _start(run: Run, settings: Settings) -> None:
    try:
        if settings.strict:
            run.check()
        run.start()
    except Exception as error:
        if settings.strict:
            process.leave(run)
            raise SetupError(f"the run cannot be watched: {error}") from error
        logger.warning("episight: the run goes on unwatched", exc_info=True)


def _config(config: Any) -> Any:
    shown = plain.plain(config, nodes=10_000, size=256 * 1024)
    return launch.mask(shown)


def _check(name: Any, run_id: Any, promise: Any) -> None:
    if not _is_name(name):
        raise UsageError(f"open_run(name=...) is a short text, one line, not {name!r}")
    if run_id is not None and not (
        isinstance(run_id, str) and _RUN_ID.fullmatch(run_id)
    ):
        raise UsageError(
            f"run_id={run_id!r}: use letters, digits and ._:@+=- (at most 128), or None"
        )
    try:
        good = promise is None or 0 < float(promise) < float("inf")
    except (TypeError, ValueError):
        good = False
    if not good:
        raise UsageError(f"promise={promise!r}: give seconds above 0, or None to learn")


def _is_name(name: Any) -> bool:
    if not isinstance(name, str) or not name.strip() or len(name) > 200:
        return False
    return not any(unicodedata.category(letter) in _NO_LETTERS for letter in name)


def _success(success: Any) -> Optional[Tuple[str, ...]]:
    """The outcomes that are successes, spelled as outcomes are."""
    if success is None:
        return None
    if isinstance(success, str):
        raise UsageError(f'success={success!r}: give a set, such as {{"{success}"}}')
    try:
        words = {plain.text(word, 100) for word in success}
    except TypeError:
        raise UsageError(
            f'success={success!r}: give a set of outcomes, such as {{"correct"}}'
        ) from None
    return tuple(sorted(words)[:MAX_SUCCESSES])


def _buckets(
    buckets: Optional[Mapping[str, Sequence[float]]],
) -> Dict[str, Tuple[float, ...]]:
    if buckets is not None and not isinstance(buckets, Mapping):
        raise UsageError(f"buckets={buckets!r}: give bounds by name, a mapping")
    found = {}
    for key, values in (buckets or {}).items():
        if key not in _HISTOGRAMS:
            raise UsageError(f"buckets[{key!r}]: only {', '.join(_HISTOGRAMS)}")
        try:
            found[key] = bounds(values)
        except (TypeError, ValueError) as error:
            raise UsageError(f"buckets[{key!r}]: {error}") from None
    return found


def _expected(name: str, given: Optional[Mapping[str, int]]) -> Dict[str, int]:
    try:
        found = {
            plain.text(mode, 100): int(number)
            for mode, number in islice((given or {}).items(), MAX_MODES)
        }
        fits = all(0 <= number < 1 << 63 for number in found.values())
    except (AttributeError, TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise UsageError(f'{name}={given!r}: give numbers by mode, {{"train": 100}}')
    return found


def _mapping(
    name: str, given: Optional[Mapping[str, Any]], most: int
) -> Dict[str, Any]:
    if given is None:
        return {}
    shown = launch.mask(plain.plain(given))
    if not isinstance(shown, dict):
        kind = type(given).__name__
        raise UsageError(f'{name}: give a mapping, {{"name": value}}, not a {kind}')
    return dict(list(shown.items())[:most])


def _tell_problems(settings: Settings) -> None:
    for problem in settings.problems:
        if settings.strict:
            raise SetupError(problem)
        logger.warning("episight: %s", problem)
