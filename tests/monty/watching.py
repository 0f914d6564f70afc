"""What an exporter knows of a Monty, beside what the CSV files say of it."""

import contextlib
import json
import threading
from collections import Counter
from typing import Any, Dict, Iterator, List

from tests.monty.running import Rows
from tests.support import Exporter, eventually

ENDED = {"completed", "failed", "stopped", "lost"}
# Of several learning modules the one whose performance stands last here counts.
WEAKEST_FIRST = [
    "patch_off_object", "no_label", "pose_time_out", "time_out", "confused_mlh",
    "correct_mlh", "no_match", "confused", "correct",
]  # fmt: skip


def the_run(exporter: Exporter, experiment: str) -> Dict[str, Any]:
    """The one run of this name, once it is there."""

    def found() -> List[Dict[str, Any]]:
        return [run for run in exporter.runs() if run["experiment"] == experiment]

    (run,) = eventually(found, 60.0, f"a run called {experiment}")
    return run


def ended(exporter: Exporter, experiment: str) -> Dict[str, Any]:
    """The one run of this name, once it has ended."""

    def over() -> bool:
        return the_run(exporter, experiment)["state"] in ENDED

    eventually(over, 60.0, f"{experiment} has ended")
    return exporter.run(the_run(exporter, experiment)["run"])


def outcomes(rows: Rows) -> List[str]:
    """How each episode came out, as Monty itself counts several learning modules."""
    by_episode: Dict[int, List[str]] = {}
    number = -1
    for row in rows:
        number += row["lm_id"] == "LM_0"
        by_episode.setdefault(number, []).append(row["primary_performance"])
    return [max(one, key=WEAKEST_FIRST.index) for one in by_episode.values()]


def assert_told(exporter: Exporter, run: Dict[str, Any], mode: str, rows: Rows) -> None:
    """Pages, API and metrics say of this mode what the rows of one LM say."""
    episodes = exporter.episodes(run["run"], f"?mode={mode}&limit=1000")
    episodes.sort(key=lambda one: one["index"])
    told = [
        (one["target"], one["outcome"], one["steps"], one["results"]["matching_steps"])
        for one in episodes
    ]
    assert told == [
        (
            row["primary_target_object"],
            outcome,
            int(row["monty_steps"]),
            float(row["monty_matching_steps"]),
        )
        for row, outcome in zip(rows, outcomes(rows))
    ]
    for one, row in zip(episodes, rows):
        assert one["seed"] == int(row["episode_seed"])
        error = row["rotation_error"]
        assert one["results"].get("rotation_error") == (float(error) if error else None)
        evidence = row["highest_evidence"]
        assert one["results"]["highest_evidence"] == float(evidence)
    labels = {"run": run["run"], "mode": mode}
    steps = sum(int(row["monty_steps"]) for row in rows)
    assert exporter.value("experiment_steps_total", **labels) == steps
    for outcome, number in Counter(outcomes(rows)).items():
        name = "experiment_episodes_total"
        assert exporter.value(name, outcome=outcome, **labels) == number


class Onlooker:
    """A browser without a window: keeps all that a run's page is sent."""

    def __init__(self, exporter: Exporter, experiment: str) -> None:
        self.heard = ""
        self._exporter = exporter
        self._experiment = experiment
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        import simple_websocket

        run = the_run(self._exporter, self._experiment)["run"]
        address = f"ws{self._exporter.web[4:]}/runs/{run}/live"
        browser = simple_websocket.Client(address)
        with contextlib.suppress(simple_websocket.ConnectionClosed):
            while not self._over.is_set():
                self.heard += str(browser.receive(timeout=1.0) or "")
        with contextlib.suppress(simple_websocket.ConnectionClosed):
            browser.close()


@contextlib.contextmanager
def looking(exporter: Exporter, experiment: str) -> Iterator[Onlooker]:
    """Somebody looks at the run's page, from when it is there."""
    onlooker = Onlooker(exporter, experiment)
    onlooker._thread.start()
    try:
        yield onlooker
    finally:
        onlooker._over.set()
        onlooker._thread.join(30.0)


def give_stop(exporter: Exporter, run: str, when: str) -> None:
    """Have somebody stop the run."""
    said = {"command": "stop", "when": when, "reason": "enough"}
    answer = exporter.post(f"/api/v1/runs/{run}/commands", said)
    assert answer.status == 202, json.dumps(said)


def steps(run: Dict[str, Any]) -> int:
    """How many steps a run has made."""
    return sum(mode["steps"] for mode in run["modes"].values())
