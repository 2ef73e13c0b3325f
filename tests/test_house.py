"""The house rules that no tool knows: a rule that is not checked is a wish.

Each test names the rule it holds. What is checked is the source as it stands, never an import of it, so a
broken module does not hide a broken rule.
"""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "moongate"
MODULES = sorted(path for path in SRC.rglob("*.py") if not path.match("*_pb2.py"))  # those are generated
SHARED = {"__init__", "base", "shared", "spans"}
FEATURES = [path for path in sorted((SRC / "features").glob("*.py")) if path.stem not in SHARED]

OUTSIDE_THE_CORE = {
    "__main__",
    "ads",
    "cli",
    "console",
    "crds",
    "envoy_settings",
    "envoy_states",
    "fleets",
    "infra",
    "line_writer",
    "patience",
    "loading",
    "rate_limits",
    "report",
    "run",
    "running_fleet",
    "shared_udp_ports",
    "sources",
    "terminal",
}
"""Parts that may do I/O. All others are the core, also those that do not exist yet."""

HOMELESS = {"common", "helper", "helpers", "manager", "misc", "util", "utils"}
IMPURE = {
    "asyncio",
    "os",
    "pathlib",
    "random",
    "secrets",
    "socket",
    "subprocess",
    "threading",
    "time",
}

MACHINE = re.compile(
    r"(?<![\w.*-])/(?:wor[k]|roo[t]|far[m]|User[s])/"  # home or workspace of some machine
    r"|/opt/(?:m[g]|wheel[s])\b"
    r"|(?:index-ur[l]|find-link[s]|registry\.npmj[s]|pythonhoste[d]|pypi\.or[g]/simple)"
    r"| @ fil[e]:"
)
"""Written so that it does not match itself."""


def test_only_the_wire_module_serializes() -> None:
    """Map order is unspecified in protobuf; one place asks for a deterministic one, so equal means equal."""
    places = [
        place(path, node)
        for path in MODULES
        if path != SRC / "xds" / "wire.py"
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and node.attr in {"SerializeToString", "SerializePartialToString"}
    ]

    assert places == [], "use moongate.xds.wire.encode"


@pytest.mark.parametrize("path", FEATURES, ids=lambda path: path.stem)
def test_a_feature_has_a_page(path: Path) -> None:
    """The page is the feature's reference and its golden test."""
    page = path.with_suffix(".md")

    assert page.exists(), f"{page.relative_to(ROOT)} is missing"


@pytest.mark.parametrize("path", FEATURES, ids=lambda path: path.stem)
def test_a_feature_is_in_the_table(path: Path) -> None:
    """Nothing registers itself: a feature that no table names does nothing."""
    tuples = [
        node for node in ast.walk(parsed(SRC / "features" / "__init__.py")) if isinstance(node, ast.Tuple)
    ]
    named = {
        inner.value.id
        for node in tuples
        for inner in ast.walk(node)
        if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name)
    }

    assert path.stem in named, f"no table in features/__init__.py has a line {path.stem}.…"


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.stem == "__init__"], ids=lambda path: path.parent.name
)
def test_a_package_has_its_logic_in_modules(path: Path) -> None:
    """An ``__init__.py`` has tables and exports only: nobody looks for logic there."""
    logic = [
        node.name
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]

    assert set(logic) <= {"__getattr__"}, "only exports that are loaded late need a function"


def test_nobody_else_knows_a_single_feature() -> None:
    """One module, one page, two lines: whoever else knows a feature would have to be changed with it.

    What others need of features they ask of all of them, by the hooks in ``features/base.py``.
    """
    # An EnvoyProxy has a field of this name, too.
    fields = {field for path in FEATURES for field in fields_of(path)} - {"telemetry"}
    stems = {path.stem for path in FEATURES}
    knowing = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in MODULES
        if path.parent != SRC / "features" and not path.match("policies/*_policy.py")
        for line, what in features_named(parsed(path), stems, fields)
    ]

    assert fields >= {"cors", "timeout", "tls"}
    assert knowing == []


def test_the_search_for_knowers_of_features_finds_them() -> None:
    text = """
from moongate.features import FEATURES, cors
from moongate.features.retry import FEATURE
import moongate.features.timeout
from moongate.policies import POLICY_KINDS
policy.spec.basic_auth
getattr(policy.spec, "timeout", None)
Problem("spec.basicAuth.users", "")
rule.timeout
"""
    lines = [
        line
        for line, _ in features_named(
            ast.parse(text), {"cors", "retry", "timeout"}, {"basic_auth", "timeout"}
        )
    ]

    assert lines == [2, 3, 4, 6, 7, 8]


LIMITS_OF_TIME = {
    "ads/server.py": "what is due comes at its time, and `settled` has a user's deadline",
    "infra/port_handover.py": "the pause before it asks again",
    "infra/process.py": "the pause before the next start",
    "infra/rate_limit_process.py": "the pause before the next start, and time in which Envoys move",
    "patience.py": "it is what others use",
    "run/laptop.py": "a user's deadline",
    "sources/folder_events.py": "a pause of who writes; `files` leaves out standstills",
}
"""Where a limit of time counts standstills, and why it may."""


def test_nobody_judges_the_silence_of_others_by_a_time_in_which_this_process_stood_still() -> None:
    """Answers may have come that nobody has read."""
    counting = {
        path.relative_to(SRC).as_posix()
        for path in MODULES
        for node in nodes(path)
        if isinstance(node, ast.Call)
        and (
            ast.unparse(node.func) in {"asyncio.timeout", "asyncio.timeout_at", "asyncio.wait_for"}
            or (
                ast.unparse(node.func) in {"subprocess.run", "subprocess.check_output"}
                and "timeout" in {each.arg for each in node.keywords}
            )
        )
    }

    assert counting == set(LIMITS_OF_TIME), "use moongate.patience, or say here why it is right"


def test_every_page_belongs_to_a_feature() -> None:
    """A page without its module documents what is not there."""
    pages = {page.stem for page in (SRC / "features").glob("*.md")}

    assert pages - {path.stem for path in FEATURES} == set()


def test_a_module_of_queries_imports_nothing_impure() -> None:
    """A query that reads a clock, chance or the environment answers differently next time; the law falls."""
    impure = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in MODULES
        if any(is_query(node) for node in nodes(path))
        for name in imported(path)
        if name.partition(".")[0] in IMPURE
    }

    assert impure == set()


def test_the_contracts_name_the_whole_core() -> None:
    """import-linter wants the modules of the core by name; a new one must not slip past it."""
    parts = {path.stem for path in SRC.glob("*.py")} | {
        path.name for path in SRC.iterdir() if is_package(path)
    }
    core = {f"moongate.{part}" for part in parts - OUTSIDE_THE_CORE - {"__init__"}}
    linter = pyproject()["tool"]["importlinter"]
    named = {contract["name"]: set(contract.get("source_modules", ())) for contract in linter["contracts"]}

    assert named["the core does no I/O"] == core, "name the module in both contracts of pyproject.toml"
    assert named["queries know no clock and no chance"] == core - {"moongate.engine"}


def test_the_code_map_has_all_there_is() -> None:
    architecture = (ROOT / "ARCHITECTURE.md").read_text()
    table = architecture.partition("## Code map")[2].partition("\n## ")[0]
    places = set(re.findall(r"^\|[^|]*\|([^|]*)\|", table, re.MULTILINE))
    named = {name for place in places for name in re.findall(r"`(\w+)/?`", place)}
    parts = {path.relative_to(SRC).parts[0].removesuffix(".py") for path in MODULES}

    assert parts - named <= {"__init__", "__main__"}


@pytest.mark.parametrize("tree", ["src", "tests", "tools"])
def test_no_module_is_a_drawer(tree: str) -> None:
    """If it has no name, it has no home: such modules collect what nobody looks for there."""
    drawers = [
        str(path.relative_to(ROOT))
        for path in (ROOT / tree).rglob("*.py")
        for part in path.relative_to(ROOT).with_suffix("").parts
        if HOMELESS & set(part.lower().split("_"))
    ]

    assert drawers == []


def test_a_module_says_what_it_is() -> None:
    """A reader opens with one sentence; a module that needs none is empty."""
    silent = [
        str(path.relative_to(ROOT))
        for path in MODULES
        if parsed(path).body and ast.get_docstring(parsed(path)) is None
    ]

    assert silent == []


def test_a_module_that_does_something_has_a_test_module() -> None:
    """``src/moongate/ads/session.py`` is tested in ``tests/ads/test_session.py``, where one looks first.

    A module of declarations only has nothing to test. A package's own code is tested in its folder. The page
    of a feature is its test.
    """
    untested = [
        f"{path.relative_to(ROOT)} wants {homes_of(path)[0]}"
        for path in MODULES
        if path not in FEATURES and does_something(path)
        if not any(home for pattern in homes_of(path) for home in (ROOT / "tests").glob(pattern))
    ]

    assert untested == []


def test_no_tracked_file_names_a_machine() -> None:
    """What is committed must mean the same to everyone: no home folders, no package index addresses."""
    checkout = str(ROOT)
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in tracked()
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if MACHINE.search(line) or checkout in line
    ]

    assert lines == []


def test_a_tracked_file_has_a_plain_name() -> None:
    """What a run has left behind by mistake seldom has one."""
    strange = [str(path) for path in tracked() if not re.fullmatch(r"[\w./-]+", str(path.relative_to(ROOT)))]

    assert strange == []


def test_a_changelog_fragment_has_a_kind() -> None:
    """towncrier leaves out silently what it cannot place."""
    kinds = {entry["directory"] for entry in pyproject()["tool"]["towncrier"]["type"]}
    fragments = [path for path in tracked() if path.parent == ROOT / "changelog.d" and path.name[0] != "."]

    assert {
        path.name for path in fragments if path.name.split(".")[1:] not in [[kind, "md"] for kind in kinds]
    } == set()


def test_every_dependency_is_pinned_within_its_range() -> None:
    """``constraints.txt`` is what CI ran with; a pin outside the range would never be installed."""
    pins = dict(line.split("==") for line in text_of(ROOT / "constraints.txt").splitlines() if "==" in line)
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    project = pyproject()["project"]
    wanted = [
        Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["dev"])
    ]

    assert [
        str(each)
        for each in wanted
        if not each.specifier.contains(pinned.get(canonicalize_name(each.name), "0"))
    ] == []


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(text_of(path), str(path))


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a module's tree."""
    return tuple(ast.walk(parsed(path)))


@cache
def text_of(path: Path) -> str:
    """The text of a file; "" for one that is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads(text_of(ROOT / "pyproject.toml"))


@cache
def tracked() -> tuple[Path, ...]:
    """Files that git tracks and that are there: one may be deleted but not yet committed."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return tuple(path for path in paths if path.is_file())


def place(path: Path, node: ast.expr) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def fields_of(path: Path) -> Iterator[str]:
    """The fields of the features that a module defines."""
    for node in nodes(path):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Feature":
            written = (each for k in node.keywords if k.arg == "field" for each in ast.walk(k.value))
            yield from (str(each.value) for each in written if isinstance(each, ast.Constant))


def features_named(module: ast.Module, stems: set[str], fields: set[str]) -> Iterator[tuple[int, str]]:
    """Lines that name a feature by its module, or its field in the spec of a policy."""
    wire_names = {re.sub("_(.)", lambda match: match[1].upper(), field) for field in fields}
    below_spec = re.compile(rf"spec\.({'|'.join(wire_names)})\b")
    of_policies = any(
        isinstance(node, ast.ImportFrom) and (node.module or "").startswith("moongate.policies")
        for node in ast.walk(module)
    )
    for node in ast.walk(module):
        match node:
            case ast.Import(names=names):
                yield from modules_named(node, [alias.name for alias in names], stems)
            case ast.ImportFrom(module=str(package), names=names):
                modules = [package, *(f"{package}.{alias.name}" for alias in names)]
                yield from modules_named(node, modules, stems)
            case ast.Attribute(value=ast.Attribute(attr="spec"), attr=field):
                if of_policies and field in fields:
                    yield node.lineno, f"reads spec.{field}"
            case ast.Call(func=ast.Name("getattr"), args=[_, ast.Constant(value=field), *_]):
                if field in fields:
                    yield node.lineno, f"reads {field}"
            case ast.Constant(value=str(text)):
                if of_policies and below_spec.match(text):
                    yield node.lineno, f"says {text}"
            case _:
                pass


def modules_named(node: ast.stmt, imported: list[str], stems: set[str]) -> Iterator[tuple[int, str]]:
    """The line of an import, if it is one of a feature's module."""
    parts = (name.split(".") for name in imported)
    if any(len(part) > 2 and part[:2] == ["moongate", "features"] and part[2] in stems for part in parts):
        yield node.lineno, f"imports {imported[-1]}"


def is_package(path: Path) -> bool:
    return path.is_dir() and (path / "__init__.py").exists()


def is_query(node: ast.AST) -> bool:
    """A function decorated with ``@query``, ``@engine.query`` or ``@query(…)``."""
    if not isinstance(node, ast.FunctionDef):
        return False
    decorators = (each.func if isinstance(each, ast.Call) else each for each in node.decorator_list)
    return any(ast.unparse(each).rpartition(".")[2] == "query" for each in decorators)


def imported(path: Path) -> Iterator[str]:
    for node in nodes(path):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
            case _:
                pass


def does_something(path: Path) -> bool:
    return any(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) for node in nodes(path))


def homes_of(path: Path) -> list[str]:
    """Patterns under ``tests`` of the test modules of a module, the best name first."""
    *folders, stem = path.relative_to(SRC).with_suffix("").parts
    if stem != "__init__":
        return ["/".join([*folders, f"test_{stem}.py"]), "/".join([*folders, f"test_{stem}_*.py"])]
    package = folders[-1] if folders else "moongate"
    return [
        "/".join([*folders, f"test_{package}.py"]),
        "/".join([*folders, "test_*.py"]),
        f"test_{package}.py",
    ]
