"""`fae` commands: the groups of entry points, the command that is running, and the processes that it starts."""
