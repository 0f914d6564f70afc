"""Lets a view of the user's draw aside: on a thread of its own, for which nobody waits.

Of each page only the newest values wait to be drawn, and only the newest drawing is
kept. The thread ends when nothing is asked for a while. One that hangs holds up nothing
but this view.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from exporter.live.custom import Seen, View

SLOW = 0.05
"""Seconds of computing that a drawing may take: the experiments may leave it few."""
REST, LONGEST_REST = 20.0, 10.0
"""One that took longer is not tried again for so many times as long, or seconds."""
LATE = 1.0
"""Seconds that it may take in all, waiting included."""
IDLE = 5.0
MAX_KEPT = 100
MAX_SECTIONS = 20


@dataclass(frozen=True)
class Drawing:
    """Sections by their headings, or what went wrong."""

    sections: Mapping[str, Markup] = field(default_factory=dict)
    mistake: str = ""


def too_slow(took: float) -> str:
    """What is said of a drawing that took so many seconds."""
    return f"took {1e3 * took:.0f} ms to draw; {1e3 * SLOW:.0f} are allowed"


class Aside:
    """Draws with one view.

    Args:
        view: the user's.
        explain: a sentence for an exception, with file and line.
        done: called when a drawing is there.
    """

    def __init__(
        self,
        view: View,
        explain: Callable[[BaseException], str],
        done: Callable[[], None],
    ) -> None:
        self._view = view
        self._explain = explain
        self._done = done
        self._fresh = threading.Condition()  # guards what follows
        self._asked: OrderedDict[Hashable, Seen] = OrderedDict()
        self._drawn: OrderedDict[Hashable, Drawing] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._since = 0.0  # when the drawing under way began; 0: none is
        self._again = 0.0

    def ask(self, page: Hashable, seen: Seen) -> None:
        """These are a page's newest values."""
        with self._fresh:
            self._asked[page] = seen
            while len(self._asked) > MAX_KEPT:
                self._asked.popitem(last=False)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._serve, name="view", daemon=True
                )
                self._thread.start()
            self._fresh.notify()

    def newest(self, page: Hashable) -> Drawing:
        """The newest drawing of a page's values."""
        with self._fresh:
            since = self._since
            found = self._drawn.get(page, Drawing())
        late = time.monotonic() - since
        if since and late > LATE:
            return Drawing(mistake=f"has been drawing for {late:.0f} s")
        return found

    # --- the thread ------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            with self._fresh:
                if not self._asked and not self._fresh.wait(IDLE) and not self._asked:
                    self._thread = None
                    return
                rest = self._again - time.monotonic()
            if rest > 0:  # what is asked meanwhile takes the place of what was
                time.sleep(rest)
            with self._fresh:
                if not self._asked:
                    continue
                page, seen = self._asked.popitem(last=False)
                self._since = time.monotonic()
            drawing = self._draw(seen)
            with self._fresh:
                self._since = 0.0
                self._drawn[page] = drawing
                self._drawn.move_to_end(page)
                while len(self._drawn) > MAX_KEPT:
                    self._drawn.popitem(last=False)
            self._done()

    def _draw(self, seen: Seen) -> Drawing:
        since, computed = time.monotonic(), time.thread_time()
        try:
            found = self._view.draw(seen)
            sections = {
                str(name)[:100]: escape(html)
                for name, html in list(found.items())[:MAX_SECTIONS]
            }
        except BaseException as error:  # a SystemExit too is only a mistake in a view
            self._again = time.monotonic() + 1.0
            return Drawing(mistake=self._explain(error))
        took = time.monotonic() - since
        if took <= LATE:
            took = time.thread_time() - computed
        if took > SLOW:
            self._again = time.monotonic() + min(REST * took, LONGEST_REST)
            return Drawing(mistake=too_slow(took))
        return Drawing(sections)
