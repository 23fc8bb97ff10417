"""What a broker process serves over HTTP: /metrics and /healthz.

app     the ASGI application
server  uvicorn inside an event loop that is somebody else's
"""
