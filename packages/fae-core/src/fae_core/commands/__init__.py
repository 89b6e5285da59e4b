"""`fae` commands: the groups that plugins fill, the command that is running, and the processes that it starts."""
