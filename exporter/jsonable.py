"""What a source said, as JSON can say it: for the API, the tap and notifications. Pure.

NaN and infinities are no JSON: null, as browsers' own ``JSON.stringify`` writes them.
"""

import math
from typing import Any


def plain(value: Any) -> Any:
    """The value with nothing in it that JSON has not: bytes and times as text."""
    if isinstance(value, dict):
        return {_name(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _name(key: Any) -> Any:
    fits = key is None or isinstance(key, (bool, int, str))
    return key if fits else str(key)
