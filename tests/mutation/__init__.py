"""Whether the tests notice when the code is broken: `make mutate`. Not part of CI.

removals   one promise taken out by each patch file in `removals/`, and the tests that must notice
tree       a copy of the source that may be broken, and the tests run in it
"""
