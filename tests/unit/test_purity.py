"""Which files are pure, which lines live where, and that a function fits a screen.

Every file of `src` is of one kind:

- *pure*: decides. Time, randomness and nonces come in as arguments; it reads no clock, waits
  for nothing, touches nothing outside, and does the same whatever the hash seed of Python is.
- *driver*: waits, on an asyncio loop, and does what pure files say.
- *outside*: the operating system: sockets, processes, files of code.

A new file has to be put into the table; that is the question where its code belongs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeAlias

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "amnode"

PURE, DRIVERS, OUTSIDE = ("pure", "driver", "outside")
KINDS = {
    PURE: """
        errors.py
        machine/  arguments binding breakpoints clock diagram mixins picture plan queue related
        machine/  resolve schema snapshot story transition
        rpc/  address backoff exposure options states tls_files
        rpc/protocol/  auth calls client_session flow handshake keepalive memory server_session
        rpc/protocol/  session streams subscription sync wire
        launch/  output
        node/  args call_book failures job_note jobs names node_args operator_args progress
        node/  states values
        node/policy/  adopt_records adoption core crash crashes deadlines dispatch door ending
        node/policy/  events health lease leasing options owner pace passing pool renewal
        node/policy/  restart roster sizing starting view waitlist watching
        testing/  faults safety search trace
        cli/  exits findings project settings
    """,
    DRIVERS: """
        __main__.py
        machine/  __main__ api combine fast_path local_api log machine pipes queue_waits threads
        machine/  tracing waits watchdog
        rpc/  client link mux network_machine origin pulse remote server service streams
        rpc/transport/  memory port
        launch/  inprocess
        node/  add_errors adopt bootstrap chunks client dispatcher driver_thread
        node/  executor_control executor_worker inprocess_worker items job_stream job_thread
        node/  launching lease_watch leased listing local_pool looking loop_host loop_thread
        node/  operating operators peers pending_call pool_calls pool_feed pool_map pool_stream
        node/  progress_bar reporting runner submitted supervisor sync_map sync_pool sync_stream
        node/  telling timers transition_log warm work worker worker_link
        testing/  __main__ actor batch deployment host injector loop network rest running
        testing/  sim_client sim_worker simulation
        cli/  app call change completion crashes diagram doctor entry inspect journal logs
        cli/  machines new operate operator ps shared show top trial up version wait
    """,
    OUTSIDE: """
        rpc/transport/  by_address failures stream tcp tls unix with_files
        launch/  command entry fork_channel forking forkserver output_file process reaper
        node/  class_name executor executor_calls executor_errors executor_pickle executor_wire
        node/  hard_deadline memory output_tail outside private_directory state_directory
        cli/  notify places probes
    """,
}


def _listed(kind: str) -> list[str]:
    found: list[str] = []
    for line in KINDS[kind].split("\n"):
        folder, *names = line.split() or [""]
        found += [f"{folder}{name}.py" for name in names] or [folder][: bool(folder)]
    return found


def _words(*texts: str) -> frozenset[str]:
    return frozenset(" ".join(texts).split())


#: What a pure file does not import, at run time.
IMPURE_MODULES = _words(
    "asyncio logging random secrets socket subprocess threading time uuid",
    "concurrent multiprocessing select selectors signal ssl uvloop psutil",
)
#: What a pure file does not use: the last two names of it.
IMPURE_CALLS = _words(
    "os.urandom os.getrandom os.getpid os.environ datetime.now datetime.utcnow datetime.today",
    "date.today builtins.open builtins.input",
)

Finding: TypeAlias = tuple[int, str]
Find: TypeAlias = Callable[[ast.Module], Iterator[Finding]]


@cache
def _tree(path: str) -> ast.Module:
    return ast.parse((SOURCE / path).read_text(encoding="utf-8"), filename=path)


def _files() -> list[str]:
    """Every file that holds code; a package's own file is a door, and opens only names."""
    found = sorted(p.relative_to(SOURCE).as_posix() for p in SOURCE.rglob("*.py"))
    return [path for path in found if not path.endswith("__init__.py")]


FILES = _files()


def _report(path: str, findings: Iterator[Finding]) -> list[str]:
    return [f"src/amnode/{path}:{line}: {text}" for line, text in findings]


# -- reading the tree ----------------------------------------------------------------------


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but what is under `if TYPE_CHECKING:`, which never runs."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and _name(child.test) == "TYPE_CHECKING":
            for other in child.orelse:
                yield other
                yield from _running(other)
            continue
        yield child
        yield from _running(child)


def _name(node: ast.AST | None) -> str:
    """The last name of a name, an attribute or a subscript of one; "" of anything else."""
    while isinstance(node, ast.Subscript | ast.Starred | ast.Await):
        node = node.value
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _dotted(node: ast.AST) -> str:
    """`b.c` of `a.b.c`, and `builtins.f` of a bare `f`: enough to tell a call."""
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return f"builtins.{_name(node)}"


def _imports(tree: ast.Module) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Line, module and the names taken from it, of each import that runs."""
    for node in _running(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ()
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or "", tuple(a.name for a in node.names)


def _imports_of(*modules: str) -> Find:
    def find(tree: ast.Module) -> Iterator[Finding]:
        for line, module, _ in _imports(tree):
            if module.partition(".")[0] in modules:
                yield line, f"imports {module}"

    return find


def _mentions_of(*names: str) -> Find:
    """Uses of a name, as an attribute, by itself, or imported."""

    def find(tree: ast.Module) -> Iterator[Finding]:
        for node in _running(tree):
            if isinstance(node, ast.Attribute | ast.Name) and _name(node) in names:
                yield node.lineno, f"uses {_name(node)}"
        for line, module, taken in _imports(tree):
            for name in names:
                if name in taken:
                    yield line, f"takes {name} from {module}"

    return find


# -- the kinds of files --------------------------------------------------------------------


def test_every_file_is_of_one_kind() -> None:
    listed = [path for kind in KINDS for path in _listed(kind)]
    twice = sorted({path for path in listed if listed.count(path) > 1})
    unlisted = [path for path in FILES if path not in listed]
    gone = [path for path in listed if path not in FILES]
    assert (twice, unlisted, gone) == ([], [], []), "put each file into the table, once"


@pytest.mark.parametrize("path", [path for path in _listed(PURE) if path in FILES])
def test_a_pure_file_is_pure(path: str) -> None:
    tree = _tree(path)
    found = [*_impure_imports(tree), *_impure_calls(tree), *_set_iterations(tree)]
    assert not _report(path, iter(sorted(found)))


def _impure_imports(tree: ast.Module) -> Iterator[Finding]:
    unlisted = {*FILES} - {*_listed(PURE)}
    for line, module, names in _imports(tree):
        if module.partition(".")[0] in IMPURE_MODULES:
            yield line, f"a pure file imports {module}"
        for candidate in (module, *(f"{module}.{name}" for name in names)):
            inner = candidate.removeprefix("amnode.").replace(".", "/") + ".py"
            if candidate.startswith("amnode.") and inner in unlisted:
                yield line, f"a pure file imports {candidate}, which is not pure"


def _impure_calls(tree: ast.Module) -> Iterator[Finding]:
    for node in _running(tree):
        if isinstance(node, ast.Attribute | ast.Name) and _dotted(node) in IMPURE_CALLS:
            yield node.lineno, f"a pure file uses {_dotted(node)}"


# -- iterating over a set: its order is that of hashes, which differ from run to run -------

_SET_TYPES = _words("set frozenset Set AbstractSet MutableSet")
_SET_OPERATORS = (ast.BitAnd, ast.BitOr, ast.BitXor, ast.Sub)  # of a dict's keys too
_SET_METHODS = _words("set frozenset union intersection difference symmetric_difference")
#: Callables that go through their argument and show its order in what they give.
_ORDER_SHOWN = _words(
    "list tuple iter next enumerate zip map filter reversed dict deque chain fromkeys join",
    "extend pairwise",
)


class _Sets:
    """Which expressions of one file are sets, as far as its own text tells."""

    def __init__(self, tree: ast.Module) -> None:
        self._names = {*self._declared(tree)}
        self._names |= {*self._assigned(tree)}

    def _declared(self, tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign) and _name(node.annotation) in _SET_TYPES:
                yield _name(node.target)
            elif isinstance(node, ast.arg) and _name(node.annotation) in _SET_TYPES:
                yield node.arg
            elif isinstance(node, ast.FunctionDef) and _name(node.returns) in _SET_TYPES:
                yield f"{node.name}()"

    def _assigned(self, tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and self.is_set(node.value):
                yield from (_name(target) for target in node.targets)
            elif isinstance(node, ast.NamedExpr) and self.is_set(node.value):
                yield _name(node.target)

    def is_set(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Set | ast.SetComp):
            return True
        if isinstance(node, ast.Call):
            name = _name(node.func)
            return name in _SET_METHODS or f"{name}()" in self._names
        if isinstance(node, ast.BinOp) and isinstance(node.op, _SET_OPERATORS):
            return any(self.is_set(n) or _is_keys(n) for n in (node.left, node.right))
        if isinstance(node, ast.IfExp):
            return self.is_set(node.body) or self.is_set(node.orelse)
        return isinstance(node, ast.Name | ast.Attribute) and _name(node) in self._names


def _is_keys(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and _name(node.func) == "keys"


def _set_iterations(tree: ast.Module) -> Iterator[Finding]:
    sets = _Sets(tree)
    for node in _running(tree):
        for iterated in _iterated(node):
            if sets.is_set(iterated):
                yield iterated.lineno, f"iterates over the set {ast.unparse(iterated)}"
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "pop"
            and sets.is_set(node.func.value)
        ):
            yield node.lineno, f"takes any one of the set {ast.unparse(node.func.value)}"


def _iterated(node: ast.AST) -> list[ast.expr]:
    match node:
        case ast.For(iter=over) | ast.comprehension(iter=over):
            return [over]
        case ast.Starred(value=value) if isinstance(node.ctx, ast.Load):
            return [value]
        case ast.Call(func=func, args=args) if _name(func) in _ORDER_SHOWN:
            return [a for a in args if not isinstance(a, ast.Starred)]
        case ast.YieldFrom(value=value):
            return [value]
        case _:
            return []


# -- the line, and where alone it lives ----------------------------------------------------


def _parity_of_ticks(tree: ast.Module) -> Iterator[Finding]:
    for node in _running(tree):
        if not isinstance(node, ast.BinOp) or not isinstance(node.right, ast.Constant):
            continue
        parity = (isinstance(node.op, ast.BitAnd) and node.right.value == 1) or (
            isinstance(node.op, ast.Mod) and node.right.value == 2
        )
        named = {_name(n).lower() for n in ast.walk(node.left)}
        if parity and any("tick" in n for n in named):
            yield node.lineno, f"decides by the parity of a tick: {ast.unparse(node)}"


def _epochs_compared(tree: ast.Module) -> Iterator[Finding]:
    for node in _running(tree):
        if isinstance(node, ast.Compare) and any(
            "epoch" in _name(operand).lower() for operand in (node.left, *node.comparators)
        ):
            yield node.lineno, f"compares epochs: {ast.unparse(node)}"


def _loop_time(tree: ast.Module) -> Iterator[Finding]:
    for node in _running(tree):
        if isinstance(node, ast.Call) and re.search(
            r"loop(\(\))?\.time$", ast.unparse(node.func)
        ):
            yield node.lineno, "reads the loop's clock"


def _os_kill(tree: ast.Module) -> Iterator[Finding]:
    for node in _running(tree):
        if isinstance(node, ast.Attribute) and _dotted(node) == "os.kill":
            yield node.lineno, "uses os.kill"


TRANSPORT = [path for path in _listed(OUTSIDE) if path.startswith("rpc/transport/")]
_pickles = _imports_of("pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle")

LAUNCH = [path for path in _listed(OUTSIDE) if path.startswith("launch/")]
#: What asks the system what it offers has to try it.
PROBES = "cli/probes.py"
JUDGES = ["testing/safety.py", "testing/search.py"]
CLOCKS = ["node/outside.py", "node/hard_deadline.py"]
#: What is looked for, and the only files that may have it.
ONLY_IN: dict[str, tuple[Find, list[str]]] = {
    "tick & 1": (_parity_of_ticks, ["machine/clock.py"]),
    "create_task, call_later": (
        _mentions_of("create_task", "call_later", "call_at"),
        ["machine/machine.py", *TRANSPORT, *LAUNCH]
        + [path for path in _listed(DRIVERS) if not path.startswith("machine/")],
    ),
    "socket, ssl": (
        _imports_of("socket", "ssl"),
        [
            *TRANSPORT,
            "launch/fork_channel.py",
            "cli/notify.py",
            "node/executor_wire.py",
            PROBES,
        ],
    ),
    "os.kill": (_os_kill, ["launch/reaper.py"]),
    "other signals, and reaping": (
        _mentions_of(*_words("killpg pidfd_send_signal waitpid waitid wait3 wait4")),
        ["launch/process.py", "launch/reaper.py"],
    ),
    "opening of pidfds": (
        _mentions_of("pidfd_open"),
        [f"launch/{name}.py" for name in ("process", "reaper", "forking", "forkserver")]
        + [PROBES],
    ),
    "secrets, random": (_imports_of("secrets", "random", "uuid"), _listed(DRIVERS)),
    "loop.time()": (_loop_time, [*_listed(DRIVERS), *TRANSPORT, *LAUNCH]),
    "another clock": (
        _imports_of("time"),
        [
            *LAUNCH,
            *CLOCKS,
            "testing/__main__.py",
            "cli/doctor.py",
            "node/executor.py",
            "node/executor_worker.py",
            PROBES,
        ],
    ),
    # An executor's calls are code, and its workers run nothing else.
    "pickles": (
        _pickles,
        ["node/executor_pickle.py", "node/executor_wire.py"],
    ),
    "compare_digest": (_mentions_of("compare_digest"), ["rpc/protocol/auth.py"]),
    # The judge of a simulation compares what no part of a deployment can.
    "comparing epochs": (_epochs_compared, ["node/policy/lease.py", *JUDGES]),
}


@pytest.mark.parametrize("line", ONLY_IN)
def test_a_line_lives_only_where_it_belongs(line: str) -> None:
    find, allowed = ONLY_IN[line]
    elsewhere = [path for path in FILES if path not in allowed]
    assert not [text for path in elsewhere for text in _report(path, find(_tree(path)))]


# -- nowhere -------------------------------------------------------------------------------

_SECRET = ("secret", "token", "proof")


def _dangerous(tree: ast.Module) -> Iterator[Finding]:
    for node in _running(tree):
        if isinstance(node, ast.Call) and _dotted(node.func) in {
            "builtins.eval",
            "builtins.exec",
            "builtins.compile",
            "builtins.__import__",
            "yaml.load",
        }:
            yield node.lineno, f"calls {_name(node.func)}"


def _secrets_compared(tree: ast.Module) -> Iterator[Finding]:
    for node in _running(tree):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq):
            names = [_name(operand).lower() for operand in (node.left, *node.comparators)]
            if any(word in name for word in _SECRET for name in names):
                yield node.lineno, f"compares a secret in readable time: {ast.unparse(node)}"


def _long_functions(tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > 60:
                yield node.lineno, f"{node.name} has {lines} lines; a screen has 60"


NOWHERE: dict[str, Find] = {
    "code from data": _dangerous,
    "== on secrets": _secrets_compared,
    "a function longer than a screen": _long_functions,
}


@pytest.mark.parametrize("line", NOWHERE)
def test_a_line_lives_nowhere(line: str) -> None:
    found = [text for path in FILES for text in _report(path, NOWHERE[line](_tree(path)))]
    assert not found


def test_no_file_is_a_drawer_for_anything() -> None:
    drawers = {"utils.py", "helpers.py", "manager.py", "common.py", "misc.py"}
    assert not [path for path in FILES if Path(path).name in drawers]


# -- the checks themselves find what they look for -----------------------------------------


@pytest.mark.parametrize(
    ("find", "text"),
    [
        (_impure_imports, "import asyncio"),
        (_impure_imports, "from concurrent.futures import Future"),
        (_impure_imports, "def f():\n    import time"),
        (_impure_imports, "from amnode.machine.machine import Machine"),
        (_impure_imports, "from amnode.machine import waits"),
        (_impure_calls, "import os\nos.urandom(8)"),
        (_impure_calls, "import datetime\ndatetime.datetime.now()"),
        (_impure_calls, "open('x')"),
        (_set_iterations, "for x in {1, 2}: pass"),
        (_set_iterations, "names: set[str] = set()\n[n for n in names]"),
        (_set_iterations, "def f(names: frozenset[str]): return list(names)"),
        (_set_iterations, "class A:\n  def f(self):\n    self.x = set()\n    return [*self.x]"),
        (_set_iterations, "a = {}\nfor x in a.keys() & b: pass"),
        (_set_iterations, "def f() -> set[int]: ...\nfor x in f(): pass"),
        (_set_iterations, "x = {1}\nx.pop()"),
        (_set_iterations, "','.join({str(x) for x in y})"),
        (_parity_of_ticks, "self.ticks[state] & 1"),
        (_parity_of_ticks, "tick % 2 == 0"),
        (_imports_of("socket"), "import socket"),
        (_mentions_of("waitpid"), "from os import waitpid"),
        (_mentions_of("create_task"), "asyncio.create_task(x)"),
        (_os_kill, "os.kill(1, 9)"),
        (_loop_time, "self._loop.time()"),
        (_loop_time, "asyncio.get_running_loop().time()"),
        (_epochs_compared, "if args.epoch != self.epoch: pass"),
        (_pickles, "import pickle"),
        (_dangerous, "eval(data)"),
        (_secrets_compared, "if self.token == token: pass"),
        (_long_functions, "def f():\n" + "    x = 1\n" * 60),
    ],
)
def test_each_check_finds_what_it_is_for(find: Find, text: str) -> None:
    assert list(find(ast.parse(text)))


@pytest.mark.parametrize(
    ("find", "text"),
    [
        (_impure_imports, "if TYPE_CHECKING:\n    import asyncio"),
        (_impure_imports, "from amnode.machine.clock import Clock"),
        (_set_iterations, "for x in sorted({1, 2}): pass"),
        (_set_iterations, "names = {1}\nif 1 in names: len(names)"),
        (_set_iterations, "mask = a | b\nfor x in mask: pass"),
        (_parity_of_ticks, "self.mask & 1"),
        (_secrets_compared, "if token is None: pass"),
        (_long_functions, "def f():\n" + "    x = 1\n" * 59),
    ],
)
def test_no_check_finds_what_is_allowed(find: Find, text: str) -> None:
    assert not list(find(ast.parse(text)))
