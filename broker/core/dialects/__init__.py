"""Translations between the ways in which APIs ask and answer, and OpenAI's chat completions, which engines speak.

chunks  a whole answer as the one chunk of a stream
"""
