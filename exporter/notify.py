"""Tells a webhook when a run ends, stands still, is lost, or goes on after that.

Two threads, so that a webhook that hangs hides nothing: ``notify`` looks at the
verdicts once a second, ``webhook`` posts what there is to say, one after the other, and
tries again what was not taken. Nobody waits for either. What is told are turns that
happen while the exporter looks on, once each: never how things stood when it started,
and no end that is older than ten minutes.

The webhook's address may hold a secret: only its host is ever logged.
"""

import http.client
import json
import logging
import re
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from exporter import jsonable
from exporter._version import version
from exporter.changes import Change, Changes
from exporter.complaints import Complaints
from exporter.state import State
from exporter.verdict import Rules

logger = logging.getLogger("exporter")

LOOK_EACH = 1.0
TOO_OLD = 600.0
"""Seconds after its end when a run is history, and nobody is told any more."""
MAX_WAITING = 1000
KEPT_FOR = 300.0
"""Seconds for which a message is tried."""
LEAST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
TIMEOUT = 10.0
CLOSE_SECONDS = 2.0
TROUBLES = frozenset({"stalled", "lost"})
"""States that a run may leave again, to run on."""
MAX_TROUBLES = 10_000
MAX_TEXT = 1000
_RETRYABLE = {408, 425, 429}


# --- what is said ---------------------------------------------------------------------


def message(change: Change, before: str, page: str, now: float) -> dict[str, Any]:
    """What the webhook is told of a change; plain values that JSON has.

    Args:
        change: the verdict, and of which run.
        before: the state that it is told to have been in.
        page: the address of the run's page.
        now: Unix seconds.
    """
    found = change.verdict
    error = found.error
    said = {"type": error.type, "message": error.message[:MAX_TEXT]} if error else None
    text = _sentence(change, before)
    return {
        "run": change.run,
        "experiment": change.experiment,
        "state": found.state,
        "before": before or None,
        "reason": found.reason,
        "error": said,
        "at": found.ended_at or now,
        "url": page,
        "text": f"{text} {page}",
    }


_SENTENCES = {
    "completed": "has completed",
    "failed": "has failed",
    "stopped": "was stopped",
    "stalled": "stands still",
    "lost": "is lost",
}


def _sentence(change: Change, before: str) -> str:
    state, found = change.verdict.state, change.verdict
    does = _SENTENCES.get(state, f"goes on (it was {before})")
    why = f"{found.error.type}: {found.error.message}" if found.error else found.reason
    run = f"run {change.run}"
    named = f"{change.experiment}, {run}," if change.experiment else run
    what = f"{named} {does}"
    return _for_chats(f"{what}: {why}" if why else f"{what}.")


def _for_chats(text: str) -> str:
    """One line, as Slack and Mattermost take it: nothing in it calls anybody."""
    line = " ".join(text.split())[:MAX_TEXT]
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return line.replace("@", "@\N{ZERO WIDTH SPACE}")


# --- saying it ------------------------------------------------------------------------


class _Waiting(NamedTuple):
    body: bytes
    since: float  # monotonic


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None  # an error then, like any other status


class Webhook(threading.Thread):
    """Posts messages, oldest first, each until it is taken or too old.

    Args:
        url: where; checked by the settings.
    """

    def __init__(self, url: str) -> None:
        super().__init__(name="webhook", daemon=True)
        self.shown = urlsplit(url).hostname or ""
        self.counts = Counter(sent=0, failed=0)  # under the condition
        self._url = url
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._news = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._closing = False
        self._failures = 0
        self._complaints = Complaints(logger)

    def put(self, said: dict[str, Any]) -> None:
        """Say this soon; the oldest is dropped where too many wait."""
        body = json.dumps(jsonable.plain(said), allow_nan=False).encode()
        with self._news:
            if len(self._waiting) >= MAX_WAITING:
                del self._waiting[1]  # the first is under way
                self.counts["failed"] += 1
            self._waiting.append(_Waiting(body, time.monotonic()))
            self._news.notify()

    def close(self, timeout: float) -> None:
        """Try once more what waits, as far as the time goes; again: nothing."""
        with self._news:
            self._closing = True
            self._news.notify()
        if self.is_alive():
            self.join(timeout)

    def run(self) -> None:
        """Post, until closed."""
        while (one := self._next()) is not None:
            trouble, again = self._post(one.body)
            with self._news:
                self._settle(trouble, again and not self._closing)
                if self._failures and not self._closing:
                    pause = LEAST_PAUSE * 2 ** min(self._failures - 1, 10)
                    self._news.wait_for(
                        lambda: self._closing, min(LONGEST_PAUSE, pause)
                    )

    def _next(self) -> _Waiting | None:
        with self._news:
            while True:
                self._news.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return None
                one = self._waiting[0]
                if time.monotonic() - one.since <= KEPT_FOR:
                    return one
                self._waiting.popleft()
                self.counts["failed"] += 1
                self._complaints.say(
                    "a notification was given up", self.shown, "too old to be told"
                )

    def _settle(self, trouble: str, again: bool) -> None:
        """What became of a try; one that is tried again stays where it is."""
        self._failures = self._failures + 1 if trouble and again else 0
        if trouble:
            self._complaints.say("a notification failed", self.shown, trouble)
        if not again:
            self._waiting.popleft()
            self.counts["failed" if trouble else "sent"] += 1

    def _post(self, body: bytes) -> tuple[str, bool]:
        """Try once: what is wrong (empty: nothing), and whether to try again."""
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"episight/{version}",
        }
        request = urllib.request.Request(self._url, body, headers, method="POST")
        try:
            with self._opener.open(request, timeout=TIMEOUT):
                return "", False
        except urllib.error.HTTPError as error:
            error.close()
            if 300 <= error.code < 400:
                return f"HTTP {error.code}: redirects are not followed", False
            again = error.code >= 500 or error.code in _RETRYABLE
            return f"HTTP {error.code}", again
        except urllib.error.URLError as error:
            return self._hidden(str(error.reason)), True
        except (OSError, http.client.HTTPException, ValueError) as error:
            return self._hidden(f"{type(error).__name__}: {error}"), True

    def _hidden(self, text: str) -> str:
        """A library's words, without the address where they quote it."""
        parts = urlsplit(self._url)
        for secret in (self._url, parts.path, parts.query):
            if len(secret) > 1:
                text = text.replace(secret, "...")
        return re.sub(r"\s+", " ", text)


# --- what there is to say -------------------------------------------------------------


class Notifier(threading.Thread):
    """Looks at the verdicts, and tells a webhook; ``close`` looks once more.

    Started when the state is restored, and before anything new comes.

    Args:
        state: whose runs they are.
        rules: of the verdict.
        url: the webhook's address.
        states: of which somebody wants to be told.
        page: the address of a run's page.
        clock: Unix seconds.
    """

    def __init__(
        self,
        state: State,
        rules: Rules,
        *,
        url: str,
        states: Sequence[str],
        page: Callable[[str], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(name="notify", daemon=True)
        self._changes: Changes
        self.webhook = Webhook(url)
        self._state = state
        self._rules = rules
        self._states = frozenset(states)
        self._page = page
        self._clock = clock
        # Troubles that somebody was told of, by run: the end of them is told too.
        self._troubles: dict[str, str] = {}
        self._closing = threading.Event()

    def start(self) -> None:
        """Begin: what is so by now is not told."""
        self._changes = Changes(self._state, self._rules, self._clock())
        self.webhook.start()
        super().start()

    def run(self) -> None:
        """Look once a second, until closed."""
        while not self._closing.wait(LOOK_EACH):
            self._look()
        self._look()

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Tell what can still be told within the time; again: nothing."""
        end = time.monotonic() + timeout
        self._closing.set()
        if self.is_alive():
            self.join(timeout)
        self.webhook.close(max(0.0, end - time.monotonic()))

    def _look(self) -> None:
        now = self._clock()
        try:
            for change in self._changes.look(now):
                before = self._to_tell(change, now)
                if before is not None:
                    page = self._page(change.run)
                    self.webhook.put(message(change, before, page, now))
        except Exception:
            logger.exception("notifications: a look at the verdicts failed")

    def _to_tell(self, change: Change, now: float) -> str | None:
        """The state before, as it was told; None if this is not to be told."""
        state = change.verdict.state
        if state == "running":
            return self._troubles.pop(change.run, None)
        if state not in self._states or _is_history(change, now):
            if change.verdict.ended:
                self._troubles.pop(change.run, None)
            return None
        if state in TROUBLES:
            if not change.before and state == "stalled":
                return None  # it may only not have told yet how far it is
            before = self._troubles.get(change.run) or change.before
            self._troubles[change.run] = state
            if len(self._troubles) > MAX_TROUBLES:
                del self._troubles[next(iter(self._troubles))]
            return before
        return self._troubles.pop(change.run, None) or change.before


def _is_history(change: Change, now: float) -> bool:
    """Whether it ended long ago, and is only told of now.

    Of a run that is seen for the first time the loss may be noticed long after.
    """
    ended = change.verdict.ended_at
    if ended is None:
        return False
    if not change.before:
        ended = min(ended, change.last)
    return now - ended > TOO_OLD
