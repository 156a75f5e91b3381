import client
from gi.repository import GLib


def readable(fd: int, condition: int) -> bool:
    client.woken(fd, int(condition))
    return True


GLib.unix_fd_add_full(GLib.PRIORITY_DEFAULT, client.device(), GLib.IOCondition.IN, readable)
GLib.MainLoop().run()
