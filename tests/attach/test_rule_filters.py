"""What of a rule's filters is valid, and what is wrong with the rest."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import convert, structs

from moongate.api.grpcroute import GRPCBackendRef, GRPCRouteRule
from moongate.api.httproute import (
    HTTPBackendRef,
    HTTPPathModifier,
    HTTPRequestRedirectFilter,
    HTTPRouteFilter,
    HTTPRouteRule,
    HTTPURLRewriteFilter,
)
from moongate.api.route import HTTPHeaderFilter
from moongate.attach.rule_filters import (
    RuleFilters,
    backend_filter_fault,
    backend_filter_problem,
    judged_filters,
)
from tests.core import Core, extension, load
from tests.filters import EXTRA, header, judged, url_rewrite
from tests.routes import grpc_route_ref, route_ref, service

ADDS = "{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: X, value: '1'}]}}"
MIRROR = "{type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 80}}}"
REDIRECT = "{type: RequestRedirect, requestRedirect: {hostname: example.com}}"


def test_header_filters_are_kept_in_order() -> None:
    verdict = judged(ADDS, "{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [Y]}}")

    assert [f.add[0].name for f in verdict.request] == ["X"]
    assert [f.remove for f in verdict.response] == [("Y",)]
    assert not verdict.failed


@pytest.mark.parametrize("name", ["host", "Host", "a/b", "a:b", "", "Content-Length", "transfer-encoding"])
def test_a_header_that_cannot_be_changed_is_left_out_and_reported(name: str) -> None:
    """The valid ones of the filter still apply, to the 500 that the rule answers then."""
    verdict = _read_loose(HTTPHeaderFilter(add=(header(name, "x"), header("Good", "y"))))

    assert [h.name for f in verdict.request for h in f.add] == ["Good"]
    assert [p.reason for p in verdict.refused] == ["UnsupportedValue"]


def test_a_header_that_says_where_a_message_ends_can_be_removed() -> None:
    """Envoy says it then in another way; with a wrong one, a body would be taken for a request."""
    assert not _read_loose(HTTPHeaderFilter(remove=("content-length",))).failed


def test_a_header_with_a_value_that_none_may_have_is_left_out() -> None:
    verdict = _read_loose(HTTPHeaderFilter(set=(header("X", "bad\n"), header("Y", ""))))

    assert verdict.request == (HTTPHeaderFilter(),)
    assert len(verdict.refused) == 2


def test_a_header_with_a_value_that_is_long_and_wrong_is_judged_at_once() -> None:
    """A pattern that can share out a value in several ways would be tried for ever."""
    judgement = _read_loose(HTTPHeaderFilter(set=(header("X", "-" * 4_000 + "  "),)))

    assert len(judgement.refused) == 1


def test_a_filter_that_changes_no_header_is_no_fault() -> None:
    assert not _read_loose(HTTPHeaderFilter()).failed


@pytest.mark.parametrize("first", [True, False])
def test_two_filters_cannot_both_rewrite_the_host(first: bool) -> None:
    filters = [EXTRA, url_rewrite("{hostname: a.example.com}")]
    extra = "{urlRewrite: {hostname: {type: Backend}}}"

    verdict = judged(*(filters if first else filters[::-1]), extra=extra)

    assert [p.reason for p in verdict.refused] == ["UnsupportedValue"]


def test_a_direct_response_ends_the_reading_of_filters() -> None:
    verdict = judged(EXTRA, ADDS, extra="{directResponse: {statusCode: 404, contentType: text/plain}}")

    assert verdict.direct is not None
    assert verdict.request == ()
    assert [h.value for f in verdict.response for h in f.set] == ["text/plain"]
    assert not verdict.forwards


@pytest.mark.parametrize("other", [REDIRECT, EXTRA])
def test_what_is_not_forwarded_cannot_be_mirrored(other: str) -> None:
    verdict = judged(MIRROR, other, extra="{directResponse: {statusCode: 404}}")

    assert [p.reason for p in verdict.refused] == ["IncompatibleFilters"]


def test_a_mirror_of_no_request_goes_with_a_redirect() -> None:
    none = "{type: RequestMirror, requestMirror: {percent: 0, backendRef: {name: copy, port: 80}}}"

    assert judged(none, REDIRECT).refused == ()


def test_a_route_filter_that_does_not_exist_is_unresolved() -> None:
    verdict = judged(EXTRA, ADDS)

    assert [p.path for p in verdict.unresolved] == ["filters[0].extensionRef"]
    assert verdict.refused == ()
    assert verdict.request == ()


def test_a_filter_of_a_type_that_nobody_knows_is_refused() -> None:
    """It may come by a way that does not check, such as from a later API server."""
    unknown = structs.replace(convert(load(ADDS), HTTPRouteFilter), type="Unknown")

    verdict = judged_filters(Core().db, route_ref(), HTTPRouteRule(filters=(unknown,)))

    assert [p.reason for p in verdict.refused] == ["UnsupportedValue"]


def asking(settings: str, *, name: str = "auth") -> str:
    """A filter that asks a server; ``auth`` is a Service with an endpoint, ``empty`` one without."""
    auth = f"{{backendRef: {{name: {name}, port: 80}}, {settings}}}"
    return f"{{type: ExternalAuth, externalAuth: {auth}}}"


BY_HTTP = "protocol: HTTP, http: {}"


def asked(*filters: str) -> RuleFilters:
    core = Core(service("auth"), service("empty", ""))
    rule = convert({"filters": [load(each) for each in filters]}, HTTPRouteRule, strict=False)
    return judged_filters(core.db, route_ref(), rule)


@pytest.mark.parametrize(
    "filters",
    [
        [asking("protocol: HTTP")],
        [asking("protocol: GRPC")],
        [asking(f"{BY_HTTP}, forwardBody: {{maxSize: -1}}")],
        [asking(f"{BY_HTTP}, forwardBody: {{maxSize: 4294967296}}")],
        [asking(BY_HTTP), asking(BY_HTTP)],
    ],
)
def test_a_server_that_cannot_be_asked_as_it_is_written_closes_the_rule(filters: list[str]) -> None:
    verdict = asked(*filters)

    assert [p.reason for p in verdict.refused] == ["UnsupportedValue"]


def test_a_server_that_can_be_asked_is_no_fault() -> None:
    verdict = asked(asking(f"{BY_HTTP}, forwardBody: {{maxSize: 1024}}"))

    assert (verdict.failed, verdict.without_endpoints) == (False, ())


def test_a_server_that_does_not_exist_closes_the_rule() -> None:
    verdict = asked(asking(BY_HTTP, name="gone"))

    assert [(p.path, p.reason) for p in verdict.unresolved] == [
        ("filters[0].externalAuth.backendRef", "BackendNotFound")
    ]


def test_a_server_without_endpoints_is_reported_and_lets_nobody_pass() -> None:
    verdict = asked(asking(BY_HTTP, name="empty"))

    assert not verdict.failed
    assert [p.reason for p in verdict.without_endpoints] == ["EndpointsNotFound"]


@pytest.mark.parametrize(
    ("session", "fault"),
    [
        ("{sessionName: my-shop}", False),
        ("{sessionName: 'my shop'}", True),
        ("{sessionName: 'a=b;c'}", True),
        ("{sessionName: connection}", False),
        ("{sessionName: Connection, type: Header}", True),
        ("{sessionName: x-at, type: Header}", False),
        ("{}", False),
    ],
)
def test_a_session_needs_a_name_that_can_be_one(session: str, fault: bool) -> None:
    """Envoy would refuse the route, or take the header for one of the connection."""
    rule = convert({"sessionPersistence": load(session)}, HTTPRouteRule, strict=False)

    verdict = judged_filters(Core().db, route_ref(), rule)

    assert verdict.failed is fault
    assert all(p.path == "sessionPersistence.sessionName" for p in verdict.refused)


@pytest.mark.parametrize(
    ("share", "millionths"),
    [
        ("", [None]),
        ("percent: 20,", [200_000]),
        ("percent: 0,", [0]),
        ("fraction: {numerator: 1, denominator: 3},", [333_333]),
        ("fraction: {numerator: 5},", [50_000]),
    ],
)
def test_a_mirror_may_copy_a_share(share: str, millionths: list[int | None]) -> None:
    mirror = f"{{type: RequestMirror, requestMirror: {{{share} backendRef: {{name: copy, port: 80}}}}}}"

    assert [m.millionths for m in judged(mirror).mirrors] == millionths


@pytest.mark.parametrize("hostname", ["-bad.example.com", "1.2.3.4", "Upper.example.com", "a..b"])
def test_a_host_that_is_no_dns_name_is_refused(hostname: str) -> None:
    """Also where an older object has it."""
    rewrite = HTTPRouteFilter(type="URLRewrite", url_rewrite=HTTPURLRewriteFilter(hostname=hostname))

    verdict = judged_filters(Core().db, route_ref(), HTTPRouteRule(filters=(rewrite,)))

    assert [p.reason for p in verdict.refused] == ["UnsupportedValue"]
    assert verdict.rewrite is None


def test_values_out_of_their_range_are_reported_and_do_no_harm() -> None:
    """An object may be older than the enum that it breaks."""
    odd: Any = "Odd"
    code: Any = 666
    filters = (
        HTTPRouteFilter(type="RequestRedirect", request_redirect=HTTPRequestRedirectFilter(status_code=code)),
        HTTPRouteFilter(type="RequestRedirect", request_redirect=HTTPRequestRedirectFilter(scheme=odd)),
        HTTPRouteFilter(type="URLRewrite", url_rewrite=HTTPURLRewriteFilter(path=HTTPPathModifier(type=odd))),
        HTTPRouteFilter(
            type="URLRewrite", url_rewrite=HTTPURLRewriteFilter(path=HTTPPathModifier(type="ReplaceFullPath"))
        ),
        HTTPRouteFilter(type=odd),
    )

    verdict = judged_filters(Core().db, route_ref(), HTTPRouteRule(filters=filters))

    assert len(verdict.refused) == len(filters)
    assert verdict.redirect is None


def test_a_backend_ref_takes_no_filter_that_envoy_has_no_place_for() -> None:
    for each in (
        MIRROR,
        REDIRECT,
        EXTRA,
        url_rewrite("{path: {type: ReplaceFullPath, replaceFullPath: /x}}"),
    ):
        core = Core(extension("HTTPRouteFilter", "extra", "{directResponse: {}}"))
        ref = convert({"name": "shop", "filters": [load(each)]}, HTTPBackendRef)
        problem = backend_filter_problem(core.db, route_ref(), ref)
        assert problem is not None
        assert problem.reason == "UnsupportedRefValue"


def test_a_backend_ref_of_a_grpc_route_may_have_a_credential() -> None:
    """Backends of gRPC want tokens as others do; the reference refuses it."""
    credential = "{credentialInjection: {credential: {valueRef: {name: token}}}}"
    token = "{apiVersion: v1, kind: Secret, metadata: {name: token}, stringData: {credential: abc}}"
    db = Core(extension("HTTPRouteFilter", "extra", credential), token).db
    ref = convert({"name": "shop", "filters": [load(EXTRA)]}, GRPCBackendRef)

    assert backend_filter_problem(db, grpc_route_ref(), ref) is None
    assert backend_filter_fault(db, grpc_route_ref(), ref) is None


def test_a_fault_in_a_filter_of_a_backend_ref_is_reported() -> None:
    ref = convert({"name": "shop", "filters": [load(url_rewrite("{hostname: 1.2.3.4}"))]}, HTTPBackendRef)

    db = Core().db
    assert backend_filter_problem(db, route_ref(), ref) is None
    fault = backend_filter_fault(db, route_ref(), ref)
    assert fault is not None
    assert fault.reason == "InvalidBackendFilters"


def _read_loose(header_filter: HTTPHeaderFilter) -> RuleFilters:
    rule = HTTPRouteRule(
        filters=(HTTPRouteFilter(type="RequestHeaderModifier", request_header_modifier=header_filter),)
    )
    return judged_filters(Core().db, route_ref(), rule)


PATHS = [
    ("{type: ReplaceFullPath, replaceFullPath: x}", "path.replaceFullPath is 'x'; it must begin with '/'."),
    ("{type: ReplaceFullPath, replaceFullPath: ''}", "path.replaceFullPath is ''; it must begin with '/'."),
    (
        "{type: ReplacePrefixMatch, replacePrefixMatch: x}",
        "path.replacePrefixMatch is 'x'; it must begin with '/'.",
    ),
]


@pytest.mark.parametrize(("path", "message"), PATHS)
@pytest.mark.parametrize("of", ["URLRewrite, urlRewrite", "RequestRedirect, requestRedirect"])
def test_a_path_that_does_not_begin_with_a_slash_is_refused(of: str, path: str, message: str) -> None:
    """A backend could not read the request, and a redirect would lead to another host."""
    verdict = judged(f"{{type: {of}: {{path: {path}}}}}")

    assert [problem.message for problem in verdict.refused] == [message]


def test_a_prefix_may_be_replaced_by_nothing() -> None:
    assert not judged(url_rewrite("{path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}}")).failed


def test_a_header_that_a_direct_response_cannot_set_is_refused() -> None:
    """It would be left out without a word."""
    verdict = judged(EXTRA, extra="{directResponse: {header: {set: [{name: Content-Length, value: '9'}]}}}")

    assert [problem.reason for problem in verdict.refused] == ["UnsupportedValue"]


def test_a_header_with_a_command_that_does_not_end_is_refused() -> None:
    verdict = judged(
        "{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X, value: '%REQ(a%'}]}}"
    )

    [problem] = verdict.refused
    assert "the command '%REQ(' does not end with ')%'" in problem.message


@pytest.mark.parametrize(("status", "refused"), [(200, True), (299, True), (404, False)])
def test_calls_of_grpc_are_not_told_that_all_went_well_without_a_message(status: int, refused: bool) -> None:
    """Their clients would take it for OK, and look for a message."""
    extra = extension("HTTPRouteFilter", "extra", f"{{directResponse: {{statusCode: {status}}}}}")
    rule = convert({"filters": [load(EXTRA)]}, GRPCRouteRule, strict=False)

    verdict = judged_filters(Core(extra).db, grpc_route_ref(), rule)

    assert [p.reason for p in verdict.refused] == (["UnsupportedValue"] if refused else [])
    assert (verdict.direct is None) is refused
