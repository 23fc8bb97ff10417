"""The HTTP door: OpenAI's API, and what infermq adds to it.

app       the ASGI application: who calls, which route, and what goes wrong
caller    a caller of the relay that is answered over HTTP, whole or as a stream of events
dialect   what APIs differ in: how a request is read, and how an answer or an error is written
models    lists the models
openai    the dialect of OpenAI's endpoints, whose bodies pass through
problems  which status an error has, and whether to send the same request again
reading   reads the key, the options and the body of a request
"""
