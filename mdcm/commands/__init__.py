"""What the command ``mdcm`` can do, by what it is about."""
