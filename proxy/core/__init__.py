"""What all other rooms build on, without waiting, logging, a clock or a network.

redaction       hides what looks like a key
errors          what can fail, and how a client is told
fields          header fields
hosts           under which names the proxy itself may be asked
jsontext        JSON as bytes
sse             server-sent events as bytes
nudges          announces a version's end; brownouts
change          what a version change is
step            one of them, on the way from a client's version to its upstream's
"""
