"""The upstream's side of an exchange.

lookup          the addresses of a host name
coding          content codings
answer          the answer to one call, as it arrives
http1           one connection
pool            the connections to one upstream
upstream        the only module that calls upstreams; where foreign errors become ours
"""
