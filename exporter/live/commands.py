"""The commands of a run on its page: a form to give one, and what became of the others.

Where a run has ended, a button at the page's end deletes it instead. Pure, as ``view``
is: values in, fragments out; :func:`copied` alone is called under the state's lock.
What a command does to a run is nobody's business here: the page's script sends the form
to the API, which decides.
"""

from collections.abc import Mapping

from markupsafe import Markup

from exporter import orders, views
from exporter.live.looks import Fragments
from exporter.live.view import Json, Shown
from exporter.orders import Orders
from exporter.runs import Run
from exporter.verdict import ENDED, Rules, deletable

LISTED = 10
SOURCES_FOLDED = 50
STATES = ("done", "accepted", "delivered", "sent", "failed")
_parts = Fragments("commands_parts.html")


def copied(run: Run, given: Orders, now: float, rules: Rules) -> Json:
    """What is said of a run's commands; the newest first."""
    found = given.of(run.id)
    there = orders.live(run)
    return {
        "takes": orders.taken(there),
        "known": any(one.sample is not None for one in there),
        "given": views.commands(run, found[-LISTED:], now, rules, most=SOURCES_FOLDED)[
            ::-1
        ],
        "more": max(0, len(found) - LISTED),
        "deletable": deletable(run, now, rules),
    }


def form(run: Json, source: Json | None) -> Shown:
    """What the run can be told; ``source`` is the one whose moment is shown."""
    said = run["commands"]
    ended = run["state"] in ENDED
    order = removal = Markup()
    if ended and said["deletable"]:
        removal = _parts.removal(run["run"])
    elif not ended and said["takes"]:
        several = run["sources"]["live"] > 1
        alone = source if several and source and source["commands"] else None
        order = _parts.form(run["run"], said["takes"], alone)
    elif not ended and said["known"]:
        order = _parts.takes_none()
    return Shown({"order": order, "removal": removal})


def given(run: Json) -> Shown:
    """What people told the run to do, and what came of it."""
    said = run["commands"]
    rows = {
        f"order-{one['id']}": _parts.row(one, far(one["states"]))
        for one in said["given"]
    }
    more = _parts.more(run["run"], said["more"])
    return Shown({"orders-more": more}, {"orders": rows})


def far(states: Mapping[str, int]) -> list[tuple[str, int]]:
    """How many sources are how far, the furthest first."""
    known = [state for state in STATES if state in states]
    others = sorted(set(states) - set(known))  # of newer hooks
    return [(state, states[state]) for state in (*known, *others)]
