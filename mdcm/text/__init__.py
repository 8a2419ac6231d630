"""Text from people and for people: what may be shown, advice, JSON documents, and limits of numbers."""
