"""The upstream's side of an exchange.

lookup          the addresses of a host name, as the system finds them
addresses       those of one host, kept for a while
coding          content codings
request         a request as it goes out, framed
response        a response as it arrives, and whether it is whole
answer          the response to one call, for whoever waits for it
pending         what arrived on a connection and was not read
http1           one connection
pool            the connections to one upstream
upstream        the only module that calls upstreams; where foreign errors become ours
"""
