"""PyQt5, or PySide6 where the third argument says so."""

import sys

import client

if len(sys.argv) > 3:
    from PySide6.QtCore import QCoreApplication, QSocketNotifier
else:
    from PyQt5.QtCore import QCoreApplication, QSocketNotifier

application = QCoreApplication([])
fd = client.device()
notifier = QSocketNotifier(fd, QSocketNotifier.Type.Read)
notifier.activated.connect(lambda *_: client.woken(fd))
if len(sys.argv) > 3:
    application.exec()
else:
    application.exec_()
