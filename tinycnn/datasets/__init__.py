"""Data sets that tinycnn can make by itself."""
