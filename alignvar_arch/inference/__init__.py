"""Any size in, any size out."""
