"""How much the SDK's own code does for a piece of work, counted and therefore always the same."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import poolkeeper

_SDK = str(Path(poolkeeper.__file__).parent)


class Effort:
    """Counts the instructions of the SDK's code that this thread runs within it."""

    def __init__(self) -> None:
        self.instructions = 0

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        sys.settrace(self._before)

    def _called(self, frame: FrameType, event: str, argument: object) -> Any:
        del event, argument
        if not frame.f_code.co_filename.startswith(_SDK):
            return None
        frame.f_trace_opcodes = True
        return self._traced

    def _traced(self, frame: FrameType, event: str, argument: object) -> Any:
        del frame, argument
        self.instructions += event == "opcode"
        return self._traced


def effort(work: Callable[[], object]) -> int:
    """The instructions of a piece of work."""
    with Effort() as counted:
        work()
    return counted.instructions
