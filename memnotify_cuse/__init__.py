"""/dev/mem_notify in user space: programs are told before memory runs out."""

__version__ = "0.1.0"
