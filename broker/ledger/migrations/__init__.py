"""Numbered, forward only. A file that was released is never edited: brokers of two versions run side by side."""
