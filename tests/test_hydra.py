"""The Hydra callback: real apps in processes of their own, and what they tell.

Runs on every Python that has Hydra.
"""

import pickle
import signal
import textwrap
from typing import Any, Callable, Dict, Iterator

import pytest

pytest.importorskip("hydra", reason="Hydra is not installed")

from experiment_hooks import wire
from experiment_hooks.integrations.hydra import Episight
from experiment_hooks.testing import Listener
from tests.support import Exporter, Pythons, eventually

BY_TARGET = (
    "+hydra.callbacks.episight._target_=experiment_hooks.integrations.hydra.Episight"
)

# A process that ends before anybody has answered waits 50 ms for that and no longer,
# which is little on a loaded machine: so the jobs wait themselves.
ANSWERED = """
    import time
    import experiment_hooks as eh

    def answered():
        run = eh.current_run()
        while run is not None and not run.url:
            time.sleep(0.001)
"""

APP = (
    ANSWERED
    + """
    import signal
    import hydra

    @hydra.main(version_base="1.3", config_path=None)
    def app(config):
        if config.get("deaf") is None:
            answered()
        if config.get("fails"):
            raise ValueError("the robot fell over")
        if config.get("waits"):
            print("waiting", flush=True)
            signal.pause()
        print("done")

    app()
"""
)


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Hears what the apps' runs tell, all of it once they have ended."""
    with Listener() as heard:
        yield heard
    assert heard.complaints == []


def env_of(listener: Listener) -> Dict[str, str]:
    return {"EPISIGHT_ENDPOINT": listener.endpoint}


def opened(listener: Listener) -> Any:
    """How the one run that was heard of has opened."""
    (found,) = listener.records(wire.RunOpened)
    return found


def closed(listener: Listener) -> Any:
    (found,) = listener.records(wire.RunClosed)
    return found


@pytest.mark.parametrize("override", ["+episight=hydra", BY_TARGET])
def test_one_override_makes_any_apps_job_a_run(
    listener: Listener, run_python: Pythons, override: str
) -> None:
    run_python(APP, override, "+robot.arms=2", env=env_of(listener))
    run = opened(listener)
    assert run.experiment == "experiment_0"
    assert run.config == {"robot": {"arms": 2}}
    facts = run.facts["hydra"]
    assert "+robot.arms=2" in facts["overrides"]
    assert facts["mode"] == "RUN"
    assert "outputs" in facts["output"]
    assert closed(listener).ending == "completed"


def test_without_the_override_nothing_happens(
    listener: Listener, run_python: Pythons
) -> None:
    run_python(APP, env=env_of(listener))
    assert listener.heard() == []


def test_a_job_that_raises_is_a_failed_run_and_fails_as_before(
    listener: Listener, run_python: Pythons
) -> None:
    said = run_python(
        APP, "+episight=hydra", "+fails=true", env=env_of(listener), status=1
    )
    assert "the robot fell over" in said.output
    end = closed(listener)
    assert end.ending == "failed"
    assert end.error
    assert (end.error.type, end.error.message) == ("ValueError", "the robot fell over")
    assert "experiment_0.py" in end.error.traceback


def test_ctrl_c_in_a_job_is_a_stopped_run(
    listener: Listener, run_python: Pythons
) -> None:
    child = run_python.start(
        APP, "+episight=hydra", "+waits=true", env=env_of(listener)
    )
    child.wait_for("waiting")
    child.signal(signal.SIGINT)
    assert child.wait() != 0
    end = closed(listener)
    assert (end.ending, end.reason) == ("stopped", "user")


def test_each_job_of_a_multirun_is_a_run(
    listener: Listener, run_python: Pythons
) -> None:
    arguments = ["-m", "+episight=hydra", "+arms=1,2", "+fails=false,true"]
    run_python(APP, *arguments, env=env_of(listener), status=1)
    runs = listener.records(wire.RunOpened)
    assert [run.config["arms"] for run in runs] == [1, 1, 2, 2]
    assert [run.facts["hydra"]["job"] for run in runs] == [0, 1, 2, 3]
    ends = listener.records(wire.RunClosed)
    assert [end.run for end in ends] == [run.run for run in runs]
    assert [end.ending for end in ends] == ["completed", "failed"] * 2


def test_name_and_whatever_open_run_takes_are_options_of_the_callback(
    listener: Listener, run_python: Pythons
) -> None:
    run_python(
        APP,
        "+episight=hydra",
        "+hydra.callbacks.episight.name=robots",
        "+hydra.callbacks.episight.tags={team: left}",
        env=env_of(listener),
    )
    run = opened(listener)
    assert (run.experiment, run.tags) == ("robots", {"team": "left"})


def test_what_the_configuration_says_wrongly_leaves_the_app_alone(
    listener: Listener, run_python: Pythons
) -> None:
    option = "+hydra.callbacks.episight.sucess=[ok]"
    said = run_python(APP, "+episight=hydra", option, env=env_of(listener))
    assert "sucess" in said.output
    assert "done" in said.output
    assert listener.heard() == []


def test_secrets_and_the_environment_stay_where_they_are(
    listener: Listener, run_python: Pythons
) -> None:
    run_python(
        APP,
        "+episight=hydra",
        "+db.password=hunter2",
        "+db.user=${oc.env:DB_USER}",
        env={**env_of(listener), "DB_USER": "someone"},
    )
    run = opened(listener)
    assert run.config["db"] == {"password": "***", "user": "${oc.env:DB_USER}"}
    assert "hunter2" not in str(run)
    assert "someone" not in str(run)


def test_a_missing_value_stays_missing_and_the_job_is_watched(
    listener: Listener, run_python: Pythons
) -> None:
    run_python(APP, "+episight=hydra", "+arms=???", env=env_of(listener))
    assert opened(listener).config == {"arms": "???"}


OPENS = (
    ANSWERED
    + """
    import subprocess, sys
    import hydra

    @hydra.main(version_base="1.3", config_path=None)
    def app(config):
        answered()
        job = eh.current_run()
        with eh.open_run("mine", success={"found"}, config={"lr": 0.1}) as run:
            assert run is job
            with run.episode(mode="eval") as episode:
                episode.step()
                episode.finish("found", {"return": 2.0})
            child = "import experiment_hooks as eh; eh.open_run('child').close(5)"
            subprocess.run([sys.executable, "-c", child], check=True)
        assert not job.closed
        with eh.current_run().episode(mode="eval"):
            pass  # in the job's run too, from code that only looks for one
        with eh.open_run("other", run_id="other"):
            answered()  # a run of its own
        raise ValueError("after all that")

    app()
"""
)


def test_a_run_that_the_app_opens_is_the_jobs_run(
    listener: Listener, run_python: Pythons
) -> None:
    run_python(OPENS, "+episight=hydra", env=env_of(listener), status=1)
    first, second = listener.episodes()
    assert first.run == second.run
    assert (first.outcome, first.success) == ("found", True)
    assert second.outcome == "ended"
    sources = listener.records(wire.SourceOpened)
    assert [(one.run == first.run, one.role) for one in sources] == [
        (True, "owner"),
        (True, "child"),
        (False, "owner"),
    ]
    # The job's end is the run's, and not that of the app's part in it.
    ends = {end.run: end.ending for end in listener.records(wire.RunClosed)}
    assert ends == {first.run: "failed", "other": "completed"}


def test_what_the_app_says_of_its_run_comes_before_what_the_job_says(
    exporter_process: Callable[..., Exporter], run_python: Pythons
) -> None:
    exporter = exporter_process()
    options = ["+hydra.callbacks.episight.tags={team: left}", "+lr=0.2"]
    run_python(OPENS, "+episight=hydra", *options, env=exporter.env, status=1)
    (found,) = [one for one in exporter.runs() if one["experiment"] == "mine"]
    assert (found["state"], found["tags"]) == ("failed", {"team": "left"})
    run = exporter.run(found["run"])
    assert run["config"] == {"lr": 0.1}
    assert "+lr=0.2" in run["facts"]["hydra"]["overrides"]


STOPS = """
    import hydra
    import experiment_hooks as eh

    @hydra.main(version_base="1.3", config_path=None)
    def app(config):
        try:
            with eh.open_run("mine", stoppable=True) as run:
                with run.episode() as episode:
                    print("steps", flush=True)
                    while True:
                        episode.step()
        except eh.RunStopped:
            print("stopped as asked")

    app()
"""


def test_a_stop_that_ends_the_apps_part_is_the_jobs_stop(
    listener: Listener, run_python: Pythons
) -> None:
    child = run_python.start(STOPS, "+episight=hydra", env=env_of(listener))
    child.wait_for("steps")
    eventually(lambda: listener.records(wire.EpisodeStarted))
    listener.command("stop", when="step")
    assert child.wait() == 0, child.output
    assert "stopped as asked" in child.output
    end = closed(listener)
    assert (end.ending, end.reason) == ("stopped", "user")


def test_a_private_job_does_not_say_where_its_output_is(
    listener: Listener, run_python: Pythons
) -> None:
    private = {**env_of(listener), "EPISIGHT_PRIVATE": "1"}
    run_python(APP, "+episight=hydra", env=private)
    assert set(opened(listener).facts["hydra"]) == {"overrides", "mode"}


def test_a_job_that_is_a_child_of_a_run_joins_it(
    listener: Listener, run_python: Pythons
) -> None:
    (run_python.directory / "app.py").write_text(textwrap.dedent(APP))
    run_python(
        """
        import subprocess, sys
        import experiment_hooks as eh

        with eh.open_run("parent"):
            subprocess.run([sys.executable, "app.py", "+episight=hydra"], check=True)
        """,
        env=env_of(listener),
    )
    assert len({record.run for record in listener.records()}) == 1
    by_role = {one.role: one for one in listener.records(wire.SourceOpened)}
    assert sorted(by_role) == ["child", "owner"]
    assert closed(listener).source == by_role["owner"].source


def test_the_callback_can_be_pickled_for_a_launcher() -> None:
    copied = pickle.loads(pickle.dumps(Episight(name="robots", tags={"a": "b"})))
    assert vars(copied) == vars(Episight(name="robots", tags={"a": "b"}))


def test_without_an_exporter_the_job_goes_on(run_python: Pythons) -> None:
    nowhere = {"EPISIGHT_ENDPOINT": "tcp://127.0.0.1:1"}
    said = run_python(APP, "+episight=hydra", "+deaf=true", env=nowhere)
    assert "done" in said.output
