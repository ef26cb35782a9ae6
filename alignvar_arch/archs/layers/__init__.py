"""Layers that the tokenizer and the transformer are built of, one idea a file."""
