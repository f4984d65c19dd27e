"""How this process uses a CPU: settings of the whole process that change speed and no result."""

from __future__ import annotations

import ctypes
import platform

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
LARGEST = 2**31 - 1  # bytes


def fast_processor(keep_memory: bool = True) -> None:
    """No denormal floats, as they slow untrained networks many times, and, unless told not to, `keep_freed_memory`."""
    torch.set_flush_denormal(True)
    if keep_memory:
        keep_freed_memory()


def keep_freed_memory() -> bool:
    """What a tensor gives back stays with this process, for the next tensor; True where that could be arranged.

    By itself, glibc fetches each tensor of more than 32 MiB from the system and returns it afterwards. The system
    clears its pages one by one on every first touch, which took 30 % of an attack step of SSD300 on 8 images. Other
    allocators (macOS, musl) are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, LARGEST))
