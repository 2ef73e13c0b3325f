"""Faults of files and folders: rights, links, encodings, and what is no file at all."""

from __future__ import annotations

import os
from pathlib import Path

from tests.campaign.fault import GONE, PLACE, Act, Fault, Reading
from tests.campaign.healthy import FILES, SHOP

STAYS = "The last good state of 1 resource stays in force: HTTPRoute default/shop."
AS_IT_WAS = "until this is fixed what is served stays as it was"


def no_right_to(name: str) -> Act:
    return lambda folder: (folder / name).chmod(0o000)


def linked(name: str, to: str) -> Act:
    """A link in the place of a file, or beside it."""

    def act(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(to)

    return act


def in_place_of(name: str, make: Act) -> Act:
    def act(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return act


def closed_folder(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub").chmod(0o000)


def deep(folder: Path) -> None:
    for _ in range(70):
        folder = folder / "d"
        folder.mkdir()
    (folder / "a.yaml").write_text("kind: Nothing\n")


def in_two_steps(folder: Path) -> None:
    """Moved away, and written anew, as vim saves."""
    (folder / "shop.yaml").rename(folder / "shop.yaml~")
    (folder / "shop.yaml").write_bytes((folder / "shop.yaml~").read_bytes())


def in_passing(folder: Path) -> None:
    for number in range(20):
        path = folder / f"passing-{number}.yaml"
        path.write_text("[")
        path.unlink()


FAULTS = (
    Fault(
        name="a file that may not be read keeps its last good state",
        act=no_right_to("shop.yaml"),
        reads=(
            Reading(
                at="shop.yaml:1:1",
                value="permission denied",
                right="needs the right to read it",
                meanwhile=STAYS,
            ),
        ),
    ),
    Fault(
        name="a folder that may not be read is named",
        differs="at a start, nothing is known that was served, so all is closed",
        alone=True,
        act=closed_folder,
        reads=(
            Reading(
                at="sub", value="permission denied", right="needs the right to read it", meanwhile="stays"
            ),
        ),
    ),
    Fault(
        name="a link that leads nowhere is named with where it leads",
        act=linked("shop.yaml", "nowhere.yaml"),
        reads=(
            Reading(
                at="shop.yaml:1:1",
                value="nowhere.yaml",
                right="correct the link, or remove it",
                meanwhile=STAYS,
            ),
        ),
    ),
    Fault(
        name="a link that leads to itself is named",
        act=linked("shop.yaml", "shop.yaml"),
        reads=(Reading(at="shop.yaml:1:1", value="link", right="remove one of them", meanwhile=STAYS),),
    ),
    Fault(
        name="two links that lead to each other are named",
        alone=True,
        act=lambda folder: (linked("a.yaml", "b.yaml")(folder), linked("b.yaml", "a.yaml")(folder)),
        reads=(
            Reading(at="a.yaml:1:1", value="link", right="remove one of them", meanwhile=AS_IT_WAS),
            Reading(at="b.yaml:1:1", value="link", right="remove one of them", meanwhile=AS_IT_WAS),
        ),
    ),
    Fault(
        name="a pipe is not waited for",
        act=in_place_of("pipe.yaml", os.mkfifo),
        reads=(
            Reading(
                at="pipe.yaml:1:1", value="pipe", right="file", meanwhile="Nothing of this file is in force."
            ),
        ),
    ),
    Fault(
        name="a folder in the place of a file takes its resource away, and says nothing more",
        act=in_place_of("shop.yaml", Path.mkdir),
        reads=(
            Reading(
                at="limits.yaml:8:11",
                of="BackendTrafficPolicy default/limits",
                field="spec.targetRefs[0].name",
                value="HTTPRoute default/shop",
                meanwhile="no effect",
                right=GONE,
            ),
        ),
        requests={"shop": 404},
    ),
    Fault(
        name="a file in Latin-1 names the line of the first letter that is none",
        files={"shop.yaml": SHOP.replace("value: open", "value: op\xe9n").encode("latin-1")},
        reads=(Reading(at="shop.yaml:16:62", value="0xe9", right="UTF-8", meanwhile=STAYS),),
    ),
    Fault(
        name="a file with a byte of zero is no text",
        files={"shop.yaml": SHOP.replace("value: open", "value: op\0n").encode()},
        reads=(Reading(at="shop.yaml:16:62", value="This is no text", right="UTF-8", meanwhile=STAYS),),
    ),
    Fault(
        name="an archive that is called a manifest is no text",
        files={"shop.yaml": b"\x1f\x8b\x08\x00" + bytes(range(256))},
        reads=(Reading(at="shop.yaml:1:1", value="gzip", right="unpack it", meanwhile=STAYS),),
    ),
    Fault(
        name="a file that is emptied takes its resource away",
        files={"shop.yaml": b""},
        reads=(
            Reading(
                at="limits.yaml:8:11",
                of="BackendTrafficPolicy default/limits",
                field="spec.targetRefs[0].name",
                value="HTTPRoute default/shop",
                meanwhile="no effect",
                right=GONE,
            ),
        ),
        requests={"shop": 404},
    ),
    Fault(
        name="folders that are nested without end are left alone, and said to be",
        differs="at a start, nothing is known that was served, so all is closed",
        alone=True,
        act=deep,
        reads=(
            Reading(
                at="/".join(["d"] * 64),
                value="this one is deeper",
                right="Folders are read 64 deep",
                meanwhile=AS_IT_WAS,
            ),
        ),
    ),
    Fault(
        name="a resource in a hidden file is not there",
        act=lambda folder: (folder / "shop.yaml").rename(folder / ".shop.yaml"),
        reads=(
            Reading(
                at="limits.yaml:8:11",
                of="BackendTrafficPolicy default/limits",
                field="spec.targetRefs[0].name",
                value="HTTPRoute default/shop",
                meanwhile="no effect",
                right=GONE,
            ),
        ),
        requests={"shop": 404},
    ),
    Fault(
        name="a file of many megabytes that is no manifest holds nobody up",
        files={"big.yaml": "a: " + "x" * 8_000_000 + "\n"},
        reads=(
            Reading(
                at="big.yaml:1:1",
                value="neither apiVersion nor kind",
                right="move it out of the folder",
                meanwhile="Nothing of this document is in force.",
            ),
        ),
    ),
)
# --- as editors and git write ----------------------------------------------------------------------

MERGED = SHOP.replace(
    "  hostnames: [shop.test]\n",
    "«<<<<<<< HEAD\n  hostnames: [shop.test]\n=======\n  hostnames: [store.test]\n>>>>>>> feature\n",
)
UNRENDERED = SHOP.replace("name: shop\n", 'name: {{ include "shop.name" . }}\n')

EDITS = (
    Fault(
        name="marks of a merge that is not finished are named as such",
        files={"shop.yaml": MERGED},
        reads=(Reading(at="shop.yaml", value="<<<<<<<", right="merge", meanwhile=STAYS),),
    ),
    Fault(
        name="a file that is half written, and still YAML, says what its requests get",
        files={"shop.yaml": SHOP[: SHOP.index("backendRefs") - 4].replace("- matches", "- «matches")},
        reads=(
            Reading(
                at="shop.yaml",
                of="HTTPRoute default/shop",
                field="spec.rules[0]",
                value="no backend",
                meanwhile="500",
                severity="warning",
                right="add one of them",
            ),
        ),
        requests={"shop": 500},
        exits=0,
    ),
    Fault(
        name="a file that ends in the middle of a list keeps its last good state",
        files={"shop.yaml": SHOP[: SHOP.index("shop.test]")]},
        reads=(Reading(at="shop.yaml:11:1", value="bracket", right="not closed", meanwhile=STAYS),),
    ),
    Fault(
        name="a copy that an editor leaves is defined twice",
        files={"shop copy.yaml": SHOP},
        reads=(
            Reading(
                at="shop copy.yaml:4:9",
                of="HTTPRoute default/shop",
                field="metadata.name",
                value="defined twice",
                right="Keep one of the two.",
                meanwhile="shop.yaml:4:9 is in force",
            ),
        ),
        differs="a start takes the first in the order of file names",
    ),
    Fault(
        name="a template of Helm in the folder is named as one",
        files={"shop.yaml": UNRENDERED},
        reads=(Reading(at="shop.yaml:4:10", value="{{", right="helm template", meanwhile=STAYS),),
    ),
    Fault(
        name="a kustomization is no manifest, and names its command",
        files={"kustomization.yaml": "resources: [shop.yaml]\nnamePrefix: a-\n"},
        reads=(
            Reading(
                at="kustomization.yaml:1:1",
                value="kustomization",
                right="kubectl kustomize",
                severity="warning",
                meanwhile="it reads the manifests beside it as they are written",
            ),
        ),
        exits=0,
    ),
    Fault(
        name="values of Helm are no manifest, and name its command",
        files={"values.yaml": "replicaCount: 1\nimage: {repository: shop}\n"},
        reads=(
            Reading(
                at="values.yaml:1:1",
                value="apiVersion",
                right="helm template",
                meanwhile="Nothing of this document is in force.",
            ),
        ),
    ),
    Fault(
        name="a compose file is no manifest",
        files={"compose.yaml": "services: {shop: {image: shop, ports: ['80:80']}}\n"},
        reads=(
            Reading(
                at="compose.yaml:1:1",
                value="Docker Compose",
                right="out of the folder",
                meanwhile="Nothing of this document is in force.",
            ),
        ),
    ),
    Fault(
        name="a document of Markdown that is called YAML is none",
        files={"readme.yaml": "# Shop\n\nThis is *the* shop: open.\n\n- a\n"},
        reads=(
            Reading(
                at="readme.yaml:5:1",
                value=PLACE,
                right="indented otherwise than its neighbours",
                meanwhile="Nothing of this document is in force.",
            ),
        ),
    ),
    Fault(
        name="a branch without a Backend closes the route that is still there",
        files={"backends.yaml": FILES["backends.yaml"].partition("---")[0]},
        reads=(
            Reading(
                at="shop.yaml:21:13",
                of="HTTPRoute default/shop",
                field="spec.rules[0].backendRefs[0].name",
                value="Backend default/two",
                meanwhile="500",
                right="The only Backend there is 'one'",
            ),
        ),
        requests={"shop": 500},
    ),
    Fault(
        name="a save in two steps leaves nothing behind",
        act=in_two_steps,
        reads=(),
        exits=0,
    ),
    Fault(
        name="files that editors leave beside a manifest are not read",
        files=dict.fromkeys((".shop.yaml.swp", "shop.yaml~", "#shop.yaml#", "shop.yaml.bak", "4913"), SHOP),
        reads=(),
        exits=0,
    ),
    Fault(
        name="a file that comes and goes before it is read is none",
        act=in_passing,
        reads=(),
        exits=0,
    ),
)
