"""Connections of clients: HTTP/1.1 as a server speaks it.

terms           how long clients are waited for, how much they may send
budget          how much is taken of what they share
flow            back-pressure
patience        how long a client may take nothing
response        one response on its way to a client
protocol        the server's side of one connection
"""
