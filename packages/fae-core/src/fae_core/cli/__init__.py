"""The `fae` command. Its subcommands are the entry points of the group "fae.commands"; see main.py."""
