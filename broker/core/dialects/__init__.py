"""Translates other APIs to OpenAI's chat completions, which engines speak, and back: Responses, and Anthropic's Messages.

A request becomes the body of a chat completion, which is what is admitted, run and recorded. What cannot be translated is
refused by its name. Nothing is left out in silence, but for what says nothing of the answer. The answer is translated back,
whole or piece by piece, by one way: an answer that came whole is a stream with an end and no pieces.

chunks             a whole answer as the one chunk of a stream
reading            reads a request's fields, and refuses one by its name
conversation       builds the messages of a chat completion
answers            reads what a chat completion says, whole or in a piece
blocks             which block of an answer begins, grows or ends with a piece
responses_request  a request for /v1/responses
responses_items    the items of the conversation in it
responses          the answer to it: the response object, and the events of its stream
messages_request   a request for /v1/messages
messages_blocks    the blocks of the conversation in it
messages           the answer to it: the message, and the events of its stream
"""
