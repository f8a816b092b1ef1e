"""Worker processes, started afresh without running the caller's script again."""

from __future__ import annotations

import sys
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType


class _Process(SpawnProcess):
    """Hides the main module while it starts.

    A spawned process runs the parent's script anew to find functions that are defined there. Ours all live in
    modules, and a script without ``if __name__ == "__main__"`` would start the whole work once more in every
    worker.
    """

    def start(self) -> None:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            super().start()
        finally:
            sys.modules["__main__"] = main


class Context(SpawnContext):
    """Start method of all worker processes.

    Spawned: the parent's threads (numerical libraries, progress bars) must not be forked half-way.
    """

    Process = _Process
