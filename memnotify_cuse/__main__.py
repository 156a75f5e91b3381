"""``python -m memnotify_cuse``: the ``memnotify`` command without its installed script."""

import sys

from memnotify_cuse.cli.entry import main

sys.exit(main())
