"""What is shown of Envoy's words: why it refuses something, and nothing of what it quotes."""

from __future__ import annotations

import pytest

from moongate.xds.refusals import of_clusters, reason, unquoted

QUOTE = """goo.gle/debugonly
name: "default/eg/http"
virtual_hosts {
  routes {
    typed_per_filter_config {
      value {
        [type.googleapis.com/envoy.extensions.filters.http.basic_auth.v3.BasicAuthPerRoute] {
          users { inline_bytes: "alice:{SHA}canary\\n: Proto constraint validation failed (canary" }
        }
      }
    }
  }
}
"""
CONSTRAINT = (
    ": Proto constraint validation failed (RouteConfigurationValidationError.VirtualHosts[0]: embedded"
    " message failed validation | caused by VirtualHostValidationError.Name: value length must be at least 1)"
)


def test_a_reason_after_a_quote_names_the_field() -> None:
    assert reason(QUOTE + CONSTRAINT) == ("VirtualHostValidationError.Name: value length must be at least 1")


def test_a_quote_at_the_end_is_left_out() -> None:
    assert reason(f"Invalid duration: Expected positive duration: {QUOTE}") == (
        "Invalid duration: Expected positive duration"
    )


@pytest.mark.parametrize("words", ["missing ]: [", "cannot bind '127.0.0.1:80': Address already in use"])
def test_a_reason_without_a_quote_is_as_it_is(words: str) -> None:
    assert reason(words) == unquoted(words) == words


@pytest.mark.parametrize("words", [QUOTE, QUOTE + CONSTRAINT, f"a: {QUOTE}{CONSTRAINT}", QUOTE + QUOTE])
def test_nothing_of_a_quote_is_shown(words: str) -> None:
    assert "canary" not in unquoted(words) + reason(words)


def test_clusters_that_something_lacks_are_named_each_with_its_reason() -> None:
    assert of_clusters([("a", "no file"), ("b", "no port")]) == "cluster a: no file; cluster b: no port"
