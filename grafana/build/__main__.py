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


_SAID_ANYWAY = {
    "placement": "inControlsMenu",
    "auto": False,
    "auto_count": 30,
    "auto_min": "10s",
}
"""What the SDK says of each link and variable: that the one stands in a menu, and not
in the open, and of the other what only variables of intervals have."""


def plain(made: d.Dashboard) -> dict[str, Any]:
    """A dashboard as JSON has it, without what the SDK cannot leave out."""
    found = json.loads(json.dumps(made, cls=JSONEncoder), object_hook=_as_meant)
    return {"id": None, **found}


def _as_meant(part: dict[str, Any]) -> dict[str, Any]:
    for key, value in _SAID_ANYWAY.items():
        if part.get(key) == value:
            del part[key]
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
