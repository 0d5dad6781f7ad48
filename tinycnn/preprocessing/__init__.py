"""Image preparation with Keras's names."""
