"""What it costs to be looked at: ``python -m benchmarks live``.

Run by hand, from the checkout, on Linux. Rules of this measurement:

- A real experiment takes a hundred steps a second and says in each what time it is; it,
  the exporter and the viewers are processes of their own.
- A viewer is a websocket that reads all that it is sent (one process for all of them),
  as the page's script does, without drawing it. ``ms`` is from the step to what of it
  came, median and 99th percentile of all viewers' updates.
- ``CPU`` is all that the exporter's process uses, as a share of one core.
- ``Chromium`` is one browser more, of which is taken when the page has changed: from
  the step to the screen, but for the painting.
"""

from __future__ import annotations

import argparse
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.fleet import Used
from benchmarks.table import machine, say, table
from tests.support import Exporter, chromium, eventually

STAMP = re.compile(rb"at=(\d+\.\d+);")
EXPERIMENT = """
import time
import experiment_hooks as eh
with eh.open_run("seen", run_id="seen") as run:
    while True:
        with run.episode(target="mug") as ep:
            for step in range(200):
                state = {"clock": f"at={time.time():.4f};", "pose": {"x": step / 7}}
                ep.step(state, {"left": step / 200, "right": 0.5})
                time.sleep(0.01)
            ep.finish("fine", results={"return": 3.25})
"""
WATCH_THE_CLOCK = """
() => {
  window.delays = [];
  new MutationObserver(() => {
    const found = document.body.textContent.match(/at=(\\d+\\.\\d+);/);
    if (found && found[1] !== window.last) {
      window.last = found[1];
      window.delays.push(Date.now() - 1000 * Number(found[1]));
    }
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
}
"""


class Viewer:
    """One websocket: counts what comes, and how old it is."""

    def __init__(self, web: str, path: str) -> None:
        parts = urlsplit(web)
        self.socket = socket.create_connection((str(parts.hostname), parts.port))
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self._came = b""
        while b"\r\n\r\n" not in self._came:
            self._came += self.socket.recv(4096)
        head, _, self._came = self._came.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise RuntimeError(head.decode())
        self._newest = b""
        self.updates, self.bytes = 0, 0
        self.delays: list[float] = []

    def readable(self) -> None:
        """Read what came: each frame of it is one update."""
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionResetError("the exporter closed a viewer's connection")
        self.bytes += len(data)
        self._came += data
        while True:
            size, head = _size(self._came)
            if size is None or len(self._came) < head + size:
                return
            frame, self._came = (
                self._came[head : head + size],
                self._came[head + size :],
            )
            self.updates += 1
            found = STAMP.search(frame)
            if found is not None and found[1] != self._newest:
                self._newest = found[1]
                self.delays.append(time.time() - float(found[1]))


def _size(data: bytes) -> tuple[int | None, int]:
    """The size of the frame that begins here, and of its head (RFC 6455)."""
    if len(data) < 2:
        return None, 0
    length, head = data[1] & 127, 2
    if length >= 126:
        head = 4 if length == 126 else 10
        if len(data) < head:
            return None, 0
        length = int.from_bytes(data[2:head], "big")
    return length, head


@contextmanager
def experiment(
    exporter: Exporter, code: str = EXPERIMENT, run: str = "seen"
) -> Iterator[None]:
    """Meanwhile it runs, under this id."""
    env = {**exporter.env, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=env, stderr=subprocess.DEVNULL
    )
    try:
        eventually(lambda: any(one["run"] == run for one in exporter.runs()))
        yield
    finally:
        process.kill()
        process.wait()


def watched(viewers: int, seconds: float) -> list[object]:
    """One row: so many viewers of one run."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        exporter = Exporter(Path(directory)).start()
        try:
            with experiment(exporter):
                crowd = [
                    Viewer(exporter.web, "/runs/seen/live") for _ in range(viewers)
                ]
                selector = selectors.DefaultSelector()
                for one in crowd:
                    selector.register(one.socket, selectors.EVENT_READ, one)
                _read(selector, 2.0)  # the hooks are told that somebody looks
                for one in crowd:
                    one.updates, one.bytes, one.delays = 0, 0, []
                used = Used(exporter.process.pid)
                _read(selector, seconds)
                cpu, elapsed = used.seconds, used.elapsed
                for one in crowd:
                    one.socket.close()
        finally:
            exporter.stop()
    updates = sum(one.updates for one in crowd)
    delays = sorted(delay for one in crowd for delay in one.delays)
    if not crowd:
        return ["0", "", "", f"{100 * cpu / elapsed:.1f} %", "", "", ""]
    return [
        f"{viewers}",
        f"{updates / viewers / elapsed:.1f}",
        f"{sum(one.bytes for one in crowd) / updates:,.0f}",
        f"{100 * cpu / elapsed:.1f} %",
        f"{cpu / updates * 1e6:,.0f}",
        f"{statistics.median(delays) * 1e3:.0f}",
        f"{delays[int(len(delays) * 0.99)] * 1e3:.0f}",
    ]


def unharmed(viewers: int, seconds: float) -> str:
    """What scrapes and the slowest viewer see while so many look, and one is stuck."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        exporter = Exporter(Path(directory)).start()
        try:
            with experiment(exporter):
                alone = _scraped(exporter, seconds / 4)
                stuck = Viewer(exporter.web, "/runs/seen/live")  # nobody reads there
                crowd = [
                    Viewer(exporter.web, "/runs/seen/live") for _ in range(viewers)
                ]
                selector = selectors.DefaultSelector()
                for one in crowd:
                    selector.register(one.socket, selectors.EVENT_READ, one)
                _read(selector, 2.0)
                for one in crowd:
                    one.delays = []
                meanwhile: list[float] = []
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    _read(selector, 0.5)
                    meanwhile += _scraped(exporter, 0.0)
                worst = max(delay for one in crowd for delay in one.delays)
                stuck.socket.close()
                for one in crowd:
                    one.socket.close()
        finally:
            exporter.stop()
    return (
        f"{viewers} viewers and one that never reads: no update was older than"
        f" {worst * 1e3:.0f} ms (goal: 1,000); a scrape took"
        f" {statistics.median(meanwhile) * 1e3:.1f} ms, without them"
        f" {statistics.median(alone) * 1e3:.1f} ms"
    )


def _scraped(exporter: Exporter, seconds: float) -> list[float]:
    """How long scrapes took, one at least."""
    took: list[float] = []
    end = time.monotonic() + seconds
    while not took or time.monotonic() < end:
        since = time.perf_counter()
        assert exporter.get("/metrics").status == 200
        took.append(time.perf_counter() - since)
        time.sleep(0.02)
    return took


def _read(selector: selectors.BaseSelector, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for key, _ in selector.select(0.1):
            key.data.readable()


def painted(seconds: float) -> str:
    """How long it takes until a real page has changed, in words."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        return "Chromium: playwright is not installed"
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        exporter = Exporter(Path(directory)).start()
        try:
            with experiment(exporter), sync_playwright() as playwright:
                try:
                    browser = playwright.chromium.launch(
                        executable_path=chromium(), args=["--no-sandbox"]
                    )
                except Error as error:
                    return f"Chromium: {str(error).splitlines()[0]}"
                page = browser.new_page()
                page.goto(f"{exporter.web}/runs/seen")
                page.evaluate(WATCH_THE_CLOCK)
                page.wait_for_timeout(seconds * 1000)
                delays = sorted(page.evaluate("() => window.delays"))
                browser.close()
        finally:
            exporter.stop()
    middle, p99 = statistics.median(delays), delays[int(len(delays) * 0.99)]
    return (
        f"Chromium: {len(delays)} changes of the page, {middle:.0f} ms after the step,"
        f" p99 {p99:.0f} ms (goal: 250 at the median)"
    )


def main(arguments: list[str] | None = None) -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description="What it costs to be looked at.")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="N")
    parser.add_argument("--tiny", action="store_true", help="only see that it runs")
    options = parser.parse_args(arguments)
    seconds, levels = options.seconds, [0, 1, 10, 50, 200]
    if options.tiny:
        seconds, levels = 1.0, [2]
    say(machine("flask", "flask-sock", "playwright"))
    say()
    head = ("viewers", "updates/s", "bytes each", "CPU", "us an update", "ms", "p99")
    table(head, (watched(viewers, seconds) for viewers in levels))
    say()
    say(unharmed(levels[-1], seconds))
    say(painted(seconds))


if __name__ == "__main__":
    main()
