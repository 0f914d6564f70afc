"""Stands in for a method of one object, never of its class, and gives it back."""

from typing import Any, Callable, Optional

Made = Callable[[Callable[..., Any]], Callable[..., Any]]

_NOTHING = object()


class StandIn:
    """In the place of one object's method.

    Copied and pickled as the bound method is that it stands for: a copy of the object
    has its own method, and loads where nobody knows us.
    """

    def __init__(self, owner: Any, name: str, made: Made) -> None:
        self._owner, self._name = owner, name
        self._own = vars(owner).get(name, _NOTHING)  # somebody else may stand there
        self._call = made(getattr(owner, name))
        setattr(owner, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __reduce__(self) -> Any:
        return getattr, (self._owner, self._name)

    def give_back(self) -> None:
        """Let the object have what it had, unless another has come between."""
        if vars(self._owner).get(self._name) is not self:
            return
        if self._own is _NOTHING:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._own)


def stand_in(owner: Any, name: str, made: Made) -> Optional[StandIn]:
    """Let what ``made`` makes of it be the method ``name``; None where it has none."""
    return StandIn(owner, name, made) if hasattr(owner, name) else None
