"""Training that can be relied on: the loop, what it reads and saves, and how it goes on after whatever happened."""
