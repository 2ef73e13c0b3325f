"""Filters of rules, from YAML."""

from __future__ import annotations

from msgspec import convert

from moongate.api.httproute import HTTPRouteRule
from moongate.api.route import HTTPHeader
from moongate.attach.rule_filters import RuleFilters, judged_filters
from tests.core import Core, load
from tests.routes import route_ref

EXTRA = (
    "{type: ExtensionRef, extensionRef: {group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: extra}}"
)


def judged(*filters: str, extra: str = "") -> RuleFilters:
    """The filters of a rule, from YAML; ``extra`` is the spec of the HTTPRouteFilter of that name."""
    rule = convert({"filters": [load(each) for each in filters]}, HTTPRouteRule, strict=False)
    manifest = f"""
        apiVersion: gateway.envoyproxy.io/v1alpha1
        kind: HTTPRouteFilter
        metadata: {{name: extra, namespace: default}}
        spec: {extra}
    """
    core = Core(*([manifest] if extra else []))
    return judged_filters(core.db, route_ref(), rule)


def url_rewrite(fields: str) -> str:
    return f"{{type: URLRewrite, urlRewrite: {fields}}}"


def header(name: str, value: str) -> HTTPHeader:
    return HTTPHeader(name=name, value=value)
