"""What `infermq bench http` measures beside infermq.

gateway    starts each of them                       load       sends the requests, the same to each
pipeline   the bare pipeline: infermq's hops alone   backend    answers at once: a bare ASGI application
"""
