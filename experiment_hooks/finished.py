"""One shared, finished awaitable: what every ``publish_*`` call returns.

The same function can then be called plainly or awaited: no coroutine that somebody
forgot to await, no event loop, no allocation.
"""

from typing import Awaitable, Generator


class _Finished:
    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return _EXHAUSTED


def _nothing() -> Generator[None, None, None]:
    return
    yield


# A generator that has ended stays ended: awaiting it, however often, stops at once.
_EXHAUSTED = _nothing()
for _ in _EXHAUSTED:
    pass

FINISHED: Awaitable[None] = _Finished()
