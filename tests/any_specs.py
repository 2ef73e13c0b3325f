"""Random values of API models: all that their types and rules allow, and above all the ends of it.

An API server takes such values, so Envoy must take what becomes of them, or a status say what is wrong.
"""

from __future__ import annotations

import base64
import re
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from msgspec import NODEFAULT, Meta, convert

from moongate.api.admission import checked
from moongate.api.base import Model, fields_of
from moongate.api.health_checks import HealthCheckFile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

_DURATIONS = ("0s", "1ms", "2ms", "1s", "3s", "1h", "99999h", "99999h99999m99999s99999ms", "0h0m")
_SIZES = ("1", "1k", "32Ki", "4Gi", "9E", "9999E", "4294967295", "4294967296", "99999999999999999999")
_HEADERS = ("x", "X-Y", "host", "content-length", "te", "connection", "set-cookie", "content-type", "a%b")
_WORDS = (
    *("x", "X-Y", "x" * 250, ":authority", "host", "%", "%%", "100%", "%REQ(x)%", "%REQ(x", "a b", "ü", "0"),
    *("", "\t", "a\nb", "a\x00", "gzip", "websocket", "WebSocket", "CONNECT", "connect", "a.b", "*", "/a"),
)
_NUMBERS = (0, 1, 2, 50, 100, 200, 503, 1000, 65535, 65536, 2**31, 2**32, 2**63, 10**30)
_FLOATS = (0.0, 0.00001, 0.5, 99.99999, 100.0, 150.5, 1e300)
_TRIES = 30


class AnySpecs:
    """Values of models, one after another."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance

    def of(self, model: type[Model]) -> dict[str, Any]:
        """A value of a model, as a manifest has it. All but some break no rule of the model."""
        if model is HealthCheckFile:
            return {"path": "/dev/null"}  # Envoy opens it
        hints, written = get_type_hints(model, include_extras=True), dict[str, Any]()
        for _ in range(_TRIES):
            written = {
                each.encode_name: self._value(hints[each.name])
                for each in fields_of(model)
                if each.default is each.default_factory is NODEFAULT
                or self._chance.random() < self._chance.choice((0.1, 0.5, 0.9))
            }
            if not checked(model, written)[1]:
                break
        return written

    def some(self, model: type[Model], among: Mapping[str, str], most: int) -> dict[str, Any]:
        """A few fields of a model: Python names → wire names."""
        hints = get_type_hints(model, include_extras=True)
        names = self._chance.sample(sorted(among), self._chance.randint(1, most))
        return {among[name]: self._value(hints[name]) for name in names}

    def _value(self, of: Any, *metas: Meta) -> Any:
        origin, args = get_origin(of), get_args(of)
        if origin is Annotated:
            return self._value(args[0], *metas, *(each for each in args[1:] if isinstance(each, Meta)))
        if origin in (Union, UnionType):
            return self._value(self._chance.choice([each for each in args if each is not type(None)]))
        if origin is Literal:
            return self._chance.choice(args)
        if origin is tuple:
            least = max((each.min_length or 0 for each in metas), default=0)
            return [self._value(args[0]) for _ in range(max(least, self._chance.choice((0, 1, 1, 2, 3))))]
        if origin is dict:
            return {self._value(args[0]): self._value(args[1]) for _ in range(self._chance.randint(0, 2))}
        if isinstance(of, type) and issubclass(of, Model):
            return self.of(of)
        return self._scalar(of, metas)

    def _scalar(self, of: Any, metas: tuple[Meta, ...]) -> Any:
        chance = self._chance
        if of is bool:
            return chance.random() < 0.7
        if of is int:
            ends = [end for meta in metas for end in (meta.ge, meta.le) if isinstance(end, int)]
            return self._fitting(of, metas, (*ends, *ends, *_NUMBERS, *(-n for n in _NUMBERS)))
        if of is float:
            return chance.choice(_FLOATS)
        if of is bytes:
            return base64.b64encode(chance.randbytes(chance.choice((0, 1, 5)))).decode()
        if of is str:
            return self._fitting(of, metas, (*_WORDS, *_WORDS, *_DURATIONS, *_SIZES, *_HEADERS))
        return {"a": 1}

    def _fitting(self, of: Any, metas: tuple[Meta, ...], among: tuple[Any, ...]) -> Any:
        """One of some values that the type takes; the first, if it takes none of them."""
        wanted = of
        for meta in metas:
            wanted = Annotated[wanted, meta]
        fitting = [each for each in among if _fits(each, wanted)]
        return self._chance.choice(fitting or [among[0]])


def _fits(value: Any, wanted: Any) -> bool:
    try:
        convert(value, cast("type[Any]", wanted))
    except (ValueError, re.error):
        return False
    return True
