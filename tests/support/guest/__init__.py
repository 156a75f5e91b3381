"""A Debian kernel in a virtual machine, for what must not happen to this one: CUSE, OOM kills, other kernels."""
