"""What the driver and the process that forks jobs for it say to each other."""

ROOM = "TRIALFLEET_ROOM"  # a variable that does nothing but to leave room in /proc for a job's own
READY, REFUSES = "ready", "refuses"  # states of that process
MOST = 1 << 20  # bytes of a message
