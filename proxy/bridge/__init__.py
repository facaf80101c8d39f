"""What the bridge is made of; the version change itself is versions.complete_through_messages.

models          which model answers for a retired one, and what it accepts
prompt          a prompt of 2023, parsed
stops           stop sequences in a text that arrives in pieces
continuation    the text of the answer, as it continues the prompt
complete_call   a call of /v1/complete, checked
messages_call   the call that puts the question to a model of today
"""
