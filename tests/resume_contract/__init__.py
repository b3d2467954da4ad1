"""What a Hydra sweep that can be resumed owes its users, as checks of any sweeper from the outside.

A small application is swept by a command line, the command ends at some moment, and the same command is given again.
What counts is what the application's jobs say in a side file, and the sweep's folders: nothing of a sweeper's own.
The suite needs Hydra, pytest and the standard library; the folder may be copied anywhere.

    python -m tests.resume_contract                      # a table: which point holds at which moment
    python -m tests.resume_contract NAME …               # of some sweepers alone
    python -m pytest tests/resume_contract               # those that are to hold, as tests

To run it against another sweeper, add a `Sweeper` to `SWEEPERS` in `sweepers.py`: how it is chosen, where it persists,
how its total and its slots are set. `contract=True` makes each of its cells a test.

    application/         what is swept; it can fail, or wait for a file, by its parameters
    sweepers.py          the sweepers, as data
    side_file.py         what the jobs said
    commands.py          one sweep's commands: start, wait, kill, tidy up
    moments.py           ways in which a sweep's command ends, and what is seen after each
    points.py            what is asked of what was seen
    test_contract.py     the cells as tests
"""
