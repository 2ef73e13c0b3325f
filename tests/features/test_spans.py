"""Names and tags of spans."""

from __future__ import annotations

from moongate.api.telemetry import CustomTag, LiteralCustomTag, SpanName, SpanSettings
from moongate.features.spans import span_faults, span_names, span_tags


def test_tags_stand_by_their_names_and_the_newer_field_wins() -> None:
    asked = SpanSettings(
        tags={"b": "%REQ(x)%", "a": "50%"},
        custom_tags={
            name: CustomTag(type="Literal", literal=LiteralCustomTag(value="old")) for name in ("c", "b")
        },
    )

    tags = list(span_tags(asked))

    assert [(tag.tag, tag.value, tag.literal.value) for tag in tags] == [
        ("a", "50%%", ""),
        ("b", "%REQ(x)%", ""),
        ("c", "", "old"),
    ]
    assert span_faults(asked) == []


def test_what_envoy_would_refuse_is_left_out_and_reported() -> None:
    asked = SpanSettings(
        tags={"": "x", "open": "%REQ(x"},
        custom_tags={"empty": CustomTag(type="Literal")},
        span_name=SpanName(client="%REQ(:path", server="to %REQ(host)%"),
    )

    assert list(span_tags(asked)) == []
    assert span_names(asked) == ("", "to %REQ(host)%")
    assert [path for path, _ in span_faults(asked)] == [
        "customTags['empty']",
        "spanName.client",
        "tags['']",
        "tags['open']",
    ]
