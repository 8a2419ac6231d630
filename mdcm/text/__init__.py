"""Text for users and from files: safe display, advice, JSON documents, and limits on settings."""
