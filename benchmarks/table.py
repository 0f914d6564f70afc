"""What all benchmarks print: the machine, the versions, tables in Markdown."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Iterable, List, Sequence


def say(line: str = "") -> None:
    """One line of the output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def machine(*packages: str) -> str:
    """Processor, and versions of all that takes part, as far as it is installed."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = f"{len(names)} x {names[0].split(':')[1].strip()}" if names else cpu
    found = [f"Python {platform.python_version()}"]
    for package in ("episight", "msgspec", "pyzmq", *packages):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return f"{cpu}; {', '.join(found)}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows as they come, each at once; the first column to the left."""
    widths: List[int] = [max(11, len(word)) for word in head]
    widths[0] = max(28, len(head[0]))
    _row(head, widths)
    rule = ["-" * (width + 2) if not n else "-" * (width + 1) + ":"
            for n, width in enumerate(widths)]  # fmt: skip
    say("|" + "|".join(rule) + "|")
    for row in rows:
        _row(row, widths)


def _row(cells: Sequence[object], widths: Sequence[int]) -> None:
    texts = [
        f"{cell!s:>{width}}" if number else f"{cell!s:{width}}"
        for number, (cell, width) in enumerate(zip(cells, widths))
    ]
    say("| " + " | ".join(texts) + " |")
