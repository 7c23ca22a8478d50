"""A worker class whose module starts a thread where it is imported to be forked."""

from __future__ import annotations

import sys
import threading
import time

from tests.promises.workers import Plain


class Threaded(Plain):
    """Cannot be forked with what its module did."""

    kind = "Plain"


_main = sys.modules["__main__"].__spec__
if _main is not None and _main.name == "amnode.launch.forking":
    threading.Thread(target=time.sleep, args=(600,), name="pump", daemon=True).start()
