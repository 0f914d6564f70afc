"""All benchmarks, or those that are named: ``python -m benchmarks [NAME ...]``.

Each is a module of its own with options of its own: ``python -m benchmarks.hooks -h``.
On a Python older than 3.11 there are only those of the hooks. A quiet machine, please:
all of it takes an hour.
"""

import argparse
import importlib
import sys
import time
from typing import List, Optional

from benchmarks.table import say

OF_THE_HOOKS = {
    "hooks": "what a hook call costs the experiment",
    "loop": "what the hooks do to a real loop",
}
OF_THE_EXPORTER = {
    "ingest": "how many sources one exporter holds",
    "writing": "how fast a scrape is written",
    "scrape": "what a scrape of the whole exporter costs",
    "live": "what it costs to be looked at",
    "hour": "an hour of looking at a page, in minutes",
    "memory": "what is held in memory",
    "growth": "what grows with what",
    "limits": "what the machine itself does at best",
}
OF_MONTY = {"monty": "what watching costs a real Monty"}


def main(arguments: Optional[List[str]] = None) -> None:
    """Runs them one after the other."""
    there = dict(OF_THE_HOOKS)
    if sys.version_info >= (3, 11):
        there.update({**OF_THE_EXPORTER, **OF_MONTY})
    listed = "\n".join(f"  {name:10}{text}" for name, text in there.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Measured beside what people would use instead:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="these only")
    parser.add_argument("--tiny", action="store_true", help="only see that each runs")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in there]
    if unknown:
        parser.error(f"no benchmark of this Python: {', '.join(unknown)}\n{listed}")
    for name in options.names or [name for name in there if name not in OF_MONTY]:
        say(f"\n## {name}: {there[name]}\n")
        started = time.monotonic()
        module = importlib.import_module(f"benchmarks.{name}")
        module.main(["--tiny"] if options.tiny else [])
        say(f"\n({time.monotonic() - started:,.0f} s)")


if __name__ == "__main__":
    main()
