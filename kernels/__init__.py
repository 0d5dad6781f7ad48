"""The loops: the same functions for each backend, and the shape arithmetic they share."""
