"""Tests of the server of the API over HTTP, against clients that mean it ill or do it badly.

sockets   hand-made HTTP/1.1
conftest  runs them in the event loop that brokers run in
"""
