"""Suspend: freezes the programs that wait on the device just before the machine sleeps, and thaws them afterwards.

Before it sleeps, the kernel freezes every process (kernel/power/process.c). That wakes a program in poll, select or a
blocked read. Before it goes to sleep again in the freezer, the kernel asks the server of the device once more, or tells
it of the interruption, and waits for the answer without being able to freeze. If the server is frozen by then, the
answer never comes, and suspend fails after 20 s. epoll asks nothing when it is woken.

What is frozen beforehand, while the server still answers, stays frozen, and the kernel has nothing left to wait for.
That is what cgroups can do: `cgroup.freeze` (version 2) or `freezer.state` (version 1).

    python -m memnotify_cuse.suspend freeze     before the machine sleeps
    python -m memnotify_cuse.suspend thaw       afterwards
"""
