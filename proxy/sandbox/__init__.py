"""A stand-in for today's API, to try everything without a key.

errors          how it says no
models          its models
fields          the fields that it takes, and the values of each
rules           the requests that it takes
wire            its answers as bytes
reply           a response that may fail
generating      its answers, sent or failed
sandbox         the ASGI application
"""
