r"""What stands in place of a path, a host or the value of a header: whether it can work.

Theory of operation
===================
Envoy takes a replacement that cannot work without a word, and then changes nothing, or sends a request that
its backend cannot read. So a replacement is judged when it is read: the text that is put in place, the groups
that it names, and what becomes of some sample paths. The samples are made from a beginning that matches of
the pattern may have. A replacement is at fault only if each sample that the pattern matches comes out wrong,
because requests may be of another form than some of the samples. A pattern without ^ can match at the end of
a path, too, like one that takes the last slash off: then only those matches may be meant.

Source: RE2, ``Replace``: ``\0`` to ``\9`` are groups and ``\\`` is a backslash; RFC 3986, path and host.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from moongate.regex import (
    begin_of_matches,
    group_count,
    matches_at_start,
    matches_nothing_anywhere,
    replaced,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PATH: Final = re.compile(r"/[!-\"$-~]*")
_TEXT_OF_PATH: Final = re.compile(r"[!-\"$-~]*")
_HOST: Final = re.compile(r"[A-Za-z0-9._\-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?")
_TEXT_OF_HOST: Final = re.compile(r"[A-Za-z0-9._:\[\]\-]*")
_COMMAND: Final = re.compile(
    r"%%|%[A-Z][A-Z0-9_]*(?:\(.{0,512}?\))?(?::[0-9]{1,9})?%|(?P<unfinished>%[A-Z][A-Z0-9_]*\()", re.DOTALL
)
_PERCENT: Final = re.compile(
    rb"%%|%[A-Z][A-Z0-9_]*(?:\(.{0,512}?\))?(?::[0-9]{1,9})?%|(?P<alone>%)", re.DOTALL
)
_REFERENCE: Final = re.compile(r"\\(.?)", re.DOTALL)


def unfinished_command(text: str) -> str | None:
    """The first command of Envoy that begins in a text and does not end, like ``%REQ(x-a``; or ``None``."""
    unfinished = (match["unfinished"] for match in _COMMAND.finditer(text))
    return next((begin for begin in unfinished if begin is not None), None)


def as_format(text: bytes) -> bytes:
    """A text with Envoy's commands, in which every ``%`` that belongs to none stands for itself.

    >>> as_format(b"100% of %REQ(x-a)%")
    b'100%% of %REQ(x-a)%'
    """
    return _PERCENT.sub(lambda match: b"%%" if match["alone"] else match[0], text)


def path_fault(path: str) -> str | None:
    """Why a text cannot stand in place of a whole path, or of a prefix; ``None`` if it can."""
    if not path.startswith("/"):
        return f"is {path!r}; it must begin with '/'"
    if _PATH.fullmatch(path) is None:
        return f"is {path!r}; it cannot hold spaces, '#' or characters beyond ASCII: write them as %XX"
    return None


def path_substitution_fault(pattern: str, substitution: str) -> str | None:
    """Why a substitution in paths cannot work, or ``None``. The pattern must be one of RE2."""
    return _fault(
        pattern,
        substitution,
        text=_TEXT_OF_PATH,
        kind="path",
        valid=lambda result: result.startswith("/"),
        must="a path begins with '/'",
    )


def host_substitution_fault(pattern: str, substitution: str) -> str | None:
    """Why a host cannot be made of paths in this way, or ``None``. The pattern must be one of RE2."""
    return _fault(
        pattern,
        substitution,
        text=_TEXT_OF_HOST,
        kind="host",
        valid=lambda result: _HOST.fullmatch(result) is not None,
        must="that is not a host",
    )


def _fault(
    pattern: str,
    substitution: str,
    *,
    text: re.Pattern[str],
    kind: str,
    valid: Callable[[str], bool],
    must: str,
) -> str | None:
    groups = group_count(pattern)
    for reference in _REFERENCE.findall(substitution):
        if reference == "\\":
            continue
        if not reference.isascii() or not reference.isdigit():
            return (
                rf"substitution is {substitution!r}, where \{reference} means nothing; "
                r"a group is \0 to \9, and a backslash is \\"
            )
        if int(reference) > groups:
            has = f"{groups} group{'' if groups == 1 else 's'}" if groups else "no group"
            return rf"substitution is {substitution!r}, but {pattern!r} has {has}: there is no \{reference}"
    if text.fullmatch(_REFERENCE.sub("", substitution)) is None:
        return f"substitution is {substitution!r}; it has characters that no {kind} can have"
    if substitution and matches_nothing_anywhere(pattern):
        return (
            f"pattern is {pattern!r}, which also matches no characters at all: the substitution would stand "
            "between all characters of a path. Let it match at least one, or begin it with ^"
        )
    paths = [path for path in _samples(pattern) if matches_at_start(pattern, path)] + [
        path for path in _WITH_SLASHES if not matches_at_start(pattern, path)
    ]
    results = [(path, replaced(pattern, substitution, path)) for path in paths]
    changed = [(path, result) for path, result in results if result is not None]
    if changed and not any(valid(result) for _, result in changed):
        path, result = changed[-1]
        return f"substitution is {substitution!r}, which makes {result!r} of {path!r}; {must}"
    return None


_WITH_SLASHES: Final = ("/a/", "/a/b/")
"""Paths in which a pattern may match at the end alone."""


def _samples(pattern: str) -> Iterator[str]:
    """Some paths that the pattern may match."""
    for begin in dict.fromkeys(("/", begin_of_matches(pattern))):
        if begin.startswith("/"):
            bare = begin.removesuffix("/")
            yield from (
                begin,
                f"{bare}/a/b/c/d/e",
                f"{bare}/a",
                f"{bare}/a/b",
                f"{bare}/1/2",
                f"{begin}a",
                f"{begin}a/b",
            )
