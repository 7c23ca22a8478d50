"""How a Worker class is named to the process that is to run it: `module:qualname`.

A class of a program's own `__main__` is found by running its script again under another name,
as multiprocessing does, so that `if __name__ == "__main__":` keeps the program itself out. A
program without that line is refused: its workers would start supervisors, without end.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from types import ModuleType
from typing import Any

from amnode.errors import OptionError

#: The name under which a script is run again in a worker's process.
SCRIPT_NAME = "__amnode_main__"

#: Whether a script is being run again now.
_is_running_script = False


def name_of(cls: type) -> tuple[str, str]:
    """The target and the script that `load` takes; the script is "" for a module.

    Raises:
        OptionError: another process could not import the class.
    """
    target = f"{cls.__module__}:{cls.__qualname__}"
    if _is_running_script:
        raise OptionError(
            f"A worker that imports {target} would start a supervisor of its own. Put what the "
            'script runs under `if __name__ == "__main__":`.'
        )
    if "<locals>" in cls.__qualname__:
        raise OptionError(
            f"Worker class {target} is local to a function, so no other process can import it. "
            "Move it to the top level of a module."
        )
    if cls.__module__ not in ("__main__", SCRIPT_NAME):
        _verify(cls, sys.modules.get(cls.__module__), target)
        return target, ""
    main = sys.modules[cls.__module__]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != SCRIPT_NAME:  # python -m package.module
        return f"{spec.name}:{cls.__qualname__}", ""
    script = getattr(main, "__file__", None)
    if script is None or not os.path.isfile(script):
        raise OptionError(
            f"Worker class {target} was typed in, so no other process can import it. Put it in "
            "a file."
        )
    return f"{SCRIPT_NAME}:{cls.__qualname__}", os.path.realpath(script)


def load(target: str, script: str) -> type[Any]:
    """The class that `name_of` named, imported in this process."""
    module_name, _, qualname = target.partition(":")
    found: Any = _run_script(script) if script else importlib.import_module(module_name)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def _run_script(script: str) -> ModuleType:
    """The script as a module that annotations can be looked up in, so a registered one."""
    global _is_running_script
    known = sys.modules.get(SCRIPT_NAME)
    if known is not None and getattr(known, "__file__", None) == script:
        return known  # a fork server ran it
    loader = SourceFileLoader(SCRIPT_NAME, script)
    spec = spec_from_loader(SCRIPT_NAME, loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[SCRIPT_NAME] = module
    _is_running_script = True
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[SCRIPT_NAME]
        raise
    finally:
        _is_running_script = False
    return module


def _verify(cls: type, module: Any, target: str) -> None:
    found = module
    for part in cls.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is not cls:
        raise OptionError(
            f"Worker class {target} is not what its module has under this name. Define it at "
            "the top level of the module and do not replace it."
        )
