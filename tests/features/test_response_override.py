"""Responses in place of others: what is matched, and what cannot be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from moongate.api.admission import checked
from moongate.engine import Db
from moongate.features.base import Effective
from moongate.features.response_override import FEATURE, ResponseOverride, ResponseOverrides, check
from tests.core import Core
from tests.features.backends import OWNER, plain

STATUS = {"statusCodes": [{"value": 404}]}
TWO = {"statusCodes": [{"value": 404}, {"type": "Range", "range": {"start": 500, "end": 502}}]}
HEADER = {"responseHeaders": [{"name": "x-a", "value": {"value": "b"}}]}


def value(*overrides: dict[str, Any]) -> Effective[ResponseOverrides]:
    return Effective(msgspec.convert(overrides, ResponseOverrides), OWNER)


def predicate(match: dict[str, Any], **more: Any) -> dict[str, Any]:
    assert FEATURE.http_filter is not None
    config = plain(FEATURE.http_filter.chain(Db(), value({"match": match, "response": {}, **more})))
    return config["custom_response_matcher"]["matcher_list"]["matchers"][0]["predicate"]


def elsewhere(path: str) -> dict[str, Any]:
    return {"path": {"type": "ReplaceFullPath", "replaceFullPath": path}}


def added(name: str, text: str) -> dict[str, Any]:
    return {"header": {"add": [{"name": name, "value": text}]}}


def shape(predicate: dict[str, Any]) -> Any:
    """How predicates are nested; a single one is what it compares."""
    [(kind, of)] = predicate.items()
    if kind == "single_predicate":
        return of["input"]["name"].removeprefix("http-").removesuffix("-match-input")
    return (kind, *map(shape, of["predicate"]))


@pytest.mark.parametrize(
    ("match", "source", "expected"),
    [
        (STATUS, "All", "response-status-code"),
        (TWO, "All", ("or_matcher", "response-status-code", "attributes-cel")),
        (HEADER, "All", "response-header"),
        (STATUS | HEADER, "All", ("and_matcher", "response-status-code", "response-header")),
        (STATUS, "Local", ("and_matcher", "response-status-code", "response-local-reply")),
    ],
)
def test_no_list_of_predicates_has_one_alone(match: dict[str, Any], source: str, expected: Any) -> None:
    """Envoy refuses it."""
    assert shape(predicate(match, source=source)) == expected


def test_the_source_of_a_response_is_compared_with_a_word() -> None:
    for source, word in (("Local", "true"), ("Backend", "false")):
        last = predicate(STATUS, source=source)["and_matcher"]["predicate"][-1]
        assert last["single_predicate"]["value_match"] == {"exact": word}


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ({"match": STATUS, "response": {"statusCode": 199}}, "[0].response.statusCode"),
        ({"match": STATUS, "response": {"statusCode": 600}}, "[0].response.statusCode"),
        ({"match": STATUS, "response": {"body": {"inline": "%REQ(a"}}}, "[0].response.body"),
        ({"match": STATUS, "redirect": {"port": 0}}, "[0].redirect.port"),
        ({"match": STATUS, "redirect": {"port": -1}}, "[0].redirect.port"),
        ({"match": STATUS, "redirect": {"port": 65536}}, "[0].redirect.port"),
        ({"match": STATUS, "redirect": elsewhere("oops")}, "[0].redirect.path.replaceFullPath"),
        ({"match": STATUS, "redirect": elsewhere("/a\nb")}, "[0].redirect.path.replaceFullPath"),
        ({"match": STATUS, "response": added("Host", "a")}, "[0].response.header.add[0]"),
        ({"match": STATUS, "response": added("x", "a\nb")}, "[0].response.header.add[0]"),
        ({"match": STATUS, "response": added("Content-Length", "1")}, "[0].response.header.add[0]"),
        ({"match": STATUS, "response": added("x", "%REQ(a")}, "[0].response.header.add[0]"),
        (
            {"match": STATUS, "response": {"header": {"set": [{"name": "host", "value": "a"}]}}},
            "[0].response.header.set[0]",
        ),
        ({"match": STATUS, "response": {"contentType": "a\nb"}}, "[0].response.contentType"),
        (
            {
                "match": {
                    "responseHeaders": [{"name": "a", "value": {"type": "RegularExpression", "value": "("}}]
                },
                "response": {},
            },
            "[0].match.responseHeaders[0].value.value",
        ),
    ],
)
def test_what_envoy_cannot_have_is_refused_where_it_stands(override: dict[str, Any], path: str) -> None:
    assert [problem.path for problem in check(Db(), value(override))] == [path]


def test_the_ends_of_a_range_may_be_any_numbers() -> None:
    """Protobuf has no integers of more than 64 bits."""
    of = {"statusCodes": [{"type": "Range", "range": {"start": -(10**30), "end": 10**30}}]}

    assert shape(predicate(of)) == "attributes-cel"


def test_a_large_page_stands_in_the_chain_and_not_in_each_route() -> None:
    assert FEATURE.http_filter is not None
    assert FEATURE.http_filter.chain_says_all
    of_chain = FEATURE.http_filter.chain(
        Db(), value({"match": STATUS, "response": {"body": {"inline": "a" * 9000}}})
    )
    of_route = FEATURE.http_filter.route(
        Db(), value({"match": STATUS, "response": {"body": {"inline": "a" * 9000}}})
    )
    assert of_chain == of_route


def test_a_redirect_says_what_it_changes_and_a_status() -> None:
    assert FEATURE.http_filter is not None
    override = {"match": STATUS, "redirect": {"hostname": "a.test", "port": 8443, "scheme": "https"}}
    config = plain(FEATURE.http_filter.chain(Db(), value(override)))

    action = config["custom_response_matcher"]["matcher_list"]["matchers"][0]["on_match"]["action"]
    assert action["typed_config"]["redirect_action"] == {
        "host_redirect": "a.test",
        "port_redirect": 8443,
        "scheme_redirect": "https",
    }
    assert action["typed_config"]["status_code"] == 302


@pytest.mark.parametrize(
    "entry",
    [
        {"response": {"header": {"remove": ["x-a"]}}},
        {"redirect": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"}}},
        {"response": {}, "redirect": {}},
    ],
)
def test_what_the_crd_refuses(entry: dict[str, Any]) -> None:
    _, problems = checked(ResponseOverride, {"match": STATUS, **entry})

    assert problems != []


def test_a_page_is_of_a_kind_whatever_group_is_written() -> None:
    """As in Envoy Gateway."""
    core = Core(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: page, namespace: default}, "
        "data: {response.body: sorry}}"
    )
    assert FEATURE.http_filter is not None
    built: list[Any] = []
    for group in ("", "apps"):
        ref = {"group": group, "kind": "ConfigMap", "name": "page"}
        override = {"match": STATUS, "response": {"body": {"type": "ValueRef", "valueRef": ref}}}
        assert list(check(core.db, value(override))) == []
        built.append(plain(FEATURE.http_filter.chain(core.db, value(override))))

    assert built[0] == built[1]
    assert "sorry" in str(built[0])


def test_a_percent_sign_in_a_header_is_one() -> None:
    """Else Envoy would look for a command there, and refuse what has none."""
    more = {"header": {"set": [{"name": "x-full", "value": "100% of %PROTOCOL%"}]}}
    assert FEATURE.http_filter is not None

    built = plain(FEATURE.http_filter.chain(Db(), value({"match": STATUS, "response": more})))

    assert "100%% of %PROTOCOL%" in str(built)
