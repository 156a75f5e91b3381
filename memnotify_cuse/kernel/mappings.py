"""Letting go of pages of program files: /proc/self/smaps, and madvise(2) with MADV_DONTNEED.

    7f0c5a400000-7f0c5a426000 r--p 00000000 fd:00 1311   /usr/lib/x86_64-linux-gnu/libc.so.6
    Size:                152 kB
    Anonymous:             0 kB

Kernel source: fs/proc/task_mmu.c, show_smap(). A library's relocated pages are read-only as well, but changed: they
show as `Anonymous`, and cannot be read again from the file. Of the bytes that a path can hold only a newline is
escaped, so no other character ends a line here.
"""

from __future__ import annotations

from memnotify_cuse.kernel import libc


def clean_file_mappings(smaps: str) -> list[tuple[int, int]]:
    """Start and length of the mappings of files that are read-only and hold no page of our own."""
    found = []
    candidate: tuple[int, int] | None = None
    for line in smaps.removesuffix("\n").split("\n"):
        words = line.split()
        if not words[0].endswith(":"):
            start, end = (int(address, 16) for address in words[0].split("-"))
            read_only, inode = words[1][1] == "-", words[4]
            candidate = (start, end - start) if read_only and inode != "0" else None
        elif words[0] == "Anonymous:" and words[1] == "0" and candidate is not None:
            found.append(candidate)
    return found


def drop_clean_file_pages() -> None:
    """Let go of the pages of program files that only the start needed; one that is needed again comes from the page
    cache.

    Where /proc does not tell, nothing happens.
    """
    try:
        with open("/proc/self/smaps", errors="replace", newline="\n") as file:
            mappings = clean_file_mappings(file.read())
    except OSError:
        return
    for start, length in mappings:
        libc.drop_clean_pages(start, length)
    libc.trim_heap()
