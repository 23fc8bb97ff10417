"""The API over HTTP, used by clients that others wrote, unmodified (`make test-clients`).

The clients run in an environment of their own, `.venv-clients`, where pytest runs too; what they call is `infermq up` out
of `.venv`. Nothing here imports infermq: a client knows its base URL and its key.

running      starts `infermq up`, and runs commands against it
"""
