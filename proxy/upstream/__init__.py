"""The upstream's side of an exchange.

lookup          the addresses of a host name, as the system finds them
addresses       those of one host, kept for a while
coding          content codings
answer          the answer to one call, as it arrives
http1           one connection
pool            the connections to one upstream
upstream        the only module that calls upstreams; where foreign errors become ours
"""
