"""The command line: one file a subcommand; nothing heavy is imported at the top."""
