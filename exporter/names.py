"""The promised names of run metrics, with their types and help: one table.

Dashboards, rules, the README and the tests read this table.
"""

import re

RUN_FAMILIES: dict[str, tuple[str, str]] = {
    "experiment_run_info": ("gauge", "What is constant about a run, as labels; 1."),
    "experiment_run_state": ("gauge", "The run's verdict: 1 for the state it is in."),
    "experiment_run_start_timestamp_seconds": ("gauge", "When the run was opened."),
    "experiment_run_end_timestamp_seconds": ("gauge", "When the run ended."),
    "experiment_run_last_step_timestamp_seconds": (
        "gauge",
        "When the run last made progress.",
    ),
    "experiment_run_last_heartbeat_timestamp_seconds": (
        "gauge",
        "When a process of the run was last heard.",
    ),
    "experiment_run_progress_promise_seconds": (
        "gauge",
        "Time within which progress is promised, given or learned.",
    ),
    "experiment_run_expected_episodes": ("gauge", "Episodes that the run will have."),
    "experiment_run_expected_steps": ("gauge", "Steps that the run will have."),
    "experiment_run_expected_epochs": ("gauge", "Epochs that the run will have."),
    "experiment_run_sources": ("gauge", "Processes of the run by their state."),
    "experiment_run_epoch": ("gauge", "The newest epoch, from 0."),
    "experiment_steps": ("counter", "Steps done."),
    "experiment_episodes_started": ("counter", "Episodes started."),
    "experiment_episodes": ("counter", "Episodes ended, by their outcome."),
    "experiment_episodes_lost": (
        "counter",
        "Episodes closed because their process was lost.",
    ),
    "experiment_episode_successes": ("counter", "Episodes whose outcome is a success."),
    "experiment_episode_duration_seconds": ("histogram", "Duration of episodes."),
    "experiment_episode_steps": ("histogram", "Steps of episodes."),
    "experiment_step_duration_seconds": (
        "histogram",
        "Time from one step to the next in an episode.",
    ),
    "experiment_phase_seconds": ("counter", "Time spent in a phase of episodes."),
    "experiment_phases": ("counter", "How often a phase of episodes has ended."),
    "experiment_episode_result_last": ("gauge", "A result of the newest episode."),
    "experiment_episode_result_recent_mean": (
        "gauge",
        "Mean of a result over the last 100 episodes.",
    ),
}
"""Name without ``_total``, type, help."""


def label_name(text: object) -> str:
    """Any text as a label name."""
    name = re.sub(r"[^a-zA-Z0-9_]", "_", str(text))[:200]
    if name.startswith("__"):  # those are Prometheus's own
        name = f"_{name.lstrip('_')}"
    return name if name and not name[0].isdigit() else f"_{name}"
