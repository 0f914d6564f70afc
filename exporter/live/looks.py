"""How pages look: our templates, or a user's over ours; which run is drawn by which.

A *look* has an environment of templates of its own. The drawing functions of this
package ask for a template's fragments by name, and get those of the look that is in use
on their thread; so they need not know of looks. A mistake in a user's template costs a
notice: ours is drawn instead.
"""

import importlib
import importlib.util
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from exporter.live import words
from exporter.live.aside import REST, SLOW, Aside, too_slow
from exporter.live.charts import brief
from exporter.live.custom import View
from exporter.live.tree import tree
from exporter.settings import ViewSettings
from exporter.verdict import ENDED, STATES

logger = logging.getLogger("exporter")

TONES = {
    "starting": "idle",
    "running": "live",
    "stalled": "warn",
    "stopping": "warn",
    "completed": "done",
    "failed": "bad",
    "stopped": "idle",
    "lost": "bad",
}
"""The colour of each verdict, of its badge and of the tab's icon."""
OUR_PREFIX = "episight"
"""``{% extends "episight/run.html" %}`` is ours, also where a user has one."""


def _quoted(text: object) -> str:
    return quote(str(text), safe="")


def image_address(run: str, source: str, name: str, version: str) -> str:
    """Where a run's page finds an image of a source's, as ``pages`` serves it."""
    place = f"./{_quoted(run)}/sources/{_quoted(source)}/images"
    return f"{place}/{_quoted(name)}.png?v={_quoted(version)}"


def _environment(folder: Path | None) -> jinja2.Environment:
    ours = jinja2.PackageLoader("exporter.live")
    loaders: list[jinja2.BaseLoader] = [jinja2.PrefixLoader({OUR_PREFIX: ours}), ours]
    if folder is not None:
        loaders.insert(0, jinja2.FileSystemLoader(folder))
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(
        about=words.about,
        ago=words.ago,
        brief=brief,
        clock=words.clock,
        cut=words.cut,
        count=words.count,
        date=words.date,
        duration=words.duration,
        iso=words.iso,
        minute=words.minute,
        plural=words.plural,
        rank=words.rank,
        rate=words.rate,
        real=words.real,
        share=words.share,
        span=words.span,
        url=_quoted,
    )
    made.globals.update(
        tree=tree,
        image_address=image_address,
        ENDED=ENDED,
        STATES=STATES,
        TONES=TONES,
    )
    return made


_TEMPLATES = _environment(None)


class Look:
    """Templates, and a view that draws sections of its own; made anew when they change.

    Args:
        name: as the settings call it; empty: ours.
        folder: the user's templates.
        module: the file of the user's view.
        mistakes: what went wrong so far, by what it is about.
    """

    def __init__(
        self,
        name: str = "",
        folder: Path | None = None,
        module: Path | None = None,
        mistakes: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.aside: Aside | None = None
        self._folder = folder
        self._own = tuple(str(path) for path in (folder, module) if path is not None)
        self._templates = _environment(folder) if folder is not None else _TEMPLATES
        self._macros: dict[tuple[str, str], Callable[..., Markup]] = {}
        self._mistakes = dict(mistakes or {})
        self._lock = threading.Lock()

    @property
    def mistakes(self) -> list[str]:
        """What went wrong, to be shown on the page."""
        with self._lock:
            return [f"{what}: {said}" for what, said in self._mistakes.items()]

    def note(self, what: str, said: str) -> None:
        """Something went wrong, or (with an empty sentence) does not any more."""
        with self._lock:
            if not said:
                self._mistakes.pop(what, None)
            elif self._mistakes.get(what) != said:
                self._mistakes[what] = said
                logger.warning("view %s: %s: %s", self.name, what, said)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Meanwhile this thread draws by this look."""
        before = _in_use.set(self)
        try:
            yield
        finally:
            _in_use.reset(before)

    def macro(self, template: str, name: str) -> Callable[..., Markup]:
        """A fragment of a template; raises AttributeError if there is none."""
        found = self._macros.get((template, name))
        if found is None:
            found = self._macros[template, name] = self._find(template, name)
        return found

    def page(self, template: str, values: Mapping[str, Any]) -> str:
        """A whole document."""
        try:
            return self._templates.get_template(template).render(values)
        except Exception as error:
            if self is OURS:
                raise
            self.note(template, self.explain(error))
            return OURS.page(template, values)

    def render(self, template: str, **values: Any) -> Markup:
        """A template as HTML, for a view."""
        return Markup(self._templates.get_template(template).render(values))

    def source(self, template: str) -> str:
        """A template's own text."""
        loader = self._templates.loader
        assert loader is not None
        return loader.get_source(self._templates, template)[0]

    def templates(self) -> list[str]:
        """The names of all templates, ours once more with our prefix."""
        return self._templates.list_templates()

    def warm(self, template: str) -> None:
        """Have a template read."""
        self._templates.get_template(template)

    def explain(self, error: BaseException) -> str:
        """What went wrong, and where in the user's own files."""
        where = ""
        if isinstance(error, jinja2.TemplateSyntaxError):
            where = (
                f"{_short(error.filename or error.name or '?')}, line {error.lineno}"
            )
        for frame, number in traceback.walk_tb(error.__traceback__):
            path = frame.f_code.co_filename
            if path.startswith(self._own):
                # Of a whole document's error jinja has translated the lines already.
                made = frame.f_globals.get("__jinja_template__")
                line = made.get_corresponding_lineno(number) if made else number
                where = f"{_short(path)}, line {line}"
        said = f"{type(error).__name__}: {_text(error)}"
        return f"{where}: {said}"[:500] if where else said[:500]

    def _find(self, template: str, name: str) -> Callable[..., Markup]:
        if self is OURS:
            made: Any = self._templates.get_template(template).module
            return getattr(made, name)  # type: ignore[no-any-return]
        ours = OURS.macro(template, name)
        if self._folder is None or not (self._folder / template).is_file():
            return ours
        try:
            theirs = self._templates.get_template(template).module
        except Exception as error:
            self.note(template, self.explain(error))
            return ours
        found = getattr(theirs, name, None)
        if found is None:
            return ours
        return _Guarded(self, f"{name} of {template}", found, ours)


class _Guarded:
    """A fragment of the user's, and ours where that fails or takes too long."""

    def __init__(
        self,
        look: Look,
        what: str,
        theirs: Callable[..., Markup],
        ours: Callable[..., Markup],
    ) -> None:
        self._look = look
        self._what = what
        self._theirs, self._ours = theirs, ours
        self._again = 0.0

    def __call__(self, *args: Any, **more: Any) -> Markup:
        since = time.monotonic()
        if since < self._again:
            return self._ours(*args, **more)
        try:
            html = self._theirs(*args, **more)
        except Exception as error:
            self._look.note(self._what, self._look.explain(error))
            self._again = since + 1.0
            return self._ours(*args, **more)
        took = time.monotonic() - since
        if took > SLOW:
            self._look.note(self._what, too_slow(took))
            self._again = time.monotonic() + REST * took
            return self._ours(*args, **more)
        self._look.note(self._what, "")
        return html


class Fragments:
    """A template's macros, as the look in use has them: ``fragments.name(values)``."""

    def __init__(self, template: str) -> None:
        self._template = template

    def __getattr__(self, name: str) -> Callable[..., Markup]:
        return _in_use.get().macro(self._template, name)


OURS = Look()
_in_use: ContextVar[Look] = ContextVar("look", default=OURS)


def page(template: str, **values: Any) -> str:
    """A whole document, in the look that is in use on this thread."""
    return _in_use.get().page(template, values)


_WARMED = "base run run_parts runs runs_parts monty monty_state"


def warm() -> None:
    """Read our templates, so that the first page does not wait for that."""
    for name in _WARMED.split():
        OURS.warm(f"{name}.html")


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # it is the user's own
        return "of which no text can be made"


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-2:])


# --- which run is drawn by which ------------------------------------------------------


class Looks:
    """The looks that the settings name.

    Args:
        wanted: as the settings have them; the first that fits a run draws it.
        changed: called when something has been drawn aside.
    """

    def __init__(
        self,
        wanted: Sequence[ViewSettings] = (),
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._wanted = wanted
        self._changed = changed
        self._lock = threading.Lock()
        self._made: dict[str, tuple[object, Look]] = {}  # and of which files

    def of(self, experiment: str, kind: object, *, fresh: bool = False) -> Look:
        """The look of a run.

        Args:
            experiment: the run's name.
            kind: its tag of that name, if there is one.
            fresh: made anew if its files have changed.
        """
        for one in self._wanted:
            names = (experiment, kind if isinstance(kind, str) else experiment)
            if any(fnmatchcase(name, one.match) for name in names):
                return self._look(one, fresh)
        return OURS

    def _look(self, wanted: ViewSettings, fresh: bool) -> Look:
        with self._lock:
            known = self._made.get(wanted.name)
            if known is None or (fresh and known[0] != _files(wanted)):
                known = _files(wanted), self._make(wanted)
                self._made[wanted.name] = known
        return known[1]

    def _make(self, wanted: ViewSettings) -> Look:
        mistakes = {}
        folder = Path(wanted.templates).expanduser() if wanted.templates else None
        if folder is not None and not folder.is_dir():
            mistakes["templates"] = f"{folder} is no folder"
            folder = None
        look = Look(wanted.name, folder, _module_file(wanted.target), mistakes)
        if wanted.target:
            try:
                view = _class(wanted.target)(**dict(wanted.options))
                view.render = look.render
                look.aside = Aside(view, look.explain, self._changed)
            except (Exception, SystemExit) as error:  # a script may end at once
                look.note(wanted.target, look.explain(error))
        return look


def _class(target: str) -> type[View]:
    module_name, dot, name = target.rpartition(".")
    if not dot:
        raise ValueError(f"_target_ is a module and a class, such as mine.{target}")
    known = sys.modules.get(module_name)
    module = importlib.reload(known) if known else importlib.import_module(module_name)
    found = getattr(module, name)
    if not callable(getattr(found, "draw", None)):
        raise TypeError(f"{target} has no draw(seen): see exporter.live.custom")
    return found  # type: ignore[no-any-return]


def _module_file(target: str) -> Path | None:
    """Where a view's class is; None where that cannot be found."""
    try:
        found = importlib.util.find_spec(target.rpartition(".")[0])
    except (ImportError, ValueError):
        return None
    return Path(found.origin) if found is not None and found.origin else None


def _files(wanted: ViewSettings) -> object:
    """Differs when a file of the view has changed."""
    paths = [_module_file(wanted.target)]
    if wanted.templates:
        paths += sorted(Path(wanted.templates).expanduser().rglob("*.html"))
    found = []
    for path in paths:
        if path is not None:
            with suppress(OSError):  # it has gone just now
                found.append((path, path.stat().st_mtime_ns))
    return found
