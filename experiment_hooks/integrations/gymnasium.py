"""Gymnasium: what an environment lives through becomes the run's episodes.

One line each: ``env = EpisightWrapper(env)``, ``envs = EpisightVectorWrapper(envs)``.
They only translate. What passes through is not changed, no random number is drawn, and
nothing is raised but what the environment raises and, in a run that can be stopped,
``RunStopped``. If something odd happens in here, it is logged once and the environment
goes on unwatched.

An episode belongs to the run that was given, else to the process's current run. Where
there is neither, as in a worker of ``AsyncVectorEnv`` or ``SubprocVecEnv``, a run is
opened: it joins the parent process's by the environment, and ends with the process.
(Workers by ``forkserver`` have the environment of when their server was started, with
the process's first such worker: open the run before, one a process.) Nothing of a run
is pickled or copied with a wrapper.

A wrapper belongs to the thread that steps its environment. Needs Gymnasium 0.29, for
vector environments 1.0.
"""

import functools
import logging
import math
import multiprocessing.util
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    Union,
)

import gymnasium
import gymnasium.vector
from gymnasium.utils import RecordConstructorArgs

import experiment_hooks as eh
from experiment_hooks import process
from experiment_hooks.no_episode import NO_EPISODE
from experiment_hooks.settings import Settings

if TYPE_CHECKING:
    _Wrapper = gymnasium.Wrapper[Any, Any, Any, Any]
    _VectorWrapper = gymnasium.vector.VectorWrapper[Any, Any, Any, Any, Any]
else:
    _Wrapper = gymnasium.Wrapper
    _VectorWrapper = getattr(gymnasium.vector, "VectorWrapper", object)

logger = logging.getLogger("experiment_hooks")

Scores = Union[str, Callable[[Any], Any]]
Images = Union[bool, Callable[[Any], Mapping[str, Any]]]


class EpisightWrapper(_Wrapper, RecordConstructorArgs):
    """Makes an episode of what happens from a reset's first step to an end.

    Its results are ``return`` and ``length``. Its outcome is ``success`` or ``failure``
    where the last ``info`` says which, else ``terminated`` or ``truncated``; ``reset``
    or ``closed`` if that came first; ``error`` if the environment raised.

    Attributes:
        mode: of the episodes that start from now on.
        epoch: likewise.
    """

    def __init__(
        self,
        env: "gymnasium.Env[Any, Any]",
        run: Optional[eh.Run] = None,
        mode: str = "train",
        scores: Optional[Scores] = None,
        images: Images = False,
        success_key: str = "is_success",
        success: Optional[Iterable[str]] = None,
    ) -> None:
        """Wrap ``env``.

        Args:
            env: any environment, before or after other wrappers.
            run: where the episodes belong; by default the current run.
            mode: ``train``, ``eval`` or a word of one's own.
            scores: a function of an observation, or a key of ``info``, that gives the
                action values: a mapping, or a sequence. Called only when looked at.
            images: whether to show ``env.render()``, of ``render_mode="rgb_array"``; or
                a function of an observation that gives a mapping of name to array.
                Called only when looked at.
            success_key: the key of ``info`` that says whether the episode succeeded.
            success: the outcomes that are successes, where the wrapper opens the run;
                by default those of the run that it joins, else ``success``.
        """
        success = None if success is None else tuple(success)
        # For env.spec; what is no plain value cannot be copied with it.
        RecordConstructorArgs.__init__(
            self,
            mode=mode,
            images=images is True,
            success_key=success_key,
            success=success,
        )
        _Wrapper.__init__(self, env)
        self.mode = mode
        self.epoch: Optional[int] = None
        self._success_key = success_key
        self._watch = _Watch(run, _name(env), 1, success)
        self._view = _View(self.env, scores, images)

    @property
    def episode(self) -> eh.Episode:
        """The open episode, for phases and events of one's own.

        It opens in the first step after a reset, and the step that ends it closes it.
        Before, after, and where nothing is watched, this is an episode that takes every
        call and does nothing; so it may be used unasked.
        """
        return self._watch.episode(0)

    def reset(
        self, *, seed: Optional[int] = None, options: Optional[Dict[str, Any]] = None
    ) -> Tuple[Any, Dict[str, Any]]:
        """Reset the environment; an episode ends if one is open, and one begins."""
        watch = self._watch
        with watch:
            watch.finish(0, "reset")
        observation, info = self.env.reset(seed=seed, options=options)
        watch.await_step(0, seed)
        return observation, info

    def step(self, action: Any) -> Tuple[Any, Any, bool, bool, Dict[str, Any]]:
        """Step the environment: a step of the episode, perhaps its last."""
        watch = self._watch
        if watch.awaited:
            with watch:
                watch.begin(self.mode, self.epoch)
        try:
            result = self.env.step(action)
        except BaseException as error:
            watch.fail(error)
            raise
        with watch:
            observation, reward, terminated, truncated, info = result
            view = self._view
            view.show(observation, action, reward, info)
            watch.step(0, reward, view.state, view.scores, view.images)
            if terminated or truncated:
                watch.finish(0, _outcome(info.get(self._success_key), terminated))
        return result

    def close(self) -> None:
        """Close the environment; an open episode ends as ``closed``."""
        with self._watch:
            self._watch.finish(0, "closed")
        self.env.close()


class EpisightVectorWrapper(_VectorWrapper):
    """The same for a vector environment stepped in this process.

    Each of its environments has its own open episode, whatever its autoreset mode. For
    environments in processes of their own, ``EpisightWrapper`` in each of them shows
    more: their pictures, and which process died.

    Attributes:
        mode: of the episodes that start from now on.
        epoch: likewise.
    """

    def __init__(
        self,
        env: "gymnasium.vector.VectorEnv[Any, Any, Any]",
        run: Optional[eh.Run] = None,
        mode: str = "train",
        scores: Optional[Callable[[Any], Any]] = None,
        images: Images = False,
        success_key: str = "is_success",
        success: Optional[Iterable[str]] = None,
    ) -> None:
        """Wrap ``env``; the arguments are those of ``EpisightWrapper``.

        Their functions are given one environment's observation.

        Raises:
            ImportError: Gymnasium is older than 1.0.
        """
        if not hasattr(gymnasium.vector, "VectorWrapper"):
            raise ImportError("EpisightVectorWrapper needs Gymnasium 1.0 or newer")
        super().__init__(env)
        self.mode = mode
        self.epoch: Optional[int] = None
        self._success_key = success_key
        count = env.num_envs
        self._watch = _Watch(run, _name(env), count, success)
        self._views = [_View(env, scores, images, place) for place in range(count)]
        autoreset = (env.metadata or {}).get("autoreset_mode", "NextStep")
        self._autoreset = getattr(autoreset, "value", autoreset)
        self._resting = [False] * count  # ended, and the next step is its reset

    def reset(
        self,
        *,
        seed: Union[int, Sequence[Optional[int]], None] = None,
        options: Optional[Dict[str, Any]] = None,
    ) -> Tuple[Any, Dict[str, Any]]:
        """Reset all environments, or those of ``options["reset_mask"]``."""
        watch = self._watch
        # Read first: Gymnasium takes the mask out of the options.
        places = self._masked(options)
        with watch:
            for place in places:
                watch.finish(place, "reset", env=place)
        given: Any = seed  # several are fine, if not by VectorEnv's annotation
        observations, infos = self.env.reset(seed=given, options=options)
        with watch:
            for place in places:
                self._resting[place] = False
                watch.await_step(place, _nth_seed(seed, place))
        return observations, infos

    def step(self, actions: Any) -> Tuple[Any, Any, Any, Any, Dict[str, Any]]:
        """Step all environments: a step of each episode that is open."""
        watch = self._watch
        if watch.awaited:
            with watch:
                watch.begin(self.mode, self.epoch)
        try:
            result = self.env.step(actions)
        except BaseException as error:
            watch.fail(error)
            raise
        with watch:
            self._stepped(actions, *result)
        return result

    def close(self, **kwargs: Any) -> None:
        """Close the environments; open episodes end as ``closed``."""
        with self._watch:
            for place in range(len(self._views)):
                self._watch.finish(place, "closed", env=place)
        self.env.close(**kwargs)

    def _stepped(
        self,
        actions: Any,
        observations: Any,
        rewards: Any,
        terminations: Any,
        truncations: Any,
        infos: Mapping[str, Any],
    ) -> None:
        watch = self._watch
        for place, view in enumerate(self._views):
            if self._resting[place]:
                self._resting[place] = False
                watch.await_step(place, None)
                continue
            view.show(observations, actions, rewards[place], infos)
            watch.step(place, rewards[place], view.state, view.scores, view.images)
            if terminations[place] or truncations[place]:
                succeeded = self._succeeded(infos, place)
                watch.finish(place, _outcome(succeeded, terminations[place]), env=place)
                if self._autoreset == "SameStep":
                    watch.await_step(place, None)
                self._resting[place] = self._autoreset == "NextStep"

    def _succeeded(self, infos: Mapping[str, Any], place: int) -> Any:
        # With autoreset in the same step, infos are of the new episode.
        ended = infos.get("final_info", infos)
        said = ended.get(f"_{self._success_key}")
        if self._success_key not in ended or (said is not None and not said[place]):
            return None
        return ended[self._success_key][place]

    def _masked(self, options: Optional[Mapping[str, Any]]) -> List[int]:
        mask = (options or {}).get("reset_mask")
        places = range(len(self._views))
        try:
            return [place for place in places if mask is None or mask[place]]
        except Exception:  # the environment will say what is wrong with it
            return []


class _View:
    """What one environment looks like now; functions that are called when it is shown.

    The wrapper says at each step what there is; nothing is computed before it is asked.
    """

    def __init__(
        self,
        env: Any,
        scores: Optional[Scores],
        images: Images,
        place: Optional[int] = None,
    ) -> None:
        self._env = env
        self._scores = scores
        self._images = images
        self._place = place
        self._newest: Tuple[Any, Any, Any, Any] = (None, None, None, None)
        self.state = functools.partial(_View._state, self)
        self.scores = functools.partial(_View._values, self) if scores else None
        self.images = functools.partial(_View._pictures, self) if images else None

    def show(self, observation: Any, action: Any, reward: Any, info: Any) -> None:
        self._newest = observation, action, reward, info

    def _observation(self) -> Any:
        observation, _, _, info = self._newest
        if self._place is None:
            return observation
        ended = info.get("_final_obs")  # with autoreset in the same step
        if ended is not None and ended[self._place]:
            observation = info["final_obs"]
        return _nth(observation, self._place)

    def _state(self) -> Dict[str, Any]:
        _, action, reward, _ = self._newest
        if self._place is not None:
            action = _nth(action, self._place)
        state = {"observation": self._observation(), "action": action, "reward": reward}
        return state if self._place is None else {"env": self._place, **state}

    def _values(self) -> Any:
        if isinstance(self._scores, str):
            return self._newest[3].get(self._scores)
        assert self._scores is not None
        return self._scores(self._observation())

    def _pictures(self) -> Mapping[str, Any]:
        if callable(self._images):
            return self._images(self._observation())
        frame = self._env.render()
        return {"frame": frame if self._place is None else frame[self._place]}


class _Watch:
    """The open episodes of a wrapper, one a place, and the run that they belong to.

    As a context manager it keeps what goes wrong in here away from the environment's
    user. A copy, or what comes out of a pickle, has no episodes and no run.
    """

    def __init__(
        self,
        run: Optional[eh.Run],
        name: str,
        places: int,
        success: Optional[Iterable[str]],
    ) -> None:
        self._given = run
        self._name = name
        self._success = None if success is None else frozenset(success)
        self._run: Optional[eh.Run] = None
        self._open: List[Optional[eh.Episode]] = [None] * places
        self._totals = [0.0] * places
        self._broken = False
        self.awaited: Dict[int, Optional[int]] = {}

    def __reduce__(self) -> Tuple[Any, ...]:
        return _Watch, (None, self._name, len(self._open), self._success)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> bool:
        if error is None:
            return False
        if isinstance(error, eh.RunStopped) or not isinstance(error, Exception):
            self.fail(error)
            return False
        if not self._broken:
            logger.warning("episight: %s goes on unwatched", self._name, exc_info=error)
        self._broken = True
        for place in range(len(self._open)):
            self.finish(place, "ended")
        return True

    def await_step(self, place: int, seed: Optional[int]) -> None:
        """An episode begins with the next step.

        Not now: what resets by itself does so once more than it is stepped.
        """
        self.awaited[place] = seed

    def begin(self, mode: str, epoch: Optional[int]) -> None:
        """Open the episodes that are awaited."""
        awaited, self.awaited = self.awaited, {}
        run = None if self._broken else self._find()
        if run is None:
            return
        for place, seed in awaited.items():
            self._totals[place] = 0.0
            self._open[place] = run.episode(
                mode=mode, epoch=epoch, target=self._name, seed=seed
            )

    def episode(self, place: int) -> eh.Episode:
        """The open episode, or the one that does nothing."""
        return self._open[place] or NO_EPISODE

    def step(
        self, place: int, reward: Any, state: Any, scores: Any, images: Any
    ) -> None:
        """Count a step of the open episode, if there is one."""
        episode = self._open[place]
        if episode is not None:
            self._totals[place] += _number(reward)
            episode.step(state, scores, images)

    def finish(self, place: int, outcome: str, **attributes: Any) -> None:
        """End the open episode, if there is one and the run has not ended it."""
        episode, self._open[place] = self._open[place], None
        if episode is not None and not episode.closed:
            results = {"return": self._totals[place], "length": float(episode.steps)}
            episode.finish(outcome=outcome, results=results, **attributes)
            episode.close()

    def fail(self, error: BaseException) -> None:
        """End all open episodes by an exception."""
        for place, episode in enumerate(self._open):
            self._open[place] = None
            if episode is not None:
                episode.__exit__(type(error), error, error.__traceback__)

    def _find(self) -> Optional[eh.Run]:
        run = self._given or eh.current_run()
        if run is None and self._run is None:
            success = self._success
            if success is None and not Settings.from_environment().run_id:
                success = frozenset(["success"])
            run = eh.open_run(self._name, success=success)
            # A worker of multiprocessing ends without atexit, but not without these.
            multiprocessing.util.Finalize(
                run, process.end_by_exit, (run,), exitpriority=0
            )
        # One that has ended stays ended: what comes after it is not a run of its own.
        self._run = run or self._run
        return None if run is None or run.closed else run


def _outcome(succeeded: Any, terminated: Any) -> str:
    if succeeded is not None:
        return "success" if succeeded else "failure"
    return "terminated" if terminated else "truncated"


def _number(reward: Any) -> float:
    try:
        return float(reward)
    except (TypeError, ValueError):  # a vector of rewards, say: there is no one return
        return math.nan


def _name(env: Any) -> str:
    spec = getattr(env, "spec", None)
    return str(getattr(spec, "id", None) or type(env.unwrapped).__name__)


def _nth(batch: Any, place: int) -> Any:
    """One environment's part of a batch of observations or actions."""
    if isinstance(batch, Mapping):
        return {key: _nth(value, place) for key, value in batch.items()}
    if isinstance(batch, tuple) and not hasattr(batch, "shape"):
        return tuple(_nth(value, place) for value in batch)
    return batch[place]


def _nth_seed(
    seed: Union[int, Sequence[Optional[int]], None], place: int
) -> Optional[int]:
    # As gymnasium.vector hands out seeds.
    if seed is None or isinstance(seed, int):
        return None if seed is None else seed + place
    return seed[place]
