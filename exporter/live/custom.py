"""A view of one's own: what it is given, and what it gives back. The public contract.

A view is a class that the settings name (``live.views.<name>._target_``). It gets
values and gives HTML; it has no connection to anybody, and cannot change anything::

    from exporter.live.custom import Seen, View

    class Arm(View):
        def draw(self, seen: Seen) -> dict[str, str]:
            return {"Arm": self.render("arm.html", angles=seen.state["angles"])}

It is made once, with the other keys of its settings as arguments, and drawn on a thread
of its own, ten times a second at most for each page that is looked at, of the newest
values. What computes for longer than 50 ms, or takes longer than a second, is not
shown, but a notice; so is what it raises.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

REPLACED = ("where", "scores", "images", "state", "streams", "about")
"""Sections of ours that a view may replace, by these names; all others are added."""


@dataclass(frozen=True)
class SeenImage:
    """An image as it came.

    Attributes:
        shape: (height, width) or (height, width, channels).
        dtype: a NumPy type string such as ``|u1`` or ``<f4``.
        stride: every so many pixels of the experiment's image were sent.
        data: the bytes, in C order.
        at: when it came, Unix seconds.
        src: the address of a PNG of it, another one for each image:
            ``<img src="{{ image.src }}" data-src="{{ image.src }}" alt="...">``.
        extent: the values that are the darkest and the brightest there; None where
            it shows the bytes as they are.
    """

    shape: tuple[int, ...]
    dtype: str
    stride: int
    data: bytes
    at: float | None = None
    src: str = ""
    extent: tuple[float, float] | None = None


@dataclass(frozen=True)
class Seen:
    """What there is to be seen of one source of a run; to be read only.

    Attributes:
        run: the run, as ``/api/v1/runs/<run>`` says it.
        source: the source that is looked at, as in its ``source_list``; None: none.
        episode: its episode, as in ``/api/v1/runs/<run>/episodes``; None: none.
        step: the step of the episode that the rest is of.
        state: the step's state: plain values (dict, list, str, numbers, None).
        run_state: the run's own, of ``run.publish_state``.
        scores: by name.
        streams: the newest value of each data stream, by name.
        images: by name; there only while somebody looks.
        at: when it came, Unix seconds; None: nothing has come.
        now: Unix seconds.
    """

    run: Mapping[str, Any]
    source: Mapping[str, Any] | None = None
    episode: Mapping[str, Any] | None = None
    step: int = 0
    state: Any = None
    run_state: Any = None
    scores: Mapping[str, float] = field(default_factory=dict)
    streams: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, SeenImage] = field(default_factory=dict)
    at: float | None = None
    now: float = 0.0


class View:
    """What a view derives from. ``draw`` is its own, ``render`` is there to be used."""

    render: Callable[..., Markup]
    """``render(template, **values)``: a template of its folder, all values escaped."""

    def draw(self, seen: Seen) -> Mapping[str, str]:
        """Sections, by their headings, in order.

        Text is escaped; HTML is what ``render`` gives, or ``markupsafe.Markup``. A name
        of ``REPLACED`` replaces that section of ours. The page allows no scripts and no
        styles in HTML: use the classes of our sheet, and SVG's own attributes.
        """
        raise NotImplementedError
