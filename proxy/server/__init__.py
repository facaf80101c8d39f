"""Connections of clients, and the processes that serve them.

terms           how long clients are waited for, how much they may send
budget          how much is taken of what they share
flow            back-pressure
patience        how long a client may take nothing
response        one response on its way to a client
protocol        the server's side of one client connection
listeners       listening sockets
process         open files and garbage collection
reload          the configuration, read again
server          one process
worker          one process of several
supervisor      the process that manages them
"""
