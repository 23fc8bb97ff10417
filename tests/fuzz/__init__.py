"""Broken messages on every subject that a broker or worker listens on: `make fuzz`.

mutate      breaks a valid message in one place or a few, drawn from a seed
targets     a valid message of each kind, with the subject that it goes to
attack      sends broken messages to a system that runs, and then asks whether it still does
"""
