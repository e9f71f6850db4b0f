"""Request ids."""

from __future__ import annotations

import time
import uuid


def new_request_id() -> str:
    """An id that no other request has; whatever repeats a request repeats its id.

    A UUID of version 7 (RFC 9562, section 5.7) in hexadecimal digits, led by the milliseconds since 1970: the daemon
    keeps ids in their order, and what comes at the same time is written side by side.
    """
    milliseconds = time.time_ns() // 1_000_000 & (1 << 48) - 1
    return f"{milliseconds:012x}7{uuid.uuid4().hex[13:]}"
