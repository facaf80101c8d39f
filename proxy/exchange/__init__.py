"""One exchange from its head to its end.

resemblance     the ways in which servers may read a path
routing         its route
negotiation     its versions
explain         what a request would become
guard           which heads are let in
exchanges       those under way
client          the client's side of one
keepalive       pings in long silences
streaming       an upstream's stream on its way to the client
relay           where client, upstream and translation meet
learning        what upstreams say of their models
"""
