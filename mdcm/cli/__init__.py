"""The command line ``mdcm``: commands, their options, and the files that they read."""
