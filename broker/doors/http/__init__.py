"""The HTTP door: OpenAI's API, Anthropic's Messages, and what infermq adds to them.

app          the ASGI application: who calls, which route, and what goes wrong
batches      OpenAI's batches
bundles      takes jobs by the message, as over NATS
caller       a caller of the relay that is answered over HTTP, whole or as a stream of events
dialect      what APIs differ in: how a request is read, and how an answer or an error is written
events       answers with server-sent events for as long as a key is let in
files        OpenAI's files
handlers     what the routes do that ask no model
jobs         single jobs: submit, read, wait, list, change, cancel
messages     the dialect of Anthropic's /v1/messages
models       lists the models
multipart    reads a form with one file, as it comes
objects      what files and batches are shown as, in types
openai       the dialect of OpenAI's endpoints, whose bodies pass through
openapi      the OpenAPI document
page         the same as a page for people
problems     which status an error has, and whether to send the same request again
reading      reads the key, the options and the body of a request
results      what the jobs of a batch came to, by the page or as a stream
responses    the dialect of OpenAI's /v1/responses
routes       the table of all routes
translating  what the dialects have in common that are translated to chat completions
turns        answers a request as a job, which waits for its turn
verbs        the verbs of the API, as over NATS
waiting      ends what waits for a key that is let in no more
writing      writes answers in JSON
"""
