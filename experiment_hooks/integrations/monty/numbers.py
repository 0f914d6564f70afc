"""What Monty's people ask for as metrics, beside what every run has.

By learning module, never by object unless somebody asks, and then for so many objects,
the rest being ``other``. Gauges are of a step that was looked at, about once a second.
"""

from typing import Dict, Optional

from experiment_hooks.integrations.monty import belief
from experiment_hooks.integrations.monty.belief import Belief
from experiment_hooks.integrations.monty.options import Options
from experiment_hooks.integrations.monty.outcome import Outcome
from experiment_hooks.run import Run

OTHER = "other"
_BY_MODULE = {
    "highest": ("monty_highest_evidence", "Evidence for the most likely hypothesis"),
    "margin": ("monty_evidence_margin", "Evidence of the best object over the second"),
    "hypotheses": ("monty_hypotheses", "Hypotheses of all objects"),
}


class Numbers:
    """The metrics of one run.

    Args:
        run: where they are counted.
        options: whether objects are told apart.
    """

    def __init__(self, run: Run, options: Options) -> None:
        self._model = run.counter(
            "monty_model_seconds", "Time in the model's step", ["mode"]
        )
        self._environment = run.counter(
            "monty_environment_seconds", "Time between the model's steps", ["mode"]
        )
        self._modules = run.counter(
            "monty_lm_episodes", "Episodes by learning module", _MODULE_LABELS
        )
        self._gauges = {
            field: run.gauge(name, about, ["lm"], merge="mean")
            for field, (name, about) in _BY_MODULE.items()
        }
        self._apart = run.gauge(
            "monty_lm_disagreement",
            "Share of learning modules that do not believe what most do",
            merge="mean",
        )
        self._objects = (
            run.counter("monty_object_episodes", "Episodes by object", _OBJECT_LABELS)
            if options.objects
            else None
        )
        self._known: Dict[str, str] = {}
        self._most = options.objects
        self._in_model = self._in_environment = 0.0

    def step(self, model: float, environment: float) -> None:
        """A step of the model took so many seconds, after so many in between.

        They are counted with what is seen, about once a second, or with the episode.
        """
        self._in_model += model
        self._in_environment += environment

    def _count(self, mode: str) -> None:
        self._model.labels(mode).inc(self._in_model)
        self._environment.labels(mode).inc(self._in_environment)
        self._in_model = self._in_environment = 0.0

    def seen(self, mode: str, beliefs: Dict[str, Belief]) -> None:
        """What the learning modules believe at the step that is looked at."""
        self._count(mode)
        for lm, read in beliefs.items():
            for field, gauge in self._gauges.items():
                value = getattr(read, field)
                if value is not None:
                    gauge.labels(lm).set(value)
        apart = belief.disagreement(read.most_likely for read in beliefs.values())
        if apart is not None:
            self._apart.set(apart)

    def ended(self, mode: str, target: Optional[str], found: Outcome) -> None:
        """An episode came out like this."""
        self._count(mode)
        for lm, performance in found.by_module.items():
            self._modules.labels(lm=lm, mode=mode, performance=performance).inc()
        if self._objects is not None and target is not None:
            name = self._known.setdefault(
                target, target if len(self._known) < self._most else OTHER
            )
            self._objects.labels(object=name, mode=mode, outcome=found.outcome).inc()


_MODULE_LABELS = ["lm", "mode", "performance"]
_OBJECT_LABELS = ["object", "mode", "outcome"]
