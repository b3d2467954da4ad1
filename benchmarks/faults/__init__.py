"""Studies under seeded faults of every class that hostile testing found, judged from outside of the product."""
