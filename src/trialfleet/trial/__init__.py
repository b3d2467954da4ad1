"""A trial's folder, in which driver and job meet: its records, who may run it, and how it ended."""
