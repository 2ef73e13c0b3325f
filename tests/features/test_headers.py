"""Headers are changed in the order that the page says, and only as Envoy can."""

from __future__ import annotations

import msgspec
import pytest
from envoy.config.core.v3.protocol_pb2 import HttpProtocolOptions
from envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import HeaderMutation
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import (
    HeaderMutation as EarlyHeaderMutation,
)

from moongate.api.shared import StringMatch
from moongate.engine import Db
from moongate.features.base import Effective, ListenerFacts, ManagerEdit
from moongate.features.headers import (
    FEATURE,
    AddedHeader,
    HeaderSettings,
    HostSettings,
    HTTPHeaderFilter,
    XForwardedClientCert,
    check,
)
from tests.features.listeners import OWNER, manager_with

NOTHING = HeaderSettings()


def header(name: str, value: str = "v") -> AddedHeader:
    return AddedHeader(name=name, value=value)


def faults(changes: HTTPHeaderFilter) -> list[str]:
    settings = HeaderSettings(early_request_headers=changes)
    return [problem.path for problem in check(Db(), Effective(settings, OWNER))]


def early(changes: HTTPHeaderFilter) -> list[tuple[str, str]]:
    """The changes of requests, in order: what is done, and the header or what its name matches."""
    [extension] = manager_with(
        FEATURE, HeaderSettings(early_request_headers=changes)
    ).early_header_mutation_extensions
    config = EarlyHeaderMutation()
    assert extension.typed_config.Unpack(config)
    made: list[tuple[str, str]] = []
    for each in config.mutations:
        match each.WhichOneof("action"):
            case "append":
                option = each.append
                made.append((option.HeaderAppendAction.Name(option.append_action), option.header.key))
            case "remove":
                made.append(("REMOVE", each.remove))
            case _:
                made.append(("MATCH", str(each.remove_on_match.key_matcher).strip()))
    return made


def test_changes_are_made_in_the_order_of_their_kinds_and_the_first_of_a_name_counts() -> None:
    changes = HTTPHeaderFilter(
        set=(header("X-A"), header("x-b")),
        add=(header("x-a"),),
        add_if_absent=(header("X-B"), header("x-c")),
        remove=("X-D", "x-d", "x-a"),
        remove_on_match=(StringMatch(type="Suffix", value="-e"),),
    )

    assert early(changes) == [
        ("APPEND_IF_EXISTS_OR_ADD", "x-a"),
        ("OVERWRITE_IF_EXISTS_OR_ADD", "x-b"),
        ("ADD_IF_ABSENT", "x-c"),
        ("REMOVE", "x-d"),
        ("REMOVE", "x-a"),
        ("MATCH", 'suffix: "-e"'),
    ]


def test_a_percent_sign_that_begins_no_command_stands_for_itself() -> None:
    """Envoy would refuse the whole listener for it."""
    settings = HeaderSettings(late_response_headers=HTTPHeaderFilter(set=(header("x-share", "100% of all"),)))
    assert FEATURE.listener_filter is not None
    config = FEATURE.listener_filter.chain(settings)

    assert isinstance(config, HeaderMutation)
    [change] = config.mutations.response_mutations
    assert change.append.header.value == "100%% of all"


def test_responses_that_nobody_changes_need_no_filter() -> None:
    assert FEATURE.listener_filter is not None
    assert FEATURE.listener_filter.chain(NOTHING) is None


@pytest.mark.parametrize(
    "changes",
    [
        HTTPHeaderFilter(add=(header("transfer-encoding", "chunked"),)),
        HTTPHeaderFilter(set=(header("Content-Length", "3"),)),
        HTTPHeaderFilter(add_if_absent=(header("host", "a.test"),)),
        HTTPHeaderFilter(set=(header("Host", "a.test"),)),
        HTTPHeaderFilter(set=(header("x-a", " padded "),)),
        HTTPHeaderFilter(set=(header("x-a", "two\r\nlines"),)),
        HTTPHeaderFilter(set=(header("x-a", "%REQ(x-b"),)),
        HTTPHeaderFilter(remove=("not a name",)),
        HTTPHeaderFilter(remove=(":path",)),
        HTTPHeaderFilter(remove=("Host",)),
        HTTPHeaderFilter(remove=("",)),
    ],
)
def test_what_envoy_would_refuse_is_a_problem_at_its_place(changes: HTTPHeaderFilter) -> None:
    [path] = faults(changes)

    assert path.startswith("earlyRequestHeaders.")
    assert path.endswith("[0]")


def test_a_pattern_that_is_none_is_a_problem() -> None:
    match = StringMatch(type="RegularExpression", value="a(")

    assert faults(HTTPHeaderFilter(remove_on_match=(match,))) == [
        "earlyRequestHeaders.removeOnMatch[0].value"
    ]


@pytest.mark.parametrize(
    ("type_", "value", "of_requests", "of_responses"),
    [
        ("RegularExpression", ".*", True, True),
        ("RegularExpression", "[^:].*", False, False),
        ("RegularExpression", "path", False, False),
        ("Prefix", ":", True, True),
        ("Prefix", ":s", True, True),
        ("Prefix", ":p", True, False),
        ("Suffix", "path", True, False),
        ("Suffix", "-path", False, False),
        ("Suffix", "status", False, True),
        ("Exact", ":status", False, True),
        ("Exact", ":method", True, False),
        (None, ":path", True, False),
    ],
)
def test_what_a_message_is_made_of_is_not_removed_with_its_headers(
    type_: str | None, value: str, of_requests: bool, of_responses: bool
) -> None:
    """Without its path no request is served, and without its status no response."""
    written = {"value": value} if type_ is None else {"type": type_, "value": value}
    match = msgspec.convert(written, StringMatch)
    changes = HTTPHeaderFilter(remove_on_match=(match,))
    early, late = HeaderSettings(early_request_headers=changes), HeaderSettings(late_response_headers=changes)

    assert [bool(list(check(Db(), Effective(each, OWNER)))) for each in (early, late)] == [
        of_requests,
        of_responses,
    ]


def test_changes_without_any_change_are_a_problem() -> None:
    assert faults(HTTPHeaderFilter()) == ["earlyRequestHeaders"]


@pytest.mark.parametrize(("limit", "kib"), [("1Ki", 1), (1025, 2), ("100k", 98), ("8Mi", 8192)])
def test_the_limit_of_headers_is_rounded_up_to_whole_kibibytes(limit: str | int, kib: int) -> None:
    settings = HeaderSettings(max_request_header_limit=limit)

    assert list(check(Db(), Effective(settings, OWNER))) == []
    assert manager_with(FEATURE, settings).max_request_headers_kb.value == kib


@pytest.mark.parametrize("limit", [0, 1023, "8193Ki", "9E"])
def test_a_limit_out_of_envoys_range_is_a_problem(limit: str | int) -> None:
    settings = HeaderSettings(max_request_header_limit=limit)
    [problem] = check(Db(), Effective(settings, OWNER))

    assert problem.path == "maxRequestHeaderLimit"
    assert str(limit) in problem.message


@pytest.mark.parametrize(
    ("settings", "makes", "keeps"),
    [
        (NOTHING, None, False),
        (HeaderSettings(preserve_x_request_id=False), None, False),
        (HeaderSettings(preserve_x_request_id=True), True, True),
        (HeaderSettings(request_id="PreserveOrGenerate"), True, True),
        (HeaderSettings(request_id="Preserve"), False, True),
        (HeaderSettings(request_id="Generate"), True, False),
        (HeaderSettings(request_id="Disable"), False, False),
    ],
)
def test_request_ids_are_made_or_kept(settings: HeaderSettings, makes: bool | None, keeps: bool) -> None:
    hcm = manager_with(FEATURE, settings)

    assert (hcm.generate_request_id.value if hcm.HasField("generate_request_id") else None) is makes
    assert hcm.preserve_external_request_id is keeps


def test_a_policy_that_says_nothing_else_refuses_underscores_as_none_does() -> None:
    options = manager_with(FEATURE, NOTHING).common_http_protocol_options

    assert options.headers_with_underscores_action == HttpProtocolOptions.REJECT_REQUEST


def test_details_of_a_certificate_are_added_only_in_modes_that_add() -> None:
    """An object that came without a check of its rules may have them beside another mode."""
    every = ("Subject", "Cert", "Chain", "DNS", "URI")
    adding = XForwardedClientCert(mode="AppendForward", cert_details_to_add=every)
    silent = XForwardedClientCert(mode="ForwardOnly", cert_details_to_add=every)

    added = manager_with(FEATURE, HeaderSettings(x_forwarded_client_cert=adding))
    forwarded = manager_with(FEATURE, HeaderSettings(x_forwarded_client_cert=silent))

    details = added.set_current_client_cert_details
    assert (details.subject.value, details.cert, details.chain, details.dns, details.uri) == (True,) * 5
    assert added.forward_client_cert_details == HttpConnectionManager.APPEND_FORWARD
    assert forwarded.forward_client_cert_details == HttpConnectionManager.FORWARD_ONLY
    assert not forwarded.HasField("set_current_client_cert_details")


@pytest.mark.parametrize("strip", [None, False, True])
def test_the_last_dot_of_a_host_is_taken_off_if_asked(strip: bool | None) -> None:
    settings = HeaderSettings(host=HostSettings(strip_trailing_host_dot=strip))

    assert manager_with(FEATURE, settings).strip_trailing_host_dot is bool(strip)


@pytest.mark.parametrize("enabled", [None, False, True])
def test_envoys_own_headers_are_suppressed_unless_asked_for(enabled: bool | None) -> None:
    router = Router(suppress_envoy_headers=True)
    edit = ManagerEdit(HttpConnectionManager(), router)
    assert FEATURE.connection_manager is not None
    FEATURE.connection_manager(edit, Effective(HeaderSettings(enable_envoy_headers=enabled), OWNER))

    assert router.suppress_envoy_headers is not bool(enabled)


def test_rate_limits_learn_which_headers_they_may_add() -> None:
    assert FEATURE.listener_facts is not None
    settings = HeaderSettings(enable_envoy_headers=True, disable_rate_limit_headers=True)
    facts = FEATURE.listener_facts(ListenerFacts(stream_idle=True), settings)

    assert facts == ListenerFacts(stream_idle=True, envoy_headers=True, rate_limit_headers=False)
    assert FEATURE.listener_facts(ListenerFacts(), NOTHING) == ListenerFacts()
