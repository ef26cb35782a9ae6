"""Training that can be relied on: the loop, what it reads, what it saves, and how it goes on after whatever happened."""
