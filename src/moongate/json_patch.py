"""JSON patches (RFC 6902) with JSONPath, of documents that stand for protobuf messages.

A message is written as JSON, with field names in snake case; one operation changes that; and what results is
read as a message again. So a value may have any form that protobuf's JSON has. A ``jsonPath`` stands for all
places that it finds, and all of them are changed or none. Parents that an ``add`` lacks are made.

Source: RFC 6901, RFC 6902 and RFC 9535; protobuf's JSON mapping.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from functools import lru_cache
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import jsonpath
import msgspec
from google.protobuf.message import Message
from jsonpath.function_extensions import ExpressionType, FilterFunction
from msgspec import structs

from moongate.message_documents import from_document
from moongate.regex import matches_in, matches_whole, regex_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from moongate.api.envoypatchpolicy import JSONPatchOperation

M = TypeVar("M", bound=Message)

_OWN_PACKAGES: Final = ("envoy.", "xds.", "udpa.")
"""Where the messages are that a value may hold."""


MOST_PLACES: Final = 10_000
"""How many places one operation may change."""


class PatchError(Exception):
    """A patch cannot be applied to what is there. The message is for a user.

    Args:
        message: why.
        missing: whether it is because there is no such resource.
    """

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


class _WithRE2(jsonpath.JSONPathEnvironment):
    """JSONPath whose patterns are RE2, as a pattern must not be able to stop the controller."""

    def setup_function_extensions(self) -> None:
        super().setup_function_extensions()
        self.function_extensions["match"] = _Matches(matches_whole)
        self.function_extensions["search"] = _Matches(matches_in)

    def compare(self, left: object, operator: str, right: object) -> bool:
        if operator == "=~" and isinstance(right, re.Pattern):
            regex = cast("re.Pattern[str]", right)
            pattern = ("(?i)" if regex.flags & re.IGNORECASE else "") + regex.pattern
            return isinstance(left, str) and _is_pattern(pattern) and matches_in(pattern, left)
        return super().compare(left, operator, right)


class _Matches(FilterFunction):
    """A function of JSONPath that compares a text with a pattern."""

    def __init__(self, how: Callable[[str, str], bool]) -> None:
        self._how = how

    @property
    def arg_types(self) -> list[ExpressionType]:
        return [ExpressionType.VALUE, ExpressionType.VALUE]

    @property
    def return_type(self) -> ExpressionType:
        return ExpressionType.LOGICAL

    def __call__(self, value: object, pattern: object) -> bool:
        if not (isinstance(value, str) and isinstance(pattern, str) and _is_pattern(pattern)):
            return False
        return self._how(pattern, value)


def _is_pattern(pattern: str) -> bool:
    return regex_fault(pattern) is None


_ENVIRONMENT = _WithRE2()


def compiled(path: str) -> jsonpath.JSONPath | jsonpath.CompoundJSONPath:
    if path.strip() == "$":
        raise PatchError("jsonPath $ is the whole resource: leave it out, and name the place in path.")
    try:
        return _ENVIRONMENT.compile(path)
    except Exception as error:  # noqa: BLE001 - whatever the library raises, somebody wrote this path
        raise PatchError(f"jsonPath {path!r} cannot be read: {_words(error)}") from None


def _pointers(document: Mapping[str, Any], operation: JSONPatchOperation) -> list[str]:
    """The places that an operation is about."""
    if not operation.json_path:
        return [operation.path or ""]
    path = compiled(operation.json_path)
    try:
        places = [str(match.pointer()) for match in islice(path.finditer(document), MOST_PLACES + 1)]
    except Exception as error:  # noqa: BLE001 - whatever the library raises, somebody wrote this path
        raise PatchError(f"jsonPath {operation.json_path!r} cannot be evaluated: {_words(error)}") from None
    if not places:
        raise PatchError(f"jsonPath {operation.json_path!r} finds nothing.")
    if len(places) > MOST_PLACES:
        raise PatchError(f"jsonPath {operation.json_path!r} finds more than {MOST_PLACES:,} places.")
    below = (operation.path or "").lstrip("/")
    return [f"{at}/{below}" if below else at for at in places]


def patched(document: dict[str, Any], operation: JSONPatchOperation) -> Any:
    """A document after an operation at all of its places."""
    changed: Any = document
    pointers = _pointers(document, operation)
    if operation.op == "copy" and operation.json_path:
        # Once for all places: what is copied into itself again and again doubles each time.
        source = _at(document, operation.from_ or "")
        operation = structs.replace(operation, op="add", from_=None, value=source)
    for pointer in pointers:
        changed = _changed(changed, operation, pointer)
    return changed


def _at(document: Any, pointer: str) -> Any:
    try:
        return jsonpath.JSONPointer(pointer, unicode_escape=False).resolve(document)
    except Exception as error:  # noqa: BLE001 - as below
        raise PatchError(f"There is nothing to copy at {pointer!r}: {_words(error)}") from None


def _changed(document: Any, operation: JSONPatchOperation, pointer: str) -> Any:
    """A document after one operation at one place."""
    one: dict[str, Any] = {"op": operation.op, "path": pointer}
    if operation.from_ is not None:
        one["from"] = operation.from_
    elif operation.op != "remove":
        one["value"] = msgspec.json.decode(msgspec.json.encode(operation.value))
    try:
        if operation.op == "add":
            _make_parents(document, pointer)
        return jsonpath.patch.apply([one], document, unicode_escape=False)
    except Exception as error:  # noqa: BLE001 - whatever the library raises, somebody wrote this patch
        raise PatchError(f"{operation.op} at {pointer!r}: {_words(error)}") from None


def _words(error: Exception) -> str:
    """What an exception says, without a value that it may quote, or the list of all fields that there are."""
    words = str(error).partition(" which is ")[0].partition("\n Available Fields")[0]
    return words or type(error).__name__


def _make_parents(document: Any, pointer: str) -> None:
    """Make the objects and lists above a place that do not exist."""
    keys = jsonpath.JSONPointer(pointer, unicode_escape=False).parts
    at = document
    for key, below in pairwise(keys):
        new: Any = [] if below == "-" or str(below).isdecimal() else {}
        if isinstance(at, dict):
            at = cast("dict[str, Any]", at).setdefault(str(key), new)
        elif isinstance(at, list):
            entries = cast("list[Any]", at)
            if key == "-" or (str(key).isdecimal() and int(key) == len(entries)):
                entries.append(new)
                at = new
            elif str(key).isdecimal() and int(key) < len(entries):
                at = entries[int(key)]
            else:
                return
        else:
            return


# Messages


def read(message: type[M], document: Any) -> M:
    """The message that a JSON document means."""
    try:
        for name in _types(document):
            import_type(name)
        return from_document(document, message)
    except Exception as error:  # noqa: BLE001 - whatever protobuf raises, somebody wrote this document
        raise PatchError(f"The result is no {message.DESCRIPTOR.name}: {_words(error)}") from None


def _types(document: Any) -> Iterator[str]:
    """The full names of all messages that a document packs into ``google.protobuf.Any``."""
    if isinstance(document, dict):
        mapping = cast("dict[str, Any]", document)
        if isinstance(of := mapping.get("@type"), str):
            yield of.rpartition("/")[2]
        for value in mapping.values():
            yield from _types(value)
    elif isinstance(document, list):
        for value in cast("list[Any]", document):
            yield from _types(value)


@lru_cache(maxsize=1024)
def import_type(name: str) -> None:
    """Import the modules where a message may be defined. There are hundreds, too many for the start."""
    package = name.rpartition(".")[0]
    if not package.startswith(_OWN_PACKAGES):
        return
    if not all(part.isidentifier() and not part.startswith("_") for part in package.split(".")):
        return
    try:
        parent = importlib.import_module(package)
    except ImportError:
        return
    for module in pkgutil.iter_modules(getattr(parent, "__path__", ())):
        if module.name.endswith("_pb2"):
            importlib.import_module(f"{package}.{module.name}")
