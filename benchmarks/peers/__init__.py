"""The same trials in other tuners, each as its documentation advises, run by an interpreter that has it."""
