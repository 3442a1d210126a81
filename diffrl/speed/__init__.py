"""Means of speed and of memory. None knows the trainer, and none changes what is computed."""
