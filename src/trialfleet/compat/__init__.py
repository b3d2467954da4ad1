"""The only users of private names of the libraries that a sweep is built on: a file and a test for each library.

A private name may change with any release. Here stands what each is used for, why no public one does, and in which
versions it was seen (`SEEN`). The tests in tests/compat say which name has gone, and whether each function still
does what it promises.
"""
