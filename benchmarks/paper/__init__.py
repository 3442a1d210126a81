"""The SDPO paper's tables and figures, measured anew in the emoji world."""
