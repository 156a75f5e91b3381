"""The ``memnotify`` command: one module per subcommand."""
