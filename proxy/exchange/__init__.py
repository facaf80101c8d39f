"""One exchange from its head to its end.

identity        who its client is
resemblance     the ways in which servers may read a path
routing         its route
negotiation     its versions
explain         what a request would become
guard           which heads are let in
exchanges       those under way
extensions      what the server and an exchange tell each other
client          the client's side of one
heads           the fields that it passes on
recording       what it leaves in its record
keepalive       pings in long silences
streaming       an upstream's stream on its way to the client
exchange        where client, upstream and translation meet
relay           the ASGI application
learning        what upstreams say of their models
"""
