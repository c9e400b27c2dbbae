"""Memory between steps: what the C library is told about it."""

from __future__ import annotations

import ctypes


def keep_memory() -> None:
    """Let the C allocator keep freed memory for the next step instead of returning it to the system (glibc only).

    Without this every large tensor of every step is paid for in page faults.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3  # names and numbers of <malloc.h>
    try:
        libc = ctypes.CDLL("libc.so.6")
        # Blocks below 1 GiB come from the heap, not from the system one by one; and the heap is never given back.
        libc.mallopt(m_mmap_threshold, 2**30)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
    except (OSError, AttributeError):  # not glibc: its allocator decides
        return
