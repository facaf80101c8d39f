"""Connections of clients: HTTP/1.1 as a server speaks it.

terms           how long clients are waited for, how much they may send
budget          how much is taken of what they share
framing         what of a request is being read, and its size
flow            back-pressure
patience        how long a client may take nothing
response        one response on its way to a client
refusal         the error in place of a response
pipeline        the requests that are not answered yet
intake          what has arrived, read in turns
protocol        the server's side of one connection
"""
