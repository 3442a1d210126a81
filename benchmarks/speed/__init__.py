"""How fast an epoch of SDPO is, beside the schedule of the published code."""
