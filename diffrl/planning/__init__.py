"""What a run needs before it begins: memory, time, whether it fits, and what would make it fit."""
