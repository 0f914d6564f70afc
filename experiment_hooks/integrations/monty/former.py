"""What the earlier monitor (``contrib/liveview_experiment``) had, and what replaces it.

Its keys in ``experiment.config`` are understood where they mean something here, else
answered with a sentence. And its ``experiment.broadcaster``, for code that calls it.
"""

from typing import Any, Awaitable, Callable, Dict, List

from experiment_hooks.errors import RunStopped
from experiment_hooks.finished import FINISHED
from experiment_hooks.integrations.monty import facts
from experiment_hooks.run import Run

TARGET = "MontyExperimentWithLiveView"
_HELP = "see docs/monty.md, 'From the earlier monitor'"
_ANSWERS = {
    "liveview_host": "the page is the exporter's: EPISIGHT_WEB_HOST of the exporter",
    "liveview_port": "the page is the exporter's: EPISIGHT_WEB_PORT of the exporter",
    "sensor_image_throttle_ms": "give episight.image_rate, images a second",
}


def options(config: Any) -> Dict[str, Any]:
    """What its keys in ``experiment.config`` mean here, as options."""
    found: Dict[str, Any] = {}
    if facts.get(config, "enable_liveview") is False:
        found["disabled"] = True
    host, port = facts.get(config, "zmq_host"), facts.get(config, "zmq_port")
    if host is not None or port is not None:
        found["endpoint"] = f"tcp://{host or '127.0.0.1'}:{port or 5555}"
    throttle = facts.get(config, "sensor_image_throttle_ms")
    if isinstance(throttle, (int, float)) and throttle > 0:
        found["image_rate"] = 1000.0 / throttle
    return found


def said(config: Any) -> List[str]:
    """A sentence for each of its settings that does nothing here."""
    sentences = []
    target = str(facts.get(config, "experiment._target_") or "")
    if target.endswith(TARGET):
        sentences.append(
            f"experiment._target_={target} is the earlier monitor's. Take it out, so "
            f"that the experiment is its own class again, and say +episight=monty; "
            f"{_HELP}"
        )
    for key, answer in _ANSWERS.items():
        if facts.get(config, f"experiment.config.{key}") is not None:
            sentences.append(f"experiment.config.{key} does nothing here: {answer}")
    return sentences


class Broadcaster:
    """``experiment.broadcaster``, as it was: the same calls, by the run.

    Who calls it knows nothing of a stop: that is raised again at the next step, from
    which Monty comes to its end.

    Args:
        run: where they go. All its calls return at once, from any thread; what they
            return may be awaited.
    """

    def __init__(self, run: Run) -> None:
        self.publish_metric = _calm(run.publish_metric)
        self.publish_log = _calm(run.publish_log)
        self.publish_state = _calm(run.publish_state)
        self._publish_data = _calm(run.publish_data)

    def publish_data(self, stream_name: str, data: Any) -> Awaitable[None]:
        """A named data stream's newest value."""
        return self._publish_data(stream_name, data)


Publish = Callable[..., Awaitable[None]]


def _calm(publish: Publish) -> Publish:
    def published(*args: Any, **kwargs: Any) -> Awaitable[None]:
        try:
            return publish(*args, **kwargs)
        except RunStopped:
            return FINISHED

    return published
