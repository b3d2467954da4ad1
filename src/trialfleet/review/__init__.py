"""What people see of a study, and ask of it: read from its folder, whether a driver is at work there or not."""
