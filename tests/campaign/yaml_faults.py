"""Faults of YAML and JSON: a document that cannot be read, or that is not what its author thinks."""

from __future__ import annotations

from tests.campaign.fault import MISSING, PLACE, SECRET, Fault, NotApplicable, Reading, more, swap
from tests.campaign.healthy import CANARY, SHOP

STAYS = "The last good state of 1 resource stays in force: HTTPRoute default/shop."

FAULTS = (
    Fault(
        name="a tab that indents is shown as one",
        files=swap("shop.yaml", ("  hostnames:", "«\thostnames:")),
        reads=(Reading(at="shop.yaml", value="tab", right="spaces", meanwhile=STAYS),),
    ),
    Fault(
        name="a bracket that nobody closes is shown where it opens",
        files=swap("shop.yaml", ("[shop.test]", "«[shop.test")),
        reads=(Reading(at="shop.yaml", value="'['", right="]", meanwhile=STAYS),),
    ),
    Fault(
        name="a brace that nobody closes is shown where it opens",
        files=swap("shop.yaml", ("{type: PathPrefix, value: /}", "«{type: PathPrefix, value: /")),
        reads=(Reading(at="shop.yaml", value="'{'", right="}", meanwhile=STAYS),),
    ),
    Fault(
        name="a quote that nobody closes is shown where it opens",
        files=swap("shop.yaml", ("request: 10s}", 'request: «"10s}')),
        reads=(Reading(at="shop.yaml", value="quote", right="not closed", meanwhile=STAYS),),
    ),
    Fault(
        name="a line that is indented less than its list is shown",
        files=swap("shop.yaml", ("    sectionName: http", "   «sectionName: http")),
        reads=(Reading(at="shop.yaml", right="indent", meanwhile=STAYS, value=PLACE),),
    ),
    Fault(
        name="a key that stands twice is shown with both places",
        files=swap("shop.yaml", ("  rules:\n", "  «hostnames: [twice.test]\n  rules:\n")),
        reads=(Reading(at="shop.yaml", value="'hostnames'", right="1 line above", meanwhile=STAYS),),
    ),
    Fault(
        name="a colon without a space is no key",
        files=swap("shop.yaml", ("name: two", "«name:two")),
        reads=(Reading(at="shop.yaml", value="'name:'", right="space", meanwhile=STAYS),),
    ),
    Fault(
        name="a value with a colon must be quoted",
        files=swap("shop.yaml", ("value: open", "value: open«: till eight")),
        reads=(Reading(at="shop.yaml", right="bracket", meanwhile=STAYS, value=MISSING),),
    ),
    Fault(
        name="an anchor that does not exist is not named, for it may be a password",
        files=swap("shop.yaml", ("[shop.test]", "«*names")),
        reads=(Reading(at="shop.yaml", value="alias", right="&name", meanwhile=STAYS),),
    ),
    Fault(
        name="a tag has no meaning in a manifest",
        files=swap("shop.yaml", ("value: open", "value: «!!python/name:open open")),
        reads=(
            Reading(
                at="shop.yaml",
                right="quote",
                meanwhile=STAYS,
                value=NotApplicable("a tag may be the begin of a password"),
            ),
        ),
    ),
    Fault(
        name="a tag in a Secret is shown without its words",
        files=swap("users.yaml", ('"member:{SHA}@DIGEST@"', f"«!{CANARY} x")),
        reads=(
            Reading(
                at="users.yaml",
                right="quote",
                meanwhile="The last good state of 1 resource stays in force: Secret default/users.",
                value=SECRET,
            ),
        ),
    ),
    Fault(
        name="a document that is a list wants a separator",
        files={"shop.yaml": "«- " + SHOP.replace("\n", "\n  ").rstrip() + "\n"},
        reads=(Reading(at="shop.yaml", value="list", right="`---`", meanwhile=STAYS),),
    ),
    Fault(
        name="a document that is a word is no manifest",
        files=more("shop.yaml", "«TODO\n"),
        reads=(
            Reading(
                at="shop.yaml",
                value="string",
                right="apiVersion and kind",
                meanwhile="Nothing of this document is in force.",
            ),
        ),
    ),
    Fault(
        name="a separator that is missing makes one document of two",
        files={"shop.yaml": f"{SHOP}«{SHOP}"},
        reads=(Reading(at="shop.yaml", value="'apiVersion'", right="`---`", meanwhile=STAYS),),
    ),
    Fault(
        name="a control character is named with its code",
        files=swap("shop.yaml", ("[shop.test]", "[shop«\x07.test]")),
        reads=(Reading(at="shop.yaml", value="U+0007", right="remove", meanwhile=STAYS),),
    ),
    Fault(
        name="a template that was not rendered is not taken for YAML",
        files=swap("shop.yaml", ("[shop.test]", "{«{ .Values.host }}")),
        reads=(Reading(at="shop.yaml", value="{{", right="helm template", meanwhile=STAYS),),
    ),
    Fault(
        name="an alias that grows without end is stopped",
        files=more(
            "shop.yaml",
            "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(
                f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)
            ),
        ),
        reads=(
            Reading(
                at="shop.yaml:25:4",
                value="aliases",
                right="200000",
                meanwhile="Nothing of this document is in force.",
            ),
        ),
    ),
    Fault(
        name="JSON that ends too early says what is missing",
        files={"late.json": '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "late"«'},
        reads=(
            Reading(
                at="late.json", right="ends", value=MISSING, meanwhile="Nothing of this document is in force."
            ),
        ),
    ),
    Fault(
        name="JSON with a trailing comma says so",
        files={"late.json": '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "late"«,}}'},
        reads=(
            Reading(
                at="late.json",
                value="',' stands before",
                right="remove it",
                meanwhile="Nothing of this document is in force.",
            ),
        ),
    ),
    Fault(
        name="JSON that ends too early in a file that ends in .yaml is called JSON",
        files={"late.yaml": '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "late"«'},
        reads=(
            Reading(
                at="late.yaml",
                value="JSON",
                right="cut off",
                meanwhile="Nothing of this document is in force.",
            ),
        ),
    ),
)
