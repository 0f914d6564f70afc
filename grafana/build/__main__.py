"""``python -m grafana.build [--page ADDRESS] [FOLDER]`` writes the dashboards."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as d

from grafana.build import episodes, exporter, fleet, monty, run
from grafana.build.controls import PAGE

FOLDER = Path(__file__).parent.parent / "dashboards"
MAKERS = {
    "episodes": episodes.dashboard,
    "exporter": exporter.dashboard,
    "fleet": fleet.dashboard,
    "monty": monty.dashboard,
    "run": run.dashboard,
}


def plain(made: d.Dashboard) -> dict[str, Any]:
    """A dashboard as JSON has it.

    The SDK cannot say that links stand in the open, and not in a menu: it gives each
    the one placement that it knows.
    """
    found = json.loads(json.dumps(made, cls=JSONEncoder), object_hook=_in_the_open)
    return {"id": None, **found}


def _in_the_open(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("placement") == "inControlsMenu":
        del part["placement"]
    return part


def texts(page: str = PAGE) -> Mapping[str, str]:
    """What is in each file, by its name."""
    return {
        f"{name}.json": json.dumps(plain(make(page)), indent=2, sort_keys=True) + "\n"
        for name, make in MAKERS.items()
    }


def main() -> None:
    """Write the files."""
    asked = argparse.ArgumentParser(prog="python -m grafana.build")
    asked.add_argument("--page", default=PAGE, help="the live page's address")
    asked.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    given = asked.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts(given.page.rstrip("/")).items():
        (given.folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
